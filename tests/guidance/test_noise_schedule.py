"""The forward process against its formulas, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamfusion.errors import ConfigError, ModelUnsupportedError
from dreamfusion.guidance.noise_schedule import NoiseSchedule

SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion_schedule(prediction_type: str = "epsilon") -> NoiseSchedule:
    return NoiseSchedule.from_scheduler(DDIMScheduler(prediction_type=prediction_type, **SCALED_LINEAR))  # pyright: ignore[reportArgumentType]


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_alphas_cumprod_is_the_product_of_one_minus_beta():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = stable_diffusion_schedule()
    assert schedule.alphas_cumprod.dtype == torch.float64
    torch.testing.assert_close(schedule.alphas_cumprod, torch.cumprod(1 - betas, dim=0), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "scheduler",
    [
        PNDMScheduler(**SCALED_LINEAR),
        DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        DDIMScheduler(rescale_betas_zero_snr=True, **SCALED_LINEAR),
    ],
    ids=["pndm", "cosine", "zero-snr"],
)
def test_noise_is_added_as_diffusers_adds_it(scheduler):
    schedule = NoiseSchedule.from_scheduler(scheduler)
    latents, noise = draws(3, 4, 2, 2).float(), draws(3, 4, 2, 2).flip(0).float()
    timesteps = torch.tensor([0, 500, 999])
    expected = scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(schedule.add_noise(latents, noise, timesteps), expected, rtol=1e-4, atol=1e-5)


def test_a_v_prediction_becomes_the_noise_that_was_added():
    schedule = stable_diffusion_schedule("v_prediction")
    latents, noise = draws(4, 4, 2, 2), draws(4, 4, 2, 2).flip(0)
    timesteps = torch.tensor([0, 20, 600, 999])
    abar = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    v = abar.sqrt() * noise - (1 - abar).sqrt() * latents  # Salimans & Ho, app. D
    noisy = schedule.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(schedule.to_epsilon(v, noisy, timesteps), noise, rtol=1e-12, atol=1e-12)


def test_an_epsilon_prediction_is_left_alone():
    output = draws(1, 4, 2, 2)
    assert stable_diffusion_schedule().to_epsilon(output, output * 3, torch.tensor([7])) is output


def test_the_three_weightings():
    schedule, timesteps = stable_diffusion_schedule(), torch.tensor([20, 400, 980])
    abar = schedule.alphas_cumprod[timesteps]
    torch.testing.assert_close(schedule.weight(timesteps, "sigma2"), 1 - abar)
    torch.testing.assert_close(schedule.weight(timesteps, "uniform"), torch.ones(3, dtype=torch.float64))
    expected = [math.sqrt(a / (1 - a)) for a in abar.tolist()]
    torch.testing.assert_close(
        schedule.weight(timesteps, "score_matching"), torch.tensor(expected, dtype=torch.float64)
    )


def test_score_matching_weighs_the_difference_of_the_scores():
    # For z ~ N(0, s^2) as the model's data and z itself as the scene, the divergence's derivative is known.
    schedule, timesteps = stable_diffusion_schedule(), torch.tensor([300])
    abar = schedule.alphas_cumprod[300]
    s2, z = 0.7, torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    variance, noise_variance = abar * s2 + 1 - abar, 1 - abar
    # KL(N(sqrt(abar) z, 1 - abar) || N(0, variance)), the terms that depend on z.
    (abar * z**2 / (2 * variance)).backward()
    # E[w (eps_hat - eps)] with the exact eps_hat = sqrt(1 - abar) z_t / variance, whose noise averages out.
    mean_difference = noise_variance.sqrt() * abar.sqrt() * z.detach() / variance
    weighted = schedule.weight(timesteps, "score_matching")[0] * mean_difference
    torch.testing.assert_close(weighted, z.grad)


@settings(max_examples=50, deadline=None)
@given(low=st.floats(0, 1), high=st.floats(0, 1), seed=st.integers(0, 1000))
def test_timesteps_stay_within_their_range(low, high, seed):
    low, high = min(low, high), max(low, high)
    timesteps = stable_diffusion_schedule().sample_timesteps(
        64, low, high, torch.Generator().manual_seed(seed)
    )
    assert timesteps.min() >= min(int(low * 1000 + 1e-6), 999)
    assert timesteps.max() <= min(int(high * 1000 + 1e-6), 999)


def test_both_ends_of_the_range_are_drawn():
    timesteps = stable_diffusion_schedule().sample_timesteps(
        2000, 0.02, 0.03, torch.Generator().manual_seed(0)
    )
    assert set(timesteps.tolist()) == set(range(20, 31))


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match="timestep_min"):
        stable_diffusion_schedule().sample_timesteps(1, 0.6, 0.5, torch.Generator())


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchEulerDiscreteScheduler(), DDIMScheduler(prediction_type="sample")],
    ids=["flow", "sample"],
)
def test_other_predictions_are_refused(scheduler):
    with pytest.raises(ModelUnsupportedError):
        NoiseSchedule.from_scheduler(scheduler)


def test_a_share_that_is_a_timestep_is_that_timestep():
    # 0.29 * 100 is 28.999999999999996.
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler(num_train_timesteps=100))
    for share in (0.29, 0.57, 0.58):
        drawn = schedule.sample_timesteps(3, share, share, torch.Generator())
        assert drawn.tolist() == [round(100 * share)] * 3
