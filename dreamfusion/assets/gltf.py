"""GLB, the binary form of glTF 2.0, written from the specification (Khronos, glTF-2.0)."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import trimesh
from jaxtyping import UInt16
from PIL import Image

from dreamfusion.assets.normals import tangents, unit_normals
from dreamfusion.assets.texture import Texture

_FLOAT, _UINT32, _UINT16 = 5126, 5125, 5123
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _LINEAR_MIPMAPS, _CLAMP = 9729, 9987, 33071


class _Binary:
    """The one buffer of a GLB: views and accessors are noted as arrays go in."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, content: bytes, target: int | None = None) -> int:
        self.data.extend(b"\0" * (-len(self.data) % 4))
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        if target is not None:
            view["target"] = target
        self.views.append(view)
        self.data.extend(content)
        return len(self.views) - 1

    def accessor(
        self, values: np.ndarray, component: int, kind: str, target: int = _VERTICES, **more: Any
    ) -> int:
        view = self.view(np.ascontiguousarray(values).tobytes(), target)
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": len(values), "type": kind, **more}
        )
        return len(self.accessors) - 1


def glb(
    mesh: trimesh.Trimesh,
    colors: UInt16[np.ndarray, "v 4"] | None,
    texture: Texture | None,
    unlit: bool,
    generator: str,
) -> bytes:
    """A GLB of one mesh with normals, and colours at its vertices or a texture.

    Args:
        mesh: its vertex normals are written as they are.
        colors: linear, 16 bits normalised (3.7.2.1), or None.
        texture: its picture goes in as a PNG in sRGB (3.9.2), or None; with a normal map the tangents do, too, so that no
            viewer has to make up its own.
        unlit: `KHR_materials_unlit`: viewers show the colours as they are, without light.
        generator: named in the file.
    """
    binary = _Binary()
    positions = np.asarray(mesh.vertices, dtype=np.float32)
    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    attributes = {
        "POSITION": binary.accessor(positions, _FLOAT, "VEC3", **bounds),
        "NORMAL": binary.accessor(unit_normals(mesh).astype(np.float32), _FLOAT, "VEC3"),
    }
    if colors is not None:
        attributes["COLOR_0"] = binary.accessor(colors, _UINT16, "VEC4", normalized=True)
    if texture is not None:
        attributes["TEXCOORD_0"] = binary.accessor(texture.uvs.astype(np.float32), _FLOAT, "VEC2")
    pictures = [] if texture is None else [texture.image]
    if texture is not None and texture.normals is not None:
        along = tangents(mesh, texture.uvs).astype(np.float32)
        attributes["TANGENT"] = binary.accessor(along, _FLOAT, "VEC4")
        pictures.append(texture.normals)
    # 65535 itself would restart a strip.
    small = len(positions) < 65535
    indices = np.asarray(mesh.faces).astype(np.uint16 if small else np.uint32).ravel()
    index = binary.accessor(indices, _UINT16 if small else _UINT32, "SCALAR", _INDICES)
    tree: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": generator},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "object", "mesh": 0}],
        "meshes": [
            {"name": "object", "primitives": [{"attributes": attributes, "indices": index, "material": 0}]}
        ],
        "materials": [_material(len(pictures), unlit)],
    }
    if pictures:
        views = [binary.view(png(picture)) for picture in pictures]
        tree["images"] = [{"mimeType": "image/png", "bufferView": view} for view in views]
        tree["samplers"] = [
            {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}
        ]
        tree["textures"] = [{"source": index, "sampler": 0} for index in range(len(pictures))]
    if unlit:
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
    tree["accessors"], tree["bufferViews"] = binary.accessors, binary.views
    return _packed(tree, bytes(binary.data))


def _material(pictures: int, unlit: bool) -> dict[str, Any]:
    """Of a mesh with so many pictures: the colours, then the normals."""
    # glTF's default material is fully metallic, which is black without an environment to reflect.
    surface: dict[str, Any] = {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 1}
    if pictures > 0:
        surface["baseColorTexture"] = {"index": 0}
    material: dict[str, Any] = {"name": "object", "pbrMetallicRoughness": surface, "doubleSided": False}
    if pictures > 1:
        material["normalTexture"] = {"index": 1}
    if unlit:
        material["extensions"] = {"KHR_materials_unlit": {}}
    return material


def png(image: np.ndarray) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _packed(tree: dict[str, Any], binary: bytes) -> bytes:
    binary += b"\0" * (-len(binary) % 4)
    tree["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, length),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )
