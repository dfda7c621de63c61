"""diffusers' samplers by name: from a checkpoint's noise schedule to the steps that draw a picture.

Those that take any model which predicts the noise or v under a gaussian noise schedule. Left out are samplers of
other kinds of model (flow matching, EDM, unCLIP, consistency, video), those that run backwards or in parallel, and
DPMSolverSDE, which needs the package torchsde.
"""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

import torch

from dreamfusion.errors import ConfigError
from dreamfusion.guidance.families import read_json
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.noise_settings import check_noise_settings

# diffusers' class names without their last word.
SCHEDULERS = (
    "DDIM",
    "DDPM",
    "PNDM",
    "LMSDiscrete",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "DEISMultistep",
    "UniPCMultistep",
    "SASolver",
    "LCM",
    "TCD",
)


# Those that look twice for a step, and the largest sigma that they can start from.
TWICE = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete")
LARGEST_SIGMA = 100.0
# What diffusers takes for the last timestep of a schedule without a signal there, where sigma would be infinite.
ALMOST_NO_SIGNAL = 2.0**-24


def check_scheduler(name: str) -> str:
    """One of `SCHEDULERS`, whatever its case, its hyphens, and with or without "Scheduler" behind.

    Raises ConfigError for a name that is none of them.
    """
    known = {_plain(scheduler): scheduler for scheduler in SCHEDULERS}
    plain = _plain(name)
    if plain in known:
        return known[plain]
    # Also by their beginnings: "euler" is nearer to "pndm" than to "eulerdiscrete" by letters alone.
    begun = [known[one] for one in known if plain and one.startswith(plain)]
    near = begun or [known[one] for one in difflib.get_close_matches(plain, known, n=2, cutoff=0.6)]
    raise ConfigError(
        "--scheduler",
        expected=f"one of {', '.join(SCHEDULERS)}",
        got=repr(name),
        hint=f"did you mean {' or '.join(near)}?" if near else None,
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "").removesuffix("scheduler")


def load_scheduler(directory: Path, pixels: bool = False) -> Any:
    """The checkpoint's noise schedule as diffusers' DDIMScheduler, whatever sampler the checkpoint prefers.

    Args:
        directory: of the checkpoint.
        pixels: whether what is denoised are pixels, which may be clipped.

    Raises ModelUnsupportedError for noise that is not made by betas.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(**_known(DDIMScheduler, _settings(directory, pixels)))


def _settings(directory: Path, pixels: bool) -> dict[str, Any]:
    file = directory / "scheduler" / "scheduler_config.json"
    config = read_json(file)
    check_noise_settings(config, str(file))
    if not pixels:
        # Samplers without these keys do neither, while DDIM's own default is to clip, which ruins latents.
        config |= {"clip_sample": False, "thresholding": False}
    if str(config.get("variance_type")).startswith("learned"):
        # The guidance drops the variance from the model's output, so a sampler must not look for it there.
        del config["variance_type"]
    return config


def _known(scheduler: Any, config: dict[str, Any]) -> dict[str, Any]:
    # Not from_config: it imports every sampler that there is, and logs the keys of the others.
    known = inspect.signature(scheduler.__init__).parameters
    return {key: value for key, value in config.items() if key in known}


def _sampler(directory: Path, pixels: bool, name: str) -> Any:
    """One of `SCHEDULERS` with the checkpoint's noise, as far as it can begin there."""
    import diffusers

    scheduler = getattr(diffusers, f"{name}Scheduler")
    config = _settings(directory, pixels)
    exact = NoiseSchedule.from_scheduler(load_scheduler(directory, pixels))
    known = _known(scheduler, config)
    floor = 1.0 / (1.0 + LARGEST_SIGMA**2) if name in TWICE else 0.0
    takes_no_signal = "rescale_betas_zero_snr" in inspect.signature(scheduler.__init__).parameters
    # The noise says nothing about the image where there is no signal: a prediction of it cannot be a first step.
    if exact.alphas_cumprod[-1] == 0.0 and not (takes_no_signal and exact.prediction_type == "v_prediction"):
        floor = max(floor, ALMOST_NO_SIGNAL)
    if exact.alphas_cumprod[-1] < floor:
        known |= {"trained_betas": _within_reach(exact.alphas_cumprod, floor)}
        known |= {"rescale_betas_zero_snr": False} if takes_no_signal else {}
    return scheduler(**known)


def _within_reach(alphas_cumprod: Any, floor: float) -> list[float]:
    """Betas of the same schedule whose signal is never less than `floor`, of the variance.

    A cosine schedule ends at sigma 20,000, and 20 steps have the next at 13. Over such an interval a sampler that corrects
    its step by a second look is far off: Heun's leaves too much noise by the factor 1 + sigma_0 / (2 sigma_1^3), even
    with the exact denoiser of gaussian data, and multiplies the difference of two predictions by sigma_0 / (2 sigma_1).
    At `LARGEST_SIGMA` a hundredth of the signal in the noise is nothing that could be seen.
    """
    # Falling still where it is cut off: between equal sigmas some samplers find no timestep.
    kept = torch.maximum(
        alphas_cumprod, floor * torch.linspace(2.0, 1.0, len(alphas_cumprod), dtype=torch.float64)
    )
    return (1.0 - kept / torch.cat([torch.ones_like(kept[:1]), kept[:-1]])).tolist()


def load_sampler(directory: Path, pixels: bool, name: str, steps: int, device: Any = "cpu") -> Any:
    """The scheduler `name`, one of `SCHEDULERS`, with the checkpoint's noise schedule and its timesteps set.

    Raises ModelUnsupportedError as `load_scheduler` does, ConfigError when the scheduler cannot make this many steps.
    """
    from dreamfusion.guidance.quiet import quiet_libraries

    # DPMSolverSinglestep logs that it corrects a setting of its own.
    with quiet_libraries():
        scheduler = _sampler(directory, pixels, name)
        try:
            scheduler.set_timesteps(steps, device=device)
        except (ValueError, IndexError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise ConfigError(
                f"--steps: {name} cannot make {steps} steps with this model", got=told
            ) from error
    return scheduler
