"""A texture atlas: every face of a mesh gets its own place in the unit square.

xatlas makes good charts, and on some meshes it does not come back. It therefore works in a child process with a time
limit. Behind it stands an atlas of this project's own that always ends: faces that look along the same axis and touch
are projected along it, what would overlap is taken apart, and the pieces are packed on shelves.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dreamfusion.assets.raster import rasterise
from dreamfusion.progress import notice
from dreamfusion.temporary import scratch_folder

TIMEOUT_S = 60.0
# Texels around each chart, so that neighbours do not shine through where a viewer blurs or shrinks the texture.
GUTTER = 2
NORMAL_ROUNDS = 8
OVERLAP_ROUNDS = 6
# A face that looks along its chart's axis by less than this is stretched too much and changes charts.
LEAST_COSINE = 0.2


@dataclass(frozen=True)
class Atlas:
    """Where the faces lie in the texture.

    Attributes:
        vertices: index of the mesh's vertex that each of the atlas's vertices is; seams have several.
        faces: of the mesh, in its order, as indices into `vertices`.
        uvs: in [0, 1], the origin at the picture's top left (as in glTF).
        method: `xatlas` or `boxes`.
    """

    vertices: Int[np.ndarray, " w"]
    faces: Int[np.ndarray, "f 3"]
    uvs: Float[np.ndarray, "w 2"]
    method: str


def unwrap(mesh: trimesh.Trimesh, size: int, timeout_s: float | int = TIMEOUT_S) -> Atlas:
    """The best atlas that can be had in time; a notice says why it is not xatlas's.

    Args:
        mesh: any triangle mesh; closed and decimated ones do best.
        size: side of the texture in texels; it decides how wide gutters are.
        timeout_s: for xatlas; the other atlas takes a second or two for 40,000 faces.
    """
    if importlib.util.find_spec("xatlas") is None:
        notice("the texture's atlas is of boxes: pip install 'dreamfusion[assets]' makes a better one")
        return box_atlas(mesh, size)
    found = _xatlas(mesh, size, timeout_s)
    if isinstance(found, Atlas):
        return found
    notice(f"{found}; the texture's atlas is of boxes instead")
    return box_atlas(mesh, size)


def _xatlas(mesh: trimesh.Trimesh, size: int, timeout_s: float | int) -> Atlas | str:
    """xatlas's answer, or why there is none."""
    with scratch_folder("unwrap") as folder:
        given, answer = folder / "mesh.npz", folder / "atlas.npz"
        np.savez(
            given, vertices=mesh.vertices.astype(np.float32), faces=mesh.faces.astype(np.uint32), size=size
        )
        # By its file, without its folder on the path: it needs numpy and xatlas only, wherever this package is found.
        child = Path(__file__).with_name("xatlas_child.py")
        command = [sys.executable, "-P", str(child), str(given), str(answer)]
        try:
            # A bug in C++ may hang or crash; neither may take the export with it.
            ended = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return f"xatlas did not unwrap {len(mesh.faces):,} faces in {timeout_s:g} s"
        if ended.returncode != 0 or not answer.exists():
            said = ended.stderr.decode(errors="replace").strip().splitlines()
            return f"xatlas failed ({said[-1] if said else f'exit status {ended.returncode}'})"
        with np.load(answer) as found:
            vertices, faces, uvs = (found[name] for name in ("vertices", "faces", "uvs"))
    if len(faces) != len(mesh.faces) or not np.isfinite(uvs).all():
        return "xatlas lost faces"
    return Atlas(vertices.astype(np.int64), faces.astype(np.int64), uvs.astype(np.float64), "xatlas")


# ------------------------------------------------------------------------------------------- the project's own


def box_atlas(mesh: trimesh.Trimesh, size: int) -> Atlas:
    """Charts by projection along the six axes; see the module's docstring."""
    directions = _directions(mesh)
    flat = _projected(mesh, directions)
    pieces = _without_overlaps(mesh, directions, flat, size)
    # A vertex once for each chart that it is in.
    keys = pieces[:, None] * len(mesh.vertices) + mesh.faces
    corners, faces = np.unique(keys, return_inverse=True)
    faces = faces.reshape(-1, 3)
    flat_vertices = np.empty((len(corners), 2))
    flat_vertices[faces.ravel()] = flat.reshape(-1, 2)
    charts = corners // len(mesh.vertices)
    uvs = _packed(flat_vertices, charts, int(pieces.max()) + 1, size)
    return Atlas(corners % len(mesh.vertices), faces, uvs, "boxes")


