"""Parts of a checkpoint, read by the libraries' own classes: frozen, whole, and in the precision that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.weight_files import weights_variant


def part_class(component: str, class_name: str) -> Any:
    """The class that a component is read with: the known few, never one that a checkpoint brings along."""
    import diffusers
    import transformers

    known: dict[str, tuple[Any, tuple[str, ...]]] = {
        "unet": (diffusers, ("UNet2DConditionModel",)),
        "vae": (diffusers, ("AutoencoderKL",)),
        "text_encoder": (transformers, ("CLIPTextModel", "T5EncoderModel")),
        "text_encoder_2": (transformers, ("CLIPTextModelWithProjection",)),
    }
    library, names = known[component]
    return getattr(library, class_name if class_name in names else names[0])


def load_part(
    directory: Path, component: str, dtype: torch.dtype, device: torch.device, class_name: str = ""
) -> Any:
    """One part of a checkpoint, frozen, in evaluation mode, on the device.

    Raises ModelUnsupportedError when its weights cannot be read, or do not cover what its config.json asks for.
    """
    from safetensors import SafetensorError

    part = part_class(component, class_name)
    encoder = component.startswith("text_encoder")
    # Only diffusers warns, and loads slowly by its own account, without the optional package accelerate.
    options: dict[str, Any] = {} if encoder else {"low_cpu_mem_usage": False}
    try:
        with quiet_libraries():
            loaded: Any = part.from_pretrained(
                directory / component,
                variant=weights_variant(directory, component),
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
            model, told = loaded
            # Cast here, not by an argument of from_pretrained: its name differs between the libraries' versions.
            model = model.requires_grad_(False).eval().to(device, dtype)
    except (SafetensorError, OSError) as error:
        raise ModelUnsupportedError(
            f"the {component} in {directory} cannot be read",
            got=(str(error).strip().splitlines() or [type(error).__name__])[0][:160],
            hint="delete the directory and fetch the model again",
        ) from error
    if told["missing_keys"]:
        # The libraries leave such weights at random and only log it.
        raise ModelUnsupportedError(
            f"the {component} in {directory} lacks weights that its config.json asks for",
            got=f"nothing for {min(told['missing_keys'])} and {len(told['missing_keys']) - 1} more",
            hint="config.json and weights belong to different models, or the download is broken",
        )
    return model if encoder else model.to(memory_format=torch.channels_last)
