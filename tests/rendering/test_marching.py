from __future__ import annotations

import pytest
import torch

from dreamfusion.cameras import orbit_cameras
from dreamfusion.rendering.compositing import accumulate, composite
from dreamfusion.rendering.marching import PackedSamples, march
from dreamfusion.rendering.occupancy import SampleShares
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


def _shares(values, least=0.0, resolution=8, radius=1.0):
    shares = torch.as_tensor(values).expand(resolution**3).clone()
    return SampleShares(shares, torch.full_like(shares, least), radius, resolution)


@pytest.mark.parametrize("seed", [None, 4])
def test_a_share_of_one_takes_all_samples_and_counts_each_once(rays: Rays, seed):
    generators = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
    everything, taken = (
        march(*rays, 1.0, 40, None, generators[0]),
        march(*rays, 1.0, 40, _shares(1.0), generators[1]),
    )
    assert torch.equal(everything.ray_indices, taken.ray_indices)
    assert torch.equal(everything.t_starts, taken.t_starts) and torch.equal(everything.t_ends, taken.t_ends)
    assert everything.counts is None and (taken.counts == 1).all()
    assert torch.equal(everything.lengths, taken.lengths)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("share", [0.5, 0.1, 1 / 64])
def test_what_is_taken_stands_for_all(seed, share):
    """Lengths add up to the chord: on average with a generator, and to within one sample on each ray in any case."""
    rays_o = torch.tensor([[0.0, 0.0, 2.0]]).expand(500, 3)
    rays_d = torch.tensor([[0.0, 0.0, -1.0]]).expand(500, 3)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    samples = march(rays_o, rays_d, 1.0, 1024, _shares(share), generator)
    assert len(samples) == pytest.approx(500 * 1024 * share, rel=0.1 if seed is None else 0.02)
    sums = torch.zeros(500).index_add(0, samples.ray_indices, samples.lengths)
    assert (sums - 2.0).abs().max() < 1.01 * 2 / 1024 / share
    if seed is not None:
        assert sums.mean().item() == pytest.approx(2.0, abs=4 * 2 / 1024 / share / 500**0.5)


def test_each_cell_has_its_own_share(rays: Rays, generator):
    resolution = 8
    shares = torch.where(torch.rand(resolution**3, generator=generator) < 0.5, 1.0, 0.25)
    everything, taken = march(*rays, 1.0, 200), march(*rays, 1.0, 200, _shares(shares))
    cells = ((everything.positions(*rays) + 1) * resolution / 2).long().clamp(0, resolution - 1)
    there = shares[(cells[:, 0] * resolution + cells[:, 1]) * resolution + cells[:, 2]]
    assert taken.counts is not None and set(taken.counts.tolist()) == {1.0, 4.0}
    # Rounding may put a point that lies on a cell's face into its neighbour.
    assert (taken.counts == 1).sum().item() == pytest.approx((there == 1).sum().item(), rel=1e-3)
    assert 4 * (taken.counts == 4).sum().item() == pytest.approx((there == 0.25).sum().item(), rel=0.02)


def test_the_choice_of_samples_comes_from_the_generator_alone(rays: Rays):
    first, again, other = (
        march(*rays, 1.0, 64, _shares(0.2), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.t_starts, again.t_starts)
    assert len(first) != len(other) or not torch.equal(first.ray_indices, other.ray_indices)


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
    taken = grid.for_training()
    whole, ended = march(*rays, 1.0, 64, taken), march(*rays, 1.0, 64, taken, termination=1e-3)
    assert len(ended) < 0.75 * len(whole)
    opacities = []
    for samples in (whole, ended):
        weights = composite(field.density(samples.positions(*rays)), samples).weights
        opacities.append(accumulate(weights, None, samples.ray_indices, samples.n_rays))
    assert (opacities[0] - opacities[1]).abs().max() <= 1e-3
    assert opacities[0].max() > 0.999


def test_half_the_remembered_density_ends_a_ray():
    # Through the middle of cells that hold at least sigma = 8: exp(-4 t) = 0.01 at t = 1.151.
    ray = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    samples = march(*ray, 1.0, 1000, _shares(1.0, least=8.0), termination=0.01)
    assert samples.t_starts.max().item() == pytest.approx(1.0 + 1.1513, abs=3e-3)
    assert march(*ray, 1.0, 1000, _shares(1.0, least=8.0)).t_ends.max().item() == pytest.approx(3.0)


def test_selected_samples_keep_their_counts(rays: Rays):
    samples = march(*rays, 1.0, 64, _shares(0.25))
    half = samples.select(torch.arange(len(samples)) % 2 == 0)
    assert torch.equal(half.lengths, samples.lengths[::2]) and (half.counts == 4).all()
