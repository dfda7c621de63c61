"""The project's own picture maker for the procedural world: exact ray casting of convex solids, many scenes at once.

Each solid is tested only against the pixels of its bounding box on the screen: all (pixel, solid) pairs of a chunk lie
in packed arrays, are intersected at once and reduced to the nearest hit per ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.cameras import Cameras
from dreamfusion.miniature.pictures import (
    Lights,
    Picture,
    Surface,
    chunks,
    develop,
    gathered,
    normalised,
    pixel_directions,
    repeated,
)
from dreamfusion.miniature.solids import BOX, FRUSTUM, SPHERE, Solids, interval


def render(
    solids: Solids,
    cameras: Cameras,
    background: Float[Tensor, "b h w 3"],
    lights: Lights | None = None,
    supersample: int = 2,
    with_geometry: bool = False,
) -> Picture:
    """Pictures of `solids` (scene i through camera i), anti-aliased by `supersample`^2 rays a pixel.

    Without lights the colours are the pure albedo. The shading is the one that the radiance field uses:
    albedo * (ambient + diffuse * max(0, n . l)).

    Raises:
        ValueError: if the numbers of scenes, cameras and backgrounds differ.
    """
    b, h, w = len(cameras), cameras.height, cameras.width
    if solids.n_scenes != b or background.shape != (b, h, w, 3):
        raise ValueError(f"{solids.n_scenes} scenes, {b} cameras, background {tuple(background.shape)}")
    seen = surface(solids, cameras.resized(h * supersample, w * supersample))
    return develop(seen, background, lights, supersample, with_geometry)


def surface(solids: Solids, cameras: Cameras) -> Surface:
    """What the ray through each pixel's centre meets first, of scene i through camera i."""
    hits = _nearest_hits(solids, cameras)
    albedo = solids.rgb.index_select(0, hits.solid)
    return Surface(hits.ray, hits.scene, hits.depth, hits.positions, hits.normals, albedo)


@dataclass(frozen=True)
class _Hits:
    ray: Tensor  # flat index in scene, row, column
    solid: Tensor
    scene: Tensor
    depth: Tensor
    positions: list[Tensor]  # x, y, z apart: short vectors as rows of a matrix are slow on a CPU
    normals: list[Tensor]


