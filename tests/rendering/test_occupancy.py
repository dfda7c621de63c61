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


def test_updates_come_at_every_so_many_steps(field, shapes):
    grid, ball = _grid(update_every=16), field(shapes.ball(0.3))
    assert [step for step in range(50) if grid.update(ball, step, _generator())] == [0, 16, 32, 48]
    assert not _grid(enabled=False).update(ball, 0, _generator())


@pytest.mark.parametrize(("factor", "expected"), [(1.02, True), (0.98, False)])
def test_the_threshold_is_the_opacity_of_one_step(field, shapes, factor, expected):
    # sigma = -log(1 - alpha) / step. A dense half keeps the mean from lowering the threshold.
    sigma = factor * -math.log(1 - 0.1) / 0.05
    half = field(lambda x: torch.where(x[:, 0] > 0, 100.0, sigma))
    grid = _grid(alpha_threshold=0.1, warmup_steps=0, step_size=0.05)
    grid.update(half, 0, _generator())
    points = _points()
    assert grid.occupied(points[points[:, 0] < 0]).all() == expected
    assert grid.occupied(points[points[:, 0] > 0]).all()


def test_a_thin_fog_does_not_vanish_whole(field, shapes):
    grid = _grid(warmup_steps=0)
    grid.update(field(shapes.soft_blob(sigma=1e-3)), 0, _generator())
    assert 0.01 < grid.occupied_share < 0.9
    assert grid.occupied(torch.zeros(1, 3)).all()


def test_what_disappears_fades_by_the_decay_and_what_appears_counts_at_once(field, shapes):
    grid = _grid(warmup_steps=0, decay=0.5)
    centre = torch.zeros(1, 3) + 1e-3
    dense = field(lambda x: torch.where(x.norm(dim=-1) < 0.3, 1.0, 0.0))
    empty = field(lambda x: torch.where(x.norm(dim=-1) < 0.3, 0.0, 1.0))
    grid.update(dense, 0, _generator())
    peak = grid.densities.max().item()
    assert peak == 1.0
    # Threshold 0.2 / unit length: 1, 0.5, 0.25 are above it, 0.125 is not.
    seen = []
    for _ in range(4):
        seen.append(bool(grid.occupied(centre)))
        grid.update(empty, 0, _generator())
    assert seen == [True, True, True, False]
    grid.update(dense, 0, _generator())
    assert grid.occupied(centre)


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
    alphas = 1 - torch.exp(-field.density(points[missed]) * grid.step_size)
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
    grid.least_densities.copy_(torch.where(grid.occupied_cells, 7.0, 0.0))
    rays_o = 0.5 * torch.randn(50, 3, generator=generator)
    rays_d = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=-1)
    distances = torch.rand(50, 30, generator=generator)
    positions = rays_o[:, None] + distances[..., None] * rays_d[:, None]
    expected = grid.occupied(positions.view(-1, 3)).view(50, 30)
    assert 0.2 < expected.float().mean() < 0.8
    occupied, least = grid.along(rays_o, rays_d, distances)
    # Rounding may put a point that lies on a cell's face into its neighbour.
    assert (occupied == expected).float().mean() > 0.999
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
    assert second.state_dict().keys() == {"densities", "occupied_cells", "least_densities", "reach"}
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
    _, least = grid.along(
        origins, torch.nn.functional.normalize(points, dim=-1), points.norm(dim=-1)[:, None]
    )
    density = ball.density(points)
    # The blob is concave in its middle: the least value is at a node there, and nowhere is it much less between nodes.
    assert (least[:, 0] <= density + 0.02).all()
    # exp(-((r + d)^2 - r^2) / 2 std^2) = 0.67 across a cell's diagonal d at r = 0.4.
    inner = points.norm(dim=-1) < 0.4
    assert (least[inner, 0] > 0.65 * density[inner]).all()


def test_the_reach_is_the_furthest_occupied_point(field, shapes):
    grid = _grid(warmup_steps=16, resolution=32)
    ball = field(lambda x: 50.0 * ((x - torch.tensor([0.4, 0.0, 0.0])).norm(dim=-1) < 0.2).to(x))
    grid.update(ball, 0, _generator())
    assert grid.reach == 1.0
    grid.update(ball, 16, _generator())
    assert 0.6 <= grid.reach < 0.6 + 2 * math.sqrt(3) * grid.cell_size


@pytest.mark.parametrize(("at_nodes", "elsewhere"), [(5.0, 1.0), (1.0, 5.0)])
def test_the_random_point_counts_for_the_greatest_and_for_the_least_density(field, at_nodes, elsewhere):
    grid = _grid(resolution=8)

    def formula(positions):
        steps = (positions + 1.0) / (grid.cell_size / 2)
        return torch.where((steps - steps.round()).abs().amax(-1) < 1e-4, at_nodes, elsewhere)

    grid.update(field(formula), 0, _generator())
    inner = grid._cells_in_ball[grid._norms_in_ball < 0.5]
    assert (grid.densities[inner] == 5.0).all() and (grid.least_densities[inner] == 1.0).all()