def _directions(mesh: trimesh.Trimesh) -> Int[np.ndarray, " f"]:
    """For each face one of +x, -x, +y, -y, +z, -z (0 to 5), the same over areas as large as may be."""
    normals = np.asarray(mesh.face_normals)
    smooth = normals * mesh.area_faces[:, None]
    pairs = np.asarray(mesh.face_adjacency)
    count = len(normals)
    neighbours = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count)).tocsr()
    neighbours = neighbours + neighbours.T
    for _ in range(NORMAL_ROUNDS):
        smooth = smooth + neighbours @ smooth
    directions = _nearest_axis(smooth)
    signs = np.where(directions % 2 == 0, 1.0, -1.0)
    cosines = normals[np.arange(count), directions // 2] * signs
    return np.where(cosines < LEAST_COSINE, _nearest_axis(normals), directions)


def _nearest_axis(normals: Float[np.ndarray, "f 3"]) -> Int[np.ndarray, " f"]:
    axis = np.abs(normals).argmax(axis=1)
    negative = normals[np.arange(len(normals)), axis] < 0
    return 2 * axis + negative


def _projected(mesh: trimesh.Trimesh, directions: Int[np.ndarray, " f"]) -> Float[np.ndarray, "f 3 2"]:
    """Each face's corners without the coordinate that it looks along, world units."""
    triangles = np.asarray(mesh.triangles)
    kept = np.array([[1, 2], [0, 2], [0, 1]])[directions // 2]
    return np.take_along_axis(triangles, kept[:, None, :].repeat(3, axis=1), axis=2)


def _components(mesh: trimesh.Trimesh, labels: Int[np.ndarray, " f"]) -> Int[np.ndarray, " f"]:
    """Faces that share an edge and a label get the same number, from 0."""
    pairs = np.asarray(mesh.face_adjacency)
    pairs = pairs[labels[pairs[:, 0]] == labels[pairs[:, 1]]]
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(labels),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _without_overlaps(
    mesh: trimesh.Trimesh,
    directions: Int[np.ndarray, " f"],
    flat: Float[np.ndarray, "f 3 2"],
    size: int,
) -> Int[np.ndarray, " f"]:
    """The chart of each face, so that no two faces of a chart lie on one texel."""
    labels = directions.copy()
    # About the density that packing will reach: half of the texture filled.
    scale = size * np.sqrt(0.5 / max(float(mesh.area), 1e-12))
    pieces = _components(mesh, labels)
    for round in range(OVERLAP_ROUNDS):
        bad = _overlapping(flat * scale, pieces)
        if not bad.any():
            return pieces
        # What lies over something else becomes a layer of its own; touching faces of a layer stay together.
        labels = np.where(bad, labels + 6 * (round + 1), labels)
        pieces = _components(mesh, labels)
    bad = _overlapping(flat * scale, pieces)
    alone = pieces.max() + 1 + np.arange(int(bad.sum()))
    pieces[bad] = alone
    return np.unique(pieces, return_inverse=True)[1]


def _overlapping(flat: Float[np.ndarray, "f 3 2"], pieces: Int[np.ndarray, " f"]) -> Bool[np.ndarray, " f"]:
    """The faces that cover a texel's centre which an earlier face of the same chart covers as well."""
    bad = np.zeros(len(flat), dtype=bool)
    low = np.full((pieces.max() + 1, 2), np.inf)
    np.minimum.at(low, pieces, flat.min(axis=1))
    high = np.full_like(low, -np.inf)
    np.maximum.at(high, pieces, flat.max(axis=1))
    sides = (np.ceil(high - low) + 1).astype(np.int64)
    starts = np.cumsum(sides.prod(axis=1)) - sides.prod(axis=1)
    owners = np.full(int(sides.prod(axis=1).sum()), -1, dtype=np.int64)
    local = flat - low[pieces][:, None]
    height, width = int(sides[:, 1].max()), int(sides[:, 0].max())
    for hits in rasterise(local, height, width):
        # Neighbours share their edges, which is no overlap.
        inner = hits.weights.min(axis=1) > 1e-6
        faces, pixels = hits.triangles[inner], hits.pixels[inner]
        chart = pieces[faces]
        texels = starts[chart] + pixels // width * sides[chart, 0] + pixels % width
        # Reversed, the first of several faces is written last and stays.
        free = owners[texels] < 0
        owners[texels[free][::-1]] = faces[free][::-1]
        bad[faces[owners[texels] != faces]] = True
    return bad


def _packed(
    flat: Float[np.ndarray, "w 2"], charts: Int[np.ndarray, " w"], count: int, size: int
) -> Float[np.ndarray, "w 2"]:
    """The charts on shelves, the highest first, as large as fits the square."""
    low = np.full((count, 2), np.inf)
    np.minimum.at(low, charts, flat)
    high = np.full((count, 2), -np.inf)
    np.maximum.at(high, charts, flat)
    extents = high - low
    order = np.argsort(-extents[:, 1], kind="stable")
    fits, too_large = 0.0, (size - 2 * GUTTER) / max(float(extents.max()), 1e-12)
    places = _shelves(extents[order] * fits, size)
    for _ in range(24):
        middle = (fits + too_large) / 2
        found = _shelves(extents[order] * middle, size)
        if found is None:
            too_large = middle
        else:
            fits, places = middle, found
    if places is None:
        # More charts than texels for them: thinner gutters are no help to a texture that is far too small.
        raise ValueError(f"{count} charts do not fit a texture of {size} x {size} texels")
    corner = np.empty((count, 2))
    corner[order] = places
    return (corner[charts] + GUTTER + (flat - low[charts]) * fits) / size


def _shelves(extents: Float[np.ndarray, "c 2"], size: int) -> Float[np.ndarray, "c 2"] | None:
    """Where each chart's box begins, gutters included; None if they do not fit. The boxes come highest first."""
    boxes = np.ceil(extents).astype(np.int64) + 2 * GUTTER
    places = np.empty((len(boxes), 2))
    if boxes.max() > size:
        return None
    ends = np.cumsum(boxes[:, 0])
    first, y = 0, 0
    while first < len(boxes):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + size, side="right"))
        places[first:last, 0] = ends[first:last] - boxes[first:last, 0] - before
        places[first:last, 1] = y
        y += int(boxes[first, 1])
        if y > size:
            return None
        first = last
    return places
