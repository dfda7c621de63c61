"""Analytic solids and a slow renderer that is written straight from the quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

Inside = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Seen:
    sigmas: Tensor
    albedo: Tensor


class Solid(nn.Module):
    """Density `peak * sigmoid(sharpness * s)` for a signed distance s (positive inside): at s = 0 it is peak / 2."""

    def __init__(
        self, inside: Inside, albedo: Inside | None = None, peak: float = 100.0, sharpness: float = 60.0
    ) -> None:
        super().__init__()
        self.inside, self.peak, self.sharpness = inside, peak, sharpness
        self.albedo = albedo or (lambda positions: (positions + 1) / 2)
        self.asked = 0

    def density(self, positions: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked += len(positions)
        return self.peak * torch.sigmoid(self.sharpness * self.inside(positions))

    def forward(self, positions: Tensor) -> Seen:
        return Seen(self.density(positions), self.albedo(positions))


class SlowRenderer:
    """alpha_i = 1 - exp(-sigma_i delta), T_i = prod_{j<i} (1 - alpha_j), 128 samples through the ball, white background.

    Pictures are kept, because tests ask for the same ones again.
    """

    samples = 128

    def __init__(self, field: Solid, radius: float = 1.0) -> None:
        self.scene = SimpleNamespace(field=field, radius=radius)
        self.kept: dict[tuple[bytes, int, bool], SimpleNamespace] = {}

    def render_image(self, cameras, with_normals=False):
        key = (cameras.c2w.numpy().tobytes(), cameras.height, with_normals)
        if key not in self.kept:
            self.kept[key] = self._rendered(cameras, with_normals)
        return self.kept[key]

    @torch.no_grad()
    def _rendered(self, cameras, with_normals):
        rays_o, rays_d = cameras.rays()
        shape = rays_o.shape[:-1]
        rays_o, rays_d = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
        radius = self.scene.radius
        middle = -(rays_o * rays_d).sum(-1)
        hit = (rays_o + middle[:, None] * rays_d).norm(dim=-1) < radius
        delta = 2 * radius / self.samples
        t = middle[hit, None] - radius + (torch.arange(self.samples) + 0.5) * delta
        positions = rays_o[hit, None] + t[..., None] * rays_d[hit, None]
        seen = self.scene.field(positions.reshape(-1, 3))
        sigmas = seen.sigmas.reshape(t.shape) * (positions.norm(dim=-1) < radius)
        alphas = 1 - torch.exp(-sigmas * delta)
        through = torch.cumprod(1 - alphas, -1)
        weights = alphas * torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)

        def picture(values, width=()):
            full = torch.zeros(hit.shape[0], *width)
            full[hit] = values
            return full.reshape(*shape, *width)

        opacity = picture(weights.sum(-1))
        foreground = picture((weights[..., None] * seen.albedo.reshape(*t.shape, 3)).sum(-2), (3,))
        along_axis = -(rays_d.reshape(*shape, 3) * cameras.c2w[:, None, None, :3, 2]).sum(-1)
        distance = picture((weights * t).sum(-1)) / opacity.clamp(min=1e-9)
        normals = picture((weights[..., None] * positions).sum(-2), (3,))
        return SimpleNamespace(
            rgb=foreground + (1 - opacity[..., None]),
            foreground_rgb=foreground,
            opacity=opacity,
            depth=distance * along_axis,
            normals=torch.nn.functional.normalize(normals, dim=-1) if with_normals else None,
        )


def ball(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Inside:
    return lambda positions: radius - (positions - torch.tensor(centre)).norm(dim=-1)


def box(half: tuple[float, float, float], centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Inside:
    return lambda p: (torch.tensor(half) - (p - torch.tensor(centre)).abs()).amin(dim=-1)


def union(*parts: Inside) -> Inside:
    return lambda positions: torch.stack([part(positions) for part in parts]).amax(dim=0)


def head() -> Solid:
    """A grey ball with a red nose towards +Z (the front), a blue hat on +Y, and a green ear on +X."""

    def albedo(p: Tensor) -> Tensor:
        grey = torch.full_like(p, 0.6)
        paint = [
            (p[:, 2] > 0.41, torch.tensor([0.9, 0.1, 0.1])),
            (p[:, 1] > 0.41, torch.tensor([0.1, 0.1, 0.9])),
            (p[:, 0] > 0.41, torch.tensor([0.1, 0.8, 0.1])),
        ]
        for where, colour in paint:
            grey[where] = colour
        return grey

    parts = [
        ball(0.4),
        box((0.06, 0.06, 0.25), (0, 0, 0.45)),
        box((0.15, 0.2, 0.15), (0, 0.5, 0)),
        box((0.2, 0.04, 0.04), (0.4, 0, 0)),
    ]
    return Solid(union(*parts), albedo)


@pytest.fixture
def toys() -> SimpleNamespace:
    return SimpleNamespace(Solid=Solid, SlowRenderer=SlowRenderer, ball=ball, box=box, union=union, head=head)
