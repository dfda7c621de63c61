"""An oracle: the exact denoiser of an analytic object, so that the whole loop is tested with no weights at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from dreamfusion.cameras import orbit_cameras
from dreamfusion.config import ExperimentConfig
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.sds import score_distillation, sds_loss

DISTANCE, FOVY_DEG = 2.5, 45.0


@dataclass(frozen=True)
class Ball:
    centre: tuple[float, float, float]
    radius: float
    rgb: tuple[float, float, float]


# Nothing about it is symmetric: a mirrored azimuth, a swapped axis or an upside-down image shows.
OBJECT = (
    Ball((0.0, -0.1, 0.0), 0.4, (0.9, 0.2, 0.1)),
    Ball((0.45, 0.1, 0.0), 0.22, (0.1, 0.7, 0.2)),
    Ball((0.0, 0.35, 0.25), 0.2, (0.1, 0.2, 0.9)),
)
BACKGROUND = (1.0, 1.0, 1.0)


def picture(
    azimuth_deg: Tensor, elevation_deg: Tensor, resolution: int, balls: tuple[Ball, ...] = OBJECT
) -> tuple[Tensor, Tensor]:
    """The object's image "b h w 3" and silhouette "b h w" by the quadratic formula, apart from all rendering code."""
    cameras = orbit_cameras(azimuth_deg, elevation_deg, DISTANCE, FOVY_DEG, resolution)
    rays_o, rays_d = (rays.double() for rays in cameras.rays())
    nearest = torch.full(rays_d.shape[:3], torch.inf, dtype=torch.float64)
    rgb = torch.tensor(BACKGROUND, dtype=torch.float64).expand_as(rays_d).clone()
    for ball in balls:
        offset = rays_o - torch.tensor(ball.centre, dtype=torch.float64)
        half_b = (offset * rays_d).sum(-1)
        discriminant = half_b**2 - ((offset**2).sum(-1) - ball.radius**2)
        distance = -half_b - discriminant.clamp(min=0).sqrt()
        front = (discriminant > 0) & (distance < nearest)
        nearest = torch.where(front, distance, nearest)
        rgb[front] = torch.tensor(ball.rgb, dtype=torch.float64)
    return rgb.float(), nearest.isfinite()


@dataclass
class Answer:
    loss: Tensor
    gradient_norm: float
    timesteps: Tensor


@dataclass
class OracleGuidance:
    """Score distillation whose denoiser knows the answer: all data is the one picture of `balls` from this direction.

    It takes the real noise schedule and the real distillation; only the network is replaced by the closed form
    eps_hat = (z_t - sqrt(abar) x_c) / sqrt(1 - abar). The picture rides in the place of the text embedding.
    """

    balls: tuple[Ball, ...] = OBJECT
    guidance_scale: float = 1.0
    schedule: NoiseSchedule = field(
        default_factory=lambda: NoiseSchedule(
            torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0),
            "epsilon",
        )
    )

    def denoise(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        known = embeddings.transpose(1, 2).reshape(noisy.shape)
        abar = self.schedule.alphas_cumprod[timesteps][:, None, None, None].to(noisy)
        return (noisy - abar.sqrt() * known) / (1 - abar).sqrt()

    def __call__(
        self,
        images: Tensor,
        azimuth_deg: Tensor,
        elevation_deg: Tensor,
        step: int,
        noise_generator: torch.Generator,
        timestep_generator: torch.Generator,
    ) -> Answer:
        latents = (images * 2 - 1).permute(0, 3, 1, 2)
        target, _ = picture(azimuth_deg, elevation_deg, images.shape[1], self.balls)
        cond = (target * 2 - 1).flatten(1, 2)
        timesteps = self.schedule.sample_timesteps(len(images), 0.02, 0.98, timestep_generator)
        noise = torch.randn(latents.shape, generator=noise_generator)
        gradient = score_distillation(
            self.denoise,
            self.schedule,
            latents.detach(),
            noise,
            timesteps,
            cond,
            torch.zeros_like(cond),
            self.guidance_scale,
            "sigma2",
        )
        return Answer(sds_loss(latents, gradient), gradient.norm().item(), timesteps)


def small_config(**changes: dict[str, object]) -> ExperimentConfig:
    """An experiment whose cameras the oracle can know from azimuth and elevation alone, small enough for a test."""
    sections: dict[str, dict[str, object]] = {
        "scene": {
            "field": {"kind": "grids", "resolutions": [8, 16], "hidden_layers": 0},
            "background": {"kind": "solid", "rgb": BACKGROUND},
        },
        "rendering": {
            "samples_per_ray": 32,
            "occupancy": {"resolution": 16, "update_every": 4, "warmup_steps": 8},
            "shading": {"albedo_steps": 1_000_000},
        },
        "cameras": {
            "resolution": 32,
            "distance": [DISTANCE, DISTANCE],
            "fovy_deg": [FOVY_DEG, FOVY_DEG],
            "elevation_deg": [-20.0, 60.0],
            "position_jitter": 0.0,
            "target_jitter": 0.0,
            "up_jitter": 0.0,
        },
        "training": {"steps": 60, "preview_size": 16},
        "optimizer": {"lr": 0.02},
    }
    for name, change in changes.items():
        sections[name] = sections.get(name, {}) | change
    return ExperimentConfig.model_validate({"prompt": "a ball", "seed": 1, **sections})


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ExperimentConfig]:
    return small_config


@pytest.fixture(scope="session")
def oracle() -> OracleGuidance:
    return OracleGuidance()


@pytest.fixture(scope="session")
def truth() -> Callable[..., tuple[Tensor, Tensor]]:
    return picture
