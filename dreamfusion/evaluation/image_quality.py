"""How near two pictures are: PSNR, and SSIM as its authors compute it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# Wang et al. (2004): a gaussian window of 11 pixels, std 1.5, and the constants K1 and K2.
WINDOW, _STD = 11, 1.5
_K1, _K2 = 0.01, 0.03


def psnr(
    image: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(mean squared error), of pictures in [0, 1]; infinite if they are equal.

    Args:
        mask: pixels that count; None: all. At least one must.
    """
    square = (image.double() - target.double()).square().mean(dim=-1)
    error = square.mean() if mask is None else square[mask].mean()
    return (-10.0 * torch.log10(error)).item()


def ssim(
    image: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None
) -> float:
    """Structural similarity, at most 1 (Wang et al., IEEE TIP 13(4), 2004, eq. 13), meaned over pixels and channels.

    Windows lie inside the picture, population covariances weighted by the gaussian: what scikit-image computes with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`, up to its borders.

    Args:
        image, target: in [0, 1], 11 pixels a side or more.
        mask: pixels that count, as the middles of windows; None: all.

    Raises:
        ValueError: the pictures are smaller than a window.
    """
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of {WINDOW} pixels a side, got {tuple(image.shape[:2])}")
    x, y = (picture.double().permute(2, 0, 1)[:, None] for picture in (image, target))
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=image.device) - WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * _STD**2))
    line = line / line.sum()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    quality = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    per_pixel = quality[:, 0].mean(dim=0)
    if mask is None:
        return per_pixel.mean().item()
    half = WINDOW // 2
    return per_pixel[mask[half:-half, half:-half]].mean().item()
