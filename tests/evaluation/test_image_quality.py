"""PSNR and SSIM against their definitions, computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dreamfusion.evaluation.image_quality import psnr, ssim


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(24, 30, 3, generator=generator)
    return (target + 0.1 * torch.randn(24, 30, 3, generator=generator)).clamp(0, 1), target


def test_a_constant_difference_has_the_psnr_of_its_square() -> None:
    target = torch.full((12, 12, 3), 0.4)
    assert psnr(target + 0.1, target) == pytest.approx(20.0, abs=1e-4)
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[:6] = True
    image = target.clone()
    image[6:] = 1.0
    image[:6] += 0.01
    assert psnr(image, target, mask) == pytest.approx(40.0, abs=1e-3)
    assert psnr(target, target) == math.inf


def test_ssim_is_that_of_gaussian_filters() -> None:
    image, target = pictures()
    scores = []
    for channel in range(3):
        x, y = (picture[..., channel].double().numpy() for picture in (image, target))

        def blurred(values: np.ndarray) -> np.ndarray:
            return gaussian_filter(values, 1.5, truncate=3.4)[5:-5, 5:-5]  # a radius of 5

        mx, my = blurred(x), blurred(y)
        vx, vy, vxy = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
        scores.append((2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(image, target) == pytest.approx(np.mean(scores), abs=1e-6)
    mask = torch.zeros(24, 30, dtype=torch.bool)
    mask[8, 9] = mask[2, 2] = True  # the second is no window's middle
    assert ssim(image, target, mask) == pytest.approx(np.mean([s[3, 4] for s in scores]), abs=1e-6)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    image, target = pictures()
    assert ssim(target, target) == pytest.approx(1.0)
    assert ssim(image, target) < 0.99
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(target[:10], target[:10])
