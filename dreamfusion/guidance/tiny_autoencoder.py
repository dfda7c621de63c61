"""A small encoder in the autoencoder's place (TAESD's layout, diffusers' AutoencoderTiny): a tenth of its work.

Its latents are trained to be the large one's, already scaled. Used for the first part of a run, if asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamfusion.errors import DreamfusionError, ModelNotFoundError, ModelUnsupportedError
from dreamfusion.guidance.families import read_json
from dreamfusion.guidance.quiet import quiet_libraries


def load_tiny_autoencoder(name: str, vae: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The autoencoder in a directory or a hub repository, frozen.

    Args:
        name: a directory in diffusers' layout, or a hub id such as madebyollin/taesd.
        vae: the autoencoder whose latents it must give.

    Raises ModelNotFoundError, and ModelUnsupportedError for another class, or latents of another shape.
    """
    from diffusers import AutoencoderTiny

    directory = _directory(name)
    config = read_json(directory / "config.json")
    shape = (config.get("latent_channels", 4), len(config.get("encoder_block_out_channels", (64,) * 4)))
    wanted = (vae.config.latent_channels, len(vae.config.block_out_channels))
    if config.get("_class_name") != "AutoencoderTiny" or shape != wanted:
        raise ModelUnsupportedError(
            f"the tiny autoencoder {name} does not fit the model",
            expected=f"an AutoencoderTiny of {wanted[0]} channels and {wanted[1]} levels",
            got=f"{config.get('_class_name')} of {shape[0]} and {shape[1]}",
        )
    try:
        with quiet_libraries():
            loaded: Any = AutoencoderTiny.from_pretrained(
                directory, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
            )
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelUnsupportedError(f"the tiny autoencoder {name} cannot be read", got=reason) from error
    model, told = loaded
    if told["missing_keys"]:
        raise ModelUnsupportedError(
            f"the tiny autoencoder {name} lacks weights", got=f"nothing for {min(told['missing_keys'])}"
        )
    return model.requires_grad_(False).eval().to(device, dtype).to(memory_format=torch.channels_last)


def _directory(name: str) -> Path:
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return path
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(name, allow_patterns=["config.json", "diffusion_pytorch_model.safetensors"])
        )
    except DreamfusionError:
        raise
    except Exception as error:  # its class depends on which HTTP client this hub version uses
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
        raise ModelNotFoundError(
            f"the tiny autoencoder '{name}' was not found; tried: directory {path}: no config.json; hub: {reason}",
            hint="name a directory in diffusers' layout, or a hub id such as madebyollin/taesd",
        ) from error
