"""Convex solids in packed arrays: what a scene of the procedural world is made of.

Every solid is a unit sphere, a unit box [-1, 1]^3 or a unit frustum (radius 1 at y = -1, `top_ratio` at y = +1), moved
into the world by an affine matrix and perhaps cut by a half space of its own frame. All are convex, so a ray meets
each in one interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SPHERE, BOX, FRUSTUM = 0, 1, 2
UNCUT = -2.0

# Which constraint a ray entered through: the curved side, or the plane across an axis of the unit frame.
CURVED, ACROSS_X, ACROSS_Y, ACROSS_Z = -1, 0, 1, 2


@dataclass(frozen=True)
class Solids:
    """Solids of one or of many scenes, packed: solid i belongs to scene `scene[i]`.

    `keep_above` cuts a solid to y >= keep_above of its unit frame (`UNCUT` = whole); rgb is in [0, 1].
    """

    kind: Int[Tensor, " p"]
    to_world: Float[Tensor, "p 4 4"]
    top_ratio: Float[Tensor, " p"]
    keep_above: Float[Tensor, " p"]
    rgb: Float[Tensor, "p 3"]
    scene: Int[Tensor, " p"]
    n_scenes: int = 1

    def __len__(self) -> int:
        return self.kind.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Solids:
        """The same solids on another device, floats in `dtype`."""
        dtype = dtype or self.to_world.dtype
        return Solids(
            self.kind.to(device),
            self.to_world.to(device, dtype),
            self.top_ratio.to(device, dtype),
            self.keep_above.to(device, dtype),
            self.rgb.to(device, dtype),
            self.scene.to(device),
            self.n_scenes,
        )

    def __getitem__(self, which: Tensor) -> Solids:
        """The solids chosen by a mask or by indices, in that order; scene numbers stay."""
        return Solids(
            self.kind[which],
            self.to_world[which],
            self.top_ratio[which],
            self.keep_above[which],
            self.rgb[which],
            self.scene[which],
            self.n_scenes,
        )

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Solids:
        """Every solid moved by one affine world matrix."""
        to_world = matrix.to(self.to_world) @ self.to_world
        return Solids(
            self.kind, to_world, self.top_ratio, self.keep_above, self.rgb, self.scene, self.n_scenes
        )


def pack(scenes: Sequence[Solids]) -> Solids:
    """One batch of several single scenes; scene i of the result is `scenes[i]`."""
    counts = torch.tensor([len(s) for s in scenes])
    return Solids(
        torch.cat([s.kind for s in scenes]),
        torch.cat([s.to_world for s in scenes]),
        torch.cat([s.top_ratio for s in scenes]),
        torch.cat([s.keep_above for s in scenes]),
        torch.cat([s.rgb for s in scenes]),
        torch.repeat_interleave(torch.arange(len(scenes)), counts),
        len(scenes),
    )


def merge(parts: Sequence[Solids]) -> Solids:
    """One single scene holding the solids of all `parts`."""
    packed = pack(parts)
    return Solids(
        packed.kind,
        packed.to_world,
        packed.top_ratio,
        packed.keep_above,
        packed.rgb,
        torch.zeros_like(packed.scene),
        1,
    )


def _slab(o: Tensor, d: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    # A ray inside the slab's planes direction (d = 0) divides to +-inf, which is the right interval; 0/0 (lying in
    # a face) is not, so d is kept off exact zero.
    d = torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    t_low, t_high = (low - o) / d, (high - o) / d
    return torch.minimum(t_low, t_high), torch.maximum(t_low, t_high)


def sphere_interval(o: Sequence[Tensor], d: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[t_in, t_out] of rays o + t d in the unit sphere, empty as (inf, -inf); d need not be unit."""
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0.0).sqrt()
    hit = discriminant > 0.0
    t_in = torch.where(hit, (-b - root) / a, math.inf)
    t_out = torch.where(hit, (-b + root) / a, -math.inf)
    return t_in, t_out


