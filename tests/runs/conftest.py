"""A run small enough for a test, with a guidance that needs no weights and uses every generator it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamfusion.config import ExperimentConfig
from dreamfusion.training.trainer import Trainer


@dataclass
class Pull:
    loss: Tensor
    gradient_norm: float
    timesteps: Tensor


class GreyGuidance:
    """Pulls every image towards grey, by an amount and with a noise that are drawn."""

    def __call__(
        self,
        images: Tensor,
        azimuth_deg: Tensor,
        elevation_deg: Tensor,
        step: int,
        noise_generator: torch.Generator,
        timestep_generator: torch.Generator,
    ) -> Pull:
        timesteps = torch.randint(1, 1000, (len(images),), generator=timestep_generator)
        noise = 0.1 * torch.randn(images.shape, generator=noise_generator)
        gradient = (images.detach() - 0.5 + noise) * timesteps[:, None, None, None] / 1000
        return Pull((images * gradient).mean(), gradient.norm().item(), timesteps)


def tiny_config(**training: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "prompt": "a grey ball",
            "seed": 11,
            "scene": {"field": {"kind": "grids", "resolutions": [6], "hidden_layers": 0}},
            "rendering": {
                "samples_per_ray": 8,
                "occupancy": {"resolution": 6, "update_every": 2, "warmup_steps": 2},
                "shading": {"albedo_steps": 3},
            },
            "cameras": {"resolution": 8, "distance": [2.0, 3.0]},
            "training": {
                "steps": 12,
                "preview_every": 5,
                "preview_size": 16,
                "checkpoint_every": 4,
                "keep_checkpoints": 2,
                **training,
            },
        }
    )


def tiny_trainer(config: ExperimentConfig, device: str) -> Trainer:
    return Trainer(config, device, guidance=GreyGuidance())


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ExperimentConfig]:
    return tiny_config


@pytest.fixture(scope="session")
def make_trainer() -> Callable[[ExperimentConfig, str], Trainer]:
    return tiny_trainer
