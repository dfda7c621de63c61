"""Mesh files: GLB, OBJ, PLY, STL, written whole or not at all.

A mesh comes in with 8-bit sRGB vertex colours, because a NeRF's albedo is trained to match sRGB images. Each format gets
what it expects:

| format | colours | normals | remark |
|---|---|---|---|
| glb | COLOR_0, linear, 16-bit normalised (glTF 2.0, 3.7.2.1 and 3.9.2) | yes | material: metallic 0, roughness 1, one-sided |
| obj | six numbers after `v`, sRGB in [0, 1] (a common extension, no standard) | yes | |
| ply | red green blue alpha, sRGB, 8 bits | yes | binary |
| stl | none | per face | binary |

Positions are the world's in every format: +Y up, the front faces +Z. That is glTF's own frame; programs that take
OBJ, PLY or STL as Z-up (slicers) show the object lying on its back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, UInt8, UInt16
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.exchange.stl import export_stl

from dreamfusion.assets.files import atomic_path, choose_format

GENERATOR = "dreamfusion"
# What one unit of a file is taken for, in cm: glTF's is the metre, and a slicer's the millimetre.
UNIT_CM = {"glb": 100.0, "obj": 100.0, "ply": 100.0, "stl": 0.1}


def srgb_to_linear(srgb: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The linear light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The inverse of `srgb_to_linear`."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0.0) ** (1 / 2.4) - 0.055)


def linear_color_16bit(srgb: UInt8[np.ndarray, "v 4"]) -> UInt16[np.ndarray, "v 4"]:
    """glTF's COLOR_0 from sRGB bytes: linear, alpha as it is.

    With 16 bits the 256 sRGB values stay apart; in 8 linear bits the darkest twenty would fall into two.
    """
    values = srgb.astype(np.float64) / 255
    values[:, :3] = srgb_to_linear(values[:, :3])
    return np.round(values * 65535).astype(np.uint16)


def vertex_colors(mesh: trimesh.Trimesh) -> UInt8[np.ndarray, "v 4"]:
    """The mesh's 8-bit sRGB colours and alpha."""
    visual: Any = mesh.visual
    return np.asarray(visual.vertex_colors)


def scaled(mesh: trimesh.Trimesh, height_cm: float | int | None, format: str) -> trimesh.Trimesh:
    """The mesh so high (along +Y), in the unit that programs take the format's numbers for; None leaves world units."""
    if height_cm is None:
        return mesh
    height = float(np.ptp(mesh.vertices[:, 1]))
    factor = height_cm / UNIT_CM[format] / height
    # A copy keeps colours, and the normals do not change by a uniform scale.
    larger = mesh.copy()
    larger.apply_scale(factor)
    return larger


def write_mesh(
    mesh: trimesh.Trimesh, path: Path | str, format: str | None = None, height_cm: float | int | None = None
) -> Path:
    """Writes the mesh with its vertex colours and normals; the file appears only when it is complete.

    Args:
        mesh: 8-bit sRGB vertex colours, as `extract_mesh` makes them.
        path: missing folders are made; a file that is there is replaced.
        format: one of glb, obj, ply, stl; None takes it from the path's ending.
        height_cm: real height of the object; None writes world units.

    Returns:
        The path written.

    Raises:
        OutputError: unknown format, or the file cannot be written.
    """
    path = Path(path)
    chosen = choose_format(path, format, tuple(WRITERS))
    mesh = scaled(mesh, height_cm, chosen)
    with atomic_path(path) as temporary:
        temporary.write_bytes(WRITERS[chosen](mesh))
    return path


def _glb(mesh: trimesh.Trimesh) -> bytes:
    # trimesh writes COLOR_0 in 8 bits only. A custom attribute keeps its type, so the colours go in as one and are
    # given their real name afterwards.
    bare = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.vertex_normals, process=False, validate=False
    )
    bare.vertex_attributes["_COLOR_0"] = linear_color_16bit(vertex_colors(mesh))
    return bytes(export_glb(bare, include_normals=True, tree_postprocessor=_finish_gltf))


def _finish_gltf(tree: dict[str, Any]) -> None:
    tree["asset"]["generator"] = GENERATOR
    # glTF's default material is fully metallic, which is black without an environment to reflect.
    tree["materials"] = [
        {
            "name": "object",
            "pbrMetallicRoughness": {
                "baseColorFactor": [1, 1, 1, 1],
                "metallicFactor": 0,
                "roughnessFactor": 1,
            },
            "doubleSided": False,
        }
    ]
    tree["meshes"][0]["name"] = tree["nodes"][0]["name"] = "object"
    primitive = tree["meshes"][0]["primitives"][0]
    primitive["material"] = 0
    primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_COLOR_0")
    tree["accessors"][primitive["attributes"]["COLOR_0"]]["normalized"] = True


def _obj(mesh: trimesh.Trimesh) -> bytes:
    return str(export_obj(mesh, include_normals=True, include_texture=False, header=GENERATOR)).encode()


def _ply(mesh: trimesh.Trimesh) -> bytes:
    return bytes(export_ply(mesh, vertex_normal=True))


def _stl(mesh: trimesh.Trimesh) -> bytes:
    return bytes(export_stl(mesh))


WRITERS: dict[str, Callable[[trimesh.Trimesh], bytes]] = {"glb": _glb, "obj": _obj, "ply": _ply, "stl": _stl}
