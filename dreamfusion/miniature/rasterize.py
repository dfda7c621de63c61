"""Pictures of triangle meshes, many scenes at once, and of scenes that hold meshes and solids together.

Like the ray caster beside it, it enumerates pairs: each triangle with the pixels of its bounding box. The z-buffer is one
`scatter_reduce` over keys that pack the depth (a positive float32 keeps its order when read as an integer) and the triangle.
Colours and normals are interpolated perspectively. A surface has two sides: the normal turns towards the camera, so that the
winding only has to agree with the normals that come with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.cameras import Cameras
from dreamfusion.miniature import raycast
from dreamfusion.miniature.pictures import (
    Lights,
    Picture,
    Surface,
    chunks,
    develop,
    gathered,
    nearer,
    normalised,
    pixel_directions,
    repeated,
)
from dreamfusion.miniature.solids import Solids

# Barycentric slack: a pixel's centre on the edge between two triangles belongs to at least one of them after rounding.
EDGE_SLACK = 1e-5
# Triangles nearer than this to the camera's plane are left out: there is no clipping, cameras stay outside the scene's ball.
NEAR = 1e-2
_NOTHING = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Triangles:
    """Triangles of one or of many scenes, packed: triangle i belongs to scene `scene[i]`.

    Every corner has a position, a normal (flat where all three agree) and an albedo, sRGB in [0, 1].
    """

    corners: Float[Tensor, "f 3 3"]
    normals: Float[Tensor, "f 3 3"]
    rgb: Float[Tensor, "f 3 3"]
    scene: Int[Tensor, " f"]
    n_scenes: int = 1

    def __len__(self) -> int:
        return self.corners.shape[0]

    def to(self, device: torch.device | str) -> Triangles:
        """The same triangles on another device."""
        return Triangles(
            self.corners.to(device),
            self.normals.to(device),
            self.rgb.to(device),
            self.scene.to(device),
            self.n_scenes,
        )

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Triangles:
        """Every triangle moved by one affine world matrix."""
        matrix = matrix.to(self.corners)
        linear = matrix[:3, :3]
        corners = self.corners @ linear.mT + matrix[:3, 3]
        # The cofactors carry normals even through a mirror, in which the winding turns over too.
        cofactors = torch.linalg.inv(linear).mT * torch.linalg.det(linear)
        normals = torch.nn.functional.normalize(self.normals @ cofactors.mT, dim=-1)
        return Triangles(corners, normals, self.rgb, self.scene, self.n_scenes)


def no_triangles(n_scenes: int = 1) -> Triangles:
    """Scenes without meshes."""
    nothing = torch.zeros(0, 3, 3)
    return Triangles(nothing, nothing, nothing, torch.zeros(0, dtype=torch.int64), n_scenes)


def pack_triangles(scenes: Sequence[Triangles]) -> Triangles:
    """One batch of several single scenes; scene i of the result is `scenes[i]`."""
    counts = torch.tensor([len(scene) for scene in scenes])
    return Triangles(
        torch.cat([scene.corners for scene in scenes]),
        torch.cat([scene.normals for scene in scenes]),
        torch.cat([scene.rgb for scene in scenes]),
        torch.repeat_interleave(torch.arange(len(scenes)), counts),
        len(scenes),
    )


def merge_triangles(parts: Sequence[Triangles]) -> Triangles:
    """One single scene holding the triangles of all `parts`."""
    if not parts:
        return no_triangles()
    packed = pack_triangles(parts)
    return Triangles(packed.corners, packed.normals, packed.rgb, torch.zeros_like(packed.scene), 1)


def render(
    solids: Solids | None,
    triangles: Triangles | None,
    cameras: Cameras,
    background: Float[Tensor, "b h w 3"],
    lights: Lights | None = None,
    supersample: int = 2,
    with_geometry: bool = False,
) -> Picture:
    """Pictures of solids and triangles together (scene i through camera i), as `raycast.render` makes them of solids.

    Raises:
        ValueError: if the numbers of scenes, cameras and backgrounds differ, or there is nothing to show at all.
    """
    b, h, w = len(cameras), cameras.height, cameras.width
    counts = {things.n_scenes for things in (solids, triangles) if things is not None}
    if counts != {b} or background.shape != (b, h, w, 3):
        raise ValueError(f"{counts} scenes, {b} cameras, background {tuple(background.shape)}")
    fine = cameras.resized(h * supersample, w * supersample)
    n_rays = b * fine.height * fine.width
    seen = [] if solids is None else [raycast.surface(solids, fine)]
    seen += [] if triangles is None else [surface(triangles, fine)]
    merged = seen[0] if len(seen) == 1 else nearer(seen[0], seen[1], n_rays)
    return develop(merged, background, lights, supersample, with_geometry)


# ------------------------------------------------------------------------------------------------- raster


@dataclass(frozen=True)
class _OnScreen:
    """Triangles in pixels: barycentric coordinate k is value[k] + column * across[k] + row * down[k], counted from the
    first pixel of the triangle's box; so is that over the depth, whose sum is the inverse depth."""

    value: Float[Tensor, "3 f"]
    across: Float[Tensor, "3 f"]
    down: Float[Tensor, "3 f"]
    inverse_depth: Float[Tensor, "3 f"]
    first_column: Int[Tensor, " f"]
    first_row: Int[Tensor, " f"]
    width: Int[Tensor, " f"]
    height: Int[Tensor, " f"]
    from_behind: Tensor  # bool: the winding is clockwise on the screen


