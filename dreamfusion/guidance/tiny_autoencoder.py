"""A small encoder in the autoencoder's place (TAESD's layout, diffusers' AutoencoderTiny): a tenth of its work.

Its latents are trained to be the large one's, already scaled. Used for the first part of a run, if asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamfusion.guidance.loading import check_keys, readable
from dreamfusion.guidance.quiet import quiet_libraries


def load_tiny_autoencoder(directory: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The autoencoder in a directory that `tiny_autoencoder_directory` found, frozen.

    Raises ModelUnsupportedError when its weights cannot be read, or do not cover what its config.json asks for.
    """
    from diffusers import AutoencoderTiny

    with readable(f"the tiny autoencoder in {directory}"), quiet_libraries():
        loaded: Any = AutoencoderTiny.from_pretrained(
            directory, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    model, told = loaded
    with quiet_libraries():
        model = model.requires_grad_(False).eval().to(device, dtype)
    check_keys(f"the tiny autoencoder in {directory}", told["missing_keys"])
    return model.to(memory_format=torch.channels_last)
