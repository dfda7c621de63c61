"""glTF 2.0 files, .glb and .gltf, read from the specification (Khronos, glTF-2.0): triangles and base colours.

Used: the default scene with its nodes' transforms, triangles, strips and fans, sparse and normalised accessors, the rest pose of
skins and morph targets, base colour factor, texture and COLOR_0, KHR_texture_transform, KHR_mesh_quantization, EXT_texture_webp,
EXT_mesh_gpu_instancing, KHR_node_visibility and the diffuse colour of KHR_materials_pbrSpecularGlossiness. Every other extension
that a file requires is refused by its name, and what else changes how the object looks is reported.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float, Int

from dreamfusion.assets.parts import Part
from dreamfusion.assets.texture_files import find_texture
from dreamfusion.documents import MIB, Limits, parse_json, read_bytes
from dreamfusion.errors import MeshError, shown
from dreamfusion.image_files import read_image
from dreamfusion.posed_images.paint import Paint, Texture, Wrap

MAX_BYTES = 4096 * MIB
# The JSON of a file of many parts; an embedded base64 buffer counts.
LIMITS = Limits(bytes=512 * MIB, containers=4_000_000)
MAX_VALUES = 500_000_000

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_NEAREST = 9728

_USED = {
    "KHR_texture_transform",
    "KHR_mesh_quantization",
    "EXT_texture_webp",
    "EXT_mesh_gpu_instancing",
    "KHR_node_visibility",
    "KHR_materials_pbrSpecularGlossiness",
}
# These leave triangles and base colours as they are.
_NEUTRAL = ("KHR_materials_", "KHR_lights_", "KHR_animation_", "KHR_xmp", "EXT_lights_", "KHR_node_hoverability",
            "KHR_node_selectability", "KHR_interactivity", "KHR_accessor_float64")  # fmt: skip
_HELP = {
    "KHR_draco_mesh_compression": "save it without Draco compression, for example from Blender; the package DracoPy decodes it",
    "EXT_meshopt_compression": "save it without meshopt compression; the package meshoptimizer decodes it",
    "KHR_meshopt_compression": "save it without meshopt compression; the package meshoptimizer decodes it",
    "KHR_texture_basisu": "save its KTX2 textures as PNG; `gltf-transform ktxdecompress` does it",
    "MSFT_texture_dds": "save its DDS textures as PNG, for example from Blender",
    "EXT_texture_avif": "save its AVIF textures as PNG; the package pillow-avif-plugin decodes them",
}
_PLAIN_HELP = "save it without that extension, for example from Blender"


def read_gltf(path: Path, report: Callable[[str], None]) -> list[Part]:
    """The parts of the default scene, in its world: +Y up.

    Args:
        report: called with one line for what is not used although it changes the object's look.

    Raises:
        MeshError: no glTF 2.0, damaged, or it needs an extension that is not used here.
    """
    content = read_bytes(path, error=MeshError, max_bytes=MAX_BYTES)
    text, binary = _chunks(content, path) if content[:4] == b"glTF" else (content, None)
    tree = parse_json(text, str(path), error=MeshError, limits=LIMITS, finite=False)
    version = str(tree.get("asset", {}).get("version", ""))
    if not version.startswith("2."):
        raise MeshError(f"{path} cannot be read", expected="glTF 2.0", got=f"version {shown(version)}")
    for name in tree.get("extensionsRequired", []):
        if name not in _USED and not str(name).startswith(_NEUTRAL):
            raise _unsupported(path, str(name))
    return list(_Reader(tree, _Buffers(tree, binary, path), path, report).parts())


def _unsupported(path: Path, extension: str) -> MeshError:
    return MeshError(
        f"{path} needs the glTF extension {shown(extension)[1:-1]}, which is not supported",
        hint=_HELP.get(extension, _PLAIN_HELP),
    )


def _chunks(content: bytes, path: Path) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB (4.4)."""
    if len(content) < 20:
        raise MeshError(f"{path} is cut off", expected="a GLB", got=f"{len(content)} bytes")
    _, version, length = struct.unpack_from("<4sII", content)
    if version != 2:
        raise MeshError(f"{path} cannot be read", expected="glTF 2.0", got=f"version {version}")
    if length > len(content):
        raise MeshError(f"{path} is cut off", expected=f"{length} bytes", got=str(len(content)))
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, at)
        if at + 8 + size > length:
            raise MeshError(f"{path} is cut off", expected=f"a chunk of {size} bytes")
        found.setdefault(kind, content[at + 8 : at + 8 + size])
        at += 8 + size + (-size % 4)
    if b"JSON" not in found:
        raise MeshError(f"{path} cannot be read", expected="a GLB with a JSON chunk")
    return found[b"JSON"].rstrip(b"\0"), found.get(b"BIN\0")


