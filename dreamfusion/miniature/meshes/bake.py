"""Making a mesh small: one colour a corner instead of pictures, few triangles, a unit size, normals with creases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dreamfusion.miniature.meshes.furniture import Model
from dreamfusion.miniature.meshes.ldraw import MAIN_COLOUR, Part, colour_of
from dreamfusion.miniature.nouns_builder import Rgb

MAX_FACES = 6000
# Vertices are merged in cells of 1/grid of the size. The finest grid is the first that leaves few enough triangles; where a
# surface is nearly flat and of one colour the cells of the coarser grids do.
FINEST_GRIDS = (160, 100, 64)
COARSER = (8.0, 4.0, 2.0)
FLAT_ENOUGH = 0.985
SAME_SHADE = 0.04
# Textured triangles are cut until their edges are this short, as a share of the size: corners then carry the picture.
TEXTURED_EDGE = 1 / 24
MAX_CUTS = 6
CREASE_COSINE = float(np.cos(np.radians(40.0)))
# Materials whose colour is this near to the main one's are recoloured with it.
SAME_COLOUR = 0.12
GLASS = np.array([0.80, 0.88, 0.92])


@dataclass(frozen=True)
class Mesh:
    """A baked mesh: it stands on y = 0 around the y axis, its longest side is 1.

    `vertices` float32 "v 3", `faces` int32 "f 3", `normals` float32 "f 3 3" and `rgb` float32 "f 3 3" (sRGB in [0, 1]) per
    corner, `free` bool "f": the triangles that take another colour.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    rgb: np.ndarray
    free: np.ndarray

    def recoloured(self, color: Rgb | np.ndarray) -> Mesh:
        """The free triangles in `color`, as bright and dark beside each other as they were."""
        if not self.free.any():
            return self
        old = self.rgb[self.free]
        light = old @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
        weight = _areas(self.vertices[self.faces[self.free]])[:, None] + 1e-9
        usual = float((light * weight).sum() / (3 * weight.sum()))
        # Differences of brightness are kept, halved: a black thing painted yellow is yellow, with its lines.
        shade = 1.0 + 0.6 * np.clip((light - usual) / max(usual, 0.35), -0.8, 0.8)
        made = self.rgb.copy()
        made[self.free] = np.clip(shade[..., None] * np.asarray(color, dtype=np.float32), 0.0, 1.0)
        return Mesh(self.vertices, self.faces, self.normals, made, self.free)


