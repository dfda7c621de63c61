"""Parts of a file, each with its own material, joined to one mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int

from dreamfusion.errors import MeshError
from dreamfusion.posed_images.paint import Paint, PaintVisuals, SurfacePaint


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles of one material.

    Attributes:
        vertices: in the world.
        uvs: texture coordinates of the faces' corners, (0, 0) the image's upper left corner; None: the paint has no texture.
        corners: colours of the faces' corners; None: white.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    paint: Paint
    uvs: Float[np.ndarray, "f 3 2"] | None = None
    corners: Float[np.ndarray, "f 3 3"] | None = None


def fans(lengths: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, "f 3"]]:
    """Polygons cut into triangles: each one's polygon, and its corners' places in the list of all corners."""
    lengths = lengths.astype(np.int64)
    starts = lengths.cumsum() - lengths
    triangles = np.maximum(lengths - 2, 0)
    face_of = np.repeat(np.arange(len(lengths)), triangles)
    k = np.arange(len(face_of)) - np.repeat(triangles.cumsum() - triangles, triangles)
    first = starts[face_of]
    return face_of, np.stack([first, first + k + 1, first + k + 2], axis=-1)


def joined(parts: list[Part]) -> trimesh.Trimesh:
    """All parts as one mesh with its colours; without triangles, an empty one."""
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        return trimesh.Trimesh(process=False)
    before = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, before, strict=False)])
    uvs = [np.zeros((len(part.faces), 3, 2)) if part.uvs is None else part.uvs for part in parts]
    corners = [np.ones((len(part.faces), 3, 3)) if part.corners is None else part.corners for part in parts]
    paints = {id(part.paint): part.paint for part in parts}
    numbers = {key: number for number, key in enumerate(paints)}
    paint_of = np.repeat([numbers[id(part.paint)] for part in parts], [len(part.faces) for part in parts])
    if not all(np.isfinite(values).all() for values in (*uvs, *corners)):
        raise MeshError("colours or texture coordinates of the mesh are not finite")
    paint = SurfacePaint(tuple(paints.values()), paint_of, np.concatenate(uvs), np.concatenate(corners))
    vertices = np.concatenate([part.vertices for part in parts])
    visual = PaintVisuals.of(paint, faces, len(vertices))
    return trimesh.Trimesh(vertices, faces, visual=visual, process=False)
