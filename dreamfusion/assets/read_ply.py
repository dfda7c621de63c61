"""PLY files (Turk 1994), ASCII and binary of either byte order: triangles with colours of vertices or faces, or textures.

No rule says how colours are stored: they are taken for sRGB. `comment TextureFile` names a texture (MeshLab's convention), for
which coordinates stand at the vertices or in a list at each face. A texture hides the colours of vertices: scanners write both,
and mean the same by them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from dreamfusion.assets.parts import Part, fans
from dreamfusion.assets.texture_files import read_texture
from dreamfusion.documents import MIB, read_bytes
from dreamfusion.errors import MeshError, shown
from dreamfusion.posed_images.paint import PLAIN_SRGB, Paint

MAX_BYTES = 4096 * MIB
Report = Callable[[str], None]
_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4",
    "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_COORDINATES = (("texture_u", "texture_v"), ("s", "t"), ("u", "v"))


@dataclass(frozen=True)
class _Property:
    """A number, or with `count` the type of its length a list of numbers."""

    name: str
    kind: str
    count: str | None = None


@dataclass
class _Element:
    """Rows of properties: columns of numbers, and lists as all rows' lengths and all rows' values in one."""

    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, tuple[Int[np.ndarray, " n"], np.ndarray]] = field(default_factory=dict)


def read_ply(path: Path, report: Report) -> list[Part]:
    """The parts of a PLY file, one a texture; polygons are cut into fans.

    Args:
        report: called with one line for a texture that is not there or not used.

    Raises:
        MeshError: no PLY, damaged, or a face of vertices that do not exist.
    """
    content = read_bytes(path, error=MeshError, max_bytes=MAX_BYTES)
    elements, order, textures, body = _header(content, path)
    if order is None:
        _read_text(elements, content[body:], path)
    else:
        _read_binary(elements, content, body, order, path)
    found = {element.name: element for element in elements}
    if "tristrips" in found:
        report(f"{path} has triangle strips, which are left out: save it with faces")
    if "vertex" not in found or "face" not in found:
        return []
    return list(_parts(found["vertex"], found["face"], textures, path, report))


# ------------------------------------------------------------------------------------------------ the file


def _header(content: bytes, path: Path) -> tuple[list[_Element], str | None, list[str], int]:
    """The elements without their rows, the byte order (None: text), the textures' names, and where the rows begin."""
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise MeshError(f"{path} has no header of a PLY file")
    body = content.find(b"\n", end) + 1
    # A file with line ends of an old Mac has none.
    body = body if body > 0 else end + len(b"end_header\r")
    elements: list[_Element] = []
    textures: list[str] = []
    order: str | None = None
    for line in content[:end].decode("utf-8", errors="replace").splitlines():
        words = line.split()
        match words:
            case ["format", kind, *_]:
                if kind != "ascii" and kind not in _ORDERS:
                    raise MeshError(f"{path} has the format {shown(kind)}", expected="ascii or binary")
                order = _ORDERS.get(kind)
            case ["comment", word, _, *_] if word.lower() == "texturefile":
                textures.append(line.split(None, 2)[2].strip())
            case ["element", name, count]:
                elements.append(_Element(name, int(count)))
            case ["property", "list", count, kind, name]:
                elements[-1].properties.append(_Property(name, _TYPES[kind], _TYPES[count]))
            case ["property", kind, name]:
                elements[-1].properties.append(_Property(name, _TYPES[kind]))
    return elements, order, textures, body


def _read_text(elements: list[_Element], content: bytes, path: Path) -> None:
    words = content.split()
    at = 0
    for element in elements:
        wide = len(element.properties)
        if at + element.rows * (1 if wide else 0) > len(words):
            raise MeshError(f"{path} is cut off", expected=f"{element.rows} rows of {shown(element.name)}")
        if all(told.count is None for told in element.properties):
            table = np.array(words[at : at + element.rows * wide], dtype=np.float64).reshape(
                element.rows, wide
            )
            at += table.size
            for told, column in zip(element.properties, table.T, strict=True):
                element.columns[told.name] = column.astype(told.kind)
            continue
        values: dict[str, list[list[bytes]]] = {told.name: [] for told in element.properties}
        for _ in range(element.rows):
            for told in element.properties:
                length = 1
                if told.count is not None:
                    length, at = int(words[at]), at + 1
                if length < 0:
                    raise MeshError(f"{path} has a list of {length} values")
                values[told.name].append(words[at : at + length])
                at += length
        if at > len(words):
            raise MeshError(f"{path} is cut off", expected=f"{element.rows} rows of {shown(element.name)}")
        for told in element.properties:
            flat = np.array([*itertools.chain.from_iterable(values[told.name])], dtype=np.float64)
            _keep(element, told, np.array([len(row) for row in values[told.name]], dtype=np.int64), flat)


def _keep(element: _Element, told: _Property, lengths: np.ndarray, values: np.ndarray) -> None:
    if told.count is None:
        element.columns[told.name] = values.astype(told.kind)
    else:
        element.lists[told.name] = lengths, values.astype(told.kind)


def _read_binary(elements: list[_Element], content: bytes, at: int, order: str, path: Path) -> None:
    for element in elements:
        if not element.rows or not element.properties:
            continue
        lengths = _lengths(element, content, at, order, path)
        row = np.dtype(
            [
                piece
                for told in element.properties
                for piece in (
                    [(told.name, order + told.kind)]
                    if told.count is None
                    else [
                        (f"{told.name} count", order + told.count),
                        (told.name, order + told.kind, (lengths[told.name],)),
                    ]
                )
            ]
        )
        whole = at + row.itemsize * element.rows <= len(content)
        table = np.frombuffer(content, row, element.rows, at) if whole else None
        if table is not None and all(
            (table[f"{name} count"] == count).all() for name, count in lengths.items()
        ):
            at += table.nbytes
            for told in element.properties:
                counts = np.full(element.rows, lengths.get(told.name, 1))
                _keep(element, told, counts, table[told.name].ravel())
        else:
            at = _read_rows(element, content, at, order, path)


