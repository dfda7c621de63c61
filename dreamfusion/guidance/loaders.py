"""The guidance of each family, made from a directory of files."""

from __future__ import annotations

from pathlib import Path

import torch

from dreamfusion.config import GuidanceConfig
from dreamfusion.guidance.deepfloyd_if import DeepFloydIFGuidance
from dreamfusion.guidance.diffusion import DiffusionGuidance
from dreamfusion.guidance.families import check_supported
from dreamfusion.guidance.stable_diffusion import StableDiffusionGuidance, StableDiffusionXLGuidance


def load_guidance(
    config: GuidanceConfig, prompt: str, device: torch.device, directory: Path
) -> DiffusionGuidance:
    """The model in `directory`, whichever `config` names; raises as `DiffusionGuidance` does."""
    match check_supported(directory):
        case "stable-diffusion":
            return StableDiffusionGuidance(config, prompt, device, directory)
        case "stable-diffusion-xl":
            return StableDiffusionXLGuidance(config, prompt, device, directory)
        case "deepfloyd-if":
            return DeepFloydIFGuidance(config, prompt, device, directory)
