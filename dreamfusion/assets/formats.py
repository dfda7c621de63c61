"""Mesh files: GLB, OBJ, PLY, STL, 3MF, USDZ, written whole or not at all.

A mesh comes in with 8-bit sRGB vertex colours or a texture, because a NeRF's albedo is trained to match sRGB images.
Each format gets what it expects:

| format | colours at vertices | texture | normals | remark |
|---|---|---|---|---|
| glb | COLOR_0, linear, 16 bits (glTF 2.0, 3.7.2.1 and 3.9.2) | PNG inside, sRGB | yes | metallic 0, roughness 1, one-sided |
| obj | six numbers after `v`, sRGB in [0, 1] (a common extension, no standard) | MTL and PNG beside it | yes | |
| ply | red green blue alpha, sRGB, 8 bits | no | yes | binary |
| stl | no | no | per face | binary |
| 3mf | sRGB | no | no | Z-up, in millimetres, 10 cm high unless told |
| usdz | linear | PNG inside, sRGB | yes | by the optional usd-core |

Positions are the world's in every format but 3mf: +Y up, the front faces +Z. That is glTF's own frame; programs that
take OBJ, PLY or STL as Z-up (slicers) show the object lying on its back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import UInt8, UInt16
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.exchange.stl import export_stl

from dreamfusion.assets.files import atomic_path, choose_format
from dreamfusion.assets.gltf import glb, png
from dreamfusion.assets.texture import Texture
from dreamfusion.assets.threemf import threemf
from dreamfusion.assets.usdz import usdz
from dreamfusion.errors import ConfigError
from dreamfusion.posed_images.paint import linear_to_srgb as linear_to_srgb
from dreamfusion.posed_images.paint import srgb_to_linear as srgb_to_linear

GENERATOR = "dreamfusion"
# What one unit of a file is taken for, in cm: glTF's is the metre, and a slicer's the millimetre.
UNIT_CM = {"glb": 100.0, "obj": 100.0, "ply": 100.0, "stl": 0.1, "3mf": 0.1, "usdz": 100.0}
# A world unit is two metres in no printer.
PRINT_HEIGHT_CM = 10.0
TEXTURED = ("glb", "obj", "usdz")
NORMAL_MAPPED = ("glb", "obj")


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


@dataclass(frozen=True)
class _Asset:
    """What a writer gets: `name` is that of the file without its ending."""

    mesh: trimesh.Trimesh
    texture: Texture | None
    unlit: bool
    name: str


def write_mesh(
    mesh: trimesh.Trimesh,
    path: Path | str,
    format: str | None = None,
    height_cm: float | int | None = None,
    *,
    texture: Texture | None = None,
    unlit: bool = False,
) -> Path:
    """Writes the mesh with its colours and normals; the file appears only when it is complete.

    Args:
        mesh: 8-bit sRGB vertex colours, as `extract_mesh` makes them, or split at the texture's seams.
        path: missing folders are made; a file that is there is replaced.
        format: one of glb, obj, ply, stl, 3mf, usdz; None takes it from the path's ending.
        height_cm: real height of the object; None writes world units (3mf: 10 cm).
        texture: for glb, obj and usdz; its normal map for glb and obj.
        unlit: for glb: viewers show the colours as they are.

    Returns:
        The path written. An OBJ's material and picture lie beside it under the same name.

    Raises:
        OutputError: unknown format, or the file cannot be written.
        ConfigError: a texture or `unlit` for a format that cannot hold it.
    """
    path = Path(path)
    chosen = choose_format(path, format, tuple(WRITERS))
    if texture is not None and chosen not in TEXTURED:
        raise ConfigError("a texture", expected="one of " + ", ".join(TEXTURED), got=chosen)
    if texture is not None and texture.normals is not None and chosen not in NORMAL_MAPPED:
        raise ConfigError("a normal map", expected="one of " + ", ".join(NORMAL_MAPPED), got=chosen)
    if unlit and chosen != "glb":
        raise ConfigError("an unlit material", expected="glb", got=chosen)
    if chosen == "3mf" and height_cm is None:
        height_cm = PRINT_HEIGHT_CM
    asset = _Asset(scaled(mesh, height_cm, chosen), texture, unlit, path.stem)
    # The file that names the others comes last.
    for ending, content in reversed(WRITERS[chosen](asset).items()):
        with atomic_path(path if ending == "" else path.with_name(path.stem + ending)) as temporary:
            temporary.write_bytes(content)
    return path


def glb_bytes(mesh: trimesh.Trimesh, texture: Texture | None = None, unlit: bool = False) -> bytes:
    """The mesh as the bytes of a GLB; the arguments are those of `write_mesh`."""
    colors = None if texture is not None else linear_color_16bit(vertex_colors(mesh))
    return glb(mesh, colors, texture, unlit, GENERATOR)


def _glb(asset: _Asset) -> dict[str, bytes]:
    return {"": glb_bytes(asset.mesh, asset.texture, asset.unlit)}


def _obj(asset: _Asset) -> dict[str, bytes]:
    if asset.texture is None:
        text = export_obj(asset.mesh, include_normals=True, include_texture=False, header=GENERATOR)
        return {"": str(text).encode()}
    mesh, uvs = asset.mesh, asset.texture.uvs
    lines = [f"# {GENERATOR}", f"mtllib {asset.name}.mtl", "o object", "usemtl object"]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in mesh.vertices.tolist()]
    # OBJ's pictures have their origin at the bottom left.
    lines += [f"vt {u:.7g} {1 - v:.7g}" for u, v in uvs.tolist()]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in mesh.vertex_normals.tolist()]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in (mesh.faces + 1).tolist()]
    material = ["newmtl object", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {asset.name}.png"]
    pictures = {".png": png(asset.texture.image)}
    if asset.texture.normals is not None:
        # `norm` is a normal map in tangent space, green up, and nothing else; `map_Bump` may be taken for heights.
        material.append(f"norm {asset.name}-normal.png")
        pictures["-normal.png"] = png(asset.texture.normals)
    texts = {"": lines, ".mtl": material}
    return {ending: ("\n".join(text) + "\n").encode() for ending, text in texts.items()} | pictures


def _ply(asset: _Asset) -> dict[str, bytes]:
    return {"": bytes(export_ply(asset.mesh, vertex_normal=True))}


def _stl(asset: _Asset) -> dict[str, bytes]:
    return {"": bytes(export_stl(asset.mesh))}


def _threemf(asset: _Asset) -> dict[str, bytes]:
    return {"": threemf(asset.mesh, vertex_colors(asset.mesh), GENERATOR)}


def _usdz(asset: _Asset) -> dict[str, bytes]:
    colors = None
    if asset.texture is None:
        colors = srgb_to_linear(vertex_colors(asset.mesh)[:, :3] / 255.0)
    return {"": usdz(asset.mesh, colors, asset.texture, UNIT_CM["usdz"] / 100)}


WRITERS: dict[str, Callable[[_Asset], dict[str, bytes]]] = {
    "glb": _glb,
    "obj": _obj,
    "ply": _ply,
    "stl": _stl,
    "3mf": _threemf,
    "usdz": _usdz,
}
