"""Parts of a file, each with its own material, joined to one mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float

from dreamfusion.posed_images.paint import Paint, PaintVisuals


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles of one material.

    Attributes:
        triangles: in the world.
        uvs: texture coordinates of the corners, (0, 0) the image's upper left corner; None: the paint has no texture.
        corners: colours of the corners; None: white.
    """

    triangles: Float[np.ndarray, "f 3 3"]
    paint: Paint
    uvs: Float[np.ndarray, "f 3 2"] | None = None
    corners: Float[np.ndarray, "f 3 3"] | None = None


def joined(parts: list[Part]) -> trimesh.Trimesh:
    """All parts as one mesh with its colours; corners at the same place are one vertex within a part."""
    parts = [part for part in parts if len(part.triangles)]
    if not parts:
        return trimesh.Trimesh(process=False)
    vertices, faces, before = [], [], 0
    for part in parts:
        found, where = np.unique(part.triangles.reshape(-1, 3), axis=0, return_inverse=True)
        vertices.append(found)
        faces.append(where.reshape(-1, 3) + before)
        before += len(found)
    counts = [len(part.triangles) for part in parts]
    uvs = [
        np.zeros((n, 3, 2)) if part.uvs is None else part.uvs for n, part in zip(counts, parts, strict=True)
    ]
    corners = [
        np.ones((n, 3, 3)) if part.corners is None else part.corners
        for n, part in zip(counts, parts, strict=True)
    ]
    paints: list[Paint] = []
    numbers: dict[int, int] = {}
    for part in parts:
        if id(part.paint) not in numbers:
            numbers[id(part.paint)] = len(paints)
            paints.append(part.paint)
    paint_of = np.repeat([numbers[id(part.paint)] for part in parts], counts)
    all_faces = np.concatenate(faces)
    visual = PaintVisuals(all_faces, tuple(paints), paint_of, np.concatenate(uvs), np.concatenate(corners))
    return trimesh.Trimesh(np.concatenate(vertices), all_faces, visual=visual, process=False)
