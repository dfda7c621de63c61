"""The forward process against its formulas, in float64."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamfusion.errors import ConfigError, ModelUnsupportedError
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.noise_settings import BETA_SCHEDULERS, noise_difference

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


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_clean_latents_are_found_again(prediction_type: str):
    schedule = stable_diffusion_schedule(prediction_type)
    latents, noise, timesteps = draws(3, 4, 2, 2), draws(3, 4, 2, 2).flip(0), torch.tensor([0, 500, 999])
    abar = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    v = abar.sqrt() * noise - (1 - abar).sqrt() * latents
    noisy = schedule.add_noise(latents, noise, timesteps)
    got = schedule.to_clean(noise if prediction_type == "epsilon" else v, noisy, timesteps)
    torch.testing.assert_close(got, latents, rtol=1e-10, atol=1e-10)


def zero_snr_schedule() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler(
        DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, **SCALED_LINEAR)  # pyright: ignore
    )


def test_without_a_signal_nothing_is_divided_by_it():
    """Zero terminal SNR (arXiv 2305.08891): abar ends at 0, where v says the clean latents and eps nothing."""
    schedule, last = zero_snr_schedule(), torch.tensor([999])
    assert float(schedule.alphas_cumprod[-1]) == 0.0
    latents, noise = draws(1, 4, 2, 2), draws(1, 4, 2, 2).flip(3)
    noisy = schedule.add_noise(latents, noise, last)
    assert torch.equal(noisy, noise)
    torch.testing.assert_close(schedule.to_clean(-latents, noisy, last), latents)
    assert torch.equal(schedule.to_epsilon(-latents, noisy, last), noise)


@pytest.mark.parametrize("kind", ["sigma2", "uniform", "score_matching", "denoised"])
def test_every_timestep_that_can_be_drawn_has_a_finite_weight(kind):
    for schedule in (zero_snr_schedule(), stable_diffusion_schedule()):
        last = schedule.last_timestep
        assert last == (998 if float(schedule.alphas_cumprod[-1]) == 0.0 else 999)
        drawn = schedule.sample_timesteps(4, 1.0, 1.0, torch.Generator())
        assert drawn.tolist() == [last] * 4 and schedule.timestep_at(1.0) == last
        assert schedule.dreamtime_timestep(0.0, 0.0, 1.0, (0.5, 0.8), (0.1, 0.1)) == last
        assert bool(schedule.weight(torch.arange(last + 1), kind).isfinite().all())


# -------------------------------------------------------------------------- which settings are betas

REAL = {
    "sd-1.5": {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "num_train_timesteps": 1000,
               "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
               "clip_sample": False, **SCALED_LINEAR},
    "sd-2.1-v": {"_class_name": "DDIMScheduler", "clip_sample": False, "num_train_timesteps": 1000,
                 "prediction_type": "v_prediction", "set_alpha_to_one": False, "skip_prk_steps": True,
                 "steps_offset": 1, "trained_betas": None, **SCALED_LINEAR},
    "sdxl": {"_class_name": "EulerDiscreteScheduler", "clip_sample": False, "interpolation_type": "linear",
             "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0,
             "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading",
             "trained_betas": None, "use_karras_sigmas": False, **SCALED_LINEAR},
    "if": {"_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2",
           "beta_start": 0.0001, "clip_sample": True, "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.95,
           "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.5, "thresholding": True,
           "trained_betas": None, "variance_type": "learned_range"},
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_makers_own_settings_are_taken(name: str):
    assert noise_difference(REAL[name]) is None


SCHEDULER_CLASSES = sorted(
    name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith(("Flax", "Scheduler"))
)  # fmt: skip


# Of the schedulers that go by way of numpy.
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULER_CLASSES)
def test_every_scheduler_of_diffusers_is_read_as_it_reads_itself_or_refused(name: str):
    """Saved by its own class with default settings: the same abar, or a refusal that names the class."""
    try:
        made = getattr(diffusers, name)()
    except (ImportError, TypeError, ValueError, AttributeError):
        made = None  # needs another package, or arguments
    settings: dict[str, Any] = {"_class_name": name}
    if made is not None:
        settings |= json.loads(made.to_json_string())
    found = noise_difference(settings)
    if name.removesuffix("Scheduler") not in BETA_SCHEDULERS:
        assert found is not None and name in found[2]
    elif made is not None:
        assert found is None
        # Left out, its own defaults count: taken where they are DDIM's, else asked for.
        bare = noise_difference({"_class_name": name, "num_train_timesteps": 1000})
        same = (settings["beta_schedule"], settings["beta_start"], settings["beta_end"]) == (
            "linear",
            0.0001,
            0.02,
        )
        assert (bare is None) == same
        known = inspect.signature(DDIMScheduler.__init__).parameters
        read = DDIMScheduler(**{key: value for key, value in settings.items() if key in known})
        torch.testing.assert_close(read.alphas_cumprod, made.alphas_cumprod, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "EDMDPMSolverMultistepScheduler with sigma_data"),
        ({"_class_name": None}, "no class"),
        ({"_class_name": "MyScheduler"}, "MyScheduler"),
        ({"_class_name": ["DDIMScheduler"]}, "DDIMScheduler"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas: True"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"prediction_type": "sample"}, "sample"),
        ({"predict_epsilon": False}, "predict_epsilon: False"),
        ({"sigma_max": 700.0, "sigma_min": 0.002}, "sigma_max: 700.0, sigma_min: 0.002"),
        ({"timestep_type": "continuous"}, "timestep_type: continuous"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale: 3.0"),
        ({"sigma_data": 0.5}, "sigma_data: 0.5"),
        ({"shift": 3.0}, "shift: 3.0"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting: True"),
        ({"timestep_spacing": "quadratic"}, "quadratic"),
        ({"beta_schedule": "laplace"}, "laplace"),
        ({"beta_schedule": None}, "no beta_schedule"),
        ({"beta_start": None}, "None, 0.012"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "0.5, 0.1"),
        ({"beta_end": 10**400}, "0.00085, 1000"),
        ({"beta_end": math.nan}, "0.00085, nan"),
        ({"beta_end": "0.012"}, "0.012"),
        ({"trained_betas": [0.1, 0.2]}, "2"),
        ({"trained_betas": "linear"}, "str"),
        ({"trained_betas": [0.1, 1.0, 0.1], "num_train_timesteps": 3}, "1.0"),
        ({"num_train_timesteps": 1e3}, "1000.0"),
        ({"num_train_timesteps": 10**30}, "1000000"),
        ({"num_train_timesteps": 0}, "0"),
        ({"steps_offset": 1000}, "1000"),
        ({"rescale_betas_zero_snr": "yes"}, "yes"),
    ],
)  # fmt: skip
def test_settings_that_are_no_betas_are_refused_by_name(values: dict[str, Any], message: str):
    settings = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, **SCALED_LINEAR}
    assert noise_difference(settings) is None
    found = noise_difference(settings | values)
    assert found is not None and message in found[2] and len(found[2]) <= 160


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        ({"num_train_timesteps": 2}, {"num_train_timesteps": 1}),
        ({"num_train_timesteps": 100_000}, {"num_train_timesteps": 100_001}),
        ({"steps_offset": 0}, {"steps_offset": -1}),
        ({"steps_offset": 999}, {"steps_offset": 1000}),
        ({"beta_start": 0.012}, {"beta_start": 0.0121}),
        ({"beta_start": 1e-9}, {"beta_start": 0.0}),
        ({"beta_end": 0.999}, {"beta_end": 1.0}),
        ({"num_train_timesteps": 2, "trained_betas": [0.5, 1.0]},
         {"num_train_timesteps": 2, "trained_betas": [0.5, 1.001]}),
        ({"num_train_timesteps": 2, "trained_betas": [1e-9, 0.5]},
         {"num_train_timesteps": 2, "trained_betas": [0.0, 0.5]}),
    ],
)  # fmt: skip
def test_numbers_of_the_schedule_are_taken_up_to_their_limits(taken: dict[str, Any], refused: dict[str, Any]):
    settings = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, **SCALED_LINEAR}
    assert noise_difference(settings | taken) is None
    assert noise_difference(settings | refused) is not None


def test_settings_that_are_switched_off_are_taken():
    off: dict[str, Any] = {"use_flow_sigmas": False, "flow_shift": 1.0, "sigma_min": None, "shift_terminal": None,
           "timestep_type": "discrete", "predict_epsilon": True, "lambda_min_clipped": -math.inf,
           "something_new": False, "_use_default_values": ["a"]}  # fmt: skip
    assert noise_difference(REAL["sdxl"] | off) is None