def box_interval(o: Sequence[Tensor], d: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """[t_in, t_out] of rays in the box [-1, 1]^3 and the axis entered across; empty where t_in > t_out."""
    t_in, t_out = _slab(o[0], d[0], -1.0, 1.0)
    face = torch.zeros_like(t_in, dtype=torch.int8)
    for axis in (1, 2):
        near, far = _slab(o[axis], d[axis], -1.0, 1.0)
        face = torch.where(near > t_in, torch.full_like(face, axis), face)
        t_in, t_out = torch.maximum(t_in, near), torch.minimum(t_out, far)
    return t_in, t_out, face


def frustum_interval(
    o: Sequence[Tensor], d: Sequence[Tensor], top_ratio: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[t_in, t_out] of rays in the unit frustum and `CURVED` or `ACROSS_Y` as the side entered through."""
    middle, slope = 0.5 * (top_ratio + 1.0), 0.5 * (top_ratio - 1.0)
    radius = middle + slope * o[1]
    radius_rate = slope * d[1]
    a = d[0] * d[0] + d[2] * d[2] - radius_rate * radius_rate
    b = o[0] * d[0] + o[2] * d[2] - radius * radius_rate
    c = o[0] * o[0] + o[2] * o[2] - radius * radius
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0.0).sqrt()
    first, second = (-b - root) / a, (-b + root) / a
    first, second = torch.minimum(first, second), torch.maximum(first, second)
    # a > 0: inside between the roots. a < 0: the ray runs along the axis, inside before the first root or after the
    # second; of the two, the part on the nappe whose radius is positive.
    widening = radius_rate > 0.0
    along = a < 0.0
    hit = (discriminant > 0.0) | along
    side_in = torch.where(along, torch.where(widening, second, -math.inf), first)
    side_out = torch.where(along, torch.where(widening, math.inf, first), second)
    side_in = torch.where(hit, side_in, math.inf)
    side_out = torch.where(hit, side_out, -math.inf)
    cap_in, cap_out = _slab(o[1], d[1], -1.0, 1.0)
    face = torch.where(cap_in > side_in, ACROSS_Y, CURVED).to(torch.int8)
    return torch.maximum(side_in, cap_in), torch.minimum(side_out, cap_out), face


def interval(
    kind: int, o: Sequence[Tensor], d: Sequence[Tensor], top_ratio: Tensor, keep_above: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[t_in, t_out] and entry side of rays (unit frame) with solids of one kind; empty where t_in >= t_out."""
    if kind == SPHERE:
        t_in, t_out = sphere_interval(o, d)
        face = torch.full_like(t_in, CURVED, dtype=torch.int8)
    elif kind == BOX:
        t_in, t_out, face = box_interval(o, d)
    else:
        t_in, t_out, face = frustum_interval(o, d, top_ratio)
    if bool((keep_above > -1.0).any()):
        near, far = _slab(o[1], d[1], keep_above, math.inf)
        face = torch.where(near > t_in, torch.full_like(face, ACROSS_Y), face)
        t_in, t_out = torch.maximum(t_in, near), torch.minimum(t_out, far)
    return t_in, t_out, face


def ray_intervals(
    solids: Solids, rays_o: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "p n"], Float[Tensor, "p n"]]:
    """[t_in, t_out] of every ray with every solid (all scenes alike), in lengths of rays_d; (inf, -inf) where missed."""
    to_unit = torch.linalg.inv(solids.to_world)
    o = torch.einsum("pij,nj->pni", to_unit[:, :3, :3], rays_o) + to_unit[:, None, :3, 3]
    d = torch.einsum("pij,nj->pni", to_unit[:, :3, :3], rays_d)
    t_in = torch.full(o.shape[:2], math.inf, dtype=o.dtype, device=o.device)
    t_out = torch.full_like(t_in, -math.inf)
    for kind in (SPHERE, BOX, FRUSTUM):
        of_kind = torch.nonzero(solids.kind == kind)[:, 0]
        if not len(of_kind):
            continue
        near, far, _ = interval(
            kind,
            o[of_kind].unbind(-1),
            d[of_kind].unbind(-1),
            solids.top_ratio[of_kind, None],
            solids.keep_above[of_kind, None],
        )
        hit = near < far
        t_in[of_kind] = torch.where(hit, near, math.inf)
        t_out[of_kind] = torch.where(hit, far, -math.inf)
    return t_in, t_out


def inside(solids: Solids, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "p n"]:
    """Which points lie in which solids, straight from the definitions: the oracle that tests compare with."""
    to_unit = torch.linalg.inv(solids.to_world)
    unit = torch.einsum("pij,nj->pni", to_unit[:, :3, :3], points) + to_unit[:, None, :3, 3]
    x, y, z = unit.unbind(-1)
    in_cube = unit.abs().amax(-1) <= 1.0
    in_sphere = x * x + y * y + z * z <= 1.0
    radius = 1.0 + (solids.top_ratio[:, None] - 1.0) * (y + 1.0) / 2.0
    in_frustum = (y.abs() <= 1.0) & (x * x + z * z <= radius * radius)
    kind = solids.kind[:, None]
    by_kind = torch.where(kind == SPHERE, in_sphere, torch.where(kind == BOX, in_cube, in_frustum))
    return by_kind & (y >= solids.keep_above[:, None])


def occupancy(solids: Solids, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
    """Whether each point lies in any solid."""
    return inside(solids, points).any(0)


def _unit_surface_points() -> Float[Tensor, "3 k 3"]:
    # 32 directions a kind: enough for bounds within one per cent, and the poles exactly.
    angles = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    ring = torch.stack([angles.cos(), torch.zeros(16, dtype=torch.float64), angles.sin()], -1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    tilted = [ring * math.cos(e) + up * math.sin(e) for e in (-math.pi / 4, 0.0, math.pi / 4)]
    sphere = torch.cat([*tilted, ring * 0 + up, ring * 0 - up])
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    corners = torch.cartesian_prod(signs, signs, signs).repeat(10, 1)
    rim = torch.cat([ring - up, ring + up, ring - up, ring + up, ring - up])
    return torch.stack([sphere, corners, rim])


_SURFACE = _unit_surface_points()


def surface_points(solids: Solids) -> Float[Tensor, "p k 3"]:
    """World points on each solid whose hull is (nearly) the solid's: for bounds and sizes."""
    unit = _SURFACE.to(solids.to_world)[solids.kind.to(torch.int64)]
    x, y, z = unit.unbind(-1)
    taper = torch.where(
        (solids.kind[:, None] == FRUSTUM) & (y > 0.0), solids.top_ratio[:, None], torch.ones_like(y)
    )
    y = torch.maximum(y, solids.keep_above[:, None])
    unit = torch.stack([x * taper, y, z * taper], -1)
    return torch.baddbmm(solids.to_world[:, None, :3, 3], unit, solids.to_world[:, :3, :3].mT)


def bounds(solids: Solids) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Lowest and highest corner of the axis-aligned box around all solids, exact."""
    matrix, centre = solids.to_world[:, :3, :3], solids.to_world[:, :3, 3]
    low, high = -_reach(solids, -matrix), _reach(solids, matrix)
    return (centre + low).amin(0), (centre + high).amax(0)


def _reach(solids: Solids, rows: Float[Tensor, "p 3 3"]) -> Float[Tensor, "p 3"]:
    # The greatest row . u over the unit solid, for each of three rows: its support function.
    x, y, z = rows.unbind(-1)
    across = (x * x + z * z).sqrt()
    bottom = solids.keep_above.clamp_min(-1.0)[:, None]
    length = (across * across + y * y).sqrt()
    # A sphere's farthest point is row / |row|, unless it was cut off: then it lies on the rim of the cut.
    rim = across * (1.0 - bottom * bottom).clamp_min(0.0).sqrt() + y * bottom
    sphere = torch.where(y >= bottom * length, length, rim)
    box = x.abs() + z.abs() + torch.maximum(y, y * bottom)
    top_radius = solids.top_ratio[:, None]
    bottom_radius = 1.0 + (top_radius - 1.0) * (bottom + 1.0) / 2.0
    frustum = torch.maximum(across * bottom_radius + y * bottom, across * top_radius + y)
    kind = solids.kind[:, None]
    return torch.where(kind == SPHERE, sphere, torch.where(kind == BOX, box, frustum))
