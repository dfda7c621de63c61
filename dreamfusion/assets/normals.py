"""A normal map: how the dense surface leans away from the decimated one, texel by texel, in tangent space.

glTF 2.0 (3.9.3 and 3.7.2.1) leaves no choice. At each vertex stand the normal N, the tangent T along growing u, and a sign
w; B = w (N x T) points up in the picture, towards smaller v, where w is -1 on charts that the picture shows mirrored.
A texel's red, green and blue are the shares of T, B and N, from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh
from jaxtyping import Float, UInt8
from scipy.spatial import KDTree

from dreamfusion.assets.atlas import Atlas
from dreamfusion.assets.sampling import blocks
from dreamfusion.assets.texture import covered, dilated

# Vertices of the dense mesh that a texel's normal is mixed from; the last one weighs nothing, so that no step shows.
NEIGHBOURS = 8
# Texels a block: 8 neighbours with a normal each stay under 50 MB.
BLOCK = 1 << 17
_TINY = 1e-12


def tangents(mesh: trimesh.Trimesh, uvs: Float[np.ndarray, "v 2"]) -> Float[np.ndarray, "v 4"]:
    """For each vertex the unit tangent along growing u, at right angles to its normal, and the sign w.

    Args:
        mesh: split at the atlas's seams.
        uvs: of its vertices, the origin at the picture's top left.
    """
    faces, points, normals = np.asarray(mesh.faces), np.asarray(mesh.vertices), unit_normals(mesh)
    first, second = (points[faces[:, k]] - points[faces[:, 0]] for k in (1, 2))
    (du1, dv1), (du2, dv2) = ((uvs[faces[:, k]] - uvs[faces[:, 0]]).T for k in (1, 2))
    # v grows downwards: a chart that is not mirrored turns the other way round in (u, v).
    signs = -np.sign(du1 * dv2 - du2 * dv1)
    along = -signs[:, None] * (dv2[:, None] * first - dv1[:, None] * second)
    # Larger faces count more; a face without a place in the picture counts nothing.
    areas = np.linalg.norm(np.cross(first, second), axis=1) * (signs != 0)
    lengths = np.linalg.norm(along, axis=1)
    along *= (areas / np.where(lengths > 0, lengths, 1.0))[:, None]
    sums, turns = np.zeros_like(points), np.zeros(len(points))
    for corner in range(3):
        np.add.at(sums, faces[:, corner], along)
        np.add.at(turns, faces[:, corner], signs * areas)
    found = _across(normals, sums)
    return np.concatenate([found, np.where(turns < 0, -1.0, 1.0)[:, None]], axis=1)


def unit_normals(mesh: trimesh.Trimesh) -> Float[np.ndarray, "v 3"]:
    """Vertex normals of length 1; a vertex whose faces cancel out gets one that is as good as any other."""
    normals = np.asarray(mesh.vertex_normals, dtype=np.float64)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(lengths > 1e-8, normals / np.maximum(lengths, 1e-8), [0.0, 1.0, 0.0])


def _across(normals: Float[np.ndarray, "n 3"], wanted: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Unit vectors at right angles to unit `normals`, as near as can be to `wanted`; any where that says nothing."""
    flat = wanted - (wanted * normals).sum(axis=1, keepdims=True) * normals
    lost = np.linalg.norm(flat, axis=1) <= 1e-9 * np.linalg.norm(wanted, axis=1)
    # The axis that the normal has least of is never parallel to it.
    axes = np.eye(3)[np.abs(normals[lost]).argmin(axis=1)]
    flat[lost] = axes - (axes * normals[lost]).sum(axis=1, keepdims=True) * normals[lost]
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def bake_normals(
    mesh: trimesh.Trimesh,
    atlas: Atlas,
    dense: trimesh.Trimesh,
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The dense mesh's normals at every texel of the decimated one, in its tangent space, and gutters around them.

    Args:
        mesh: split at the atlas's seams.
        atlas: of that mesh.
        dense: the surface before decimation, in the same place.
        size: side of the picture in texels.
        progress: called with (texels done, texels in all).
    """
    texels, faces, weights = covered(atlas, size)
    basis, tree, own = tangents(mesh, atlas.uvs), KDTree(dense.vertices), unit_normals(mesh)
    dense_normals = unit_normals(dense)
    image = np.zeros((size * size, 3), dtype=np.uint8)
    for block in blocks(len(texels), BLOCK):
        corners, shares = atlas.faces[faces[block]], weights[block]

        def mixed(
            values: np.ndarray, corners: np.ndarray = corners, shares: np.ndarray = shares
        ) -> np.ndarray:
            return np.einsum("nk,nkc->nc", shares, values[corners])

        normals = mixed(own)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), _TINY)
        along = _across(normals, mixed(basis[:, :3]))
        up = np.cross(normals, along) * basis[corners[:, 0], 3:]
        seen = _nearby(tree, dense_normals, mixed(np.asarray(mesh.vertices)), normals)
        parts = np.stack([(seen * axis).sum(axis=1) for axis in (along, up, normals)], axis=-1)
        image[texels[block]] = np.round((parts + 1) / 2 * 255)
        progress(block.stop, len(texels))
    filled = np.zeros(size * size, dtype=bool)
    filled[texels] = True
    return dilated(image.reshape(size, size, 3), filled.reshape(size, size))


def _nearby(
    tree: KDTree,
    dense_normals: Float[np.ndarray, "w 3"],
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n 3"]:
    """The dense surface's unit normal near each point, mixed from its nearest vertices that look the same way.

    Those that look the other way are the far side of something thin.
    """
    distances, index = tree.query(points, k=min(NEIGHBOURS, tree.n))
    # A neighbour comes in, and leaves, with no weight: the mixture does not jump from texel to texel.
    weights = (1 - distances / np.maximum(distances[:, -1:], _TINY)) ** 2 + _TINY
    found = dense_normals[index]
    weights *= (found * normals[:, None]).sum(axis=-1) > 0
    sums = (weights[..., None] * found).sum(axis=1)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 1e-15, sums / np.maximum(lengths, 1e-15), normals)
