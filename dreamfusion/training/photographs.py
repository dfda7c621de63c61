"""Photographs in the place of a text: the pull is the difference between what is seen and what was photographed.

The loss is NeRF's (arXiv 2003.08934, eq. 6): the mean squared error of single pixels, drawn from all pictures. Pictures with an
opacity are laid over the background that the render got, so that with random backgrounds the opacity is learnt as well
(Instant-NGP, arXiv 2201.05989, public code).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from dreamfusion.cameras import Cameras
from dreamfusion.posed_images.dataset import PosedDataset
from dreamfusion.rendering.renderer import RenderOutput


@dataclass(frozen=True)
class PhotometricPull:
    """What one look at the photographs gives.

    Attributes:
        loss: mean squared error over rays and channels; this one's value has a meaning.
        gradient_norm: of the loss with respect to the rendered colours.
        timesteps: none: nothing is diffused.
        losses: `photometric`, the loss, and `psnr` of these pixels in dB.
    """

    loss: Float[Tensor, ""]
    gradient_norm: float
    timesteps: Int[Tensor, " none"]
    losses: dict[str, float]


class Photographs:
    """Draws the pixels of a step and compares with them.

    Args:
        dataset: the pictures; only `train` is looked at here.
        rays_per_step: pixels a step.
    """

    def __init__(self, dataset: PosedDataset, rays_per_step: int) -> None:
        self.dataset, self.rays_per_step = dataset, rays_per_step

    def draw(self, generator: Generator) -> tuple[Cameras, Float[Tensor, "rays 1 1 4"]]:
        """The step's pixels as cameras of one pixel each, and what they show (see `PosedImages.draw`)."""
        return self.dataset.train.draw(self.rays_per_step, generator)

    def pull(self, output: RenderOutput, rgba: Float[Tensor, "rays 1 1 4"]) -> PhotometricPull:
        """Compare a render with the pixels that `draw` gave for it."""
        rgba = rgba.to(output.rgb)
        # The target's background is the render's own. Without its gradient, or a learnt background would chase itself.
        target = rgba[..., :3] + (1.0 - rgba[..., 3:]) * output.background.detach()
        difference = output.rgb - target
        loss = difference.square().mean()
        value = loss.item()
        # d loss / d rgb = 2 difference / numel
        norm = 2.0 * math.sqrt(value / difference.numel())
        psnr = -10.0 * math.log10(max(value, 1e-12))
        none = torch.empty(0, dtype=torch.int64)
        return PhotometricPull(loss, norm, none, {"photometric": value, "psnr": psnr})
