"""The surface on which a density equals a threshold: marching cubes block by block, then exact vertices.

The grid is kept as one byte a point; densities are held for a few layers at a time. Blocks share the layer of points
between them, so their vertices on it are the same and are joined by the grid edge that each lies on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_closing
from skimage import measure

from dreamfusion.assets.sampling import DensityField, densities, grid_axis, sample_layers
from dreamfusion.assets.threshold import DensityGrid

# Points that marching cubes looks at together; it wants four bytes for each.
BLOCK_POINTS = 1 << 22
# Vertices keep this share of an edge away from its ends, so that no two of them coincide and no face is degenerate.
EDGE_MARGIN = 1e-3
ROOT_STEPS = 6


@dataclass(frozen=True)
class Occupied:
    """Which points of the grid lie inside the surface.

    Attributes:
        inside: "n n n" by x, y, z; False outside the ball.
        axis: the points' coordinates, the same for the three axes.
        spacing: of neighbouring points, in world units.
        radius: of the scene's ball, in world units.
        level: density of the surface, in 1/length.
        density_range: smallest and largest density found in the ball.
    """

    inside: Bool[np.ndarray, "n n n"]
    axis: Float[np.ndarray, " n"]
    spacing: float
    radius: float
    level: float
    density_range: tuple[float, float]

    def fills_ball(self) -> bool:
        """Whether there is no point of the ball outside the surface."""
        return self.density_range[0] > self.level


def occupied_in_grid(grid: DensityGrid, level: float) -> Occupied:
    """The points of a sampled grid whose density is above `level`."""
    in_ball = grid.sigmas[grid.in_ball()]
    found = (float(in_ball.min()), float(in_ball.max()))
    return Occupied(grid.sigmas > level, grid.axis, grid.spacing, grid.radius, level, found)


def occupied_in_field(
    field: DensityField,
    radius: float | int,
    resolution: int,
    level: float,
    report: Callable[[int], None] = lambda layers: None,
) -> Occupied:
    """The same, without holding the densities; `report` is called with the number of layers done.

    Raises:
        NoSurfaceError: a density is not finite.
    """
    axis, spacing = grid_axis(radius, resolution)
    inside = np.zeros((len(axis),) * 3, dtype=bool)
    low, high = np.inf, -np.inf
    squares = axis**2
    for layers, sigmas in sample_layers(field, radius, resolution):
        inside[layers] = sigmas > level
        in_ball = squares[layers, None, None] + squares[:, None] + squares < radius**2
        if in_ball.any():
            low, high = min(low, float(sigmas[in_ball].min())), max(high, float(sigmas[in_ball].max()))
        report(layers.stop)
    return Occupied(inside, axis, spacing, float(radius), level, (low, high))


def with_holes_closed(occupied: Occupied, cells: int) -> Occupied:
    """Holes, cracks and pits up to twice `cells` cells wide are filled: a morphological closing within the ball."""
    if cells == 0:
        return occupied
    padded = np.pad(occupied.inside, cells)
    closed = binary_closing(padded, iterations=cells)[(slice(cells, -cells),) * 3]
    squares = occupied.axis**2
    in_ball = squares[:, None, None] + squares[:, None] + squares < occupied.radius**2
    filled = (closed | occupied.inside) & in_ball
    return Occupied(
        filled, occupied.axis, occupied.spacing, occupied.radius, occupied.level, occupied.density_range
    )


def surface(
    field: DensityField, occupied: Occupied
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Marching cubes for the topology, then a root search along each vertex's own grid edge for the position.

    Where a hole was closed there is no root, and the vertex stays in the middle of its edge. The ball's wall is a second
    surface: what leaves the ball is cut off at the ball, where renders end too.

    Returns:
        vertices: world units; faces: counter-clockwise as seen from outside. The mesh is closed.
    """
    doubled, faces = _marched(occupied.inside)
    low, high = doubled // 2, (doubled + 1) // 2
    ends = occupied.axis[low], occupied.axis[high]

    def excess(points: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, " v"]:
        # > 0 inside. The slope of the ball's wall only matters for the speed of the search.
        to_wall = (occupied.radius - np.linalg.norm(points, axis=-1)) * (occupied.level / occupied.spacing)
        found = np.zeros(len(points))
        inner = to_wall > 0
        found[inner] = densities(field, points[inner]) - occupied.level
        return np.where(inner, np.minimum(found, to_wall), to_wall)

    shares = _roots(excess, ends)
    return ends[0] + shares[:, None] * (ends[1] - ends[0]), faces


