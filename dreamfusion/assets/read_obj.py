"""Wavefront OBJ files with their materials: triangles, textures, and colours at the vertices.

Colours are sRGB: those of materials (`Kd`) and those of vertices (six numbers after `v`, a common extension). A texture is
multiplied with its material's colour, as light. It hides the colours of vertices, and those hide a material's colour: scanners
write them beside each other, and mean the same by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamfusion.assets.parts import Part
from dreamfusion.assets.texture_files import find_texture, read_texture
from dreamfusion.documents import MIB, read_bytes
from dreamfusion.errors import MeshError, shown
from dreamfusion.posed_images.mtl import TextureStatement, texture_statement
from dreamfusion.posed_images.paint import PLAIN_SRGB, Paint, Texture, srgb_to_linear

MAX_BYTES = 4096 * MIB
Report = Callable[[str], None]
# A corner's position and texture coordinates; -1: it has none.
_Corner = tuple[int, int]


@dataclass(frozen=True)
class Material:
    """One `newmtl`: sRGB colour or None, and its texture's statement or None."""

    color: tuple[float, float, float] | None = None
    texture: TextureStatement | None = None
    opacity: float = 1.0


@dataclass
class _Geometry:
    """The lists of a file; each material's corners, three a triangle."""

    points: list[list[float]] = field(default_factory=list)
    coordinates: list[list[float]] = field(default_factory=list)
    corners: dict[str | None, list[_Corner]] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)


def read_obj(path: Path, report: Report) -> list[Part]:
    """The parts of an OBJ file, one a material; polygons are cut into fans.

    Args:
        report: called with one line for a material or texture that is not there or not used as it is written.

    Raises:
        MeshError: a line that cannot be read, or one that names a vertex that does not exist.
    """
    geometry = _parsed(_text(path), path)
    materials = _materials(geometry.libraries, path, report)
    if not geometry.points:
        return []
    points = np.array([point[:3] for point in geometry.points], dtype=np.float64)
    colours = _vertex_colours(geometry.points)
    coordinates = np.array([*geometry.coordinates, [0.0, 0.0]], dtype=np.float64)
    parts = []
    for name, corners in geometry.corners.items():
        where = np.array(corners, dtype=np.int64).reshape(-1, 3, 2)
        material = materials.get(name) if name is not None else None
        if name is not None and material is None:
            report(f"{path} uses the material {shown(name)}, which no material file holds: left out")
        paint, statement = _paint(material, path, report)
        uvs, corners = None, colours[where[..., 0]]
        if paint.texture is not None and statement is not None:
            if (where[..., 1] < 0).any():
                report(f"{path} has faces of the material {shown(name)} without texture coordinates")
            uvs = coordinates[where[..., 1]] * statement.scale + statement.offset
            uvs = uvs * [1, -1] + [0, 1]  # from the lower edge to the upper one
        elif np.isfinite(corners).all():
            paint = Paint(linear_corners=False)
        used, faces = np.unique(where[..., 0], return_inverse=True)
        if paint.texture is not None or not np.isfinite(corners).all():
            corners = None
        parts.append(Part(points[used], faces.reshape(-1, 3), paint, uvs, corners))
    return parts


