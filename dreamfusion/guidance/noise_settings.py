"""Which scheduler_config.json says that noise is added by betas: the one kind of schedule that is read here.

Both lists say what is known. A scheduler class or a setting that is not on them may change the noise (EDM's sigmas, a
flow, a shifted signal-to-noise ratio), and is refused by its name: read as betas, such a model would be distilled with
noise that it never saw. No torch is loaded.
"""

from __future__ import annotations

import math
from typing import Any

from dreamfusion.errors import ModelUnsupportedError

Difference = tuple[str, str, str]
"""What is wrong, what was expected, what is there."""

# diffusers' classes whose noise is that of their betas, without their last word; the others are of sigmas, flows or tokens.
BETA_SCHEDULERS = frozenset(
    (
        "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
        "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete",
        "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD",
        "UniPCMultistep",
    )
)  # fmt: skip
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")

# What the noise depends on, and what only a sampler reads.
_NOISE = frozenset(
    ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
     "rescale_betas_zero_snr")
)  # fmt: skip
_SAMPLING = frozenset(
    (
        "algorithm_type", "clip_sample", "clip_sample_range", "corrector_order", "disable_corrector",
        "dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type",
        "lambda_min_clipped", "lower_order_final", "noise_sampler_seed", "original_inference_steps", "predict_x0",
        "predictor_order", "sample_max_value", "set_alpha_to_one", "skip_prk_steps", "solver_order", "solver_p",
        "solver_type", "steps_offset", "tau_func", "thresholding", "time_shift_type", "timestep_scaling",
        "timestep_spacing", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas",
        "variance_type",
    )
)  # fmt: skip
# Settings of known schedulers with which they leave their betas, and the value with which they do not.
_HARMLESS = {"timestep_type": "discrete", "predict_epsilon": True}
# Classes whose betas are not DDIMScheduler's where the settings leave them out.
_OTHER_DEFAULTS = frozenset(("HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "TCD"))
_LONGEST = 100_000


def check_noise_settings(settings: dict[str, Any], where: str) -> None:
    """Raise ModelUnsupportedError unless the settings of a scheduler describe noise by betas; `where` names their file."""
    found = noise_difference(settings)
    if found is not None:
        what, expected, got = found
        raise ModelUnsupportedError(f"{where}: {what}", expected=expected, got=got)


def noise_difference(settings: dict[str, Any]) -> Difference | None:
    """The first thing in a scheduler_config.json that is not noise by betas with a model of the noise or of v; else None."""
    # A file without a class is read with DDIMScheduler, as diffusers reads it with that of model_index.json.
    name = settings.get("_class_name", "DDIMScheduler")
    known = isinstance(name, str) and name.removesuffix("Scheduler") in BETA_SCHEDULERS
    prediction_type = settings.get("prediction_type", "epsilon")
    spacing = settings.get("timestep_spacing", "leading")
    strange = _strange(settings)
    checks: list[tuple[bool, str, str, Any]] = [
        (
            known,
            "its prediction type" if "Flow" in str(name) else "its noise, by its scheduler's class",
            "a scheduler made of betas, such as DDIMScheduler",
            f"{name}, flow matching" if "Flow" in str(name) else _with_keys(name, strange),
        ),
        (prediction_type in PREDICTION_TYPES, "its prediction type", "epsilon or v_prediction", prediction_type),
        (
            not strange,
            "its noise, by settings of its scheduler that are not those of betas",
            "none but those of a schedule by betas",
            ", ".join(f"{key}: {settings[key]}" for key in strange),
        ),
        (spacing in SPACINGS, "its scheduler's timestep_spacing", " or ".join(SPACINGS), spacing),
    ]  # fmt: skip
    for good, what, expected, got in checks:
        if not good:
            return what, expected, str(got)[:160]
    return _length_difference(settings) or _betas_difference(settings)


def _strange(settings: dict[str, Any]) -> list[str]:
    """Settings that are neither on the lists nor switched off."""
    return sorted(
        key
        for key, value in settings.items()
        if not key.startswith("_")
        and key not in _NOISE | _SAMPLING
        and value is not None
        and value is not False
        and value != _HARMLESS.get(key)
    ) + ["predict_epsilon"] * (settings.get("predict_epsilon") is False)


def _with_keys(name: Any, keys: list[str]) -> str:
    return f"{name or 'no class'}{' with ' + ', '.join(keys) if keys else ''}"


def _length_difference(settings: dict[str, Any]) -> Difference | None:
    length, offset = settings.get("num_train_timesteps", 1000), settings.get("steps_offset", 0)
    rescaled = settings.get("rescale_betas_zero_snr")
    if not _is_int(length) or not 2 <= length <= _LONGEST:
        return "its scheduler's num_train_timesteps", f"a whole number from 2 to {_LONGEST}", str(length)[:40]
    if not _is_int(offset) or not 0 <= offset < length:
        return "its scheduler's steps_offset", f"a whole number from 0 to {length - 1}", str(offset)[:40]
    if rescaled is not None and not isinstance(rescaled, bool):
        return "its scheduler's rescale_betas_zero_snr", "true or false", str(rescaled)[:40]
    return None


def _betas_difference(settings: dict[str, Any]) -> Difference | None:
    trained = settings.get("trained_betas")
    if trained is not None:
        return _trained_difference(trained, settings.get("num_train_timesteps", 1000))
    odd = str(settings.get("_class_name")).removesuffix("Scheduler") in _OTHER_DEFAULTS
    defaults = {} if odd else {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    settings = defaults | settings
    schedule = settings.get("beta_schedule")
    if schedule not in BETA_SCHEDULES:
        got = "no beta_schedule and no trained_betas" if schedule is None else str(schedule)
        return "its scheduler's beta_schedule", " or ".join(BETA_SCHEDULES), got[:160]
    if schedule == "squaredcos_cap_v2":
        return None
    ends = settings.get("beta_start"), settings.get("beta_end")
    numbers: list[float] = [end for end in ends if end is not None and is_number(end)]
    if len(numbers) < 2 or not 0.0 < numbers[0] <= numbers[1] < 1.0:
        got = f"{str(ends[0])[:40]}, {str(ends[1])[:40]}"
        return "its scheduler's beta_start and beta_end", "0 < beta_start <= beta_end < 1", got
    return None


def _trained_difference(trained: Any, length: int) -> Difference | None:
    what = "its scheduler's trained_betas"
    if not isinstance(trained, list) or len(trained) != length:
        got = f"{len(trained)}" if isinstance(trained, list) else type(trained).__name__
        return what, f"a list of num_train_timesteps, {length}, numbers", got
    # Only after the last timestep may nothing of the image be left.
    wrong = [beta for beta in trained[:-1] if not is_number(beta) or not 0.0 < beta < 1.0]
    wrong += [beta for beta in trained[-1:] if not is_number(beta) or not 0.0 < beta <= 1.0]
    return (what, "numbers between 0 and 1", str(wrong[0])[:40]) if wrong else None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a setting is a finite number of a size that a model can compute with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e6 and math.isfinite(value)
