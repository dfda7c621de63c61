"""What is inside a mesh, and in which colour: how a scene starts from somebody's object."""

from __future__ import annotations

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Float32, Int
from scipy.spatial import KDTree

from dreamfusion.errors import MeshError
from dreamfusion.posed_images.mesh_renderer import surface_colours

# Lines of sight a side along each axis, and points that colours are taken from.
RESOLUTION = 128
COLOUR_SAMPLES = 100_000
# A mesh whose farthest corner lies between these shares of the ball's radius stays where it is.
KEEP_SIZE = (0.2, 0.95)
FITTED_SIZE = 0.8


class SolidMesh:
    """A mesh as occupancy and colour at any position, in a ball of `radius` around the origin.

    A point is inside if at least two of the three axis-parallel lines through it say so by the parity of their crossings; a few
    holes do no harm. Colours are those of the nearest point of the surface.

    Attributes:
        moved: whether the mesh was centred and scaled, because it was far from the ball's size.

    Raises:
        MeshError: it has no inside.
    """

    def __init__(
        self, mesh: trimesh.Trimesh, radius: float | int, resolution: int = RESOLUTION, seed: int = 0
    ) -> None:
        mesh = mesh.copy()
        size = np.linalg.norm(mesh.vertices, axis=-1).max() / radius
        self.moved = not KEEP_SIZE[0] <= size <= KEEP_SIZE[1]
        if self.moved:
            mesh.apply_translation(-mesh.bounds.mean(axis=0))
            mesh.apply_scale(FITTED_SIZE * radius / np.linalg.norm(mesh.vertices, axis=-1).max())
        self.radius, self.resolution = float(radius), resolution
        self.occupancy = occupancy_grid(np.asarray(mesh.triangles), self.radius, resolution)
        if not self.occupancy.any():
            raise MeshError(
                "the mesh has no inside", expected="a closed surface", got=f"{len(mesh.faces)} faces"
            )
        generator = np.random.default_rng(seed)
        face = generator.choice(len(mesh.faces), COLOUR_SAMPLES, p=mesh.area_faces / mesh.area_faces.sum())
        shares = generator.dirichlet((1.0, 1.0, 1.0), COLOUR_SAMPLES)
        points = (np.asarray(mesh.triangles)[face] * shares[..., None]).sum(axis=1)
        # Colours are asked for again and again, and only where something is or begins: once a cell is enough.
        cells = np.unique(
            np.concatenate([np.argwhere(self.occupancy), surface_cells(self.occupancy)]), axis=0
        )
        middles = (cells + 0.5) / resolution * 2 * self.radius - self.radius
        nearest = KDTree(points).query(middles)[1]
        self._colours = np.full((resolution, resolution, resolution, 3), 0.5, dtype=np.float32)
        self._colours[tuple(cells.T)] = surface_colours(mesh, face, shares)[nearest]

    def inside(self, positions: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether each position lies in the mesh, to the precision of one cell."""
        return self.occupancy[self._cells(positions)]

    def colours(self, positions: Float[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 3"]:
        """sRGB in [0, 1] of the surface nearest to each position's cell, or grey a cell and more outside the mesh."""
        return self._colours[self._cells(positions)]

    def _cells(self, positions: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, ...]:
        cells = np.floor((positions / self.radius + 1) / 2 * self.resolution).astype(np.int64)
        return tuple(np.clip(cells, 0, self.resolution - 1).T)


def occupancy_grid(
    triangles: Float[np.ndarray, "f 3 3"], radius: float, resolution: int
) -> Bool[np.ndarray, "n n n"]:
    """Which cells' middles, x y z over [-radius, radius]^3, lie inside, by a vote of the three axes."""
    votes = sum(
        np.moveaxis(
            _parity(np.roll(triangles, -axis, axis=-1), radius, resolution), (0, 1, 2), _order(axis)
        ).astype(int)
        for axis in range(3)
    )
    return np.asarray(votes) >= 2


def _order(axis: int) -> tuple[int, int, int]:
    # After rolling by -axis, the array's axes are axis, axis + 1, axis + 2.
    return axis % 3, (axis + 1) % 3, (axis + 2) % 3


def _parity(
    triangles: Float[np.ndarray, "f 3 3"], radius: float, resolution: int
) -> Bool[np.ndarray, "n n n"]:
    """Inside by the parity of crossings along the last coordinate, for lines through the cells' middles."""
    # A shift by an odd share of a cell keeps lines off the edges and corners that models love to put on round numbers.
    shift = np.array([0.5 + 0.01234, 0.5 + 0.02345])
    flat = (triangles[..., :2] / radius + 1) / 2 * resolution - shift
    low = np.clip(np.ceil(flat.min(axis=1)), 0, resolution).astype(np.int64)
    high = np.clip(np.floor(flat.max(axis=1)), -1, resolution - 1).astype(np.int64)
    widths = np.maximum(high - low + 1, 0)
    counts = widths[:, 0] * widths[:, 1]
    face = np.repeat(np.arange(len(triangles)), counts)
    local = np.arange(len(face)) - np.repeat(counts.cumsum() - counts, counts)
    i = low[face, 0] + local % np.maximum(widths[face, 0], 1)
    j = low[face, 1] + local // np.maximum(widths[face, 0], 1)
    a, b, c = (flat[face, corner] - np.stack([i, j], axis=-1) for corner in range(3))
    parts = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=-1)
    crossed = (parts > 0).all(axis=1) | (parts < 0).all(axis=1)
    face, i, j, parts = face[crossed], i[crossed], j[crossed], parts[crossed]
    depth = (triangles[face, :, 2] * parts).sum(axis=1) / parts.sum(axis=1)
    # Each crossing flips all cells behind it.
    first = np.ceil((depth / radius + 1) / 2 * resolution - 0.5).clip(0, resolution).astype(np.int64)
    flips = np.zeros((resolution, resolution, resolution + 1), dtype=np.int64)
    np.add.at(flips, (i, j, first), 1)
    return flips[..., :-1].cumsum(axis=-1) % 2 == 1


def _cross(p: Float[np.ndarray, "n 2"], q: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]


def surface_cells(occupancy: Bool[np.ndarray, "n n n"]) -> Int[np.ndarray, "k 3"]:
    """The cells that have a neighbour of the other kind: where precision is needed."""
    border = np.zeros_like(occupancy)
    for axis in range(3):
        change = np.diff(occupancy, axis=axis)
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        border[tuple(before)] |= change
        border[tuple(after)] |= change
    return np.argwhere(border)
