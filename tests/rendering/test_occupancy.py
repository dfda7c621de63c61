from __future__ import annotations

import math

import pytest
import torch

from dreamfusion.config import GridsFieldConfig, OccupancyConfig
from dreamfusion.rendering.occupancy import OccupancyGrid
from dreamfusion.scene.fields import GridsField


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _grid(resolution=16, step_size=0.05, radius=1.0, **changes):
    return OccupancyGrid(OccupancyConfig(resolution=resolution, **changes), radius, step_size)


@pytest.fixture
def field(make_renderer):
    """A field of a density formula."""
    return lambda formula, radius=1.0: make_renderer(formula, radius=radius).scene.field


def _points(count=4000, radius=1.0, seed=3):
    points = radius * (2 * torch.rand(count, 3, generator=_generator(seed)) - 1)
    return points[points.norm(dim=-1) < radius]


def test_every_cell_counts_during_the_warm_up_and_then_only_what_is_dense(field, shapes):
    grid = _grid(warmup_steps=32, update_every=16)
    empty = field(shapes.ball(0.3))
    points = _points()
    for step in range(32):
        grid.update(empty, step, _generator())
        assert grid.occupied(points).all()
    grid.update(empty, 32, _generator())
    occupied = grid.occupied(points)
    norms = points.norm(dim=-1)
    assert occupied[norms < 0.3].all()
    assert not occupied[norms > 0.3 + 2 * math.sqrt(3) * grid.cell_size].any()


def test_random_points_lie_in_their_own_cells(field):
    """No cell of a linear density holds more than its corners do: nothing between them is remembered."""
    grid = _grid(resolution=8, update_every=1)
    grid.update(field(lambda x: 20 + x @ torch.tensor([1.0, 2.0, 4.0])), 0, _generator())
    axis = (torch.arange(8) + 0.5) * grid.cell_size - 1
    middles = torch.cartesian_prod(axis, axis, axis)
    whole = middles.norm(dim=-1) < 1 - math.sqrt(3) / 2 * grid.cell_size
    assert whole.sum() > 50 and (grid.densities[whole] > 10).all()
    assert (grid.found[whole] == 0).all()


def test_updates_come_at_every_so_many_steps(field, shapes):
    grid, ball = _grid(update_every=16), field(shapes.ball(0.3))
    assert [step for step in range(50) if grid.update(ball, step, _generator())] == [0, 16, 32, 48]
    assert not _grid(enabled=False).update(ball, 0, _generator())


@pytest.mark.parametrize(("factor", "expected"), [(1.02, True), (0.98, False)])
@pytest.mark.parametrize("samples", [16, 64, 512, 4096])
@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_the_limit_is_an_opacity_per_length_and_knows_no_number_of_samples(
    field, shapes, factor, expected, samples, radius
):
    # sigma = -log(1 - alpha) over a 64th of the diameter. A dense half keeps the mean from lowering the limit.
    sigma = factor * -math.log(1 - 0.1) / (2 * radius / 64)
    half = field(lambda x: torch.where(x[:, 0] > 0, 100.0, sigma), radius)
    grid = _grid(
        resolution=8, alpha_threshold=0.1, warmup_steps=0, step_size=2 * radius / samples, radius=radius
    )
    grid.update(half, 0, _generator())
    points = _points(radius=radius)
    assert grid.occupied(points[points[:, 0] < 0]).all() == expected
    assert grid.occupied(points[points[:, 0] > 0]).all()


@pytest.mark.parametrize("samples", [64, 512, 4096])
def test_matter_of_a_ninth_of_light_stays_beside_a_dense_core(field, samples):
    """A ball of density 1.2 stops nine tenths of the light that goes through its middle."""
    grid = _grid(warmup_steps=0, step_size=2 / samples)
    scene = field(lambda x: torch.where(x.norm(dim=-1) < 0.1, 500.0, 1.2))
    for step in range(3):
        grid.update(scene, step, _generator())
    assert grid.occupied(_points()).all() and (grid.shares[grid._cells_in_ball] == 1).all()


@pytest.mark.parametrize("samples", [64, 512])
def test_a_sample_of_thin_matter_stands_for_a_small_depth_and_none_is_left_out_for_good(field, samples):
    grid = _grid(warmup_steps=16, update_every=16, step_size=2 / samples)
    thin = field(lambda x: torch.where(x[:, 2] > 0.4, 100.0, 0.2 * (x[:, 0] + 1).clamp(min=0.0)))
    grid.update(thin, 0, _generator())
    assert (grid.shares == 1).all()  # warming up
    grid.update(thin, 16, _generator())
    for taken, depth, most in ((grid.for_training(), 0.04, 64), (grid.for_images(thin), 3e-4, 32)):
        inside = grid._cells_in_ball
        shares, densities = taken.shares[inside], grid.densities[inside]
        assert (shares[densities > 50] == 1).all()
        below = densities < 0.3
        expected = (densities * grid.step_size / depth).clamp(1 / most, 1.0)
        torch.testing.assert_close(shares[below], expected[below], rtol=0.02, atol=0)
        assert shares.min() >= 1 / most
    assert grid.for_training().shares[inside].min() == 1 / 64


