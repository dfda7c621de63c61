"""What is inside a mesh, and in which colour: how a scene starts from somebody's object."""

from __future__ import annotations

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Float32, Int
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from dreamfusion.assets.inside import inside_cells, occupancy_grid
from dreamfusion.errors import MeshError
from dreamfusion.posed_images.mesh_renderer import surface_colours

__all__ = ["SolidMesh", "occupancy_grid", "surface_cells"]

# Cells a side, and points that colours are taken from.
RESOLUTION = 128
COLOUR_SAMPLES = 100_000
# A mesh stays as it is if its own radius is at least the first share of the ball's, and no corner is beyond the second.
KEEP_SIZE = (0.2, 0.95)
FITTED_SIZE = 0.8


class SolidMesh:
    """A mesh as occupancy and colour at any position, in a ball of `radius` around the origin.

    What is inside is the union of the mesh's parts less their cavities (`dreamfusion.assets.inside`). Colours are those of the
    nearest point of the surface.

    Attributes:
        moved: whether the mesh was centred and scaled, because it was far from the ball's size or reached out of it.
        doubtful: fraction of the inside that holes in the surface leave in doubt.

    Raises:
        MeshError: it has no inside.
    """

    def __init__(
        self, mesh: trimesh.Trimesh, radius: float | int, resolution: int = RESOLUTION, seed: int = 0
    ) -> None:
        triangles, self.moved = fitted(np.asarray(mesh.triangles, dtype=np.float64), float(radius))
        self.radius, self.resolution = float(radius), resolution
        found = inside_cells(triangles, self.radius, resolution)
        self.occupancy, self.doubtful = found.cells, found.doubtful
        if not self.occupancy.any():
            raise MeshError(
                "the mesh has no inside",
                expected=f"a closed surface around more than a cell of 1/{resolution} of the scene's diameter",
                got=f"{len(mesh.faces)} faces",
            )
        near = surface_cells(self.occupancy)
        colours = self._nearest_colours(mesh, triangles, near, np.random.default_rng(seed))
        self._colours = np.full((resolution, resolution, resolution, 3), 0.5, dtype=np.float32)
        self._colours[tuple(near.T)] = colours
        # Deep inside, where many points of the surface are about equally far, a search for the nearest takes minutes.
        empty = np.ones_like(self.occupancy)
        empty[tuple(near.T)] = False
        deep = np.argwhere(self.occupancy & empty)
        towards = distance_transform_edt(empty, return_distances=False, return_indices=True)
        assert isinstance(towards, np.ndarray)
        self._colours[tuple(deep.T)] = self._colours[tuple(towards[(slice(None), *deep.T)])]

    def _nearest_colours(
        self,
        mesh: trimesh.Trimesh,
        triangles: Float[np.ndarray, "f 3 3"],
        cells: Int[np.ndarray, "k 3"],
        generator: np.random.Generator,
    ) -> Float[np.ndarray, "k 3"]:
        """sRGB of the surface's sample that is nearest to each cell's middle."""
        across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        areas = np.linalg.norm(across, axis=-1)
        face = generator.choice(len(triangles), COLOUR_SAMPLES, p=areas / areas.sum())
        shares = generator.dirichlet((1.0, 1.0, 1.0), COLOUR_SAMPLES)
        points = (triangles[face] * shares[..., None]).sum(axis=1)
        middles = (cells + 0.5) / self.resolution * 2 * self.radius - self.radius
        nearest = KDTree(points).query(middles)[1]
        return surface_colours(mesh, face, shares)[nearest]

    def inside(self, positions: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Whether each position lies in the mesh, to the precision of one cell."""
        return self.occupancy[self._cells(positions)]

    def colours(self, positions: Float[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 3"]:
        """sRGB in [0, 1] of the surface nearest to each position's cell, or grey a cell and more outside the mesh."""
        return self._colours[self._cells(positions)]

    def _cells(self, positions: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, ...]:
        cells = np.floor((positions / self.radius + 1) / 2 * self.resolution).astype(np.int64)
        return tuple(np.clip(cells, 0, self.resolution - 1).T)


def fitted(triangles: Float[np.ndarray, "f 3 3"], radius: float) -> tuple[Float[np.ndarray, "f 3 3"], bool]:
    """The triangles, centred and scaled to `FITTED_SIZE` of the ball if they are too small, too large or too far out; whether so.

    Small and large are measured by the radius around the mesh's own middle, wherever that lies.
    """
    corners = triangles.reshape(-1, 3)
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    own = float(np.linalg.norm(corners - middle, axis=-1).max())
    farthest = float(np.linalg.norm(corners, axis=-1).max())
    if own >= KEEP_SIZE[0] * radius and farthest <= KEEP_SIZE[1] * radius:
        return triangles, False
    if own <= 0:
        raise MeshError("the mesh has no size", expected="a closed surface", got="a single point")
    return (triangles - middle) * (FITTED_SIZE * radius / own), True


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
