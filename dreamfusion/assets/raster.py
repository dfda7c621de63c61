"""Which triangles cover which pixels, in numpy: for baking textures and for drawing an exported mesh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Pixels of bounding boxes looked at together; about 100 bytes each.
CANDIDATES = 1 << 20


@dataclass(frozen=True)
class Hits:
    """Pixels whose centre lies in a triangle; a pixel may occur once for each triangle.

    Attributes:
        triangles, pixels: index of the triangle, and of the pixel in row-major order.
        weights: barycentric, of the triangle's three corners.
    """

    triangles: Int[np.ndarray, " n"]
    pixels: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, "n 3"]


def rasterise(corners: Float[np.ndarray, "f 3 2"], height: int, width: int) -> Iterator[Hits]:
    """All hits, some triangles at a time; triangles of either winding count, edges belong to both sides.

    Args:
        corners: x and y in pixels; pixel (row r, column c) has its centre at x = c + 0.5, y = r + 0.5.
        height, width: of the picture; what lies outside is cut off.
    """
    low = np.maximum(np.ceil(corners.min(axis=1) - 0.5), 0).astype(np.int64)
    high = np.minimum(np.floor(corners.max(axis=1) - 0.5), [width - 1, height - 1]).astype(np.int64)
    sides = np.maximum(high - low + 1, 0)
    counts = sides.prod(axis=1)
    ends = np.cumsum(counts)
    start = 0
    while start < len(corners):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + CANDIDATES, side="right")), start + 1)
        chunk = slice(start, stop)
        yield _inside(corners[chunk], low[chunk], sides[chunk], counts[chunk], width, start)
        start = stop


def _inside(
    corners: Float[np.ndarray, "f 3 2"],
    low: Int[np.ndarray, "f 2"],
    sides: Int[np.ndarray, "f 2"],
    counts: Int[np.ndarray, " f"],
    width: int,
    first: int,
) -> Hits:
    triangles = np.repeat(np.arange(len(corners)), counts)
    place = np.arange(len(triangles)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = low[triangles, 0] + place % sides[triangles, 0]
    rows = low[triangles, 1] + place // sides[triangles, 0]
    a, b, c = (corners[:, k].astype(np.float64) for k in range(3))
    area = _cross(b - a, c - a)
    area = np.where(area == 0, np.inf, area)
    points = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    second = _cross(points - a[triangles], (c - a)[triangles]) / area[triangles]
    third = _cross((b - a)[triangles], points - a[triangles]) / area[triangles]
    weights = np.stack([1 - second - third, second, third], axis=-1)
    # A corner or an edge right through a pixel's centre must not fall between two triangles by rounding.
    hit = (weights.min(axis=1) >= -1e-9) & np.isfinite(area)[triangles]
    return Hits(triangles[hit] + first, rows[hit] * width + columns[hit], weights[hit])


def _cross(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
