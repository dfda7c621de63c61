from __future__ import annotations

import pytest
import torch

from dreamfusion.cameras import orbit_cameras
from dreamfusion.config import OccupancyConfig
from dreamfusion.rendering.compositing import accumulate, composite
from dreamfusion.rendering.marching import PackedSamples, march
from dreamfusion.rendering.occupancy import OccupancyGrid
from dreamfusion.rendering.rays import intersect_ball

Rays = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def rays():
    cameras = orbit_cameras(30.0, 20.0, 1.8, 70.0, 24)
    rays_o, rays_d = cameras.rays()
    return rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)


def _lengths(samples):
    return torch.zeros(samples.n_rays).index_add(0, samples.ray_indices, samples.t_ends - samples.t_starts)


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("radius", [1.0, 0.6])
def test_intervals_tile_the_chord(rays: Rays, jitter, radius):
    samples = march(*rays, radius, 32, None, torch.Generator().manual_seed(0) if jitter else None)
    near, far = intersect_ball(*rays, radius)
    torch.testing.assert_close(_lengths(samples), far - near, atol=2e-6, rtol=0)
    same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    torch.testing.assert_close(samples.t_starts[1:][same_ray], samples.t_ends[:-1][same_ray], atol=0, rtol=0)
    steps = samples.t_ends - samples.t_starts
    assert (steps > 0).all() and steps.max() <= 2 * radius / 32 + 1e-6
    assert (samples.ray_indices[1:] >= samples.ray_indices[:-1]).all()
    assert samples.n_rays == 24 * 24


def test_samples_lie_in_the_ball(rays: Rays):
    samples = march(*rays, 0.7, 64)
    assert (samples.positions(*rays).norm(dim=-1) <= 0.7 + 1e-6).all()


def test_positions_are_on_their_rays(rays: Rays):
    samples = march(*rays, 0.7, 8)
    rays_o, rays_d = rays
    expected = rays_o[samples.ray_indices] + samples.t_mids[:, None] * rays_d[samples.ray_indices]
    torch.testing.assert_close(samples.positions(*rays), expected)


def test_jitter_comes_from_the_generator_alone(rays: Rays):
    def jittered(seed):
        return march(*rays, 1.0, 16, None, torch.Generator().manual_seed(seed)).t_starts

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = jittered(5)
    torch.manual_seed(1)
    assert torch.equal(first, jittered(5))
    torch.manual_seed(0)
    jittered(5)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first[:100], jittered(6)[:100])


def test_jitter_shifts_each_ray_uniformly_over_a_step():
    rays_o = torch.tensor([[0.0, 0.0, 2.0]]).expand(4000, 3)
    rays_d = torch.tensor([[0.0, 0.0, -1.0]]).expand(4000, 3)
    samples = march(rays_o, rays_d, 1.0, 10, None, torch.Generator().manual_seed(0))
    first = samples.t_ends[torch.searchsorted(samples.ray_indices, torch.arange(4000))]
    shift = ((first - 1.0) / 0.2).sort().values
    assert (shift - torch.linspace(0, 1, 4000)).abs().max() < 2.0 / 4000**0.5


def test_without_jitter_it_is_deterministic_and_steps_start_where_the_ball_does(rays: Rays):
    samples = march(*rays, 1.0, 16)
    near, _ = intersect_ball(*rays, 1.0)
    first = torch.searchsorted(samples.ray_indices, samples.ray_indices.unique())
    torch.testing.assert_close(samples.t_starts[first], near[samples.ray_indices[first]])


def test_only_occupied_cells_are_visited(rays: Rays, generator):
    grid = OccupancyGrid(OccupancyConfig(resolution=8), 1.0, 0.05)
    grid.occupied_cells.copy_(torch.rand(512, generator=generator) < 0.3)
    everything, some = march(*rays, 1.0, 40), march(*rays, 1.0, 40, grid)
    expected = everything.select(grid.occupied(everything.positions(*rays)))
    assert 0.1 < len(some) / len(everything) < 0.5
    assert torch.equal(some.ray_indices, expected.ray_indices)
    assert torch.equal(some.t_starts, expected.t_starts)
    assert torch.equal(some.t_ends, expected.t_ends)


def test_rays_that_see_nothing_leave_one_sample_without_length():
    away = torch.tensor([[0.0, 0.0, 1.0]]).expand(5, 3)
    samples = march(torch.tensor([[0.0, 0.0, 3.0]]).expand(5, 3), away, 1.0, 8)
    assert len(samples) == 1 and samples.n_rays == 5
    assert samples.t_starts == samples.t_ends


def test_selecting_nothing_leaves_one_sample_without_length():
    samples = PackedSamples(torch.tensor([2, 3]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), 4)
    none = samples.select(torch.tensor([False, False]))
    assert len(none) == 1 and none.t_starts == none.t_ends and none.n_rays == 4
    assert torch.equal(samples.select(torch.tensor([False, True])).ray_indices, torch.tensor([3]))


def test_rays_end_behind_what_is_solid_but_not_before(make_renderer, shapes, rays: Rays):
    renderer = make_renderer(shapes.ball(0.6, sigma=60.0))
    field, grid = renderer.scene.field, renderer.occupancy
    grid.update(field, 64, torch.Generator().manual_seed(0))
    whole, ended = march(*rays, 1.0, 64, grid), march(*rays, 1.0, 64, grid, termination=1e-3)
    assert len(ended) < 0.75 * len(whole)
    opacities = []
    for samples in (whole, ended):
        weights = composite(field.density(samples.positions(*rays)), samples).weights
        opacities.append(accumulate(weights, None, samples.ray_indices, samples.n_rays))
    assert (opacities[0] - opacities[1]).abs().max() <= 1e-3
    assert opacities[0].max() > 0.999


def test_half_the_remembered_density_ends_a_ray():
    # Through the middle of a grid that remembers sigma = 8 everywhere: exp(-4 t) = 0.01 at t = 1.151.
    grid = OccupancyGrid(OccupancyConfig(resolution=8), 1.0, 0.02)
    grid.least_densities.fill_(8.0)
    ray = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    samples = march(*ray, 1.0, 1000, grid, termination=0.01)
    assert samples.t_starts.max().item() == pytest.approx(1.0 + 1.1513, abs=3e-3)


def test_rays_that_pass_by_everything_are_left_out_at_once(rays: Rays):
    grid = OccupancyGrid(OccupancyConfig(resolution=8), 1.0, 0.05)
    everything = march(*rays, 1.0, 40, grid)
    grid.reach.fill_(0.5)
    near = march(*rays, 1.0, 40, grid)
    rays_o, rays_d = rays
    closest = (rays_o - (rays_o * rays_d).sum(-1, keepdim=True) * rays_d).norm(dim=-1)
    expected = everything.select(closest[everything.ray_indices] < 0.5)
    assert 0 < len(near) < len(everything)
    assert torch.equal(near.ray_indices, expected.ray_indices)
    assert torch.equal(near.t_starts, expected.t_starts)