def _screen_boxes(solids: Solids, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and last column and row of the pixels that can see each solid; last < first for none."""
    w2c = torch.linalg.inv(cameras.c2w)[solids.scene]
    matrix = w2c @ solids.to_world
    scale = cameras.height / (2.0 * torch.tan(torch.deg2rad(cameras.fovy_deg) / 2))[solids.scene]
    focal_x, focal_y = scale, -scale
    centre_column, centre_row = (cameras.width - 1) / 2, (cameras.height - 1) / 2
    signs = torch.tensor([-1.0, 1.0], device=matrix.device)
    corners = torch.cartesian_prod(signs, signs, signs)
    seen = torch.einsum("pij,kj->pki", matrix[:, :3, :3], corners) + matrix[:, None, :3, 3]
    ahead = -seen[..., 2]
    columns = seen[..., 0] / ahead * focal_x[:, None]
    rows = seen[..., 1] / ahead * focal_y[:, None]
    low = torch.stack([columns.amin(1), rows.amin(1)], -1)
    high = torch.stack([columns.amax(1), rows.amax(1)], -1)
    # An ellipsoid's outline is a conic whose dual is M diag(1, 1, 1, -1) M^T: its box is exact and much smaller.
    quadric = matrix.clone()
    quadric[:, :, 3] = -quadric[:, :, 3]
    dual = quadric[:, :3] @ matrix[:, :3].mT
    czz = dual[:, 2, 2]
    is_sphere = solids.kind == SPHERE
    for axis, focal in ((0, focal_x), (1, focal_y)):
        root = (dual[:, axis, 2] ** 2 - dual[:, axis, axis] * czz).clamp_min(0.0).sqrt()
        first = -(dual[:, axis, 2] - root) / czz * focal
        second = -(dual[:, axis, 2] + root) / czz * focal
        low[:, axis] = torch.where(is_sphere, torch.minimum(first, second), low[:, axis])
        high[:, axis] = torch.where(is_sphere, torch.maximum(first, second), high[:, axis])
    whole = (ahead.amin(1) <= 1e-3)[:, None]
    low = torch.where(whole, -1e4, low)
    high = torch.where(whole, 1e4, high)
    first_column = (low[:, 0] + centre_column).ceil().clamp(0, cameras.width).to(torch.int64)
    first_row = (low[:, 1] + centre_row).ceil().clamp(0, cameras.height).to(torch.int64)
    last_column = (high[:, 0] + centre_column).floor().clamp(-1, cameras.width - 1).to(torch.int64)
    last_row = (high[:, 1] + centre_row).floor().clamp(-1, cameras.height - 1).to(torch.int64)
    return first_column, last_column, first_row, last_row


def _nearest_hits(solids: Solids, cameras: Cameras) -> _Hits:
    device = solids.to_world.device
    to_unit = torch.linalg.inv(solids.to_world)
    first_column, last_column, first_row, last_row = _screen_boxes(solids, cameras)
    widths = (last_column - first_column + 1).clamp_min(0)
    counts = widths * (last_row - first_row + 1).clamp_min(0)
    corner, across, down = pixel_directions(cameras)
    rotation = to_unit[:, :3, :3]

    def to_unit_frame(vectors: Tensor) -> Tensor:
        return torch.einsum("pij,pj->pi", rotation, vectors[solids.scene])

    origin = to_unit_frame(cameras.positions) + to_unit[:, :3, 3]
    across, down = to_unit_frame(across), to_unit_frame(down)
    start = to_unit_frame(corner) + first_column[:, None] * across + first_row[:, None] * down
    first_ray = (solids.scene * cameras.height + first_row) * cameras.width + first_column
    # One row per solid of all that its pairs need: one gather instead of fourteen.
    table = torch.cat(
        [origin, start, across, down, solids.top_ratio[:, None], solids.keep_above[:, None]], -1
    ).T.contiguous()

    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for kind in (SPHERE, BOX, FRUSTUM):
        of_kind = torch.nonzero((solids.kind == kind) & (counts > 0))[:, 0]
        for chunk in chunks(of_kind, counts):
            n = counts[chunk]
            before = n.cumsum(0) - n
            whole = repeated(torch.stack([chunk, before, widths[chunk]]), n)
            local = torch.arange(whole.shape[1], device=device) - whole[1]
            row = torch.div(local, whole[2], rounding_mode="floor")
            column = local - row * whole[2]
            values = repeated(table.index_select(1, chunk), n)
            i, j = column.to(table.dtype), row.to(table.dtype)
            d = [values[3 + k] + i * values[6 + k] + j * values[9 + k] for k in range(3)]
            t_in, t_out, face = interval(kind, values[:3].unbind(0), d, values[12], values[13])
            hit = torch.nonzero((t_in < t_out) & (t_in > 1e-4))[:, 0]
            solid, row, column = (v.index_select(0, hit) for v in (whole[0], row, column))
            ray = first_ray.index_select(0, solid) + row * cameras.width + column
            parts.append((ray, solid, t_in.index_select(0, hit), face.index_select(0, hit)))
    return _reduce(solids, cameras, to_unit, parts)


def _reduce(
    solids: Solids, cameras: Cameras, to_unit: Tensor, parts: list[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> _Hits:
    device, dtype = to_unit.device, to_unit.dtype
    if not parts:
        none, no_depth = torch.zeros(0, dtype=torch.int64, device=device), to_unit.new_zeros(0)
        return _Hits(none, none, none, no_depth, [no_depth] * 3, [no_depth] * 3)
    ray, solid, t_in, face = (torch.cat(column) for column in zip(*parts, strict=True))
    n_rays = len(cameras) * cameras.height * cameras.width
    nearest = torch.full((n_rays,), math.inf, dtype=dtype, device=device)
    nearest.scatter_reduce_(0, ray, t_in, "amin")
    first = torch.nonzero(t_in == nearest.index_select(0, ray))[:, 0]
    # Two solids may touch a ray at the same depth: the highest index wins, on every device.
    winner = torch.full((n_rays,), -1, dtype=torch.int64, device=device)
    winner.scatter_reduce_(0, ray.index_select(0, first), first, "amax")
    hit_rays = torch.nonzero(winner >= 0)[:, 0]
    chosen = winner.index_select(0, hit_rays)
    solid, depth, face = (v.index_select(0, chosen) for v in (solid, t_in, face))

    scene = solids.scene.index_select(0, solid)
    pixel = hit_rays - scene * (cameras.height * cameras.width)
    row = torch.div(pixel, cameras.width, rounding_mode="floor")
    i, j = (pixel - row * cameras.width).to(dtype), row.to(dtype)
    corner, across, down = (gathered(v, scene) for v in pixel_directions(cameras))
    rays_d = [corner[k] + i * across[k] + j * down[k] for k in range(3)]
    origin = gathered(cameras.positions, scene)
    positions = [origin[k] + depth * rays_d[k] for k in range(3)]
    normals = _normals(solids, to_unit, solid, face, positions, rays_d)
    return _Hits(hit_rays, solid, scene, depth, positions, normals)


def _normals(
    solids: Solids,
    to_unit: Tensor,
    solid: Tensor,
    face: Tensor,
    positions: list[Tensor],
    rays_d: list[Tensor],
) -> list[Tensor]:
    flat = gathered(to_unit[:, :3].reshape(-1, 12), solid)
    matrix = [flat[0:4], flat[4:8], flat[8:12]]
    unit = [m[0] * positions[0] + m[1] * positions[1] + m[2] * positions[2] + m[3] for m in matrix]
    # The curved side: the gradient of |p|^2 - 1, or of x^2 + z^2 - radius(y)^2.
    ratio = solids.top_ratio.index_select(0, solid)
    slope = 0.5 * (ratio - 1.0)
    radius = 0.5 * (ratio + 1.0) + slope * unit[1]
    is_frustum = solids.kind.index_select(0, solid) == FRUSTUM
    gradient = [unit[0], torch.where(is_frustum, -radius * slope, unit[1]), unit[2]]
    for axis, m in enumerate(matrix):
        towards = m[0] * rays_d[0] + m[1] * rays_d[1] + m[2] * rays_d[2]
        through = torch.where(face == axis, -torch.sign(towards), 0.0)
        gradient[axis] = torch.where(face >= 0, through, gradient[axis])
    m, g = matrix, gradient
    world = [m[0][k] * g[0] + m[1][k] * g[1] + m[2][k] * g[2] for k in range(3)]
    return normalised(world)
