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
        texture: its picture goes in as a PNG in sRGB (3.9.2), or None.
        unlit: `KHR_materials_unlit`: viewers show the colours as they are, without light.
        generator: named in the file.
    """
    binary = _Binary()
    positions = np.asarray(mesh.vertices, dtype=np.float32)
    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    attributes = {
        "POSITION": binary.accessor(positions, _FLOAT, "VEC3", **bounds),
        "NORMAL": binary.accessor(_unit(np.asarray(mesh.vertex_normals)), _FLOAT, "VEC3"),
    }
    if colors is not None:
        attributes["COLOR_0"] = binary.accessor(colors, _UINT16, "VEC4", normalized=True)
    if texture is not None:
        attributes["TEXCOORD_0"] = binary.accessor(texture.uvs.astype(np.float32), _FLOAT, "VEC2")
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
        "materials": [_material(texture is not None, unlit)],
    }
    if texture is not None:
        tree["images"] = [{"mimeType": "image/png", "bufferView": binary.view(png(texture.image))}]
        tree["samplers"] = [
            {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}
        ]
        tree["textures"] = [{"source": 0, "sampler": 0}]
    if unlit:
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
    tree["accessors"], tree["bufferViews"] = binary.accessors, binary.views
    return _packed(tree, bytes(binary.data))


def _material(textured: bool, unlit: bool) -> dict[str, Any]:
    # glTF's default material is fully metallic, which is black without an environment to reflect.
    surface: dict[str, Any] = {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 1}
    if textured:
        surface["baseColorTexture"] = {"index": 0}
    material: dict[str, Any] = {"name": "object", "pbrMetallicRoughness": surface, "doubleSided": False}
    if unlit:
        material["extensions"] = {"KHR_materials_unlit": {}}
    return material


def _unit(normals: np.ndarray) -> np.ndarray:
    """float32 unit vectors; a vertex whose faces cancel out gets one that is as good as any other."""
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(lengths > 1e-8, normals / np.maximum(lengths, 1e-8), [0.0, 1.0, 0.0]).astype(np.float32)


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
