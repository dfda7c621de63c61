"""Meshes that others made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from dreamfusion.errors import MeshError


def read_mesh(path: Path) -> trimesh.Trimesh:
    """The triangles of any file that trimesh reads, all parts as one, with their texture or colours.

    Raises:
        MeshError: no such file, a format that is not known, or no triangles in it.
    """
    if not path.is_file():
        raise MeshError(f"there is no mesh {path}")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh and its parsers raise whatever comes to their mind
        raise MeshError(f"{path} cannot be read as a mesh", got=str(error).splitlines()[0][:120]) from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise MeshError(f"{path} holds no triangles")
    if not np.isfinite(mesh.vertices).all():
        raise MeshError(f"{path} has vertices that are not finite")
    return mesh