def _areas(corners: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


def bake_part(part: Part, colours: dict[int, Rgb], main: Rgb) -> Mesh:
    """An LDraw part; its main colour is `main` and free."""
    table = {code: colour_of(int(code), colours, main) for code in np.unique(part.codes)}
    flat = np.array([table[code] for code in part.codes])
    return bake(part.corners, np.repeat(flat[:, None], 3, axis=1), part.codes == MAIN_COLOUR)


def bake_model(model: Model) -> Mesh:
    """A furniture model; its pictures become corners' colours, its main material is free."""
    corners, uv, material = _cut_textured(model)
    rgb = np.zeros_like(corners)
    for index, one in enumerate(model.materials):
        own = material == index
        colour = np.broadcast_to(np.array(one.rgb), (int(own.sum()), 3, 3)).copy()
        if one.texture is not None:
            seen = _looked_up(one.texture, uv[own])
            colour = np.where(np.isnan(seen), colour, seen)
        rgb[own] = one.opacity * colour + (1.0 - one.opacity) * GLASS
    return bake(corners, rgb, _main_faces(corners, rgb, material, len(model.materials)))


def _main_faces(corners: np.ndarray, rgb: np.ndarray, material: np.ndarray, count: int) -> np.ndarray:
    areas = _areas(corners)
    weight = np.bincount(material, areas, count)
    mean = (
        np.stack([np.bincount(material, areas * rgb.mean(1)[:, k], count) for k in range(3)], -1)
        / np.maximum(weight, 1e-12)[:, None]
    )
    same = np.abs(mean - mean[int(weight.argmax())]).max(1) < SAME_COLOUR
    return same[material]


def _looked_up(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    h, w, _ = texture.shape
    known = np.asarray(~np.isnan(uv).any(-1))
    u, v = np.where(known[..., None], uv, 0.0).transpose(2, 0, 1)
    column = np.floor((u % 1.0) * w).astype(int).clip(0, w - 1)
    row = np.floor((1.0 - v % 1.0) * h).astype(int).clip(0, h - 1)
    return np.where(known[..., None], texture[row, column], np.nan)


def _cut_textured(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    corners, uv, material = model.corners, model.uv, model.material
    pictured = np.array([one.texture is not None for one in model.materials])
    size = float((corners.max((0, 1)) - corners.min((0, 1))).max())
    for _ in range(MAX_CUTS):
        edges = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=-1)
        long = (edges.max(1) > TEXTURED_EDGE * size) & pictured[material]
        if not long.any() or len(corners) > 150_000:
            break
        corners = np.concatenate([corners[~long], _quartered(corners[long])])
        uv = np.concatenate([uv[~long], _quartered(uv[long])])
        material = np.concatenate([material[~long], np.tile(material[long], 4)])
    return corners, uv, material


def _quartered(c: np.ndarray) -> np.ndarray:
    ab, bc, ca = (c[:, 0] + c[:, 1]) / 2, (c[:, 1] + c[:, 2]) / 2, (c[:, 2] + c[:, 0]) / 2
    return np.concatenate(
        [
            np.stack([c[:, 0], ab, ca], 1),
            np.stack([ab, c[:, 1], bc], 1),
            np.stack([ca, bc, c[:, 2]], 1),
            np.stack([ab, bc, ca], 1),
        ]
    )


def bake(corners: np.ndarray, rgb: np.ndarray, free: np.ndarray) -> Mesh:
    """A soup of triangles made into a small mesh of unit size.

    Raises:
        ValueError: if there is nothing in it.
    """
    flat = corners.reshape(-1, 3)
    if not len(flat) or not np.isfinite(flat).all() or np.ptp(flat, axis=0).max() <= 0:
        raise ValueError("the mesh has no extent")
    low, high = flat.min(0), flat.max(0)
    centre = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    corners = (corners - centre) / (high - low).max()
    vertices, faces, kept = corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3), None
    rim = _on_boundary(corners.reshape(-1, 3))
    for grid in FINEST_GRIDS:
        vertices, faces, kept = _clustered(corners, rgb, rim, grid)
        if len(faces) <= MAX_FACES:
            break
    assert kept is not None
    rgb = rgb[kept].astype(np.float32).clip(0, 1)
    normals = crease_normals(vertices, faces)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32), normals, rgb, free[kept])


def _clustered(
    corners: np.ndarray, rgb: np.ndarray, rim: np.ndarray, grid: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Rossignac and Borrel's vertex clustering, in cells that are larger where nothing happens: it takes any soup, and keeps
    # the outline to a cell because a cell's vertex is the mean of those in it.
    points = corners.reshape(-1, 3)
    label = np.zeros(len(points), dtype=np.int64)
    open_ = np.ones(len(points), dtype=bool)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).repeat(3, axis=0)
    area, shade = np.linalg.norm(cross, axis=1), rgb.reshape(-1, 3)
    for level, coarse in enumerate((*COARSER, 1.0)):
        cell = _numbered(_cells(points, grid / coarse))
        # A vertex belongs to one cell of one grid: those of other grids must not meet.
        mine = cell * 8 + level
        if coarse == 1.0:
            label[open_] = mine[open_]
        else:
            calm = _calm(cell, cross, area, shade, rim)[cell] & open_
            label[calm] = mine[calm]
            open_ &= ~calm
    index = _numbered(label)
    count = np.bincount(index)
    vertices = np.stack([np.bincount(index, points[:, k]) / count for k in range(3)], -1)
    faces = index.reshape(-1, 3)
    solid = np.nonzero(
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    )[0]
    # Of several triangles with the same corners the largest original is kept.
    order = solid[np.argsort(-_areas(corners[solid]), kind="stable")]
    a, b, c = np.sort(faces[order], axis=1).T
    _, first = np.unique((a * len(vertices) + b) * len(vertices) + c, return_index=True)
    kept = np.sort(order[first])
    used, faces = np.unique(faces[kept], return_inverse=True)
    return vertices[used], faces.reshape(-1, 3), kept