def _item(tree: dict[str, Any], kind: str, index: Any) -> dict[str, Any]:
    """An object by its index; a negative or absent one is a damaged file, never the list's end."""
    items = tree.get(kind, [])
    if not isinstance(index, int) or not 0 <= index < len(items):
        raise MeshError(f"the file names {kind} {shown(index)}", expected=f"one of {len(items)}")
    return items[index]


# ------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class _Buffers:
    """The arrays of a file.

    Attributes:
        binary: the GLB's own buffer.
    """

    tree: dict[str, Any]
    binary: bytes | None
    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "_read", {})

    def _buffer(self, index: int) -> bytes:
        read: dict[int, bytes] = self.__dict__["_read"]
        if index not in read:
            buffer = _item(self.tree, "buffers", index)
            uri = buffer.get("uri")
            if uri is not None:
                read[index] = uri_bytes(uri, self.path)
            elif index == 0 and self.binary is not None:
                read[index] = self.binary
            else:
                # The fallback of compressed data, which has no content.
                names = self.tree.get("extensionsUsed", [])
                name = next((name for name in names if "compression" in str(name)), None)
                raise _unsupported(self.path, name) if name else MeshError(f"buffer {index} has no content")
            if len(read[index]) < buffer.get("byteLength", 0):
                raise MeshError(
                    f"buffer {index} of {self.path} is cut off",
                    expected=f"{buffer['byteLength']} bytes",
                    got=str(len(read[index])),
                )
        return read[index]

    def view(self, index: int) -> tuple[memoryview, int | None]:
        """The bytes of a buffer view, and the distance of its elements if it has one."""
        view = _item(self.tree, "bufferViews", index)
        data, start, length = self._buffer(view["buffer"]), view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or length < 0 or start + length > len(data):
            raise MeshError(f"buffer view {index} of {self.path} reaches beyond its buffer")
        return memoryview(data)[start : start + length], view.get("byteStride")

    def accessor(self, index: int, as_float: bool = True) -> np.ndarray:
        """The values "n" or "n width", normalised integers as what they stand for (3.6.2)."""
        accessor = _item(self.tree, "accessors", index)
        kind, count, width = accessor["componentType"], accessor["count"], _WIDTHS[accessor["type"]]
        if not 0 <= count * width <= MAX_VALUES:
            raise MeshError(f"accessor {index} of {self.path}", expected="at most 500 million values")
        if "bufferView" in accessor:
            values = self._elements(accessor["bufferView"], accessor.get("byteOffset", 0), kind, count, width)
        else:
            values = np.zeros((count, width), dtype=_TYPES[kind])
        if "sparse" in accessor:
            values = self._patched(values, accessor["sparse"], kind, width)
        if accessor.get("normalized"):
            values = normalised(values)
        elif as_float:
            values = values.astype(np.float64)
        return values[:, 0] if width == 1 else values

    def _elements(self, view: int, offset: int, kind: int, count: int, width: int) -> np.ndarray:
        data, stride = self.view(view)
        dtype = np.dtype(_TYPES[kind])
        step = stride or dtype.itemsize * width
        if offset < 0 or (count and offset + step * (count - 1) + dtype.itemsize * width > len(data)):
            raise MeshError(f"an accessor of {self.path} reaches beyond buffer view {view}")
        strides = (step, dtype.itemsize)
        return (
            np.ndarray((count, width), dtype, data, offset, strides) if count else np.zeros((0, width), dtype)
        )

    def _patched(self, values: np.ndarray, sparse: dict[str, Any], kind: int, width: int) -> np.ndarray:
        where, what = sparse["indices"], sparse["values"]
        rows = self._elements(
            where["bufferView"], where.get("byteOffset", 0), where["componentType"], sparse["count"], 1
        )
        values = values.copy()
        values[rows[:, 0]] = self._elements(
            what["bufferView"], what.get("byteOffset", 0), kind, sparse["count"], width
        )
        return values


