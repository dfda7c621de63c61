"""Parts of a checkpoint, read by the libraries' own classes: frozen, whole, and in the precision that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.families import read_json
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.weight_files import weights_variant

_PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "T5EncoderModel"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}


def part_class(component: str, class_name: str) -> Any:
    """The class that a component is read with: the known few, never one that a checkpoint brings along."""
    import diffusers
    import transformers

    library = transformers if component.startswith("text_encoder") else diffusers
    names = _PARTS[component]
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


def contents_faults(directory: Path, files: Sequence[Path]) -> list[str]:
    """What is wrong inside safetensors files of a checkpoint: shapes that the settings do not have, numbers that are none."""
    from safetensors import safe_open

    found = []
    wanted: dict[str, dict[str, torch.Size]] = {}
    for file in files:
        component = file.parent.name
        if component not in wanted:
            wanted[component] = shapes_by_settings(file.parent, component)
        name = str(file.relative_to(directory))
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(key)
                shape = wanted[component].get(key)
                if shape is not None and tensor.shape != shape:
                    found.append(
                        f"{name} has {key} of shape {tuple(tensor.shape)}, its config.json asks for {tuple(shape)}"
                    )
                    break
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    found.append(f"{name} has numbers in {key} that are not finite")
                    break
    return found


def shapes_by_settings(folder: Path, component: str) -> dict[str, torch.Size]:
    """Names and shapes of the weights that a part's config.json describes; empty where there is no such part."""
    if component not in _PARTS or not (folder / "config.json").is_file():
        return {}
    settings = read_json(folder / "config.json")
    part = part_class(component, (settings.get("architectures") or [""])[0])
    with quiet_libraries(), torch.device("meta"):
        if component.startswith("text_encoder"):
            model = part(part.config_class.from_dict(settings))
        else:
            model = part.from_config(settings)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
