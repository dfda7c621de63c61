from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamfusion.rendering.compositing import accumulate, composite, ranks_in_rays
from dreamfusion.rendering.marching import PackedSamples


def _packed(counts, generator, dtype=torch.float32, sigma=30.0):
    """Rays with the given numbers of samples, random intervals (some with gaps) and densities."""
    n = sum(counts)
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ends = torch.cat([torch.rand(count, generator=generator).cumsum(0) for count in counts]).to(dtype)
    lengths = 0.2 * torch.rand(n, generator=generator).to(dtype)
    sigmas = sigma * torch.rand(n, generator=generator).to(dtype)
    return PackedSamples(ray_indices, ends - lengths, ends, len(counts)), sigmas


def _twin(sigmas, samples):
    """NeRF's equation 3, sample by sample, in Python's floats."""
    weights, transmittances = [], []
    passed = {}
    for index, ray in enumerate(samples.ray_indices.tolist()):
        tau = float(sigmas[index]) * (float(samples.t_ends[index]) - float(samples.t_starts[index]))
        transmittances.append(math.exp(-passed.get(ray, 0.0)))
        weights.append(transmittances[-1] * (1.0 - math.exp(-tau)))
        passed[ray] = passed.get(ray, 0.0) + tau
    return torch.tensor(weights, dtype=torch.float64), torch.tensor(transmittances, dtype=torch.float64)


def test_the_docstrings_numbers():
    samples = PackedSamples(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), 1)
    weights = composite(torch.tensor([1.0, 1.0]), samples).weights
    torch.testing.assert_close(weights, torch.tensor([0.6321206, 0.2325442]))


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), seed=st.integers(0, 99))
def test_equals_the_formula_whatever_the_packing(counts, seed):
    samples, sigmas = _packed(counts, torch.Generator().manual_seed(seed))
    weights, transmittance = _twin(sigmas, samples)
    result = composite(sigmas, samples)
    torch.testing.assert_close(result.weights.double(), weights, atol=2e-6, rtol=2e-5)
    torch.testing.assert_close(result.transmittance.double(), transmittance, atol=2e-6, rtol=2e-5)
    torch.testing.assert_close(result.weights, result.transmittance * result.alphas)


def test_weights_sum_to_one_minus_the_transmittance_of_the_whole_ray(generator):
    samples, sigmas = _packed([40, 0, 7, 1, 25], generator, sigma=3.0)
    taus = sigmas * (samples.t_ends - samples.t_starts)
    total = torch.zeros(5).index_add(0, samples.ray_indices, taus)
    weights = composite(sigmas, samples).weights
    opacity = accumulate(weights, None, samples.ray_indices, 5)[:, 0]
    torch.testing.assert_close(opacity, 1 - torch.exp(-total), atol=1e-6, rtol=1e-6)
    assert opacity[1] == 0


def test_halving_every_interval_changes_nothing(generator):
    samples, sigmas = _packed([12, 3, 30], generator)
    middle = samples.t_mids
    halved = PackedSamples(
        samples.ray_indices.repeat_interleave(2),
        torch.stack([samples.t_starts, middle], 1).flatten(),
        torch.stack([middle, samples.t_ends], 1).flatten(),
        3,
    )
    values = torch.rand(len(samples), 3, generator=generator)
    whole = accumulate(composite(sigmas, samples).weights, values, samples.ray_indices, 3)
    halves = composite(sigmas.repeat_interleave(2), halved).weights
    halves = accumulate(halves, values.repeat_interleave(2, 0), halved.ray_indices, 3)
    torch.testing.assert_close(whole, halves, atol=1e-6, rtol=1e-6)


def test_gradcheck(generator):
    samples, sigmas = _packed([4, 0, 1, 6], generator, torch.float64, sigma=5.0)
    values = torch.rand(len(samples), 2, generator=generator, dtype=torch.float64, requires_grad=True)
    sigmas.requires_grad_(True)

    def picture(sigmas, values):
        result = composite(sigmas, samples)
        return accumulate(result.weights, values, samples.ray_indices, 4), result.transmittance, result.alphas

    assert torch.autograd.gradcheck(picture, (sigmas, values))


def test_gradient_equals_the_closed_form(generator):
    # d C / d tau_i = T_i (1 - alpha_i) c_i - sum of what lies behind: weights_j c_j, j > i.
    samples, sigmas = _packed([60], generator, sigma=2.0)
    sigmas.requires_grad_(True)
    colours = torch.rand(60, generator=generator)
    result = composite(sigmas, samples)
    (gradient,) = torch.autograd.grad((result.weights * colours).sum(), sigmas)
    with torch.no_grad():
        contributions = result.weights * colours
        behind = contributions.sum() - contributions.cumsum(0)
        through = result.transmittance * (1 - result.alphas) * colours
        expected = (samples.t_ends - samples.t_starts) * (through - behind)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def test_a_late_ray_of_a_long_pack_is_as_exact_as_the_first(generator):
    # A running sum over the whole list would leave the last ray with an error of about 1e-2 in float32.
    rays, count = 3000, 64
    ray_indices = torch.arange(rays).repeat_interleave(count)
    starts = torch.arange(count).repeat(rays) * 0.03
    samples = PackedSamples(ray_indices, starts, starts + 0.03, rays)
    one_ray = 0.5 * torch.rand(count, generator=generator)
    sigmas = torch.full((rays * count,), 100.0)
    sigmas[-count:] = one_ray
    last = composite(sigmas, samples).weights[-count:]
    expected, _ = _twin(
        one_ray, PackedSamples(torch.zeros(count).long(), starts[:count], starts[:count] + 0.03, 1)
    )
    torch.testing.assert_close(last.double(), expected, atol=1e-7, rtol=1e-5)


def test_a_wall_does_not_swallow_the_haze_before_it():
    # Inclusive minus own would cancel here: 1e6 + 0.3 is a multiple of 1/16 in float32.
    samples = PackedSamples(torch.zeros(2).long(), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), 1)
    result = composite(torch.tensor([0.3, 1e6]), samples)
    torch.testing.assert_close(result.weights, torch.tensor([1 - math.exp(-0.3), math.exp(-0.3)]))


def test_a_bad_ray_spoils_no_other(generator):
    samples, sigmas = _packed([3, 4], generator)
    clean = composite(sigmas, samples).weights
    sigmas[0] = float("nan")
    spoilt = composite(sigmas, samples).weights
    assert spoilt[:3].isnan().any()
    assert torch.equal(spoilt[3:], clean[3:])


def test_thin_air_keeps_its_small_weights():
    # 1 - exp(-tau) rounds to 0 for tau below 6e-8; expm1 does not.
    samples = PackedSamples(torch.tensor([0]), torch.tensor([0.0]), torch.tensor([1.0]), 1)
    torch.testing.assert_close(
        composite(torch.tensor([1e-9]), samples).weights, torch.tensor([1e-9]), atol=0, rtol=1e-5
    )


def test_ranks_count_within_each_ray():
    ray_indices = torch.tensor([0, 0, 2, 2, 2, 5])
    assert ranks_in_rays(ray_indices, 7).tolist() == [0, 1, 0, 1, 2, 0]


def test_a_missing_density_is_refused(generator):
    samples, sigmas = _packed([3], generator)
    with pytest.raises(ValueError, match="2 densities for 3 samples"):
        composite(sigmas[:2], samples)
