"""SDI's inversion: its guidance scale with and without Perp-Neg, against its public code, and for models of v."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from dreamfusion.config import GuidanceConfig, SDIConfig
from dreamfusion.config_files import load_config
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.sds import distil, guided_output, inverted_noise, perp_neg_output, sds_loss

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule.from_scheduler(DDIMScheduler(**BETAS))
SHAPE = (64, 4, 2, 2)
Denoiser = Callable[[Tensor, Tensor], Tensor]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, std: float) -> Denoiser:
    """The exact denoiser of latents drawn from N(mean, std^2 I); in clean latents there is no noise."""

    def eps(noisy: Tensor, timesteps: Tensor) -> Tensor:
        abar = torch.where(timesteps < 0, 1.0, SCHEDULE.alphas_cumprod[timesteps.clamp(min=0)])
        abar = abar[:, None, None, None]
        return (1 - abar).sqrt() * (noisy - abar.sqrt() * mean) / (abar * std**2 + 1 - abar)

    return eps


MEAN = 0.3 * draw(0, 1, 4, 2, 2)
COND, UNCOND = gaussian(MEAN, 0.5), gaussian(torch.zeros(1, 4, 2, 2), 1.0)


def both(noisy: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
    """The two denoisers as one model, whose texts are 1 with and 0 without the prompt."""
    cond = texts.reshape(-1, 1, 1, 1).bool()
    return torch.where(cond, COND(noisy, timesteps), UNCOND(noisy, timesteps))


def guided(scale: float) -> Denoiser:
    with_text, without = torch.ones(64, 1, 1), torch.zeros(64, 1, 1)
    return lambda noisy, timesteps: guided_output(both, noisy, timesteps, with_text, without, scale)


def public_noise(latents: Tensor, timestep: int) -> Tensor:
    """SDI's public inversion without Perp-Neg and chance: steps of 100 from 1 on, the model asked where each begins."""
    abar, grid = SCHEDULE.alphas_cumprod, [t for t in range(1, 1000, 100) if t < timestep]
    noisy, starts = latents, [grid[0] - 100, *grid]
    for start, end in zip(starts, [*grid, timestep], strict=True):
        at = torch.full((len(noisy),), start)
        eps = COND(noisy, at) - 7.5 * (COND(noisy, at) - UNCOND(noisy, at))
        before = abar[max(start, 0)]
        clean = (noisy - (1 - before).sqrt() * eps) / before.sqrt()
        noisy = abar[end].sqrt() * clean + (1 - abar[end]).sqrt() * eps
    return (noisy - abar[timestep].sqrt() * latents) / (1 - abar[timestep]).sqrt()


def test_the_public_scale_without_perp_neg_is_minus_six_and_a_half_here() -> None:
    noisy, at = draw(1), torch.full((64,), 500)
    public = COND(noisy, at) - 7.5 * (COND(noisy, at) - UNCOND(noisy, at))
    torch.testing.assert_close(guided(SDIConfig().inversion_guidance_scale)(noisy, at), public)
    assert not torch.allclose(guided(-7.5)(noisy, at), public, rtol=0.05)


@pytest.mark.parametrize(("timestep", "most"), [(750, 0.15), (980, 0.06)])
def test_the_noise_found_is_nearer_to_the_public_codes_than_by_its_scale_unconverted(
    timestep: int, most: float
) -> None:
    latents = MEAN + 0.5 * draw(2)
    expected, errors = public_noise(latents, timestep), {}
    for scale in (-7.5, -6.5):
        found = inverted_noise(
            guided(scale),
            SCHEDULE,
            latents,
            torch.full((64,), timestep),
            SDIConfig().steps_to(timestep / 1000),
        )
        errors[scale] = ((found - expected).norm() / expected.norm()).item()
    # What is left: there the model is asked where a step starts, and the steps are others.
    assert errors[-6.5] < most and errors[-6.5] < 0.75 * errors[-7.5]


def scale_of(**options: Any) -> float:
    config = GuidanceConfig.model_validate({"objective": {"kind": "sdi"}, **options})
    assert config.objective.kind == "sdi"
    return config.objective.inversion_guidance_scale