def _lengths(element: _Element, content: bytes, at: int, order: str, path: Path) -> dict[str, int]:
    """The length of each list in the first row, which most files have in every row."""
    found: dict[str, int] = {}
    for told in element.properties:
        if told.count is not None:
            found[told.name] = length = _number(content, at, order + told.count, path)
            at += np.dtype(told.count).itemsize + length * np.dtype(told.kind).itemsize
        else:
            at += np.dtype(told.kind).itemsize
    return found


def _number(content: bytes, at: int, kind: str, path: Path) -> int:
    if at + np.dtype(kind).itemsize > len(content):
        raise MeshError(f"{path} is cut off", got=f"{len(content)} bytes")
    number = int(np.frombuffer(content, kind, 1, at)[0])
    if not 0 <= number <= len(content):
        raise MeshError(f"{path} has a list of {number} values")
    return number


def _read_rows(element: _Element, content: bytes, at: int, order: str, path: Path) -> int:
    """Row by row, of lists of different lengths; where the next element begins."""
    values: dict[str, list[np.ndarray]] = {told.name: [] for told in element.properties}
    for _ in range(element.rows):
        for told in element.properties:
            length = 1
            if told.count is not None:
                length = _number(content, at, order + told.count, path)
                at += np.dtype(told.count).itemsize
            size = length * np.dtype(told.kind).itemsize
            if at + size > len(content):
                raise MeshError(f"{path} is cut off", got=f"{len(content)} bytes")
            values[told.name].append(np.frombuffer(content, order + told.kind, length, at))
            at += size
    for told in element.properties:
        rows = values[told.name]
        _keep(element, told, np.array([len(row) for row in rows], dtype=np.int64), np.concatenate(rows))
    return at


# ------------------------------------------------------------------------------------------------ parts


def _parts(
    vertex: _Element, face: _Element, textures: list[str], path: Path, report: Report
) -> Iterator[Part]:
    points = np.stack([vertex.columns[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    name = next((told for told in ("vertex_indices", "vertex_index") if told in face.lists), None)
    if name is None:
        raise MeshError(f"{path} has faces without vertex_indices")
    lengths, flat = face.lists[name]
    face_of, corners = fans(lengths)
    faces = flat.astype(np.int64)[corners]
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(points):
        raise MeshError(f"{path} has a face of vertices that do not exist")
    colours = _corner_colours(vertex, face, faces, face_of)
    uvs = _corner_coordinates(vertex, face, faces, corners)
    number = face.columns.get("texnumber", np.zeros(len(lengths))).astype(np.int64)[face_of]
    plain = Part(points, faces, Paint(linear_corners=False), None, colours)
    if not textures:
        yield plain
        return
    if uvs is None:
        report(f"{path} names the texture {shown(textures[0])} and has no coordinates for it: left out")
        yield plain
        return
    for index in np.unique(number):
        there = np.flatnonzero(number == index)
        texture = read_texture(textures[index], path, report) if 0 <= index < len(textures) else None
        if texture is None:
            yield Part(points, faces[there], plain.paint, None, colours[there])
        else:
            yield Part(points, faces[there], Paint(texture=texture), uvs[there])


def _corner_colours(
    vertex: _Element, face: _Element, faces: Int[np.ndarray, "f 3"], face_of: Int[np.ndarray, " f"]
) -> Float[np.ndarray, "f 3 3"]:
    """sRGB of vertices, or else of faces, or else of nothing."""
    for element in (vertex, face):
        for names in _COLOURS:
            if all(name in element.columns for name in names):
                found = np.stack([_fraction(element.columns[name]) for name in names], axis=-1)
                return found[faces] if element is vertex else found[face_of][:, None].repeat(3, axis=1)
    return np.full((len(faces), 3, 3), PLAIN_SRGB)


def _fraction(values: np.ndarray) -> Float[np.ndarray, " n"]:
    """Colours as fractions: of the type's range if that is unsigned; floating point up to 1, or up to 255."""
    if values.dtype.kind == "u" and values.dtype.itemsize < 4:
        return values.astype(np.float64) / np.iinfo(values.dtype).max
    values = values.astype(np.float64)
    is_fraction = values.max(initial=0.0) <= 1
    return np.clip(values if is_fraction else values / 255, 0, 1)


def _corner_coordinates(
    vertex: _Element,
    face: _Element,
    faces: Int[np.ndarray, "f 3"],
    corners: Int[np.ndarray, "f 3"],
) -> Float[np.ndarray, "f 3 2"] | None:
    """Texture coordinates, turned to an origin at the image's upper left corner."""
    if "texcoord" in face.lists:
        flat = face.lists["texcoord"][1].astype(np.float64)
        if len(flat) == 2 * (int(corners.max(initial=-1)) + 1):
            return flat.reshape(-1, 2)[corners] * [1, -1] + [0, 1]
        return None
    for names in _COORDINATES:
        if all(name in vertex.columns for name in names):
            uv = np.stack([vertex.columns[name].astype(np.float64) for name in names], axis=-1)
            return uv[faces] * [1, -1] + [0, 1]
    return None
