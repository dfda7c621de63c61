"""Views that were not learnt from: rendered, and compared with their photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.evaluation.image_quality import psnr, ssim
from dreamfusion.posed_images.dataset import PosedImages
from dreamfusion.rendering.renderer import Renderer


@dataclass(frozen=True)
class HeldOutView:
    """One view.

    Attributes:
        name: of the photograph's file.
        psnr: in dB, over the pixels that are real.
        ssim: at most 1.
        photograph: over the background of the renders, sRGB.
        render: the same view, sRGB.
    """

    name: str
    psnr: float
    ssim: float
    photograph: Float[Tensor, "h w 3"]
    render: Float[Tensor, "h w 3"]


@torch.no_grad()
def look_at_held_out(
    renderer: Renderer, images: PosedImages, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[HeldOutView]:
    """Each of `images` as a render and a comparison, one after the other."""
    device = next(iter(renderer.scene.parameters())).device
    for index in range(len(images)):
        one = slice(index, index + 1)
        output = renderer.render_image(images.cameras[one].to(device))
        render = output.rgb.clamp(0.0, 1.0).cpu()
        photograph, real = images.over(output.background.cpu(), one)[0], images.real[index]
        mask = None if real.all() else real
        yield HeldOutView(
            images.names[index],
            psnr(render[0], photograph, mask),
            ssim(render[0], photograph, mask),
            photograph,
            render[0],
        )
        progress(index + 1, len(images))


def mean(values: list[float]) -> float:
    """The mean of at least one number; per-view PSNRs are meaned in dB, as papers do."""
    return sum(values) / len(values)