def _text(path: Path) -> str:
    content = read_bytes(path, error=MeshError, max_bytes=MAX_BYTES)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _lines(text: str) -> list[str]:
    """Lines, those that end in a backslash joined with the next."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\\\n", " ").split("\n")


# ------------------------------------------------------------------------------------------------ geometry


def _parsed(text: str, path: Path) -> _Geometry:
    found = _Geometry()
    current: str | None = None
    for number, line in enumerate(_lines(text), start=1):
        words = line.split()
        if not words:
            continue
        try:
            match words[0]:
                case "v":
                    found.points.append([float(word) for word in words[1:8]])
                case "vt":
                    found.coordinates.append([float(words[1]), float(words[2]) if len(words) > 2 else 0.0])
                case "f":
                    polygon = [_corner(word, found) for word in words[1:]]
                    triangles = found.corners.setdefault(current, [])
                    for k in range(1, len(polygon) - 1):
                        triangles += (polygon[0], polygon[k], polygon[k + 1])
                case "usemtl":
                    current = line.split(None, 1)[1].strip() if len(words) > 1 else None
                case "mtllib":
                    found.libraries.append(line.split(None, 1)[1].strip())
        except (ValueError, IndexError) as error:
            raise MeshError(
                f"line {number} of {path} cannot be read", got=shown(line.strip()), hint=str(error)
            ) from error
    if any(len(point) < 3 for point in found.points):
        raise MeshError(f"{path} has vertices of fewer than three numbers")
    return found


def _corner(word: str, found: _Geometry) -> _Corner:
    position, _, rest = word.partition("/")
    texture = rest.partition("/")[0]
    return (
        _index(position, len(found.points)),
        _index(texture, len(found.coordinates)) if texture else -1,
    )


def _index(word: str, count: int) -> int:
    """From 1, or backwards from the newest with -1."""
    value = int(word)
    value = value - 1 if value > 0 else count + value
    if not 0 <= value < count:
        raise IndexError(f"there are {count} so far")
    return value


def _vertex_colours(points: list[list[float]]) -> Float[np.ndarray, "v 3"]:
    """sRGB, or nan where a vertex has none."""
    colours = np.array(
        [point[3:6] if len(point) >= 6 else [np.nan] * 3 for point in points], dtype=np.float64
    )
    largest = float(np.nanmax(colours)) if np.isfinite(colours).any() else 1.0
    return np.clip(colours / 255.0 if largest > 1 else colours, 0, 1)


# ------------------------------------------------------------------------------------------------ materials


def _materials(libraries: list[str], path: Path, report: Report) -> dict[str, Material]:
    materials: dict[str, Material] = {}
    for line in libraries:
        whole = find_texture(line, path)
        for name, library in (
            [(line, whole)] if whole else [(name, find_texture(name, path)) for name in line.split()]
        ):
            if library is None:
                report(f"{path} names the material file {shown(name)}, which is not beside it: left out")
            else:
                materials |= _library(library, report)
    return materials


def _library(path: Path, report: Report) -> dict[str, Material]:
    materials: dict[str, Material] = {}
    name = None
    for number, line in enumerate(_lines(_text(path)), start=1):
        key, _, value = line.strip().partition(" ")
        key, _, more = key.partition("\t")
        key, value = key.lower(), f"{more} {value}".strip()
        if key == "newmtl":
            name = value
            materials[name] = Material()
        if name is None or not value:
            continue
        try:
            match key:
                case "kd":
                    numbers = [min(max(float(word), 0.0), 1.0) for word in value.split()[:3]]
                    r, g, b = numbers if len(numbers) == 3 else numbers[:1] * 3
                    materials[name] = replace(materials[name], color=(r, g, b))
                case "map_kd":
                    materials[name] = replace(materials[name], texture=texture_statement(value))
                case "d":
                    materials[name] = replace(materials[name], opacity=float(value.split()[-1]))
                case "tr":
                    materials[name] = replace(materials[name], opacity=1 - float(value.split()[-1]))
                case "map_d":
                    materials[name] = replace(materials[name], opacity=0.0)
        except ValueError:  # a spectrum, say
            report(f"line {number} of {path} is left out: {shown(line.strip())}")
    return materials


def _paint(material: Material | None, path: Path, report: Report) -> tuple[Paint, TextureStatement | None]:
    """The paint of a part, and how its texture is laid out."""
    if material is None:
        return _in_colour((PLAIN_SRGB,) * 3, None), None
    if material.opacity < 1:
        report(f"{path} has transparent materials, which are read as opaque")
    statement = material.texture
    texture = None if statement is None else _texture(statement, path, report)
    color = material.color
    if texture is not None and (color is None or not any(color)):
        # Exporters that mean the texture alone write black.
        color = (1.0, 1.0, 1.0)
    return _in_colour((PLAIN_SRGB,) * 3 if color is None else color, texture), statement


def _in_colour(srgb: tuple[float, ...], texture: Texture | None) -> Paint:
    r, g, b = srgb_to_linear(np.array(srgb, dtype=np.float64)).tolist()
    return Paint((r, g, b), texture, linear_corners=False)


def _texture(statement: TextureStatement, path: Path, report: Report) -> Texture | None:
    for option in statement.unused:
        report(f"{path}: the option {option} of the texture {shown(statement.name)} is left out")
    return read_texture(statement.name, path, report, "clamp" if statement.clamp else "repeat")
