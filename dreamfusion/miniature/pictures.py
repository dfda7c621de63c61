"""From surfaces to pictures: lights, shading and anti-aliasing, shared by the ray caster and the rasteriser.

Short vectors are kept as lists of their components: rows of a matrix with three columns are slow on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.cameras import Cameras

# Pairs of a pixel and a thing worked on at once: enough to hide the cost of a call, few enough for a processor's cache.
PAIRS_PER_CHUNK = 150_000


@dataclass(frozen=True)
class Lights:
    """One point light and its strengths for each scene; ambient 1 and diffuse 0 give the pure albedo."""

    position: Float[Tensor, "b 3"]
    ambient: Float[Tensor, " b"]
    diffuse: Float[Tensor, " b"]


@dataclass(frozen=True)
class Picture:
    """A batch of pictures: rgb over the background, opacity in [0, 1], and of the nearest surface through each
    pixel's centre of mass the depth along the camera's axis (0 where nothing is) and the world normal."""

    rgb: Float[Tensor, "b h w 3"]
    opacity: Float[Tensor, "b h w"]
    depth: Float[Tensor, "b h w"] | None
    normals: Float[Tensor, "b h w 3"] | None


@dataclass(frozen=True)
class Surface:
    """What rays meet first: one entry for each ray that meets anything.

    `ray` is the flat index in scene, row, column; `depth` along the camera's axis; `positions` and unit `normals` in the
    world as x, y, z apart; `albedo` is sRGB in [0, 1].
    """

    ray: Int[Tensor, " n"]
    scene: Int[Tensor, " n"]
    depth: Float[Tensor, " n"]
    positions: list[Tensor]
    normals: list[Tensor]
    albedo: Float[Tensor, "n 3"]

    def _picked(self, which: Tensor) -> Surface:
        def pick(v: Tensor) -> Tensor:
            return v.index_select(0, which)

        return Surface(
            pick(self.ray),
            pick(self.scene),
            pick(self.depth),
            [pick(v) for v in self.positions],
            [pick(v) for v in self.normals],
            pick(self.albedo),
        )


def nearer(first: Surface, second: Surface, n_rays: int) -> Surface:
    """Of two surfaces seen through the same rays the nearer one at each ray; at equal depth the first."""
    depth = torch.full((2, n_rays), torch.inf, dtype=first.depth.dtype, device=first.depth.device)
    depth[0, first.ray] = first.depth
    depth[1, second.ray] = second.depth
    a = first._picked(torch.nonzero(first.depth <= depth[1, first.ray])[:, 0])
    b = second._picked(torch.nonzero(second.depth < depth[0, second.ray])[:, 0])
    return Surface(
        torch.cat([a.ray, b.ray]),
        torch.cat([a.scene, b.scene]),
        torch.cat([a.depth, b.depth]),
        [torch.cat(pair) for pair in zip(a.positions, b.positions, strict=True)],
        [torch.cat(pair) for pair in zip(a.normals, b.normals, strict=True)],
        torch.cat([a.albedo, b.albedo]),
    )


def shade(surface: Surface, lights: Lights | None) -> Float[Tensor, "n 3"]:
    """albedo * (ambient + diffuse * max(0, n . l)), the radiance field's own shading; without lights the albedo."""
    if lights is None:
        return surface.albedo
    light = gathered(lights.position, surface.scene)
    to_light = normalised([light[k] - surface.positions[k] for k in range(3)])
    n, to = surface.normals, to_light
    cosine = n[0] * to[0] + n[1] * to[1] + n[2] * to[2]
    diffuse, ambient = (v.index_select(0, surface.scene) for v in (lights.diffuse, lights.ambient))
    return surface.albedo * (ambient + diffuse * cosine.clamp_min(0.0))[:, None]


def develop(
    surface: Surface,
    background: Float[Tensor, "b h w 3"],
    lights: Lights | None,
    supersample: int,
    with_geometry: bool,
) -> Picture:
    """The picture of a surface that was seen through `supersample`^2 rays a pixel."""
    b, h, w, _ = background.shape
    n_rays = b * h * w * supersample**2
    rgb = torch.zeros(n_rays, 3, device=background.device)
    rgb.index_copy_(0, surface.ray, shade(surface, lights))
    hit = torch.zeros(n_rays, device=background.device)
    hit.index_fill_(0, surface.ray, 1.0)

    def average(values: Tensor) -> Tensor:
        blocks = values.reshape(b, h, supersample, w, supersample, -1)
        total = torch.zeros_like(blocks[:, :, 0, :, 0])
        for i in range(supersample):
            for j in range(supersample):
                total += blocks[:, :, i, :, j]
        return total / supersample**2

    opacity = average(hit)
    picture = average(rgb) + (1.0 - opacity) * background
    depth = normals = None
    if with_geometry:
        flat_depth, flat_normals = torch.zeros_like(hit), torch.zeros_like(rgb)
        flat_depth[surface.ray] = surface.depth
        flat_normals[surface.ray] = torch.stack(surface.normals, -1)
        depth = (average(flat_depth) / opacity.clamp_min(1e-9))[..., 0]
        normals = torch.nn.functional.normalize(average(flat_normals), dim=-1)
    return Picture(picture, opacity[..., 0], depth, normals)


# ------------------------------------------------------------------------------------------------- helpers


def pixel_directions(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Corner, step across and step down of the rays through pixel centres, each "b 3"."""
    # World directions are corner + column * across + row * down; their length along the camera's axis is 1, so that
    # the ray parameter is the depth. Pixel centres are whole numbers here.
    tangent = torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)
    rotation = cameras.c2w[:, :3, :3]
    step = (2.0 * tangent / cameras.height)[:, None]
    across, down = rotation[:, :, 0] * step, -rotation[:, :, 1] * step
    centre_column, centre_row = (cameras.width - 1) / 2, (cameras.height - 1) / 2
    corner = -rotation[:, :, 2] - centre_column * across - centre_row * down
    return corner, across, down


def repeated(columns: Tensor, counts: Tensor) -> Tensor:
    """Each column of `columns` "k n" as often as `counts` says."""
    # NumPy's repeat is three to ten times as fast as torch's on a CPU.
    if columns.device.type == "cpu":
        return torch.from_numpy(np.repeat(columns.numpy(), counts.numpy(), axis=1))
    return torch.repeat_interleave(columns, counts, dim=1)


def chunks(which: Tensor, counts: Tensor) -> list[Tensor]:
    """`which`, cut so that the `counts` of a piece add up to about `PAIRS_PER_CHUNK`."""
    if not len(which):
        return []
    ends = counts[which].cumsum(0)
    groups = torch.div(ends, PAIRS_PER_CHUNK, rounding_mode="floor")
    sizes = torch.unique_consecutive(groups, return_counts=True)[1]
    return list(torch.split(which, sizes.tolist()))


def gathered(table: Tensor, index: Tensor) -> list[Tensor]:
    """Rows `index` of a table "n k", as k vectors."""
    return [column.contiguous().index_select(0, index) for column in table.unbind(-1)]


def normalised(vector: list[Tensor]) -> list[Tensor]:
    """Unit vectors, as x, y, z apart."""
    length = (vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]).sqrt()
    return [v / length for v in vector]