def surface(triangles: Triangles, cameras: Cameras) -> Surface:
    """What the ray through each pixel's centre meets first, of scene i through camera i."""
    seen = _projected(triangles, cameras)
    n_rays = len(cameras) * cameras.height * cameras.width
    nearest = torch.full((n_rays,), _NOTHING, dtype=torch.int64, device=triangles.corners.device)
    counts = seen.width * seen.height
    table = torch.cat([seen.value, seen.across, seen.down, seen.inverse_depth])
    corner_ray = (triangles.scene * cameras.height + seen.first_row) * cameras.width + seen.first_column
    for chunk in chunks(torch.nonzero(counts > 0)[:, 0], counts):
        n = counts.index_select(0, chunk)
        before = n.cumsum(0) - n
        small = torch.stack(
            [chunk, before, seen.width.index_select(0, chunk), corner_ray.index_select(0, chunk)]
        )
        face, start, width, ray = repeated(small, n).unbind(0)
        local = torch.arange(face.shape[0], device=face.device) - start
        row = torch.div(local, width, rounding_mode="floor")
        column = local - row * width
        values = repeated(table.index_select(1, chunk), n)
        i, j = column.to(table.dtype), row.to(table.dtype)
        b = [values[k] + i * values[3 + k] + j * values[6 + k] for k in range(3)]
        inside = torch.nonzero(torch.minimum(torch.minimum(b[0], b[1]), b[2]) >= -EDGE_SLACK)[:, 0]
        inverse = b[0] * values[9] + b[1] * values[10] + b[2] * values[11]
        depth = inverse.index_select(0, inside).reciprocal()
        key = (depth.view(torch.int32).to(torch.int64) << 32) | face.index_select(0, inside)
        ray = (ray + row * cameras.width + column).index_select(0, inside)
        nearest.scatter_reduce_(0, ray, key, "amin")
    hit = torch.nonzero(nearest != _NOTHING)[:, 0]
    return _attributes(triangles, cameras, seen, hit, nearest.index_select(0, hit) & 0xFFFFFFFF)


def _projected(triangles: Triangles, cameras: Cameras) -> _OnScreen:
    w2c = torch.linalg.inv(cameras.c2w)
    matrix = gathered(w2c[:, :3].reshape(-1, 12), triangles.scene)
    x, y, z = triangles.corners.permute(2, 1, 0).contiguous().unbind(0)  # each "3 f"
    seen = [m[0] * x + m[1] * y + m[2] * z + m[3] for m in (matrix[0:4], matrix[4:8], matrix[8:12])]
    depth = -seen[2]
    in_front = depth.amin(0) > NEAR
    inverse = depth.clamp_min(NEAR).reciprocal()
    scale = (cameras.height / (2.0 * torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)))[triangles.scene]
    column = seen[0] * inverse * scale + (cameras.width - 1) / 2
    row = -seen[1] * inverse * scale + (cameras.height - 1) / 2

    def box(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
        first = (values.amin(0) - EDGE_SLACK).ceil().clamp(0, size)
        last = (values.amax(0) + EDGE_SLACK).floor().clamp(-1, size - 1)
        return first.to(torch.int64), (last - first + 1).clamp_min(0).to(torch.int64) * in_front

    (first_column, width), (first_row, height) = box(column, cameras.width), box(row, cameras.height)
    # Relative to the box: small numbers keep float32 exact enough.
    column, row = column - first_column, row - first_row
    ahead, behind = [1, 2, 0], [2, 0, 1]
    across, down = row[ahead] - row[behind], column[behind] - column[ahead]
    area = across[0] * (column[0] - column[2]) + down[0] * (row[0] - row[2])
    usable = area.abs() > 1e-12
    over = torch.where(usable, area, 1.0).reciprocal()
    across, down = across * over, down * over
    value = -(across * column[behind] + down * row[behind])
    return _OnScreen(
        value, across, down, inverse, first_column, first_row, width * usable, height, area > 0.0
    )


def _attributes(
    triangles: Triangles, cameras: Cameras, seen: _OnScreen, ray: Tensor, face: Tensor
) -> Surface:
    scene = triangles.scene.index_select(0, face)
    pixel = ray - scene * (cameras.height * cameras.width)
    row = torch.div(pixel, cameras.width, rounding_mode="floor")
    column = pixel - row * cameras.width
    i = (column - seen.first_column.index_select(0, face)).to(seen.value.dtype)
    j = (row - seen.first_row.index_select(0, face)).to(seen.value.dtype)
    value, across, down, inverse = (
        v.index_select(1, face) for v in (seen.value, seen.across, seen.down, seen.inverse_depth)
    )
    weights = value + i * across + j * down
    depth = (weights * inverse).sum(0).reciprocal()
    # Without the slack's overshoot, so that attributes stay between the corners'.
    shares = weights.clamp_min(0.0) * inverse
    shares = shares / shares.sum(0)

    def interpolated(values: Tensor) -> list[Tensor]:
        corner = values.index_select(0, face)
        return [(corner[:, :, k].mT * shares).sum(0) for k in range(values.shape[-1])]

    corner, step_across, step_down = (gathered(v, scene) for v in pixel_directions(cameras))
    origin = gathered(cameras.positions, scene)
    i, j = column.to(depth.dtype), row.to(depth.dtype)
    positions = [origin[k] + depth * (corner[k] + i * step_across[k] + j * step_down[k]) for k in range(3)]
    sign = torch.where(seen.from_behind.index_select(0, face), -1.0, 1.0)
    normals = normalised([sign * n for n in interpolated(triangles.normals)])
    albedo = torch.stack(interpolated(triangles.rgb), -1)
    return Surface(ray, scene, depth, positions, normals, albedo)
