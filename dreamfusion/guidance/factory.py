"""From a config to the guidance of its model's family."""

from __future__ import annotations

import logging

import torch

from dreamfusion.config import GuidanceConfig
from dreamfusion.guidance.diffusion import DiffusionGuidance
from dreamfusion.guidance.loaders import load_guidance
from dreamfusion.guidance.models import fetch_model, find_model
from dreamfusion.guidance.precision import unet_dtype
from dreamfusion.progress import notice


def make_guidance(
    config: GuidanceConfig, prompt: str, device: torch.device | str = "cpu"
) -> DiffusionGuidance:
    """Find the model, fetch it if it is not here, and load it.

    Raises ModelNotFoundError, ModelUnsupportedError, PromptError and ConfigError.
    """
    device = torch.device(device)
    found = find_model(config.model, single_file_config=config.single_file_config)
    if config.single_file_config is not None and found.single_file is None:
        notice(f"guidance.single_file_config is not used: {config.model} is no single file")
    directory = fetch_model(found, half_precision=unet_dtype(config.dtype, device) == torch.float16)
    # In the hub's cache the directory's name is the commit.
    logging.getLogger("dreamfusion").info("model %s is %s", config.model, directory)
    return load_guidance(config, prompt, device, directory)
