"""What nobody sees is filled, and what somebody sees is not."""

from __future__ import annotations

import numpy as np
import pytest

from dreamfusion.assets.cavities import _free, with_unseen_filled
from dreamfusion.assets.sampling import grid_axis
from dreamfusion.assets.surface import Occupied

RESOLUTION = 40


def occupied(inside: np.ndarray, axis: np.ndarray, spacing: float) -> Occupied:
    return Occupied(inside, axis, spacing, 1.0, 1.0, (0.0, 2.0))


@pytest.fixture
def space() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    axis, spacing = grid_axis(1.0, RESOLUTION)
    return (*np.meshgrid(axis, axis, axis, indexing="ij"), axis, spacing)


def test_a_hollow_ball_with_a_crooked_hole_becomes_solid(space) -> None:
    x, y, z, axis, spacing = space
    radius = np.sqrt(x**2 + y**2 + z**2)
    shell = (radius < 0.8) & (radius > 0.5)
    # A way from the hollow out through the shell with a turn in it: no closed cavity, and yet nobody looks in.
    shell &= ~((np.abs(x) < 0.06) & (np.abs(y) < 0.06) & (z > 0.4) & (z < 0.66))
    shell &= ~((np.abs(y) < 0.06) & (np.abs(z - 0.63) < 0.06) & (x > -0.06))
    filled = with_unseen_filled(occupied(shell, axis, spacing)).inside
    assert filled[(radius < 0.5) & (np.hypot(x, y) > 0.15)].mean() > 0.9
    assert (filled >= shell).all() and not filled[radius > 0.8].any()


def test_cups_and_rings_stay_open(space) -> None:
    x, y, z, axis, spacing = space
    radius = np.hypot(x, z)
    cup = (radius < 0.5) & (np.abs(y) < 0.5) & ~((radius < 0.4) & (y > -0.4))
    ring = (np.hypot(np.hypot(x, y) - 0.6, z)) < 0.2
    for body in (cup, ring, np.zeros_like(cup)):
        assert np.array_equal(with_unseen_filled(occupied(body, axis, spacing)).inside, body)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, -1, 0), (0, 0, 1), (1, -1, 0), (0, 1, 1), (-1, 1, -1)])
def test_free_points_are_those_of_a_walk_one_by_one(direction: tuple[int, ...]) -> None:
    empty = np.random.default_rng(0).random((7, 7, 7)) < 0.8
    found = _free(empty, direction)
    for start in np.ndindex(empty.shape):
        at, free = np.array(start), True
        while free and ((at >= 0) & (at < 7)).all():
            free = bool(empty[tuple(at)])
            at = at + direction
        assert found[start] == free
