"""Room inside a body that nobody sees: what a field left there says nothing, and a printer would print it.

Photographs and renders end at a surface. Behind it a fitted field is as it happens to be, often a sponge whose hollows
hang together and open somewhere, so that they are no closed cavities.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from dreamfusion.assets.surface import Occupied


def with_unseen_filled(occupied: Occupied) -> Occupied:
    """Empty points from which no straight line, in 26 directions, leads out of the grid without meeting the body, are filled.

    A cup stays a cup and a ring a ring; the way into a snail's house is filled behind its first turn.
    """
    empty = ~occupied.inside
    seen = np.zeros_like(empty)
    for direction in itertools.product((-1, 0, 1), repeat=3):
        if any(direction):
            seen |= _free(empty, direction)
    squares = occupied.axis**2
    in_ball = squares[:, None, None] + squares[:, None] + squares < occupied.radius**2
    return replace(occupied, inside=occupied.inside | (~seen & in_ball))


def _free(empty: Bool[np.ndarray, "n n n"], direction: tuple[int, ...]) -> Bool[np.ndarray, "n n n"]:
    """Which points see out of the grid in `direction`, of steps -1, 0 and 1: layer after layer from the side it leads to."""
    first = next(axis for axis, step in enumerate(direction) if step)
    across = [step for axis, step in enumerate(direction) if axis != first]
    layers = np.moveaxis(empty, first, 0)
    free = np.empty_like(layers)
    before = np.ones_like(layers[0])
    order = range(len(layers))
    for index in reversed(order) if direction[first] > 0 else order:
        free[index] = layers[index] & _moved(before, across)
        before = free[index]
    return np.moveaxis(free, 0, first)


def _moved(layer: Bool[np.ndarray, "n n"], steps: list[int]) -> Bool[np.ndarray, "n n"]:
    """At each point what `layer` has one step further; beyond its border everything is free."""
    padded = np.pad(layer, 1, constant_values=True)
    rows, columns = (
        slice(1 + step, 1 + step + length) for step, length in zip(steps, layer.shape, strict=True)
    )
    return padded[rows, columns]
