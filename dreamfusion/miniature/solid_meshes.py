"""The solids of a scene as triangle meshes: each one closed, of its own colour."""

from __future__ import annotations

import math

import numpy as np
import trimesh
from jaxtyping import Float, Int

from dreamfusion.miniature.solids import BOX, SPHERE, Solids

SEGMENTS = 32
_POINT = 1e-6


def meshes_of(solids: Solids, segments: int = SEGMENTS) -> list[trimesh.Trimesh]:
    """One watertight mesh for each solid of a single scene, outward normals, 8-bit sRGB vertex colours.

    Curved sides are inscribed: a ring of n segments lies up to a share of pi^2 / (2 n^2) inside, 0.5 % for 32.
    """
    made = []
    for index in range(len(solids)):
        bottom = max(float(solids.keep_above[index]), -1.0)
        kind, ratio = int(solids.kind[index]), float(solids.top_ratio[index])
        vertices, faces = _unit_box(bottom) if kind == BOX else _turned(kind, ratio, bottom, segments)
        matrix = solids.to_world[index].double().numpy()
        if np.linalg.det(matrix[:3, :3]) < 0:  # a mirror turns the winding over
            faces = faces[:, ::-1]
        rgb = np.round(solids.rgb[index].double().numpy() * 255).clip(0, 255)
        colors = np.tile(np.array([*rgb, 255], dtype=np.uint8), (len(vertices), 1))
        world = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        made.append(trimesh.Trimesh(world, faces, vertex_colors=colors, process=False))
    return made


def _turned(
    kind: int, ratio: float, bottom: float, segments: int
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """A unit sphere or frustum from y = `bottom` up: rings of its profile, closed at both ends."""
    if kind == SPHERE:
        angles = np.linspace(math.asin(bottom), math.pi / 2, segments // 2 + 1)
        y, radius = np.sin(angles), np.cos(angles)
    else:
        y = np.array([bottom, 1.0])
        radius = 1.0 + (ratio - 1.0) * (y + 1.0) / 2.0
    around = np.arange(segments) * (2 * math.pi / segments)
    rings = radius > _POINT
    ring = np.stack([np.cos(around), np.zeros(segments), np.sin(around)], -1)
    vertices = [ring * r + [0.0, h, 0.0] for h, r in zip(y[rings], radius[rings], strict=True)]
    count = len(vertices)
    # Both ends are one point: the middle of a lid, or the tip itself.
    vertices += [np.array([[0.0, y[0], 0.0]]), np.array([[0.0, y[-1], 0.0]])]
    here = np.arange(segments)
    there = (here + 1) % segments
    low, high = np.full(segments, count * segments), np.full(segments, count * segments + 1)
    last = (count - 1) * segments
    faces = [np.stack([low, here, there], -1), np.stack([high, last + there, last + here], -1)]
    for start in range(0, last, segments):
        a, b = start + here, start + there
        faces += [np.stack([a, a + segments, b], -1), np.stack([b, a + segments, b + segments], -1)]
    return np.concatenate(vertices), np.concatenate(faces)


def _unit_box(bottom: float) -> tuple[Float[np.ndarray, "8 3"], Int[np.ndarray, "12 3"]]:
    box = trimesh.creation.box(bounds=[[-1.0, bottom, -1.0], [1.0, 1.0, 1.0]])
    return np.asarray(box.vertices), np.asarray(box.faces)