def test_images_look_at_the_field_of_now_and_keep_what_training_found(field):
    grid = _grid(warmup_steps=0)
    old = field(lambda x: torch.where(x[:, 0] > 0, 100.0, 0.0))
    grid.update(old, 0, _generator())
    new = field(lambda x: torch.where(x[:, 0] < 0, 100.0, 0.0))
    before = {name: value.clone() for name, value in grid.state_dict().items()}
    state = torch.get_rng_state()
    taken = grid.for_images(new)
    assert (taken.shares[grid._cells_in_ball] == 1).all()
    assert torch.equal(taken.shares, grid.for_images(new).shares)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in grid.state_dict().items())


def test_a_thin_fog_does_not_vanish_whole(field, shapes):
    grid = _grid(warmup_steps=0)
    grid.update(field(shapes.soft_blob(sigma=1e-3)), 0, _generator())
    assert 0.01 < grid.occupied_share < 0.9
    assert grid.occupied(torch.zeros(1, 3)).all()


def test_what_random_points_find_fades_by_the_decay_and_what_nodes_see_is_of_now(field):
    grid = _grid(resolution=8, warmup_steps=0, decay=0.5)

    def off_nodes(positions):
        steps = (positions + 1.0) / (grid.cell_size / 2)
        return 4.0 * ((steps - steps.round()).abs().amax(-1) > 1e-4).to(positions)

    nothing, found = field(lambda x: torch.zeros_like(x[:, 0])), field(off_nodes)
    inner = (8 * 4 + 4) * 8 + 4  # the cell above and right of the origin
    grid.update(found, 0, _generator())
    seen = [grid.densities[inner].item()]
    for _ in range(3):
        grid.update(nothing, 0, _generator())
        seen.append(grid.densities[inner].item())
    assert seen == [4.0, 2.0, 1.0, 0.5]
    dense = field(lambda x: torch.full_like(x[:, 0], 9.0))
    grid.update(dense, 0, _generator())
    assert grid.densities[inner] == 9.0
    grid.update(nothing, 0, _generator())
    # The nodes' 9 is gone at once, and what was found before keeps fading.
    assert grid.densities[inner] == 0.125


def test_what_is_linear_between_the_nodes_is_never_missed(make_renderer):
    # Found by what it is made for: dense grids with two cells to each of the occupancy grid's.
    config = GridsFieldConfig(resolutions=(32,), hidden_layers=0, blob_density=0.0)
    field = GridsField(config, 1.0, _generator())
    with torch.no_grad():
        nodes = field.density_grids[0]
        nodes.copy_(
            torch.where(torch.rand(nodes.shape, generator=_generator()) < 0.01, 30.0, -30.0)
            / config.density_gain
        )
    grid = _grid(resolution=16, warmup_steps=0)
    grid.update(field, 0, _generator())
    points = _points(200_000)
    missed = ~grid.occupied(points)
    assert 0.3 < missed.float().mean() < 0.95
    alphas = 1 - torch.exp(-field.density(points[missed]) * 2 / 64)
    assert alphas.max() < grid.config.alpha_threshold


def test_random_points_find_in_time_what_the_nodes_miss(field):
    # A plate between two layers of nodes, 0.125 apart.
    grid = _grid(resolution=8, warmup_steps=0, decay=1.0)
    plate = field(lambda x: torch.where((x[:, 1] - 0.0625).abs() < 0.03, 50.0, 0.0))
    generator = _generator()
    for _ in range(60):
        grid.update(plate, 0, generator)
    points = _points(radius=0.8)
    points = points[(points[:, 1] - 0.0625).abs() < 0.03]
    assert grid.occupied(points).all()


def test_looking_up_along_rays_equals_looking_up_positions(generator):
    grid = _grid(resolution=10, radius=0.7)
    grid.occupied_cells.copy_(torch.rand(1000, generator=generator) < 0.5)
    grid.shares.copy_(torch.where(grid.occupied_cells, 1.0, 0.25))
    grid.least_densities.copy_(torch.where(grid.occupied_cells, 7.0, 0.0))
    rays_o = 0.5 * torch.randn(50, 3, generator=generator)
    rays_d = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=-1)
    distances = torch.rand(50, 30, generator=generator)
    positions = rays_o[:, None] + distances[..., None] * rays_d[:, None]
    expected = grid.occupied(positions.view(-1, 3)).view(50, 30)
    assert 0.2 < expected.float().mean() < 0.8
    shares, least = grid.for_training().along(rays_o, rays_d, distances)
    # Rounding may put a point that lies on a cell's face into its neighbour.
    assert ((shares == 1.0) == expected).float().mean() > 0.999
    assert ((least == 7.0) == expected).float().mean() > 0.999