def _cells(points: np.ndarray, grid: float) -> np.ndarray:
    # The bake's points lie in [-1/2, 1/2] x [0, 1] x [-1/2, 1/2].
    x, y, z = ((points[:, k] * grid + 0.5 * grid + 1.0).astype(np.int64) for k in range(3))
    return (x * 8192 + y) * 8192 + z


def _numbered(keys: np.ndarray) -> np.ndarray:
    # Equal keys get equal numbers, from 0 in the keys' order; half of np.unique's time.
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])
    made = np.empty(len(keys), dtype=np.int64)
    made[order] = new
    return made


def _calm(
    cell: np.ndarray, cross: np.ndarray, area: np.ndarray, shade: np.ndarray, edge: np.ndarray
) -> np.ndarray:
    # Which cells hold a nearly flat surface of one colour without an edge.
    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, values)

    along = np.linalg.norm(np.stack([total(cross[:, k]) for k in range(3)], -1), axis=1)
    count = total(np.ones(len(cell)))
    spread = sum(total(shade[:, k] ** 2) / count - (total(shade[:, k]) / count) ** 2 for k in range(3))
    flat = along > FLAT_ENOUGH * np.maximum(total(area), 1e-20)
    return flat & (spread < SAME_SHADE**2) & (total(edge.astype(float)) == 0)


def _on_boundary(points: np.ndarray) -> np.ndarray:
    # Corners on an edge that only one triangle has: a sheet's rim, which must not shrink.
    weld = _numbered(_cells(points, 4000.0))
    faces, count = weld.reshape(-1, 3), int(weld.max()) + 1
    ends = np.sort(np.stack([faces, faces[:, [1, 2, 0]]], -1).reshape(-1, 2), axis=1)
    edges, often = np.unique(ends[:, 0] * count + ends[:, 1], return_counts=True)
    rim = np.zeros(count, dtype=bool)
    rim[edges[often == 1] // count] = True
    rim[edges[often == 1] % count] = True
    return rim[weld]


def crease_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals float32 "f 3 3": at each corner the area-weighted mean over the triangles around that vertex which are
    tilted against this one by less than 40 degrees, so that edges stay sharp and opposite windings do not cancel."""
    cross = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    unit = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-20)
    owner, vertex = np.repeat(np.arange(len(faces)), 3), faces.reshape(-1)
    order = np.argsort(vertex, kind="stable")
    count = np.bincount(vertex, minlength=len(vertices))
    start = count.cumsum() - count
    # All pairs (corner, triangle around its vertex).
    around = count[vertex]
    corner = np.repeat(np.arange(len(vertex)), around)
    nth = np.arange(len(corner)) - np.repeat(around.cumsum() - around, around)
    other = owner[order[start[vertex[corner]] + nth]]
    near = (unit[owner[corner]] * unit[other]).sum(1) > CREASE_COSINE
    corner, other = corner[near], other[near]
    made = np.stack([np.bincount(corner, cross[other, k], len(vertex)) for k in range(3)], -1)
    made = np.where(np.linalg.norm(made, axis=1, keepdims=True) > 1e-20, made, unit[owner])
    made = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-20)
    return made.reshape(-1, 3, 3).astype(np.float32)


def turned_mesh(mesh: Mesh, turn: str) -> Mesh:
    """A baked mesh turned (see `turned`), put back on the floor around the y axis."""
    if not turn:
        return mesh
    vertices = turned(mesh.vertices.astype(np.float64), turn)
    low, high = vertices.min(0), vertices.max(0)
    vertices = vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]
    normals = turned(mesh.normals.astype(np.float64), turn).astype(np.float32)
    return Mesh((vertices / (high - low).max()).astype(np.float32), mesh.faces, normals, mesh.rgb, mesh.free)


def turned(corners: np.ndarray, turn: str) -> np.ndarray:
    """`corners` "... 3" turned about the axes that `turn` names in order, in degrees: "x90 y180"; "" leaves them.

    Raises:
        ValueError: if `turn` is not of that form.
    """
    for step in turn.split():
        if step[0] not in "xyz":
            raise ValueError(f"a turn is like 'x90 y180', got {turn!r}")
        angle, axis = np.radians(float(step[1:])), "xyz".index(step[0])
        a, b = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        corners = corners @ matrix.T
    return corners