def _marched(inside: Bool[np.ndarray, "n n n"]) -> tuple[Int[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Vertices in doubled grid coordinates, in which the middle of an edge is an integer, and faces."""
    side = len(inside)
    thickness = max(1, BLOCK_POINTS // side**2)
    keys, faces, count = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 3), dtype=np.int64)], 0
    for start in range(0, side - 1, thickness):
        # One layer more than the cells need: the next block begins with it.
        points = inside[start : start + thickness + 1]
        if not points.any():
            continue
        signs = points.astype(np.float32)
        signs *= 2
        signs -= 1
        # With plus and minus one every vertex lies exactly in the middle of its edge, which names the edge without doubt.
        # Lorensen's table puts vertices on edges only; Lewiner's has some inside of cells, and rough grids then come out open.
        middles, triangles, *_ = measure.marching_cubes(
            signs, 0.0, gradient_direction="ascent", method="lorensen"
        )
        doubled = np.rint(2 * middles).astype(np.int64)
        doubled[:, 0] += 2 * start
        keys.append((doubled[:, 0] * (2 * side) + doubled[:, 1]) * (2 * side) + doubled[:, 2])
        faces.append(triangles.astype(np.int64) + count)
        count += len(middles)
    edges, joined = np.unique(np.concatenate(keys), return_inverse=True)
    doubled = np.stack([edges // (2 * side) ** 2, edges // (2 * side) % (2 * side), edges % (2 * side)], -1)
    return doubled, joined[np.concatenate(faces)]


def _roots(
    excess: Callable[[np.ndarray], np.ndarray],
    ends: tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"]],
) -> Float[np.ndarray, " v"]:
    """Where along each edge `excess` changes its sign, as a share in (0, 1): false position, Illinois variant.

    An end that stays for a second step counts half (Dowell & Jarratt 1971), or steep curves would hardly move it.
    """
    left, right = np.zeros(len(ends[0])), np.ones(len(ends[0]))
    at_left, at_right = excess(ends[0]), excess(ends[1])
    left_is_inside = at_left > 0
    crosses = left_is_inside != (at_right > 0)
    moved_left = moved_right = np.zeros(len(left), dtype=bool)
    for _ in range(ROOT_STEPS):
        guess = _secant(left, right, at_left, at_right)
        value = excess(ends[0] + guess[:, None] * (ends[1] - ends[0]))
        same_as_left = (value > 0) == left_is_inside
        at_right = np.where(same_as_left, np.where(moved_left, at_right / 2, at_right), value)
        at_left = np.where(same_as_left, value, np.where(moved_right, at_left / 2, at_left))
        left, right = np.where(same_as_left, guess, left), np.where(same_as_left, right, guess)
        moved_left, moved_right = same_as_left, ~same_as_left
    found = np.clip(_secant(left, right, at_left, at_right), EDGE_MARGIN, 1 - EDGE_MARGIN)
    return np.where(crosses, found, 0.5)


def _secant(left: np.ndarray, right: np.ndarray, at_left: np.ndarray, at_right: np.ndarray) -> np.ndarray:
    span = at_left - at_right
    share = np.divide(at_left, span, out=np.full_like(span, 0.5), where=span != 0)
    return np.clip(left + share * (right - left), left, right)
