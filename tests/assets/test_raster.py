"""The rasteriser against areas and a point-in-triangle test written out for each pixel."""

from __future__ import annotations

import numpy as np
import pytest

from dreamfusion.assets import raster
from dreamfusion.assets.raster import rasterise


def slow_inside(triangle: np.ndarray, x: float, y: float) -> bool:
    signs = []
    for k in range(3):
        (ax, ay), (bx, by) = triangle[k], triangle[(k + 1) % 3]
        signs.append((bx - ax) * (y - ay) - (by - ay) * (x - ax))
    return min(signs) >= 0 or max(signs) <= 0


@pytest.mark.parametrize("candidates", [1 << 20, 50])
def test_hits_are_the_pixels_whose_centre_is_inside(monkeypatch, candidates):
    monkeypatch.setattr(raster, "CANDIDATES", candidates)
    triangles = np.random.default_rng(0).uniform(-4, 20, (40, 3, 2))
    found = set()
    for hits in rasterise(triangles, 12, 16):
        found |= set(zip(hits.triangles.tolist(), hits.pixels.tolist(), strict=True))
        # The weights put the corners together to the pixel's centre.
        centres = np.stack([hits.pixels % 16 + 0.5, hits.pixels // 16 + 0.5], -1)
        assert np.allclose(np.einsum("nk,nkc->nc", hits.weights, triangles[hits.triangles]), centres)
        assert np.allclose(hits.weights.sum(1), 1)
    expected = {
        (t, r * 16 + c)
        for t in range(40)
        for r in range(12)
        for c in range(16)
        if slow_inside(triangles[t], c + 0.5, r + 0.5)
    }
    assert found == expected and len(expected) > 500


def test_two_triangles_of_a_square_leave_no_gap_and_points_no_hit():
    square = np.array([[[0, 0], [8, 0], [8, 8]], [[0, 0], [8, 8], [0, 8]]], dtype=float)
    pixels = np.concatenate([hits.pixels for hits in rasterise(square, 8, 8)])
    assert set(pixels.tolist()) == set(range(64))
    point = np.full((1, 3, 2), 3.5)
    assert sum(len(hits.pixels) for hits in rasterise(point, 8, 8)) == 0