def test_a_scale_left_out_is_the_public_one_with_and_without_perp_neg() -> None:
    assert scale_of() == scale_of(perp_neg=False) == -6.5
    assert scale_of(perp_neg=True) == -7.5
    own = {"kind": "sdi", "inversion_guidance_scale": -2.0}
    assert scale_of(objective=own) == scale_of(objective=own, perp_neg=True) == -2.0
    for overrides, scale in ([], -7.5), (["guidance.perp_neg=false"], -6.5):
        objective = load_config("quality", overrides).guidance.objective
        assert objective.kind == "sdi" and objective.inversion_guidance_scale == scale


def test_sds_divided_by_its_values_is_the_public_mean() -> None:
    """0.5 mean((z - z_hat)^2) of one view has the gradient (z - z_hat) / numel, as the weight `denoised` gives."""
    latents, at = draw(3, 1, 4, 2, 2), torch.tensor([600])
    noise = draw(4, 1, 4, 2, 2)
    gradient = distil(COND, SCHEDULE, latents, noise, at, "denoised")
    noisy = SCHEDULE.add_noise(latents, noise, at)
    signal, noise_std = SCHEDULE.signal_and_noise_std(at, latents)
    clean = (noisy - noise_std * COND(noisy, at)) / signal
    here, there = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    sds_loss(here, gradient).backward()
    (0.5 * torch.nn.functional.mse_loss(there, clean)).backward()
    torch.testing.assert_close(here.grad, there.grad)


@pytest.mark.parametrize("rescale", [0.0, 0.6])
def test_perp_neg_inverts_with_its_own_prediction(tiny_sd1: Path, rescale: float) -> None:
    objective = {"kind": "sdi", "inversion_steps": 3}
    options = {"perp_neg": True, "objective": objective, "guidance_rescale": rescale, "guidance_scale": 7.5}
    config = GuidanceConfig.model_validate({"model": str(tiny_sd1), "dtype": "float32", **options})
    guidance = make_guidance(config, "a duck")
    latents, t = draw(1, 1, 4, 8, 8).float(), torch.tensor([999])
    azimuth, elevation = torch.tensor([-30.0]), torch.zeros(1)
    wanted, others, coefficients = guidance.prompts.perp_neg(azimuth, elevation)
    positive = guidance.view_embeddings.mixed(wanted)
    negatives = [guidance.view_embeddings.mixed(other) for other in others]
    _, uncond = guidance.embeddings_of_views(azimuth, elevation)

    def prediction(scale: float, rescale: float = 0.0) -> Denoiser:
        return lambda noisy, at: perp_neg_output(
            guidance.denoise, noisy, at, uncond, positive, negatives, coefficients, scale, rescale
        )

    noise = inverted_noise(prediction(-7.5), guidance.schedule, latents, t, 3)
    expected = distil(prediction(7.5, rescale), guidance.schedule, latents, noise, t, "sigma2")
    got = guidance.gradient(latents, draw(9, 1, 4, 8, 8).float(), t, azimuth, elevation, 0)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_models_of_v_are_inverted_as_those_of_the_noise_are() -> None:
    """Unlike diffusers' DDIMInverseScheduler, whose answer depends on which of the two the same model says."""
    latents, at = draw(5), torch.full((64,), 499)
    schedule_of_v = NoiseSchedule(SCHEDULE.alphas_cumprod, "v_prediction")

    def v(noisy: Tensor, timesteps: Tensor) -> Tensor:
        signal, noise_std = SCHEDULE.signal_and_noise_std(timesteps, noisy)
        return (COND(noisy, timesteps) - noise_std * noisy) / signal

    found = inverted_noise(COND, SCHEDULE, latents, at, 5)
    torch.testing.assert_close(inverted_noise(v, schedule_of_v, latents, at, 5), found)

    def by_diffusers(kind: str, model: Denoiser) -> Tensor:
        options: Any = {
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "prediction_type": kind,
            **BETAS,
        }
        scheduler: Any = DDIMInverseScheduler(**options)
        scheduler.set_timesteps(10)
        noisy = latents
        for timestep in scheduler.timesteps[:5]:
            answer = model(noisy, timestep.repeat(64))
            noisy = scheduler.step(answer, int(timestep), noisy).prev_sample
        return noisy

    ours = SCHEDULE.add_noise(latents, found, at)
    torch.testing.assert_close(by_diffusers("epsilon", COND), ours, rtol=1e-5, atol=1e-5)
    assert (by_diffusers("v_prediction", v) - ours).abs().max() > 0.1
