"""Meshes that others made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh

from dreamfusion.assets.parts import Part, joined
from dreamfusion.assets.read_gltf import read_gltf
from dreamfusion.assets.read_obj import read_obj
from dreamfusion.assets.read_ply import read_ply
from dreamfusion.assets.read_threemf import read_threemf
from dreamfusion.assets.read_usd import read_usd
from dreamfusion.documents import open_regular
from dreamfusion.errors import MeshError
from dreamfusion.posed_images.paint import painted
from dreamfusion.progress import notice

Up = Literal["x", "y", "z"]
MAX_COORDINATE = 1e30
_READERS = {
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".3mf": read_threemf,
    **dict.fromkeys((".usd", ".usda", ".usdc", ".usdz"), read_usd),
}
# trimesh would unpack them, and read what is in them by rules of its own.
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
# From a file in which an axis is up to +Y up: turns, which keep right-handed what was.
_TURNS = {
    "x": [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "y": np.eye(4).tolist(),
    "z": [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]],
}


def read_mesh(path: Path, report: Callable[[str], None] = notice, up: Up = "y") -> trimesh.Trimesh:
    """The triangles of a file, all parts as one, with their textures and colours (`dreamfusion.posed_images.paint`).

    Args:
        path: glTF, OBJ, PLY, 3MF, USD, or any other format that trimesh reads.
        report: called with one line for each thing in the file that is not used although it changes the object's look.
        up: the axis that points up in the file; +Z stays the front if that is x, and -Y becomes the front if that is z.

    Raises:
        MeshError: no such file, a format that is not known or needs what is not supported, or no triangles in it.
    """
    if not path.is_file():
        raise MeshError(f"there is no mesh {path}")
    told: set[str] = set()

    def once(text: str) -> None:
        if text not in told:
            told.add(text)
            report(text)

    try:
        mesh = joined(_parts(path, once))
    except MeshError:
        raise
    except (
        Exception
    ) as error:  # trimesh and its parsers raise whatever comes to their mind, as damaged files make ours
        text = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise MeshError(f"{path} cannot be read as a mesh", got=text) from error
    if not len(mesh.faces):
        raise MeshError(f"{path} holds no triangles")
    if not np.abs(mesh.vertices).max() < MAX_COORDINATE:  # nan is not
        raise MeshError(f"{path} has vertices that are not finite, or too far away")
    return mesh.apply_transform(_TURNS[up])


def _parts(path: Path, report: Callable[[str], None]) -> list[Part]:
    ending = path.suffix.lower()
    if _is_glb(path):
        return read_gltf(path, report)
    if ending in _ARCHIVES:
        raise MeshError(f"{path} is an archive", hint="unpack it and give the mesh in it")
    if (reader := _READERS.get(ending)) is not None:
        return reader(path, report)
    scene: Any = trimesh.load_scene(path, process=False)
    parts = []
    for mesh in scene.dump():
        if not isinstance(mesh, trimesh.Trimesh):
            continue
        faces = np.asarray(mesh.faces)
        paint = painted(mesh.visual, faces)
        vertices = np.asarray(mesh.vertices, np.float64)
        parts.append(Part(vertices, faces, paint.paints[0], paint.uvs, paint.corners))
    return parts


def _is_glb(path: Path) -> bool:
    """By its first bytes: avatars and other relatives of GLB have endings of their own."""
    with open_regular(path, error=MeshError) as file:
        return file.read(4) == b"glTF"
