"""What is given up, and in which order, when a step does not fit into a device's memory.

    1  the field's samples in chunks, computed again on the way back     slower, the same picture
    2  the guidance in slices: one row of the UNet at a time, and        slower, the same pull
       the autoencoder's inside computed again on the way back
    3  one view a step                                                   noisier
    4  renders of half the side, and half again, down to 64              coarser
    5  three quarters, then half of the guidance's image size            coarser

Each rung keeps those above it. A run is planned by the same ladder before it starts, where the memory is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from dreamfusion.config import ConstantResolution, ExperimentConfig, Resolution
from dreamfusion.errors import OutOfMemoryError, says_out_of_memory

FIELD_CHUNK = 1 << 16
# What every model's sizes are multiples of: eight pixels a latent, three halvings in the UNet.
_SIZE_STEP = 64
_LEAST_RENDER = 64


def rungs(config: ExperimentConfig, image_size: int | None) -> Iterator[tuple[str, ExperimentConfig]]:
    """What is left of the ladder below `config`: what each rung does, and the whole config from then on.

    Args:
        image_size: of the guidance now; None: it has none, and that rung is left out.
    """

    def changed(part: str, **values: object) -> ExperimentConfig:
        section = getattr(config, part).model_copy(update=values)
        return config.model_copy(update={part: section})

    if config.rendering.field_chunk is None:
        config = changed("rendering", field_chunk=FIELD_CHUNK)
        yield f"the field in chunks of {FIELD_CHUNK:,} samples", config
    if not config.guidance.slices:
        config = changed("guidance", slices=True)
        yield "the guidance in slices", config
    if config.cameras.views_per_step > 1:
        config = changed("cameras", views_per_step=1)
        yield "one view a step", config
    while (halved := _halved(config.cameras.resolution)) is not None:
        config = changed("cameras", resolution=halved)
        yield f"renders of {halved.largest}", config
    if image_size is None:
        return
    for share in (0.75, 0.5):
        size = int(image_size * share) // _SIZE_STEP * _SIZE_STEP
        if 0 < size < image_size:
            config = changed("guidance", image_size=size)
            yield f"pictures of {size} for the guidance", config


def _halved(resolution: Resolution) -> Resolution | None:
    """The same schedule up to half the side; None where that would be less than 64."""
    side = resolution.largest // 2
    if side < _LEAST_RENDER:
        return None
    if resolution.kind == "doubling" and resolution.start < side:
        # The sizes that are left keep their parts of the run.
        parts = (resolution.end // resolution.start).bit_length()
        return resolution.model_copy(
            update={"end": side, "steps": max(1, resolution.steps * (parts - 1) // parts)}
        )
    return ConstantResolution(value=side)


def plan(
    config: ExperimentConfig,
    image_size: int | None,
    available_bytes: int,
    needed_bytes: Callable[[ExperimentConfig], int],
) -> tuple[ExperimentConfig, list[str]]:
    """The first config down the ladder whose expected memory is available, and what was given up for it.

    Raises:
        OutOfMemoryError: not even the last one fits.
    """
    given_up: list[str] = []
    needed = needed_bytes(config)
    for text, lower in rungs(config, image_size):
        if needed <= available_bytes:
            break
        config, needed = lower, needed_bytes(lower)
        given_up.append(text)
    if needed > available_bytes:
        raise OutOfMemoryError(
            "the model does not fit into the device's memory, whatever is given up",
            expected=f"{needed / 2**30:.1f} GiB at least",
            got=f"{available_bytes / 2**30:.1f} GiB",
            hint="take a smaller model (`dreamfusion models list`)",
        )
    return config, given_up


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine itself, had no memory left; each says it in its own words."""
    return isinstance(error, torch.OutOfMemoryError) or says_out_of_memory(error)


def available_bytes(device: torch.device) -> int | None:
    """What is free on a device; None where the system does not tell, and on a CPU, which can swap."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def release(device: torch.device) -> None:
    """Give what the allocator keeps back, so that a smaller step finds it in one piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
