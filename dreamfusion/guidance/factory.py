"""From a config to the guidance of its model's family."""

from __future__ import annotations

import logging

import torch

from dreamfusion.config import GuidanceConfig
from dreamfusion.guidance.deepfloyd_if import DeepFloydIFGuidance
from dreamfusion.guidance.diffusion import DiffusionGuidance
from dreamfusion.guidance.families import check_supported
from dreamfusion.guidance.models import fetch_model, find_model
from dreamfusion.guidance.precision import unet_dtype
from dreamfusion.guidance.stable_diffusion import StableDiffusionGuidance, StableDiffusionXLGuidance


def make_guidance(
    config: GuidanceConfig, prompt: str, device: torch.device | str = "cpu"
) -> DiffusionGuidance:
    """Find the model, fetch it if it is not here, and load it.

    Raises ModelNotFoundError, ModelUnsupportedError, PromptError and ConfigError.
    """
    device = torch.device(device)
    found = find_model(config.model, single_file_config=config.single_file_config)
    directory = fetch_model(found, half_precision=unet_dtype(config.dtype, device) == torch.float16)
    # In the hub's cache the directory's name is the commit.
    logging.getLogger("dreamfusion").info("model %s is %s", config.model, directory)
    match check_supported(directory):
        case "stable-diffusion":
            return StableDiffusionGuidance(config, prompt, device, directory)
        case "stable-diffusion-xl":
            return StableDiffusionXLGuidance(config, prompt, device, directory)
        case "deepfloyd-if":
            return DeepFloydIFGuidance(config, prompt, device, directory)
