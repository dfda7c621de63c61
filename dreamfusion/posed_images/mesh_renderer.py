"""A software renderer for triangle meshes in NumPy, which shares nothing with the one that is trained: ground truth.

All (triangle, pixel) pairs of the triangles' boxes on the screen are made at once, tested by edge functions, and reduced to the
nearest triangle of each sample point. Colours come from the texture, the vertices, the faces or the material.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, Int

from dreamfusion.posed_images.paint import painted

# Pairs worked on at once: bounds the memory, about 100 bytes each.
_PAIRS_PER_CHUNK = 2_000_000
_NEAR = 1e-3


@dataclass(frozen=True)
class Light:
    """A lamp infinitely far away, fixed in the world, and light from everywhere; ambient 1 and diffuse 0 give plain colours."""

    direction: tuple[float, float, float] = (0.4, 0.8, 0.45)
    ambient: float = 0.6
    diffuse: float = 0.4


def render_mesh(
    mesh: trimesh.Trimesh,
    c2w: Float[np.ndarray, "4 4"],
    fovy_deg: float,
    size: int,
    supersample: int = 3,
    light: Light | None = None,
) -> Float[np.ndarray, "size size 4"]:
    """One square picture, sRGB not multiplied with its opacity, both in [0, 1].

    Args:
        mesh: its faces are seen from both sides.
        c2w: camera to world, OpenGL's camera.
        fovy_deg: vertical field of view.
        size: side in pixels.
        supersample: squared, the sample points a pixel.
        light: None: plain colours. Its strength is multiplied with the sRGB values, as the package's shading does.
    """
    side = size * supersample
    screen, ahead = _projected(mesh, c2w, fovy_deg, side)
    in_front, safe = np.asarray((ahead > _NEAR).all(axis=1)), np.maximum(ahead, _NEAR)
    face, shares, point = _nearest(screen, safe, in_front, side)
    colours = surface_colours(mesh, face, shares)
    if light is not None:
        normals = np.asarray(mesh.face_normals)[face]
        # A face seen from behind is lit as if it faced the eye.
        eye = c2w[:3, 3] - np.asarray(mesh.triangles_center)[face]
        normals = normals * np.where((normals * eye).sum(-1) < 0, -1.0, 1.0)[:, None]
        towards = np.asarray(light.direction) / np.linalg.norm(light.direction)
        strength = light.ambient + light.diffuse * np.clip(normals @ towards, 0, None)
        colours = colours * np.minimum(strength, 1.0)[:, None]
    samples = np.zeros((side * side, 4))
    samples[point, :3], samples[point, 3] = colours, 1.0
    pixels = samples.reshape(size, supersample, size, supersample, 4).mean(axis=(1, 3))
    pixels[..., :3] /= np.maximum(pixels[..., 3:], 1e-9)
    return pixels


def visible_points(
    mesh: trimesh.Trimesh, c2w: Float[np.ndarray, "4 4"], fovy_deg: float, side: int
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Where the rays of one picture meet the surface first, and the unit normals of the faces there, towards the eye."""
    screen, ahead = _projected(mesh, c2w, fovy_deg, side)
    face, shares, _ = _nearest(
        screen, np.maximum(ahead, _NEAR), np.asarray((ahead > _NEAR).all(axis=1)), side
    )
    points = (np.asarray(mesh.triangles)[face] * shares[..., None]).sum(axis=1)
    normals = np.asarray(mesh.face_normals)[face]
    away = (normals * (c2w[:3, 3] - points)).sum(axis=-1) < 0
    return points, normals * np.where(away, -1.0, 1.0)[:, None]


def _projected(
    mesh: trimesh.Trimesh, c2w: Float[np.ndarray, "4 4"], fovy_deg: float, side: int
) -> tuple[Float[np.ndarray, "f 3 2"], Float[np.ndarray, "f 3"]]:
    """The triangles' corners on the screen, where sample points lie at whole numbers, and how far ahead they are."""
    w2c = np.linalg.inv(c2w)
    corners = np.asarray(mesh.triangles) @ w2c[:3, :3].T + w2c[:3, 3]
    ahead = -corners[..., 2]
    focal = side / (2 * np.tan(np.radians(fovy_deg) / 2))
    safe = np.maximum(ahead, _NEAR)
    screen = np.stack([corners[..., 0], -corners[..., 1]], axis=-1) / safe[..., None] * focal
    return screen + (side - 1) / 2, ahead


def _nearest(
    screen: Float[np.ndarray, "f 3 2"], ahead: Float[np.ndarray, "f 3"], usable: np.ndarray, side: int
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
    """The visible triangle of each sample point that has one, the shares of its corners there, and the point's index."""
    low = np.clip(np.ceil(screen.min(axis=1)), 0, side).astype(np.int64)
    high = np.clip(np.floor(screen.max(axis=1)), -1, side - 1).astype(np.int64)
    widths = np.maximum(high - low + 1, 0)
    counts = np.where(usable, widths[:, 0] * widths[:, 1], 0)
    inverse_depth = np.zeros(side * side)
    best = np.full(side * side, -1)
    best_shares = np.zeros((side * side, 3))
    kept = counts.nonzero()[0]
    ends = counts[kept].cumsum()
    for chunk in np.split(
        kept, np.searchsorted(ends, np.arange(_PAIRS_PER_CHUNK, int(counts.sum()), _PAIRS_PER_CHUNK))
    ):
        if not len(chunk):
            continue
        face = np.repeat(chunk, counts[chunk])
        local = np.arange(len(face)) - np.repeat(counts[chunk].cumsum() - counts[chunk], counts[chunk])
        column = low[face, 0] + local % widths[face, 0]
        row = low[face, 1] + local // widths[face, 0]
        shares = _screen_shares(screen[face], column, row)
        inside = (shares >= 0).all(axis=1)
        face, shares, point = face[inside], shares[inside], (row * side + column)[inside]
        # 1/depth is linear on the screen; so are the attributes divided by depth.
        weighted = shares / ahead[face]
        near = weighted.sum(axis=1)
        order = np.lexsort((near, point))
        last = np.append(point[order][1:] != point[order][:-1], True) if len(order) else np.zeros(0, bool)
        winners = order[last]
        winners = winners[near[winners] > inverse_depth[point[winners]]]
        target = point[winners]
        inverse_depth[target], best[target] = near[winners], face[winners]
        best_shares[target] = weighted[winners] / near[winners, None]
    hit = (best >= 0).nonzero()[0]
    return best[hit], best_shares[hit], hit


def _screen_shares(
    corners: Float[np.ndarray, "n 3 2"], column: Int[np.ndarray, " n"], row: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Barycentric coordinates on the screen; -1 for triangles without an area."""
    a, b, c = (corners[:, index] - np.stack([column, row], axis=-1) for index in range(3))

    def cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

    parts = np.stack([cross(b, c), cross(c, a), cross(a, b)], axis=-1)
    area = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, area, out=np.full_like(parts, -1.0), where=np.abs(area) > 1e-12)


# ------------------------------------------------------------------------------------------------ colours


def surface_colours(
    mesh: trimesh.Trimesh, face: Int[np.ndarray, " n"], shares: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """sRGB in [0, 1] at points of faces, by the shares of their corners."""
    return painted(mesh.visual, np.asarray(mesh.faces)).at(face, shares)
