"""The colour of a lit point, and which light a training step uses (DreamFusion, arXiv 2209.14988, sec. 3.1 and 3.2).

    lambertian    rgb = albedo * (ambient + diffuse * max(0, n . l))
    textureless   the same with albedo = 1, so that shape cannot hide in paint
    albedo        rgb = albedo

l points from the surface to a point light, without fall-off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from dreamfusion.cameras import Cameras
from dreamfusion.config import ShadingConfig

ShadingKind = Literal["albedo", "lambertian", "textureless"]
_LIGHT_STEPS = 64


@dataclass(frozen=True)
class ShadingSample:
    """How one step is shaded: a kind and, unless it is `albedo`, one light for each view.

    Attributes:
        kind: `albedo`, `lambertian` or `textureless`.
        light_position: one point light for each of the b views, world units; None for `albedo`.
        ambient, diffuse: the two parts of the light, 0 .. 1.
    """

    kind: ShadingKind = "albedo"
    light_position: Float[Tensor, "b 3"] | None = None
    ambient: float = 1.0
    diffuse: float = 0.0

    def __post_init__(self) -> None:
        if (self.kind == "albedo") != (self.light_position is None):
            raise ValueError(f"shading {self.kind!r} with light_position {self.light_position!r}")

    @property
    def needs_normals(self) -> bool:
        """Whether samples must have normals to be shaded this way."""
        return self.kind != "albedo"


ALBEDO = ShadingSample()


def shade(
    albedo: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    positions: Float[Tensor, "n 3"],
    light_position: Float[Tensor, "n 3"],
    ambient: float,
    diffuse: float,
    textureless: bool = False,
) -> Float[Tensor, "n 3"]:
    """Lambertian colour of n surface points, each with its own point light (DreamFusion, eq. 7).

    `normals` are unit and point outward; `albedo` is clamped to [0, 1] and, if `textureless`, taken as 1.
    With ambient + diffuse <= 1 the result lies in [0, 1].
    """
    to_light = F.normalize(light_position - positions, dim=-1)
    cosine = (normals * to_light).sum(dim=-1, keepdim=True).clamp(min=0.0)
    shaded = ambient + diffuse * cosine
    return shaded.expand_as(albedo) if textureless else albedo.clamp(0.0, 1.0) * shaded


def sample_shading(config: ShadingConfig, cameras: Cameras, step: int, generator: Generator) -> ShadingSample:
    """The shading of optimiser iteration `step`: one kind for all views, one light for each.

    The light's direction from the origin is that of the camera's position plus N(0, light_jitter^2 I), its distance
    from the origin uniform in `light_distance` (DreamFusion, sec. 3.2 and App. A.2), wherever the object may be: see
    `lights_outside`. The same numbers are drawn whatever the kind, so later draws do not depend on it.
    """
    views = len(cameras)
    shaded_draw, textureless_draw = torch.rand(2, generator=generator).tolist()
    jitter = torch.randn(views, 3, generator=generator)
    share = torch.rand(views, 1, generator=generator)
    if step < config.albedo_steps or shaded_draw >= config.shaded_probability:
        return ALBEDO
    positions = cameras.positions
    direction = F.normalize(positions + config.light_jitter * jitter.to(positions), dim=-1)
    low, high = config.light_distance
    distance = low + (high - low) * share.to(positions)
    kind: ShadingKind = "textureless" if textureless_draw < config.textureless_probability else "lambertian"
    return ShadingSample(kind, direction * distance, config.ambient, config.diffuse)


@torch.no_grad()
def lights_outside(
    lights: Float[Tensor, "b 3"], density: Callable[[Tensor], Tensor], radius: float
) -> Float[Tensor, "b 3"]:
    """The lights, but for those behind something solid: these are moved outwards, past the last of it on their way.

    A light inside the object would leave its whole surface dark. Solid is what takes half of the light over a tenth of
    the ball's radius, so fog moves no light. It is looked for in steps of a 64th of the radius.

    Args:
        lights: positions, world units.
        density: of positions "n 3", in 1/length; 0 outside the ball.
        radius: of the scene's ball around the origin, world units.
    """
    distances = lights.norm(dim=-1, keepdim=True)
    if (distances >= radius).all():
        return lights
    steps = torch.arange(_LIGHT_STEPS + 1, device=lights.device) / _LIGHT_STEPS * radius
    further = distances + steps
    directions = F.normalize(lights, dim=-1)
    sigmas = density((directions[:, None] * further[..., None]).reshape(-1, 3)).view_as(further)
    solid = sigmas >= math.log(2.0) / (0.1 * radius)
    # The place after the last solid one; the last of all is past the ball's edge, where nothing is.
    places = torch.arange(1, _LIGHT_STEPS + 1, device=lights.device)
    free = (solid[:, :-1] * places).amax(dim=-1, keepdim=True)
    return torch.where(free > 0, directions * further.gather(1, free), lights)
