"""How near two surfaces are: Chamfer distance and normal consistency, by points sampled on both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class SurfaceAgreement:
    """How a mesh agrees with the true one.

    Attributes:
        chamfer: mean of the two mean distances to the other surface's nearest sample, in the meshes' units
            (Occupancy Networks, arXiv 1812.03828, App. B: "Chamfer-L1").
        accuracy: the one from the mesh to the truth.
        completeness: the one from the truth to the mesh.
        normal_consistency: mean of |n . n'| between nearest samples, both ways, in [0, 1] (same place).
    """

    chamfer: float
    accuracy: float
    completeness: float
    normal_consistency: float


def surface_agreement(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, samples: int = 100_000, seed: int = 0
) -> SurfaceAgreement:
    """Compare two meshes in the same world.

    Args:
        mesh, truth: neither needs to be closed.
        samples: points on each, uniform in area; two samplings of one surface are about 0.5 sqrt(area / samples) apart.
        seed: of the sampling.
    """
    generator = np.random.default_rng(seed)
    (points, normals), (true_points, true_normals) = (
        _sampled(surface, samples, generator) for surface in (mesh, truth)
    )
    to_truth, nearest_true = cKDTree(true_points).query(points)
    to_mesh, nearest = cKDTree(points).query(true_points)
    forth = np.abs((normals * true_normals[nearest_true]).sum(-1)).mean()
    back = np.abs((true_normals * normals[nearest]).sum(-1)).mean()
    accuracy, completeness = float(to_truth.mean()), float(to_mesh.mean())
    return SurfaceAgreement((accuracy + completeness) / 2, accuracy, completeness, float((forth + back) / 2))


def _sampled(
    mesh: trimesh.Trimesh, count: int, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Points on the surface and the normals of their faces."""
    triangles = np.asarray(mesh.triangles)
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    doubled = np.linalg.norm(cross, axis=-1)
    face = generator.choice(len(triangles), size=count, p=doubled / doubled.sum())
    u, v = generator.random((2, count, 1))
    beyond = u + v > 1  # the other half of the parallelogram
    u, v = np.where(beyond, 1 - u, u), np.where(beyond, 1 - v, v)
    a, b, c = triangles[face, 0], triangles[face, 1], triangles[face, 2]
    return a + u * (b - a) + v * (c - a), cross[face] / doubled[face, None]
