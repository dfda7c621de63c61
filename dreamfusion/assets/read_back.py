# usd-core's modules are filled by C++ when they are imported, which no type checker sees.
# pyright: reportAttributeAccessIssue=false
"""Exported files read back into triangles and colours, by other code than wrote them: trimesh, an XML parser, usd-core."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import trimesh
from PIL import Image

from dreamfusion.assets.formats import linear_to_srgb
from dreamfusion.errors import MeshError
from dreamfusion.image_files import read_image

_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
_MATERIALS = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"


@dataclass(frozen=True)
class Shape:
    """What a file holds: sRGB colours at the corners, or a picture and where on it they lie (origin top left), or neither.

    Attributes:
        vertices: "v 3", +Y up.
        faces: "f 3".
        colors: "v 3" in [0, 1].
        uvs: "v 2" in [0, 1].
        image: "h w 3" in [0, 1].
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None
    uvs: np.ndarray | None = None
    image: np.ndarray | None = None

    @property
    def coloured(self) -> bool:
        return self.colors is not None or self.image is not None


def read_shape(path: Path, world_y: tuple[float, float]) -> Shape:
    """The file's object in the size that it has in the world.

    Args:
        path: glb, obj, ply, stl, 3mf or usdz.
        world_y: where it begins and ends along +Y. Only a 3mf is moved there as well: it stands on its bed.
    """
    ending = path.suffix.lower()
    match ending:
        case ".3mf":
            shape = _threemf(path)
        case ".usdz":
            shape = _usdz(path)
        case _:
            shape = _by_trimesh(path, ending)
    bottom, height = world_y[0], world_y[1] - world_y[0]
    vertices = shape.vertices * (height / np.ptp(shape.vertices[:, 1]))
    if ending == ".3mf":
        vertices = vertices + np.array([0.0, bottom - vertices[:, 1].min(), 0.0])
    return replace(shape, vertices=vertices)


def _by_trimesh(path: Path, ending: str) -> Shape:
    scene = trimesh.load_scene(path, process=False, maintain_order=True)
    (mesh,) = list[Any](scene.geometry.values())
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if ending == ".stl":
        return Shape(vertices, faces)
    if getattr(mesh.visual, "uv", None) is not None:
        material = mesh.visual.material
        picture: Any = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        # trimesh turns every format's coordinates to an origin at the bottom left.
        uvs = np.asarray(mesh.visual.uv) * [1, -1] + [0, 1]
        return Shape(vertices, faces, uvs=uvs, image=_values(picture))
    if ending == ".glb":
        # glTF's are linear light, in 16 bits here; beside a material trimesh leaves them as they are.
        linear = np.asarray(mesh.visual.vertex_attributes["color"])[:, :3]
        colors = linear_to_srgb(linear / float(np.iinfo(linear.dtype).max))
    else:
        colors = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255.0
    return Shape(vertices, faces, colors=colors)


def _values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")) / 255.0


def _threemf(path: Path) -> Shape:
    """A vertex for each corner, because colours belong to corners there; Z-up is turned to Y-up."""
    with zipfile.ZipFile(path) as archive:
        model = ElementTree.fromstring(archive.read("3D/3dmodel.model"))
    palette = [
        [int(told.attrib["color"][k : k + 2], 16) / 255 for k in (1, 3, 5)]
        for told in model.iter(f"{_MATERIALS}color")
    ]
    points = [[float(told.attrib[axis]) for axis in "xyz"] for told in model.iter(f"{_CORE}vertex")]
    rows = list(model.iter(f"{_CORE}triangle"))
    corners, colors = (
        np.array([[int(told.attrib[name + k]) for k in "123"] for told in rows]).ravel() for name in "vp"
    )
    x, y, z = np.array(points)[corners].T
    faces = np.arange(len(corners)).reshape(-1, 3)
    return Shape(np.stack([x, z, -y], axis=-1), faces, colors=np.array(palette)[colors])


def _usdz(path: Path) -> Shape:
    from pxr import Usd, UsdGeom, UsdShade

    stage: Any = Usd.Stage.Open(str(path))
    prims = list(stage.Traverse())
    (mesh,) = [UsdGeom.Mesh(prim) for prim in prims if prim.IsA(UsdGeom.Mesh)]
    vertices = np.array(mesh.GetPointsAttr().Get(), dtype=np.float64)
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    primvars = UsdGeom.PrimvarsAPI(mesh)
    shaders = [UsdShade.Shader(prim) for prim in prims if prim.IsA(UsdShade.Shader)]
    pictures = [shader for shader in shaders if shader.GetIdAttr().Get() == "UsdUVTexture"]
    if not pictures:
        linear = np.array(primvars.GetPrimvar("displayColor").Get(), dtype=np.float64)
        return Shape(vertices, faces, colors=linear_to_srgb(linear))
    name = pictures[0].GetInput("file").Get().path
    with zipfile.ZipFile(path) as archive:
        image = read_image(archive.read(name), MeshError, f"{name} in {path}")[..., :3] / 255.0
    uvs = np.array(primvars.GetPrimvar("st").Get(), dtype=np.float64) * [1, -1] + [0, 1]
    return Shape(vertices, faces, uvs=uvs, image=image)
