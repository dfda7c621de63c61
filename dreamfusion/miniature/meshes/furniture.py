"""A small reader of Sweet Home 3D's furniture libraries (.sh3f): a zip with a catalogue in Java properties and Wavefront
models beside it (OBJ and MTL; positions, texture coordinates, materials with a colour and a picture)."""

from __future__ import annotations

import posixpath
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dreamfusion.errors import DreamfusionError, MeshError
from dreamfusion.image_files import read_image
from dreamfusion.posed_images.mtl import texture_statement

CATALOGUE = "PluginFurnitureCatalog.properties"
# Pictures are made this small before their colours are read: a vertex sees about what a pixel of a 64 px render sees.
TEXTURE_SIZE = 48
FORBIDDEN_LICENCE = re.compile(
    r"share.?alike|non.?commercial|\bby-(sa|nc|nd)|\bGPL\b|no.?deriv", re.IGNORECASE
)


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue: sizes in centimetres, `model` the path of its OBJ inside the library."""

    name: str
    category: str
    creator: str
    model: str
    size: tuple[float, float, float]  # width, height, depth
    rotation: tuple[float, ...] = ()


@dataclass
class Material:
    """A material's colour, sRGB in [0, 1], its picture "h w 3" if it has one, and its opacity."""

    rgb: tuple[float, float, float] = (0.8, 0.8, 0.8)
    texture: np.ndarray | None = None
    opacity: float = 1.0


@dataclass
class Model:
    """A model's triangles: `corners` float64 "f 3 3" (y up), `uv` "f 3 2" (nan where it has none), the material's index."""

    corners: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    materials: list[Material] = field(default_factory=list)


def read_properties(text: str) -> dict[str, str]:
    """Java properties: comments, `key=value`, continued lines, backslash u escapes."""
    found: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n\s*", "", text).splitlines():
        line = line.strip()
        if line and line[0] not in "#!" and "=" in line:
            key, value = line.split("=", 1)
            found[key.strip()] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value.strip())
    return found


class FurnitureLibrary:
    """A .sh3f file.

    Raises:
        DreamfusionError: if it is no zip or has no catalogue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            text = self._zip.read(CATALOGUE).decode("latin-1")
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise DreamfusionError(f"{path} is no furniture library: {error}") from error
        self.properties = read_properties(text)
        self._names = {name.lower(): name for name in self._zip.namelist()}

    def licence_of(self, model: str) -> str | None:
        """Why a model must not be used, from the licence files beside it; None where nothing forbids it."""
        folder = posixpath.dirname(model).lstrip("/").lower() + "/"
        for lower, name in self._names.items():
            if lower.startswith(folder) and re.search(r"licen[sc]e", lower.rsplit("/", 1)[1]):
                found = FORBIDDEN_LICENCE.search(self._zip.read(name).decode("latin-1"))
                if found:
                    return found[0]
        return None

    def entries(self) -> list[Entry]:
        """The catalogue, in order."""
        made = []
        for i in sorted(int(key[5:]) for key in self.properties if re.fullmatch(r"name#\d+", key)):

            def get(key: str, i: int = i, default: str = "") -> str:
                return self.properties.get(f"{key}#{i}", default)

            width, height, depth = (float(get(key, default="0")) for key in ("width", "height", "depth"))
            rotation = tuple(float(v) for v in get("modelRotation").split())
            made.append(
                Entry(
                    get("name"),
                    get("category"),
                    get("creator"),
                    get("model").lstrip("/"),
                    (width, height, depth),
                    rotation,
                )
            )
        return made

    def load(self, entry: Entry) -> Model:
        """The model's triangles and materials.

        Raises:
            DreamfusionError: if its file is missing or is no OBJ.
        """
        try:
            model, names, libraries = parse_obj(self._text(entry.model))
            folder = posixpath.dirname(entry.model)
            materials: dict[str, Material] = {}
            for library in libraries:
                # A model whose material file was left out of the library keeps plain colours.
                path = posixpath.normpath(posixpath.join(folder, library)).lower()
                if path in self._names:
                    materials |= self._materials(self._text(path), folder)
        except (KeyError, ValueError, IndexError) as error:
            raise DreamfusionError(f"model {entry.model} of {self.path} cannot be read: {error}") from error
        model.materials = [materials.get(name, Material()) for name in names]
        if entry.rotation:
            model.corners = model.corners @ np.array(entry.rotation).reshape(3, 3).T
        return model

    def _name(self, path: str) -> str:
        return self._names[posixpath.normpath(path.replace("\\", "/")).lower()]

    def _text(self, path: str) -> str:
        return self._zip.read(self._name(path)).decode("latin-1")

    def _materials(self, text: str, folder: str) -> dict[str, Material]:
        materials: dict[str, Material] = {}
        current = Material()
        for line in text.splitlines():
            key, _, value = line.strip().partition(" ")
            value = value.strip()
            if key == "newmtl":
                current = materials.setdefault(value, Material())
            elif key == "Kd":
                r, g, b = (min(max(float(v), 0.0), 1.0) for v in value.split()[:3])
                current.rgb = (r, g, b)
            elif key == "d":
                current.opacity = float(value.split()[-1])
            elif key == "map_Kd":
                current.texture = self._texture(
                    posixpath.join(folder, texture_statement(value).name.split(" -")[0])
                )
        return materials

    def _texture(self, path: str) -> np.ndarray | None:
        try:
            data = self._zip.read(self._name(path))
        except KeyError:
            return None
        image = Image.fromarray(read_image(data, MeshError, path)[..., :3])
        small = image.resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32) / 255


def parse_obj(text: str) -> tuple[Model, list[str], list[str]]:
    """Triangles of a Wavefront OBJ (polygons are cut into fans), the names of its materials and of its libraries."""
    points: list[list[float]] = []
    coordinates: list[list[float]] = []
    corners: list[tuple[int, int, int]] = []
    uvs: list[tuple[int, int, int]] = []
    owner: list[int] = []
    names: list[str] = []
    libraries: list[str] = []
    current = -1
    for line in text.replace("\\\n", " ").splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "v":
            points.append([float(v) for v in rest.split()[:3]])
        elif key == "vt":
            coordinates.append([float(v) for v in rest.split()[:2]])
        elif key == "f":
            if current < 0:
                names.append("")
                current = 0
            parts = [word.split("/") for word in rest.split()]
            p = [_index(part[0], len(points)) for part in parts]
            t = [_coordinate(part, len(coordinates)) for part in parts]
            for k in range(1, len(p) - 1):
                corners.append((p[0], p[k], p[k + 1]))
                uvs.append((t[0], t[k], t[k + 1]))
                owner.append(current)
        elif key == "usemtl":
            name = rest.strip()
            if name not in names:
                names.append(name)
            current = names.index(name)
        elif key == "mtllib":
            libraries.append(rest.strip())
    if not corners:
        raise ValueError("no faces")
    where = np.array(points)[np.array(corners)]
    table = np.array([*coordinates, [np.nan, np.nan]])
    return Model(where, table[np.array(uvs)], np.array(owner)), names, libraries


def _index(word: str, count: int) -> int:
    value = int(word)
    value = value - 1 if value > 0 else count + value
    if not 0 <= value < count:
        raise IndexError(f"index {word} of {count}")
    return value


def _coordinate(part: list[str], count: int) -> int:
    # Some exporters count texture coordinates wrong; such a corner has none.
    try:
        return _index(part[1], count) if len(part) > 1 and part[1] else -1
    except IndexError:
        return -1
