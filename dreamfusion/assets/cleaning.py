"""What a surface goes through before it is an asset: floaters dropped, smoothed, decimated."""

from __future__ import annotations

import importlib.util

import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, diags

from dreamfusion.errors import ConfigError

# Taubin's pass band (SIGGRAPH 1995, "A signal processing approach to fair surface design", k_PB = 0.1).
TAUBIN = (0.5, -0.526)
# From how eager to how careful: the library's own default first.
AGGRESSIVENESS = (7, 5, 3)
# How many times the faces that were asked for count as about so many.
TOLERANCE = 1.1

Vertices = Float[np.ndarray, "v 3"]
Faces = Int[np.ndarray, "f 3"]


def keep_large_solids(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], min_share: float
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"], int, int]:
    """Drops closed hollows (their signed volume is negative) and pieces below `min_share` of the largest volume.

    Returns:
        vertices, faces: of what is left, renumbered; then the numbers of dropped floaters and cavities.
    """
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    labels = trimesh.graph.connected_component_labels(edges, node_count=len(vertices))
    face_labels = labels[faces[:, 0]]
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volumes = np.bincount(face_labels, weights=np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)
    solid = volumes > 0
    keep = solid & (volumes >= min_share * volumes.max())
    kept_faces = faces[keep[face_labels]]
    used, renumbered = np.unique(kept_faces, return_inverse=True)
    dropped_solids, cavities = int((solid & ~keep).sum()), int((volumes < 0).sum())
    return vertices[used], renumbered.reshape(-1, 3), dropped_solids, cavities


def smoothed(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], iterations: int
) -> Float[np.ndarray, "v 3"]:
    """Taubin's smoothing: each iteration moves every vertex towards its neighbours' mean and then a little further back.

    The step back keeps the volume, which plain Laplacian smoothing eats.
    """
    if iterations == 0:
        return vertices
    starts, stops = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    count = len(vertices)
    joined = coo_matrix(
        (np.ones(2 * len(starts)), (np.r_[starts, stops], np.r_[stops, starts])), (count,) * 2
    )
    neighbours = joined.tocsr()
    # An edge is in two faces and was counted twice; once each is what a mean wants.
    neighbours.data[:] = 1.0
    mean = diags(1.0 / np.asarray(neighbours.sum(axis=1)).ravel()) @ neighbours
    for _ in range(iterations):
        for step in TAUBIN:
            vertices = vertices + step * (mean @ vertices - vertices)
    return vertices


def can_decimate() -> bool:
    """Whether the optional library for it is installed."""
    return importlib.util.find_spec("fast_simplification") is not None


def decimated(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], count: int
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"]]:
    """At most about `count` faces, by collapsing the edges of least quadric error (Garland & Heckbert 1997).

    A closed mesh stays closed where one of three levels of caution manages it with so few faces; the first
    is the fastest. The most careful one stops early on rough surfaces: the number comes before closedness.

    Raises:
        ConfigError: the library is not installed.
    """
    if len(faces) <= count:
        return vertices, faces
    if not can_decimate():
        raise ConfigError(
            "fewer faces need the package fast-simplification, which is not installed",
            hint="run pip install 'dreamfusion[assets]', or pass --faces 0",
        )
    import fast_simplification

    # The library's costs underflow on small meshes: a unit of one edge's size keeps them near 1.
    scale = float(np.ptp(vertices, axis=0).max()) / 100
    tried: list[tuple[tuple[bool, bool], tuple[np.ndarray, np.ndarray]]] = []
    for aggressiveness in AGGRESSIVENESS:
        found = fast_simplification.simplify(
            vertices / scale, faces.astype(np.int32), target_count=count, agg=aggressiveness
        )
        points, triangles = _tidied(found[0].astype(np.float64) * scale, found[1].astype(np.int64))
        too_many = len(triangles) > TOLERANCE * count
        is_open = not trimesh.Trimesh(points, triangles, process=False).is_watertight
        tried.append(((too_many, is_open), (points, triangles)))
        if not (too_many or is_open):
            break
    return min(tried, key=lambda one: one[0])[1]


def _tidied(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"]]:
    """Without faces that name a vertex twice, pairs of faces back to back, and vertices of no face."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, first, counts = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    # Two faces on the same three vertices are a flap without volume: both go, and the mesh stays closed.
    faces = faces[np.sort(first[counts == 1])]
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3)
