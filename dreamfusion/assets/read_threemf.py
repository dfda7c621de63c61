"""3MF files (3MF Consortium, core specification 1.3 and materials and properties extension 1.2): triangles and their colours.

Used: build items and components with their transforms, also of other model files in the package (production extension), colour
groups, base materials and textures. Colours are sRGB. The bed is below +Z, so the object is turned to +Y up.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from dreamfusion.assets.parts import Part
from dreamfusion.documents import MIB, open_regular
from dreamfusion.errors import MeshError, shown
from dreamfusion.image_files import read_image
from dreamfusion.posed_images.paint import PLAIN_SRGB, Paint, Texture, Wrap

MAX_MODEL_BYTES = 1024 * MIB
MAX_DEPTH = 32
MAX_PARTS = 100_000
_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
_MATERIALS = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"
_PRODUCTION = "{http://schemas.microsoft.com/3dmanufacturing/production/2015/06}"
_KNOWN = (_CORE[1:-1], _MATERIALS[1:-1], _PRODUCTION[1:-1])
_WRAPS: dict[str, Wrap] = {"wrap": "repeat", "mirror": "mirror", "clamp": "clamp", "none": "clamp"}
_Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass
class _Model:
    """One model file: its objects, and what gives them colour, by their numbers."""

    name: str
    root: ElementTree.Element
    objects: dict[str, ElementTree.Element] = field(default_factory=dict)
    colours: dict[str, Float[np.ndarray, "c 3"]] = field(default_factory=dict)
    coordinates: dict[str, tuple[Paint, Float[np.ndarray, "c 2"]]] = field(default_factory=dict)


def read_threemf(path: Path, report: Callable[[str], None]) -> list[Part]:
    """The parts that the file builds, +Y up.

    Args:
        report: called with one line for a kind of colour that is not used.

    Raises:
        MeshError: no such package, damaged, or it requires an extension that is not used here.
    """
    with open_regular(path, error=MeshError) as file, _opened(file, path) as archive:
        package = _Package(archive, path, report)
        main = package.model(package.main())
        parts: list[Part] = []
        for item in main.root.iterfind(f"{_CORE}build/{_CORE}item"):
            parts += package.parts(main, item, np.eye(4), 0)
            if len(parts) > MAX_PARTS:
                raise MeshError(f"{path} builds too many parts", expected=f"at most {MAX_PARTS:,}")
        return parts


def _opened(file: BinaryIO, path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise MeshError(f"{path} is no 3MF package", got=str(error)) from error


@dataclass
class _Package:
    archive: zipfile.ZipFile
    path: Path
    report: Callable[[str], None]
    models: dict[str, _Model] = field(default_factory=dict)

    def content(self, name: str) -> bytes:
        """A file of the package, by its absolute name there."""
        wanted = posixpath.normpath("/" + name).lstrip("/").lower()
        found = next((info for info in self.archive.infolist() if info.filename.lower() == wanted), None)
        if found is None:
            raise MeshError(f"{self.path} has no {shown(name)}")
        if found.file_size > MAX_MODEL_BYTES:
            raise MeshError(
                f"{shown(name)} in {self.path} is too large", expected=f"{MAX_MODEL_BYTES:,} bytes"
            )
        return self.archive.read(found)

    def main(self) -> str:
        names = [name for name in self.archive.namelist() if name.lower().endswith("3d/3dmodel.model")]
        return names[0] if names else "3D/3dmodel.model"

    def model(self, name: str) -> _Model:
        key = posixpath.normpath("/" + name)
        if key not in self.models:
            content = self.content(name)
            root = ElementTree.fromstring(content)
            self._check_required(root, content)
            self.models[key] = model = _Model(key, root)
            for resources in root.iterfind(f"{_CORE}resources"):
                for element in resources:
                    self._resource(model, element)
        return self.models[key]

    def _check_required(self, root: ElementTree.Element, content: bytes) -> None:
        # ElementTree forgets the prefixes that the attribute is made of.
        spaces = dict(pair for _, pair in ElementTree.iterparse(io.BytesIO(content), ["start-ns"]))
        for prefix in root.get("requiredextensions", "").split():
            if (uri := spaces.get(prefix, prefix)) not in _KNOWN:
                raise MeshError(f"{self.path} needs the 3MF extension {uri}, which is not supported")

    def _resource(self, model: _Model, element: ElementTree.Element) -> None:
        number = element.get("id", "")
        match element.tag.replace(_CORE, "").replace(_MATERIALS, "m:"):
            case "object":
                model.objects[number] = element
            case "basematerials":
                found = [_colour(base.get("displaycolor")) for base in element.iterfind(f"{_CORE}base")]
                model.colours[number] = np.array(found).reshape(-1, 3)
            case "m:colorgroup":
                found = [_colour(color.get("color")) for color in element.iterfind(f"{_MATERIALS}color")]
                model.colours[number] = np.array(found).reshape(-1, 3)
            case "m:texture2dgroup":
                model.coordinates[number] = self._textured(model, element)
            case "m:compositematerials" | "m:multiproperties":
                kind = element.tag.rpartition("}")[2]
                self.report(f"{self.path} has colours of the kind {kind}, which are left out")

    def _textured(self, model: _Model, group: ElementTree.Element) -> tuple[Paint, Float[np.ndarray, "c 2"]]:
        number = group.get("texid")
        found = [item for item in model.root.iter(f"{_MATERIALS}texture2d") if item.get("id") == number]
        if not found:
            raise MeshError(f"{self.path} has no texture {shown(number)}")
        name = found[0].get("path", "")
        image = read_image(self.content(name), MeshError, f"{name} in {self.path}")
        wrap = (_WRAPS[found[0].get("tilestyleu", "wrap")], _WRAPS[found[0].get("tilestylev", "wrap")])
        smooth = found[0].get("filter", "auto") != "nearest"
        paint = Paint(texture=Texture(np.ascontiguousarray(image[..., :3]), wrap, smooth))
        rows = [
            (float(at.attrib["u"]), 1 - float(at.attrib["v"]))
            for at in group.iterfind(f"{_MATERIALS}tex2coord")
        ]
        return paint, np.array(rows).reshape(-1, 2)

    def parts(
        self, model: _Model, reference: ElementTree.Element, above: np.ndarray, depth: int
    ) -> Iterator[Part]:
        """Of the object that an item or a component refers to, under the transform `above`."""
        if depth > MAX_DEPTH:
            raise MeshError(f"components of {self.path} are nested more than {MAX_DEPTH} deep")
        if (name := reference.get(f"{_PRODUCTION}path")) is not None:
            model = self.model(name)
        number = reference.get("objectid", "")
        if number not in model.objects:
            raise MeshError(f"{self.path} has no object {shown(number)}")
        element, world = model.objects[number], above @ _transform(reference.get("transform"))
        if element.get("type", "model") in ("support", "other"):
            return
        for component in element.iterfind(f"{_CORE}components/{_CORE}component"):
            yield from self.parts(model, component, world, depth + 1)
        if (mesh := element.find(f"{_CORE}mesh")) is not None:
            yield from self._mesh(model, element, mesh, world)

    def _mesh(
        self, model: _Model, element: ElementTree.Element, mesh: ElementTree.Element, world: np.ndarray
    ) -> Iterator[Part]:
        points = np.array(
            [
                [float(at.attrib[axis]) for axis in "xyz"]
                for at in mesh.iterfind(f"{_CORE}vertices/{_CORE}vertex")
            ]
        ).reshape(-1, 3)
        vertices = (points @ world[:3, :3].T + world[:3, 3]) @ _Z_UP.T
        triangles = list(mesh.iterfind(f"{_CORE}triangles/{_CORE}triangle"))
        faces = np.array([[int(at.attrib[k]) for k in ("v1", "v2", "v3")] for at in triangles]).reshape(-1, 3)
        if len(faces) and not 0 <= faces.min() <= faces.max() < len(points):
            raise MeshError(f"{self.path} has a triangle of vertices that do not exist")
        if np.linalg.det(world[:3, :3]) < 0:
            faces = faces[:, ::-1]
        # A triangle without properties of its own has its object's.
        default = element.get("pid"), element.get("pindex", "0")
        groups: dict[str | None, list[int]] = {}
        for row, triangle in enumerate(triangles):
            groups.setdefault(triangle.get("pid", default[0]), []).append(row)
        for group, rows in groups.items():
            first = [triangles[row].get("p1", default[1]) for row in rows]
            index = np.array(
                [
                    [int(triangles[row].get(k, p)) for k in ("p1", "p2", "p3")]
                    for row, p in zip(rows, first, strict=True)
                ]
            )
            if np.linalg.det(world[:3, :3]) < 0:
                index = index[:, ::-1]
            yield self._part(model, vertices, faces[rows], group, index)

    def _part(
        self, model: _Model, vertices: np.ndarray, faces: np.ndarray, group: str | None, index: np.ndarray
    ) -> Part:
        if group in model.coordinates:
            paint, uvs = model.coordinates[group]
            return Part(vertices, faces, paint, uvs[index])
        paint = Paint(linear_corners=False)
        if group in model.colours:
            return Part(vertices, faces, paint, None, model.colours[group][index])
        return Part(vertices, faces, paint, None, np.full((len(faces), 3, 3), PLAIN_SRGB))


def _colour(text: str | None) -> list[float]:
    """#RRGGBB or #RRGGBBAA, sRGB."""
    text = (text or "").strip()
    if len(text) not in (7, 9) or not text.startswith("#"):
        raise MeshError(f"a colour of the 3MF file is {shown(text)}", expected="#RRGGBB")
    return [int(text[k : k + 2], 16) / 255 for k in (1, 3, 5)]


def _transform(text: str | None) -> np.ndarray:
    """Twelve numbers, four rows of three, which a row vector is multiplied with."""
    matrix = np.eye(4)
    if text is not None:
        matrix[:3] = np.array([float(word) for word in text.split()]).reshape(4, 3).T
    return matrix
