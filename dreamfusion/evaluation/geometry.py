"""How near two surfaces are: Chamfer distance and normal consistency, by points seen on both."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float
from scipy.spatial import KDTree

from dreamfusion.posed_images.mesh_renderer import visible_points

SAMPLES = 100_000
# Cameras of the comparison: distance in radii of what is seen, and the pictures' side in pixels.
DISTANCE = 4.0
SIDE = 160


@dataclass(frozen=True)
class SurfaceAgreement:
    """How a mesh agrees with the true one.

    Attributes:
        chamfer: mean of the two mean distances to the other surface's nearest sample, in the meshes' units
            (Occupancy Networks, arXiv 1812.03828, supplement: "Chamfer-L1").
        accuracy: the one from the mesh to the truth.
        completeness: the one from the truth to the mesh.
        normal_consistency: mean of |n . n'| between nearest samples, both ways, in [0, 1] (same place).
    """

    chamfer: float
    accuracy: float
    completeness: float
    normal_consistency: float


def surface_agreement(mesh: trimesh.Trimesh, truth: trimesh.Trimesh, seed: int = 0) -> SurfaceAgreement:
    """Compare what can be seen of two meshes in the same world, from 26 sides.

    Photographs say nothing about the inside of a body, and a field leaves it as it happens to be; so surfaces that no ray
    from outside reaches do not count.

    Args:
        mesh, truth: neither needs to be closed.
        seed: of the choice of `SAMPLES` points on each; two samplings of one surface are about 0.5 sqrt(area / SAMPLES) apart.

    Raises:
        ValueError: nothing of a mesh can be seen.
    """
    generator = np.random.default_rng(seed)
    corners = np.concatenate([mesh.bounds, truth.bounds])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    radius = float(np.linalg.norm(corners.max(axis=0) - middle))
    (points, normals), (true_points, true_normals) = (
        _seen(surface, middle, radius, generator) for surface in (mesh, truth)
    )
    to_truth, nearest_true = KDTree(true_points).query(points)
    to_mesh, nearest = KDTree(points).query(true_points)
    forth = np.abs((normals * true_normals[nearest_true]).sum(-1)).mean()
    back = np.abs((true_normals * normals[nearest]).sum(-1)).mean()
    accuracy, completeness = float(to_truth.mean()), float(to_mesh.mean())
    return SurfaceAgreement((accuracy + completeness) / 2, accuracy, completeness, float((forth + back) / 2))


def _seen(
    mesh: trimesh.Trimesh, middle: Float[np.ndarray, "3"], radius: float, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Points that pictures from all 26 neighbours' directions of a cube see, and the normals there."""
    sides = [np.array(side, dtype=float) for side in itertools.product((-1, 0, 1), repeat=3) if any(side)]
    fovy_deg = 2 * math.degrees(math.asin(1 / DISTANCE))
    views = []
    for side in sides:
        back = side / np.linalg.norm(side)
        right = np.cross([0.0, 1.0, 0.0] if abs(back[1]) < 0.9 else [0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        c2w = np.eye(4)
        c2w[:3] = np.stack([right, np.cross(back, right), back, middle + DISTANCE * radius * back], axis=-1)
        views.append(visible_points(mesh, c2w, fovy_deg, SIDE))
    points, normals = (np.concatenate(parts) for parts in zip(*views, strict=True))
    if not len(points):
        raise ValueError("nothing of the mesh can be seen")
    chosen = generator.choice(len(points), min(SAMPLES, len(points)), replace=False)
    return points[chosen], normals[chosen]
