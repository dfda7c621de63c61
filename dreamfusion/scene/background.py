"""What is behind the object: a learned environment, one colour, or a random colour per view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from dreamfusion.config import (
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
    """A small MLP on the encoded ray direction (DreamFusion, arXiv 2209.14988, App. A.2)."""

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


def make_background(config: BackgroundConfig, generator: Generator) -> Background:
    """The background that `config.kind` names, its weights drawn from `generator` (on the CPU)."""
    match config:
        case EnvironmentBackgroundConfig():
            return EnvironmentBackground(config, generator)
        case SolidBackgroundConfig():
            return SolidBackground(config)
        case RandomBackgroundConfig():
            return RandomBackground(config)
        case _:
            assert_never(config)
