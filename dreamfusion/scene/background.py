"""What is behind the object: a learned environment, one colour, or a random colour per view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from dreamfusion.config import (
    AugmentedBackgroundConfig,
    BackgroundConfig,
    EnvironmentBackgroundConfig,
    RandomBackgroundConfig,
    SolidBackgroundConfig,
)
from dreamfusion.scene.encodings import positional_encoding
from dreamfusion.scene.initialisation import make_linear


class Background(nn.Module, ABC):
    """The colour seen along a ray that nothing stops."""

    @abstractmethod
    def forward(
        self, rays_d: Float[Tensor, "b h w 3"], generator: Generator | None
    ) -> Float[Tensor, "b h w 3"]:
        """Colours in [0, 1].

        Args:
            rays_d: unit directions, world frame.
            generator: on the CPU, for a background that is random in training; None: evaluation.
        """

    def parameter_groups(self) -> list[dict[str, object]]:
        """What an optimiser steps, none if there is nothing to learn."""
        parameters = list(self.parameters())
        return (
            [{"name": "background", "params": parameters, "lr_scale_key": "background"}] if parameters else []
        )


class EnvironmentBackground(Background):
    """A small MLP on the encoded ray direction (DreamFusion, arXiv 2209.14988, sec. 3.1)."""

    def __init__(self, config: EnvironmentBackgroundConfig, generator: Generator) -> None:
        super().__init__()
        self.degrees = config.degrees
        self.hidden = make_linear(3 + 6 * config.degrees, config.width, generator)
        self.output = make_linear(config.width, 3, generator)

    def forward(
        self, rays_d: Float[Tensor, "b h w 3"], generator: Generator | None
    ) -> Float[Tensor, "b h w 3"]:
        encoded = torch.cat([rays_d, positional_encoding(rays_d, self.degrees)], -1)
        return torch.sigmoid(self.output(F.silu(self.hidden(encoded))))


class SolidBackground(Background):
    """The same colour everywhere, always."""

    rgb: Tensor

    def __init__(self, config: SolidBackgroundConfig) -> None:
        super().__init__()
        self.register_buffer("rgb", torch.tensor(config.rgb), persistent=False)

    def forward(
        self, rays_d: Float[Tensor, "b h w 3"], generator: Generator | None
    ) -> Float[Tensor, "b h w 3"]:
        return self.rgb.to(rays_d).expand_as(rays_d)


class RandomBackground(Background):
    """One colour per view, drawn uniformly between `low` and `high` per channel; `eval_rgb` in evaluation."""

    eval_rgb: Tensor

    def __init__(self, config: RandomBackgroundConfig) -> None:
        super().__init__()
        self.low, self.high = config.low, config.high
        self.register_buffer("eval_rgb", torch.tensor(config.eval_rgb), persistent=False)

    def forward(
        self, rays_d: Float[Tensor, "b h w 3"], generator: Generator | None
    ) -> Float[Tensor, "b h w 3"]:
        if generator is None:
            return self.eval_rgb.to(rays_d).expand_as(rays_d)
        drawn = torch.rand(rays_d.shape[0], 1, 1, 3, generator=generator).to(rays_d)
        return (self.low + (self.high - self.low) * drawn).expand_as(rays_d)


class AugmentedBackground(Background):
    """Noise, a checkerboard or a Fourier texture, one third of the views each, blurred by a random std (Dream Fields).

    What an object is made of cannot then be left to the background, nor hidden in it.
    """

    # Of the blur's kernel, in pixels, as in the paper's code.
    _KERNEL = 15

    eval_rgb: Tensor

    def __init__(self, config: AugmentedBackgroundConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("eval_rgb", torch.tensor(config.eval_rgb), persistent=False)

    def forward(
        self, rays_d: Float[Tensor, "b h w 3"], generator: Generator | None
    ) -> Float[Tensor, "b h w 3"]:
        if generator is None:
            return self.eval_rgb.to(rays_d).expand_as(rays_d)
        views, height, width, _ = rays_d.shape
        drawn = [self._texture(height, width, generator) for _ in range(views)]
        textures, stds = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return _blurred(textures, stds * self.config.blur_std, self._KERNEL).permute(0, 2, 3, 1).to(rays_d)

    def _texture(
        self, height: int, width: int, generator: Generator
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, ""]]:
        """A sharp texture, and the share of the widest blur that it is to have."""
        kind, blur = torch.rand(2, generator=generator)
        if kind < 1 / 3:
            texture = torch.rand(3, height, width, generator=generator)
        elif kind < 2 / 3:
            texture = self._checkerboard(height, width, generator)
        else:
            texture = _fourier_texture(height, width, generator)
        return texture, blur

    def _checkerboard(self, height: int, width: int, generator: Generator) -> Float[Tensor, "3 h w"]:
        first, second = torch.rand(2, 3, 1, 1, generator=generator)
        rows = torch.arange(height) * self.config.squares // height
        columns = torch.arange(width) * self.config.squares // width
        return torch.where((rows[:, None] + columns) % 2 == 0, first, second)


def _fourier_texture(height: int, width: int, generator: Generator) -> Float[Tensor, "3 h w"]:
    """A random picture whose amplitudes fall with the frequency, as those of photographs do."""
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    falling = 1.0 / frequency.clamp(min=1.0 / max(height, width))
    parts = torch.randn(2, 3, *falling.shape, generator=generator)
    texture = torch.fft.irfft2(torch.complex(parts[0], parts[1]) * falling, s=(height, width))
    return torch.sigmoid(texture / texture.std().clamp(min=1e-6))


def _blurred(
    textures: Float[Tensor, "b 3 h w"], stds: Float[Tensor, " b"], kernel: int
) -> Float[Tensor, "b 3 h w"]:
    """Each texture blurred by a Gaussian of its own std in pixels, cut off after `kernel` of them; edges are repeated.

    As two products with a matrix each: a picture of 64 pixels is too small for convolutions to pay.
    """
    height, width = textures.shape[-2:]
    down, across = _blur_matrix(height, stds, kernel), _blur_matrix(width, stds, kernel)
    return down[:, None] @ textures @ across[:, None].mT


def _blur_matrix(size: int, stds: Float[Tensor, " b"], kernel: int) -> Float[Tensor, "b size size"]:
    """Row i has the weights with which the pixels of a line make the blurred pixel i."""
    offsets = torch.arange(kernel) - kernel // 2
    # Narrower than this nothing reaches the next pixel, and 0 would divide 0 by 0.
    line = torch.exp(-offsets.square() / (2 * stds[:, None].clamp(min=1e-3) ** 2))
    line = line / line.sum(dim=-1, keepdim=True)
    sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    matrix = torch.zeros(len(stds), size, size)
    return matrix.scatter_add_(
        2, sources.expand_as(matrix[..., :1].expand(-1, -1, kernel)), line[:, None].expand(-1, size, -1)
    )


def make_background(config: BackgroundConfig, generator: Generator) -> Background:
    """The background that `config.kind` names, its weights drawn from `generator` (on the CPU)."""
    match config:
        case EnvironmentBackgroundConfig():
            return EnvironmentBackground(config, generator)
        case SolidBackgroundConfig():
            return SolidBackground(config)
        case RandomBackgroundConfig():
            return RandomBackground(config)
        case AugmentedBackgroundConfig():
            return AugmentedBackground(config)
        case _:
            assert_never(config)
