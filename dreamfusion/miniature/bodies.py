"""Things that can rest on each other, whether made of solids or of triangles: each carries the heights of its upper and lower
side over a grid of columns, and contact is the least gap over the columns that two things share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from dreamfusion.miniature.meshes.bake import Mesh
from dreamfusion.miniature.solids import Solids, bounds, ray_intervals

COLUMNS = 40
SOLID_COLUMNS = 28
# How deep a thing presses into what it rests on, as a share of what is below, so that no crack shows.
SINK = 0.006


@dataclass(frozen=True)
class Place:
    """A rectangle "x, z" with half sizes, at the height y."""

    x: float | int
    z: float | int
    half_x: float | int
    half_z: float | int
    y: float | int


@dataclass(frozen=True)
class Body:
    """A thing in the world: `geometry` (Solids or Mesh) scaled per axis by `scale`, then moved by `shift`.

    `low`, `high`: its box. `top`, `bottom` "n n" (x, z): heights over the box's grid of columns, nan where it is not.
    `seat`: where others rest on it; `inside`: where they go into it; `room`: what is free below it (y is the height);
    `head`: where a hat goes (half_x is the head's radius).
    """

    geometry: Any
    low: np.ndarray
    high: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    seat: Place
    inside: Place | None = None
    room: Place | None = None
    head: Place | None = None
    scale: tuple[float | int, ...] = (1.0, 1.0, 1.0)
    shift: tuple[float | int, ...] = (0.0, 0.0, 0.0)

    @property
    def extent(self) -> np.ndarray:
        return self.high - self.low

    @property
    def matrix(self) -> torch.Tensor:
        """The affine map from the geometry to the world."""
        made = torch.eye(4)
        made[[0, 1, 2], [0, 1, 2]] = torch.tensor(self.scale)
        made[:3, 3] = torch.tensor(self.shift)
        return made

    def scaled(self, x: float | int, y: float | int | None = None, z: float | int | None = None) -> Body:
        """Larger by a factor, or by one for each axis, about the world's origin."""
        s = np.array([x, x if y is None else y, x if z is None else z])

        def place(p: Place | None) -> Any:
            return p and Place(p.x * s[0], p.z * s[2], p.half_x * s[0], p.half_z * s[2], p.y * s[1])

        return replace(
            self,
            low=self.low * s,
            high=self.high * s,
            top=self.top * s[1],
            bottom=self.bottom * s[1],
            seat=place(self.seat),
            inside=place(self.inside),
            room=place(self.room),
            head=place(self.head),
            scale=tuple(float(a * b) for a, b in zip(self.scale, s, strict=True)),
            shift=tuple(float(a * b) for a, b in zip(self.shift, s, strict=True)),
        )

    def moved(self, x: float | int, y: float | int, z: float | int) -> Body:
        """Moved along the axes."""
        v = np.array([x, y, z])

        def place(p: Place | None) -> Any:
            return p and replace(p, x=p.x + x, z=p.z + z, y=p.y + y)

        return replace(
            self,
            low=self.low + v,
            high=self.high + v,
            top=self.top + y,
            bottom=self.bottom + y,
            seat=place(self.seat),
            inside=place(self.inside),
            room=place(self.room),
            head=place(self.head),
            shift=tuple(float(a + b) for a, b in zip(self.shift, v, strict=True)),
        )

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """World x and z of the grid's columns, each "n n"."""
        n = len(self.top)
        steps = (np.arange(n) + 0.5) / n
        x = self.low[0] + steps * (self.high[0] - self.low[0])
        z = self.low[2] + steps * (self.high[2] - self.low[2])
        return np.meshgrid(x, z, indexing="ij")

    def top_at(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Height of the upper side at points, -inf where there is none."""
        n = len(self.top)
        i = np.floor((x - self.low[0]) / max(float(self.extent[0]), 1e-9) * n).astype(int)
        j = np.floor((z - self.low[2]) / max(float(self.extent[2]), 1e-9) * n).astype(int)
        within = (i >= 0) & (i < n) & (j >= 0) & (j < n)
        found = self.top[i.clip(0, n - 1), j.clip(0, n - 1)]
        return np.where(within & np.isfinite(found), found, -np.inf)


def gap_below(upper: Body, lower: Body) -> tuple[float, float]:
    """How far `upper` can fall before it touches `lower`, and the height of that contact; (inf, 0) if it would miss."""
    x, z = upper.columns()
    tops = lower.top_at(x, z)
    gaps = np.where(np.isfinite(upper.bottom) & np.isfinite(tops), upper.bottom - tops, np.inf)
    touch = np.unravel_index(int(gaps.argmin()), gaps.shape)
    gap = float(gaps[touch])
    return (gap, float(tops[touch])) if math.isfinite(gap) else (math.inf, 0.0)


# ------------------------------------------------------------------------------------------------- making


def body_of_mesh(mesh: Mesh, holds: bool = False, shelters: bool = False, wears: bool = False) -> Body:
    """A mesh as a body; what it can do beyond carrying others is looked for only where asked."""
    low, high = mesh.vertices.min(0).astype(float), mesh.vertices.max(0).astype(float)
    top, bottom = height_field(mesh, COLUMNS)
    made = Body(mesh, low, high, top, bottom, Place(0, 0, 0, 0, 0))
    return replace(
        made,
        seat=find_seat(made),
        inside=find_inside(made) if holds else None,
        room=find_room(made) if shelters else None,
        head=find_head(made) if wears else None,
    )


def body_of_solids(solids: Solids) -> Body:
    """Solids as a body, with a seat found from their upper side."""
    low, high = (v.numpy().astype(float) for v in bounds(solids))
    top, bottom = np.zeros((2, SOLID_COLUMNS, SOLID_COLUMNS))
    made = Body(solids, low, high, top, bottom, Place(0, 0, 0, 0, 0))
    x, z = (torch.from_numpy(v.reshape(-1).astype(np.float32)) for v in made.columns())
    rays_o = torch.stack([x, torch.zeros_like(x), z], -1)
    first, last = ray_intervals(solids, rays_o, torch.tensor([0.0, 1.0, 0.0]).expand_as(rays_o))

    def field(values: torch.Tensor) -> np.ndarray:
        v = values.numpy().astype(float).reshape(SOLID_COLUMNS, SOLID_COLUMNS)
        return np.where(np.isfinite(v), v, np.nan)

    made = replace(made, top=field(last.amax(0)), bottom=field(first.amin(0)))
    return replace(made, seat=find_seat(made))


def height_field(mesh: Mesh, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights of the upper and the lower side "n n" over the columns of the mesh's box, nan where it is not."""
    low, high = mesh.vertices.min(0).astype(float), mesh.vertices.max(0).astype(float)
    size = np.maximum(high - low, 1e-9)
    top, bottom = np.full(n * n, -np.inf), np.full(n * n, np.inf)

    def put(cell: np.ndarray, y: np.ndarray) -> None:
        np.maximum.at(top, cell, y)
        np.minimum.at(bottom, cell, y)

    u = (mesh.vertices[:, [0, 2]].astype(float) - low[[0, 2]]) / size[[0, 2]] * n
    cell = u.astype(int).clip(0, n - 1)
    put(cell[:, 0] * n + cell[:, 1], mesh.vertices[:, 1].astype(float))
    corners, y = u[mesh.faces], mesh.vertices[:, 1].astype(float)[mesh.faces]
    first = np.ceil(corners.min(1) - 0.5).astype(int).clip(0, n)
    last = np.floor(corners.max(1) - 0.5).astype(int).clip(-1, n - 1)
    count = (last - first + 1).clip(0)
    pairs = count[:, 0] * count[:, 1]
    face = np.repeat(np.arange(len(corners)), pairs)
    nth = np.arange(len(face)) - np.repeat(pairs.cumsum() - pairs, pairs)
    i, j = first[face, 0] + nth // count[face, 1], first[face, 1] + nth % count[face, 1]
    p = np.stack([i, j], -1) + 0.5
    a, b, c = (corners[face, k] for k in range(3))

    def cross(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return v[:, 0] * w[:, 1] - v[:, 1] * w[:, 0]

    area = cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        wa, wb = cross(b - p, c - p) / area, cross(c - p, a - p) / area
        wc = 1.0 - wa - wb
        hit = (wa >= -1e-6) & (wb >= -1e-6) & (wc >= -1e-6) & (np.abs(area) > 1e-9)
    a, b, c = (w[hit] * y[face[hit], k] for k, w in enumerate((wa, wb, wc)))
    put((i * n + j)[hit], a + b + c)
    shape = (n, n)
    return (
        np.where(np.isfinite(top), top, np.nan).reshape(shape),
        np.where(np.isfinite(bottom), bottom, np.nan).reshape(shape),
    )


# ------------------------------------------------------------------------------------------------- looking


def _largest(mask: np.ndarray) -> np.ndarray | None:
    labels, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    if not count:
        return None
    return labels == 1 + int(np.bincount(labels.reshape(-1))[1:].argmax())


def _place(body: Body, mask: np.ndarray, y: float | int) -> Place:
    x, z = body.columns()
    x, z = x[mask], z[mask]
    spread = math.sqrt(3.0)
    return Place(
        float(x.mean()), float(z.mean()), spread * float(x.std()) + 1e-3, spread * float(z.std()) + 1e-3, y
    )


def find_seat(body: Body) -> Place:
    """Where others rest best: the largest piece of the upper side at one height, higher ones preferred."""
    top, height = body.top, float(body.extent[1])
    known = np.isfinite(top)
    filled = np.where(known, top, -1e3)
    slope = ndimage.maximum_filter(filled, 3) - ndimage.minimum_filter(filled, 3)
    flat = known & (slope < 0.06 * float(body.extent.max()))
    level = (top - body.low[1]) / max(height, 1e-9)
    best, score = None, 0.0
    for at in np.linspace(0.05, 1.0, 20):
        piece = _largest(flat & (np.abs(level - at) < 0.04))
        if piece is None:
            continue
        points = piece.sum() * (0.35 + 0.65 * at)
        if points > score:
            best, score = piece, points
    if best is None or score < 0.01 * known.sum():
        return _place(body, known & (level >= np.nanquantile(level, 0.8)), float(body.high[1]))
    return _place(body, best, float(np.median(top[best])))


def find_inside(body: Body) -> Place | None:
    """A hollow that opens upwards: columns well below the rim around them."""
    top, height = body.top, float(body.extent[1])
    rim = float(np.nanquantile(top, 0.9))
    floor = np.isfinite(top) & (top < rim - 0.2 * height)
    floor[[0, -1]] = floor[:, [0, -1]] = False
    # A hollow is closed: what can be reached from the grid's edge over low columns is outside.
    enclosed = ndimage.binary_fill_holes(np.isfinite(top) & (top > rim - 0.15 * height))
    piece = _largest(floor & np.asarray(enclosed, dtype=bool))
    if piece is None or piece.sum() < 0.1 * np.isfinite(top).sum():
        return None
    return _place(body, piece, float(np.median(top[piece])))


def find_room(body: Body) -> Place | None:
    """The free room below: columns whose lower side is well above the floor; y is its height."""
    height = float(body.extent[1])
    piece = _largest(np.isfinite(body.bottom) & (body.bottom > body.low[1] + 0.4 * height))
    if piece is None or piece.sum() < 0.2 * np.isfinite(body.bottom).sum():
        return None
    return _place(body, piece, float(np.quantile(body.bottom[piece], 0.1)) - float(body.low[1]))


def find_head(body: Body) -> Place:
    """The highest part of a figure; half_x is its radius."""
    height = float(body.extent[1])
    # Whatever is within a tenth of the height below the crown belongs to the head.
    crown = float(np.nanmax(body.top))
    piece = np.isfinite(body.top) & (body.top > crown - 0.1 * height)
    peak = np.unravel_index(int(np.nanargmax(body.top)), body.top.shape)
    labels, _ = ndimage.label(piece)  # pyright: ignore[reportGeneralTypeIssues]
    found = _place(body, labels == labels[peak], crown)
    radius = min(max(found.half_x, found.half_z, 0.035 * height), 0.2 * float(body.extent.max()))
    return replace(found, half_x=radius, half_z=radius)
