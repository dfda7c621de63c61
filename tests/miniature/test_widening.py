from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from dreamfusion.miniature.training.models import Sizes, make_autoencoder, make_unet, seeded
from dreamfusion.miniature.training.widening import widen

SMALL = Sizes(
    autoencoder_channels=(8, 16, 16),
    unet_channels=(8, 16, 24),
    unet_heads=(1, 1, 2),
    unet_groups=4,
    unet_pooling_heads=1,
    text_width=16,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def trained(model: nn.Module) -> nn.Module:
    """Away from the first weights, many of which are zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator())
    return model


def unet(*channels: int) -> UNet2DConditionModel:
    with seeded(0):
        return trained(make_unet(replace(SMALL, unet_channels=channels)))  # pyright: ignore[reportReturnType]


@torch.no_grad()
def denoised(model: UNet2DConditionModel) -> Tensor:
    noisy = torch.randn(5, 4, 16, 16, generator=generator())
    states = torch.randn(5, 6, 16, generator=generator())
    return model(noisy, torch.tensor([0, 3, 250, 700, 999]), states).sample


def encoded(model: AutoencoderKL, images: Tensor) -> Tensor:
    return model.encode(images).latent_dist.mean  # pyright: ignore


def decoded(model: AutoencoderKL, latents: Tensor) -> Tensor:
    return model.decode(latents).sample  # pyright: ignore


def relative_error(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).square().mean() / wanted.square().mean())


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_denoiser_with_every_level_wider_has_the_old_ones_function(factor: int) -> None:
    old, new = unet(8, 16, 24), unet(*(factor * width for width in (8, 16, 24)))
    assert relative_error(denoised(new), denoised(old)) > (0.01 if factor > 1 else -1)
    widen(new, old, generator())
    torch.testing.assert_close(denoised(new), denoised(old), atol=2e-4, rtol=1e-4)


def test_a_denoiser_with_some_levels_wider_is_near_the_old_one() -> None:
    old, new = unet(8, 16, 24), unet(16, 32, 24)
    widen(new, old, generator())
    assert relative_error(denoised(new), denoised(old)) < 0.05


def test_an_autoencoder_with_some_levels_wider_has_the_old_ones_function() -> None:
    with seeded(0):
        old = trained(make_autoencoder(SMALL))
        new = make_autoencoder(replace(SMALL, autoencoder_channels=(16, 48, 48)))
    assert isinstance(old, AutoencoderKL)
    images = torch.rand(3, 3, 64, 64, generator=generator())
    widen(new, old, generator())
    latents = torch.randn(3, 4, 16, 16, generator=generator())
    with torch.no_grad():
        for made, wanted in (
            (encoded(new, images), encoded(old, images)),
            (decoded(new, latents), decoded(old, latents)),
        ):
            torch.testing.assert_close(made, wanted, atol=1e-3, rtol=1e-3)


def test_copies_are_read_unevenly_so_that_they_can_part() -> None:
    old, new = unet(8, 16, 24), unet(16, 32, 48)
    widen(new, old, generator())
    new.train()
    new(
        torch.randn(2, 4, 16, 16), torch.tensor([10, 500]), torch.randn(2, 6, 16)
    ).sample.square().mean().backward()
    gradient = new.conv_in.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[0::2], gradient[1::2], rtol=0.05)
    assert torch.equal(new.conv_in.weight[0::2], new.conv_in.weight[1::2])


def test_only_widths_can_grow_and_only_by_whole_factors() -> None:
    with pytest.raises(ValueError, match="multiple"):
        widen(unet(12, 16, 24), unet(8, 16, 24), generator())
    with seeded(0):
        deeper = make_unet(
            replace(
                SMALL,
                unet_channels=(8, 16, 24, 24),
                unet_heads=(1, 1, 2, 2),
                unet_attention=(False, True, True, True),
            )
        )
    with pytest.raises(ValueError, match="has no down_blocks"):
        widen(deeper, unet(8, 16, 24), generator())
