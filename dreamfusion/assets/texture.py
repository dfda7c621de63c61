"""Colours of a surface as a picture: what renders show, baked from the field into an atlas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import distance_transform_edt

from dreamfusion.assets.atlas import Atlas
from dreamfusion.assets.raster import rasterise
from dreamfusion.assets.sampling import DensityField, seen_colors

SIZES = (64, 8192)


@dataclass(frozen=True)
class Texture:
    """A picture on a mesh.

    Attributes:
        uvs: of the mesh's vertices, in [0, 1], the origin at the picture's top left.
        image: sRGB.
        method: of the atlas.
        normals: a normal map as `dreamfusion.assets.normals` makes it, or None.
    """

    uvs: Float[np.ndarray, "v 2"]
    image: UInt8[np.ndarray, "h w 3"]
    method: str
    normals: UInt8[np.ndarray, "h2 w2 3"] | None = None


def split_at_seams(mesh: trimesh.Trimesh, atlas: Atlas) -> trimesh.Trimesh:
    """The mesh with one vertex for each of the atlas's; normals stay those of the closed mesh, so no seam shows."""
    return trimesh.Trimesh(
        mesh.vertices[atlas.vertices],
        atlas.faces,
        vertex_normals=mesh.vertex_normals[atlas.vertices],
        process=False,
        validate=False,
    )


def bake(
    field: DensityField,
    mesh: trimesh.Trimesh,
    atlas: Atlas,
    size: int,
    radius: float | int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Texture:
    """The field's colours at every texel of the mesh's surface, and beyond its seams the nearest texel's.

    Args:
        field: the whole field.
        mesh: split at the atlas's seams; world units.
        atlas: of that mesh.
        size: side of the picture in texels.
        radius: of the scene's ball, world units.
        progress: called with (texels done, texels in all).
    """
    texels, faces, weights = covered(atlas, size)
    corners = atlas.faces[faces]
    # Row by row of the three corners: nine numbers a texel at once would be the largest array of the export.
    positions, normals = np.zeros((len(texels), 3)), np.zeros((len(texels), 3))
    for corner in range(3):
        positions += weights[:, corner, None] * mesh.vertices[corners[:, corner]]
        normals += weights[:, corner, None] * mesh.vertex_normals[corners[:, corner]]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    colors = seen_colors(field, positions, normals, radius, lambda done: progress(done, len(texels)))
    image = np.zeros((size * size, 3), dtype=np.uint8)
    image[texels] = np.round(colors * 255)
    filled = np.zeros(size * size, dtype=bool)
    filled[texels] = True
    return Texture(atlas.uvs, dilated(image.reshape(size, size, 3), filled.reshape(size, size)), atlas.method)


def covered(
    atlas: Atlas, size: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """The texels that lie on a face, each once: its index in the picture, the face, and where on it."""
    face_of = np.full(size * size, -1, dtype=np.int64)
    weights_of = np.zeros((size * size, 3))
    for hits in rasterise(atlas.uvs[atlas.faces] * size, size, size):
        face_of[hits.pixels] = hits.triangles
        weights_of[hits.pixels] = hits.weights
    texels = np.flatnonzero(face_of >= 0)
    return texels, face_of[texels], np.clip(weights_of[texels], 0, 1)


def dilated(image: UInt8[np.ndarray, "h w 3"], filled: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Empty texels take the nearest filled one's colour: viewers blur across seams, and mipmaps across all of it."""
    if filled.all() or not filled.any():
        return image
    nearest = distance_transform_edt(~filled, return_distances=False, return_indices=True)
    return image[tuple(np.asarray(nearest))]