def test_each_axis_has_its_own_place(field):
    grid = _grid(warmup_steps=0)
    corner = field(lambda x: 50.0 * ((x[:, 0] > 0.1) & (x[:, 1] < -0.2) & (x[:, 2] > 0.3)).to(x))
    grid.update(corner, 0, _generator())
    assert grid.occupied(torch.tensor([[0.5, -0.5, 0.6]])).all()
    for wrong in ([-0.5, -0.5, 0.6], [0.5, 0.5, 0.6], [0.5, -0.5, -0.3], [0.6, 0.5, -0.5], [-0.5, 0.5, 0.6]):
        assert not grid.occupied(torch.tensor([wrong])).any()


def test_state_goes_through_a_state_dict_and_continues_the_same(field, shapes):
    ball = field(shapes.thin_parts)
    first, second = _grid(warmup_steps=0), _grid(warmup_steps=0)
    generator = _generator()
    first.update(ball, 0, generator)
    second.load_state_dict(first.state_dict())
    assert second.state_dict().keys() == {"densities", "found", "occupied_cells", "least_densities"}
    assert torch.equal(first.shares, second.shares) and 0 < (first.shares < 1).float().mean() < 1
    state = generator.get_state()
    first.update(ball, 16, generator)
    generator.set_state(state)
    second.update(ball, 16, generator)
    assert torch.equal(first.densities, second.densities)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(_grid(warmup_steps=0).occupied_cells, second.occupied_cells)


def test_the_field_gets_no_gradient_and_only_the_ball_is_asked(field, shapes):
    ball = field(shapes.ball(0.5))
    grid = _grid(resolution=32)
    grid.update(ball, 0, _generator())
    assert ball.scale.grad is None and not grid.densities.requires_grad
    # The ball's share of the cube is pi / 6; eight nodes (those of corners, edges and faces are shared) and a random point.
    assert 9 * 32**3 * math.pi / 6 < ball.queries < 1.05 * 9 * 32**3 * math.pi / 6


def test_big_grids_are_asked_in_parts_with_the_same_result(field, shapes, monkeypatch):
    whole, parts = _grid(warmup_steps=0), _grid(warmup_steps=0)
    whole.update(field(shapes.soft_blob()), 0, _generator())
    monkeypatch.setattr("dreamfusion.rendering.occupancy._POINTS_AT_ONCE", 3000)
    parts.update(field(shapes.soft_blob()), 0, _generator())
    assert torch.equal(whole.densities, parts.densities)


def test_the_least_density_is_a_lower_bound_and_not_a_trivial_one(field, shapes):
    ball = field(shapes.soft_blob(sigma=8.0))
    grid = _grid(resolution=32)
    grid.update(ball, 0, _generator())
    points = _points(20_000)
    origins = torch.zeros_like(points)
    _, least = grid.for_training().along(
        origins, torch.nn.functional.normalize(points, dim=-1), points.norm(dim=-1)[:, None]
    )
    assert least is not None
    density = ball.density(points)
    # The blob is concave in its middle: the least value is at a node there, and nowhere is it much less between nodes.
    assert (least[:, 0] <= density + 0.02).all()
    # exp(-((r + d)^2 - r^2) / 2 std^2) = 0.67 across a cell's diagonal d at r = 0.4.
    inner = points.norm(dim=-1) < 0.4
    assert (least[inner, 0] > 0.65 * density[inner]).all()


def test_a_state_of_an_earlier_version_is_read(field, shapes):
    """It held the reach of what is occupied, and remembered in `densities` all that it had seen."""
    grid, other = _grid(warmup_steps=0), _grid(warmup_steps=0)
    grid.update(field(shapes.thin_parts), 0, _generator())
    state = grid.state_dict()
    old = {name: value for name, value in state.items() if name != "found"} | {"reach": torch.tensor(0.9)}
    other.load_state_dict(old)
    assert torch.equal(other.found, state["densities"]) and torch.equal(other.shares, grid.shares)
    assert "reach" in old and "found" not in old


@pytest.mark.parametrize(("at_nodes", "elsewhere"), [(5.0, 1.0), (1.0, 5.0)])
def test_the_random_point_counts_for_the_greatest_and_for_the_least_density(field, at_nodes, elsewhere):
    grid = _grid(resolution=8)

    def formula(positions):
        steps = (positions + 1.0) / (grid.cell_size / 2)
        return torch.where((steps - steps.round()).abs().amax(-1) < 1e-4, at_nodes, elsewhere)

    grid.update(field(formula), 0, _generator())
    axis = (torch.arange(8) + 0.5) / 4 - 1
    inner = torch.cartesian_prod(axis, axis, axis).norm(dim=-1) < 0.5
    assert (grid.densities[inner] == 5.0).all() and (grid.least_densities[inner] == 1.0).all()