def normalised(values: np.ndarray) -> Float[np.ndarray, "*shape"]:
    """Integers as the fractions that they stand for (3.6.2.2); floating point as it is."""
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    return np.maximum(values.astype(np.float64) / np.iinfo(values.dtype).max, -1.0)


def uri_bytes(uri: str, path: Path) -> bytes:
    """What a URI in the file `path` stands for: embedded, or a file beside it."""
    if uri.startswith("data:"):
        head, _, content = uri.partition(",")
        try:
            return (
                base64.b64decode(content, validate=True)
                if head.endswith(";base64")
                else unquote(content).encode()
            )
        except binascii.Error as error:
            raise MeshError(f"{path} has a damaged data URI", got=str(error)) from error
    found = find_texture(unquote(uri), path)
    if found is None:
        raise MeshError(f"{path} names {shown(uri)}, which is not beside it")
    return read_bytes(found, error=MeshError, max_bytes=MAX_BYTES)


# ------------------------------------------------------------------------------------------------ the scene


@dataclass
class _Reader:
    tree: dict[str, Any]
    buffers: _Buffers
    path: Path
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self._paints: dict[int | None, tuple[Paint, _Coordinates | None]] = {}
        self._hidden: set[int] = set()
        self._worlds = self._placed()

    def parts(self) -> Iterator[Part]:
        for number, world in self._worlds.items():
            node = _item(self.tree, "nodes", number)
            if "mesh" not in node or number in self._hidden:
                continue
            mesh = _item(self.tree, "meshes", node["mesh"])
            weights = node.get("weights", mesh.get("weights", []))
            for place in self._instances(node, world):
                for primitive in mesh["primitives"]:
                    if primitive.get("mode", _TRIANGLES) >= _TRIANGLES:
                        yield self._part(primitive, node, place, weights)

    def _placed(self) -> dict[int, np.ndarray]:
        """Each node of the default scene and its transform to the world (3.5)."""
        scenes, nodes = self.tree.get("scenes", []), self.tree.get("nodes", [])
        if scenes:
            roots = _item(self.tree, "scenes", self.tree.get("scene", 0)).get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [number for number in range(len(nodes)) if number not in children]
        worlds: dict[int, np.ndarray] = {}
        waiting = [(root, np.eye(4), True) for root in reversed(roots)]
        while waiting:
            number, above, visible = waiting.pop()
            node = _item(self.tree, "nodes", number)
            if number in worlds:
                raise MeshError(f"{self.path} has node {number} at two places in its tree")
            worlds[number] = above @ _local(node)
            visible &= node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True)
            if not visible:
                self._hidden.add(number)
            waiting += [(child, worlds[number], visible) for child in reversed(node.get("children", []))]
        return worlds

    def _instances(self, node: dict[str, Any], world: np.ndarray) -> list[np.ndarray]:
        extension = node.get("extensions", {}).get("EXT_mesh_gpu_instancing")
        if extension is None:
            return [world]
        names = {"TRANSLATION": "translation", "ROTATION": "rotation", "SCALE": "scale"}
        columns = {
            key: self.buffers.accessor(extension["attributes"][name])
            for name, key in names.items()
            if name in extension["attributes"]
        }
        count = min((len(values) for values in columns.values()), default=0)
        return [world @ _local({key: values[k] for key, values in columns.items()}) for k in range(count)]

    def _part(
        self, primitive: dict[str, Any], node: dict[str, Any], place: np.ndarray, weights: list[float]
    ) -> Part:
        attributes = primitive["attributes"]
        compressed = primitive.get("extensions", {})
        needed = _item(self.tree, "accessors", attributes["POSITION"])
        if "bufferView" not in needed and "sparse" not in needed:
            for name in compressed:
                raise _unsupported(self.path, name)
        positions = self.buffers.accessor(attributes["POSITION"])
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and "POSITION" in target:
                positions = positions + weight * self.buffers.accessor(target["POSITION"])
        if "skin" in node and "JOINTS_0" in attributes:
            positions = self._skinned(positions, attributes, _item(self.tree, "skins", node["skin"]))
        else:
            positions = positions @ place[:3, :3].T + place[:3, 3]
        faces = self._faces(primitive, len(positions))
        if "skin" not in node and np.linalg.det(place[:3, :3]) < 0:
            faces = faces[:, ::-1]  # a mirror turns the winding (3.7.4)
        paint, coordinates = self._paint(primitive.get("material"))
        uvs = None
        if coordinates is not None:
            name = f"TEXCOORD_{coordinates.set}"
            if name not in attributes:
                raise MeshError(f"a textured part of {self.path} has no {name}")
            uvs = coordinates.moved(self.buffers.accessor(attributes[name]))[faces]
        corners = None
        if "COLOR_0" in attributes:
            # Integers are fractions here, whether or not the exporter says so.
            corners = normalised(self.buffers.accessor(attributes["COLOR_0"], as_float=False))[faces][..., :3]
        return Part(positions, faces, paint, uvs, corners)

    def _faces(self, primitive: dict[str, Any], count: int) -> Int[np.ndarray, "f 3"]:
        if "indices" in primitive:
            order = self.buffers.accessor(primitive["indices"], as_float=False).astype(np.int64)
            if len(order) and not 0 <= order.min() <= order.max() < count:
                raise MeshError(f"{self.path} has a face with a vertex that is not one of {count}")
        else:
            order = np.arange(count)
        mode = primitive.get("mode", _TRIANGLES)
        if mode == _TRIANGLES:
            return order[: len(order) // 3 * 3].reshape(-1, 3)
        first = np.arange(max(len(order) - 2, 0))
        if mode == _FAN:
            return np.stack([order[first + 1], order[first + 2], order[np.zeros_like(first)]], axis=-1)
        if mode != _STRIP:
            raise MeshError(f"{self.path} has primitives of mode {mode}", expected="triangles")
        odd = first % 2
        return np.stack([order[first], order[first + 1 + odd], order[first + 2 - odd]], axis=-1)

    def _skinned(
        self, positions: Float[np.ndarray, "n 3"], attributes: dict[str, int], skin: dict[str, Any]
    ) -> Float[np.ndarray, "n 3"]:
        """In the rest pose: the joints' transforms, not the node's (3.7.3.3)."""
        joints = np.stack([self._worlds.get(joint, np.eye(4)) for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            inverse = self.buffers.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
            joints = joints @ inverse[: len(joints)]
        moved, total = np.zeros_like(positions), np.zeros((len(positions), 1))
        for number in range(8):
            if f"JOINTS_{number}" not in attributes:
                break
            which = self.buffers.accessor(attributes[f"JOINTS_{number}"], as_float=False).astype(np.int64)
            weights = normalised(self.buffers.accessor(attributes[f"WEIGHTS_{number}"], as_float=False))
            for k in range(4):
                matrices, weight = joints[which[:, k]], weights[:, k : k + 1]
                there = np.einsum("nij,nj->ni", matrices[:, :3, :3], positions) + matrices[:, :3, 3]
                moved, total = moved + weight * there, total + weight
        return moved / np.where(total > 0, total, 1.0)

    # -------------------------------------------------------------------------------------------- materials

    def _paint(self, index: int | None) -> tuple[Paint, _Coordinates | None]:
        if index not in self._paints:
            material = {} if index is None else _item(self.tree, "materials", index)
            self._paints[index] = self._made(material, index)
        return self._paints[index]

    def _made(self, material: dict[str, Any], index: int | None) -> tuple[Paint, _Coordinates | None]:
        surface = material.get("pbrMetallicRoughness", {})
        factor, info = surface.get("baseColorFactor"), surface.get("baseColorTexture")
        older = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if older is not None:
            factor, info = older.get("diffuseFactor"), older.get("diffuseTexture")
        factor = [float(value) for value in factor or (1, 1, 1, 1)]
        image = texture = None
        if info is not None:
            image, texture = self._texture(info)
        self._check_opacity(material, index, factor, image)
        if "emissiveTexture" in material or any(material.get("emissiveFactor", ())):
            self.report(
                f"{self.path}: material {shown(_name(material, index))} glows, and its light is left out"
            )
        paint = Paint((factor[0], factor[1], factor[2]), texture)
        return paint, None if info is None or texture is None else _Coordinates.of(info)

    def _texture(self, info: dict[str, Any]) -> tuple[np.ndarray | None, Texture | None]:
        """The image with its opacity, and what is laid over the part."""
        texture = _item(self.tree, "textures", info["index"])
        extensions = texture.get("extensions", {})
        source = texture.get("source", extensions.get("EXT_texture_webp", {}).get("source"))
        if source is None:
            raise _unsupported(self.path, next(iter(extensions), "for a texture without a source"))
        image = self._image(_item(self.tree, "images", source), source)
        if image is None:
            return None, None
        sampler = _item(self.tree, "samplers", texture["sampler"]) if "sampler" in texture else {}
        wrap = (_WRAPS[sampler.get("wrapS", 10497)], _WRAPS[sampler.get("wrapT", 10497)])
        return image, Texture(
            np.ascontiguousarray(image[..., :3]), wrap, sampler.get("magFilter") != _NEAREST
        )

    def _image(self, image: dict[str, Any], index: int) -> np.ndarray | None:
        name = f"image {index} of {self.path}"
        if "bufferView" in image:
            return read_image(bytes(self.buffers.view(image["bufferView"])[0]), MeshError, name)
        uri = image["uri"]
        if uri.startswith("data:"):
            return read_image(uri_bytes(uri, self.path), MeshError, name)
        found = find_texture(unquote(uri), self.path)
        if found is None:
            self.report(f"{self.path} names the texture {shown(uri)}, which is not beside it: left out")
            return None
        return read_image(found, MeshError)

    def _check_opacity(
        self, material: dict[str, Any], index: int | None, factor: list[float], image: np.ndarray | None
    ) -> None:
        mode = material.get("alphaMode", "OPAQUE")
        least = 1.0 if image is None else float(image[..., 3].min()) / 255
        limit = material.get("alphaCutoff", 0.5) if mode == "MASK" else 1.0
        if mode != "OPAQUE" and least * (factor[3] if len(factor) > 3 else 1.0) < limit:
            self.report(
                f"{self.path}: material {shown(_name(material, index))} is transparent in places, and is read as opaque"
            )


def _name(material: dict[str, Any], index: int | None) -> Any:
    return material.get("name", f"number {index}")


@dataclass(frozen=True)
class _Coordinates:
    """Which texture coordinates a texture uses, and how they are moved (KHR_texture_transform).

    Attributes:
        rotation: in radians, counter-clockwise on the image, whose second coordinate points down.
    """

    set: int
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, info: dict[str, Any]) -> _Coordinates:
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        (x, y), (across, down) = moved.get("offset", (0, 0)), moved.get("scale", (1, 1))
        number = moved.get("texCoord", info.get("texCoord", 0))
        return cls(
            number, (float(x), float(y)), float(moved.get("rotation", 0)), (float(across), float(down))
        )

    def moved(self, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        turn = np.array([[cosine, sine], [-sine, cosine]])
        return (uv * self.scale) @ turn.T + self.offset


def _local(node: dict[str, Any]) -> np.ndarray:
    """A node's own transform: a matrix by columns, or scale, then rotation, then translation (3.5.3)."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = np.asarray(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.asarray(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = np.asarray(node.get("translation", (0, 0, 0)), dtype=np.float64)
    return matrix
