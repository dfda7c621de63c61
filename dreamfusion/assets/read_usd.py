# usd-core fills its modules when they are imported, which no type checker sees.
# pyright: reportAttributeAccessIssue=false
"""USD files and USDZ packages: triangles and the diffuse colour of UsdPreviewSurface, by the optional library usd-core.

Used: transforms, the stage's axis that is up, polygons of any size (cut into fans), display colours, material bindings of whole
meshes and of subsets, constant colours and textures with their coordinates. Constants and display colours are linear.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dreamfusion.assets.parts import Part, fans
from dreamfusion.assets.texture_files import find_texture
from dreamfusion.documents import MIB
from dreamfusion.errors import MeshError, shown
from dreamfusion.image_files import read_image
from dreamfusion.posed_images.paint import PLAIN_SRGB, Paint, Texture, Wrap, srgb_to_linear

MAX_TEXTURE_BYTES = 512 * MIB
_WRAPS: dict[str, Wrap] = {"repeat": "repeat", "mirror": "mirror"}
_Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_PLAIN = float(srgb_to_linear(np.array(PLAIN_SRGB)))
Report = Callable[[str], None]


@dataclass(frozen=True)
class _Look:
    """A material's diffuse colour.

    Attributes:
        primvar: of the coordinates if there is a texture, else of the colours if those are of the mesh.
    """

    paint: Paint
    primvar: str | None


def read_usd(path: Path, report: Report) -> list[Part]:
    """The visible meshes of a stage, +Y up.

    Args:
        report: called with one line for what is not used although it changes the object's look.

    Raises:
        MeshError: usd-core is not installed, or the stage cannot be opened.
    """
    if importlib.util.find_spec("pxr") is None:
        raise MeshError(
            f"reading {path} needs the package usd-core, which is not installed",
            hint="run pip install 'dreamfusion[usdz]', or save it as glb",
        )
    from pxr import Tf, Usd, UsdGeom

    try:
        stage: Any = Usd.Stage.Open(str(path))
    except Tf.ErrorException as error:
        raise MeshError(f"{path} cannot be opened as USD") from error
    turn = _Z_UP if UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z else np.eye(3)
    places, looks = UsdGeom.XformCache(), _Looks(path, report)
    parts: list[Part] = []
    for prim in stage.Traverse(Usd.TraverseInstanceProxies()):
        imageable = UsdGeom.Imageable(prim)
        if not prim.IsA(UsdGeom.Mesh) or imageable.ComputeVisibility() == UsdGeom.Tokens.invisible:
            continue
        if imageable.ComputePurpose() in (UsdGeom.Tokens.proxy, UsdGeom.Tokens.guide):
            continue
        world = np.array(places.GetLocalToWorldTransform(prim)).T
        parts += _mesh(UsdGeom.Mesh(prim), turn @ world[:3, :3], turn @ world[:3, 3], looks)
    return parts


def _mesh(
    mesh: Any, matrix: Float[np.ndarray, "3 3"], offset: Float[np.ndarray, "3"], looks: _Looks
) -> Iterator[Part]:
    from pxr import UsdGeom, UsdShade

    points = np.array(mesh.GetPointsAttr().Get() or [], dtype=np.float64).reshape(-1, 3)
    counts = np.array(mesh.GetFaceVertexCountsAttr().Get() or [], dtype=np.int64)
    order = np.array(mesh.GetFaceVertexIndicesAttr().Get() or [], dtype=np.int64)
    if counts.sum() != len(order) or (len(order) and not 0 <= order.min() <= order.max() < len(points)):
        raise MeshError(f"{mesh.GetPath()} has faces of vertices that do not exist")
    face_of, corners = fans(counts)
    flipped = np.linalg.det(matrix) < 0
    if flipped != (mesh.GetOrientationAttr().Get() == UsdGeom.Tokens.leftHanded):
        corners = corners[:, ::-1]
    vertices = points @ matrix.T + offset
    binding = UsdShade.MaterialBindingAPI(mesh.GetPrim())
    left = np.ones(len(counts), dtype=bool)
    chosen: list[tuple[Any, np.ndarray]] = []
    for subset in binding.GetMaterialBindSubsets():
        faces = np.array(subset.GetIndicesAttr().Get() or [], dtype=np.int64)
        chosen.append((UsdShade.MaterialBindingAPI(subset.GetPrim()), faces))
        left[faces] = False
    chosen.append((binding, np.flatnonzero(left)))
    for bound, faces in chosen:
        rows = np.flatnonzero(np.isin(face_of, faces))
        if len(rows):
            look = looks.of(bound.ComputeBoundMaterial()[0])
            yield _part(mesh, vertices, order, corners[rows], face_of[rows], look)


def _part(
    mesh: Any,
    vertices: Float[np.ndarray, "v 3"],
    order: Int[np.ndarray, " c"],
    corners: Int[np.ndarray, "f 3"],
    face_of: Int[np.ndarray, " f"],
    look: _Look,
) -> Part:
    faces = order[corners]

    def values(name: str) -> np.ndarray | None:
        return _primvar(mesh, name, faces, corners, face_of)

    if look.paint.texture is not None and look.primvar is not None:
        uvs = values(look.primvar)
        if uvs is None:
            raise MeshError(f"{mesh.GetPath()} has a texture and no coordinates {shown(look.primvar)}")
        return Part(vertices, faces, look.paint, uvs[..., :2] * [1, -1] + [0, 1])
    found = values(look.primvar) if look.primvar is not None else None
    if look.primvar is not None and found is None:
        found = np.full((len(faces), 3, 3), _PLAIN)
    return Part(vertices, faces, look.paint, None, found)


def _primvar(
    mesh: Any, name: str, faces: np.ndarray, corners: np.ndarray, face_of: np.ndarray
) -> Float[np.ndarray, "f 3 k"] | None:
    """The values at the faces' corners, whatever they are stored for; None: there are none."""
    from pxr import UsdGeom

    primvar = UsdGeom.PrimvarsAPI(mesh).FindPrimvarWithInheritance(name)
    if not primvar or (found := primvar.ComputeFlattened()) is None:
        return None
    stored = np.array(found, dtype=np.float64)
    stored = stored.reshape(len(stored), -1) if stored.ndim > 1 else stored.reshape(1, -1)
    match primvar.GetInterpolation():
        case "constant":
            return np.broadcast_to(stored[0], (*faces.shape, stored.shape[1])).copy()
        case "uniform":
            return stored[face_of][:, None].repeat(3, axis=1)
        case "faceVarying":
            return stored[corners]
        case _:
            return stored[faces]


# ------------------------------------------------------------------------------------------------ materials


@dataclass
class _Looks:
    path: Path
    report: Report

    def __post_init__(self) -> None:
        self._known: dict[str, _Look] = {}

    def of(self, material: Any) -> _Look:
        key = str(material.GetPath()) if material else ""
        if key not in self._known:
            self._known[key] = self._made(material)
        return self._known[key]

    def _made(self, material: Any) -> _Look:
        shown_colours = _Look(Paint(), "displayColor")
        surface = material.ComputeSurfaceSource()[0] if material else None
        if not surface or surface.GetIdAttr().Get() != "UsdPreviewSurface":
            if surface:
                self.report(f"{self.path}: the shader {shown(surface.GetIdAttr().Get())} is not used")
            return shown_colours
        opacity = surface.GetInput("opacity")
        if opacity and (opacity.HasConnectedSource() or (opacity.Get() or 0.0) < 1):
            self.report(f"{self.path}: transparent materials are read as opaque")
        diffuse = surface.GetInput("diffuseColor")
        if not diffuse or not diffuse.HasConnectedSource():
            value = diffuse.Get() if diffuse else None
            r, g, b = (float(part) for part in (value if value is not None else (0.18, 0.18, 0.18)))
            return _Look(Paint((r, g, b)), None)
        source = _source(diffuse)
        match source.GetIdAttr().Get():
            case "UsdUVTexture":
                return self._textured(source)
            case "UsdPrimvarReader_float3":
                return _Look(Paint(), str(source.GetInput("varname").Get()))
        self.report(f"{self.path}: the shader {shown(source.GetIdAttr().Get())} is not used")
        return shown_colours

    def _textured(self, shader: Any) -> _Look:
        name = str(shader.GetInput("file").Get().path)
        image = self._image(name)
        if image is None:
            return _Look(Paint(), "displayColor")
        space = _value(shader, "sourceColorSpace", "auto")
        scale = [float(value) for value in _value(shader, "scale", (1, 1, 1, 1))]
        bias = [float(value) for value in _value(shader, "bias", (0, 0, 0, 0))]
        if space == "raw" or any(bias[:3]):
            self.report(f"{self.path}: the texture {shown(name)} is read as sRGB, without a bias")
        wrap: tuple[Wrap, Wrap] = (
            _WRAPS.get(_value(shader, "wrapS", "clamp"), "clamp"),
            _WRAPS.get(_value(shader, "wrapT", "clamp"), "clamp"),
        )
        reader = _source(shader.GetInput("st"))
        if reader and reader.GetIdAttr().Get() == "UsdTransform2d":
            self.report(
                f"{self.path}: coordinates of the texture {shown(name)} are not moved (UsdTransform2d)"
            )
            reader = _source(reader.GetInput("in"))
        primvar = str(_value(reader, "varname", "st")) if reader else "st"
        texture = Texture(np.ascontiguousarray(image[..., :3]), wrap)
        return _Look(Paint((scale[0], scale[1], scale[2]), texture), primvar)

    def _image(self, name: str) -> np.ndarray | None:
        if self.path.suffix.lower() == ".usdz":
            with zipfile.ZipFile(self.path) as archive:
                found = {info.filename.lower(): info for info in archive.infolist()}.get(name.lower())
                if found is not None and found.file_size <= MAX_TEXTURE_BYTES:
                    return read_image(archive.read(found), MeshError, f"{name} in {self.path}")
        elif (file := find_texture(name, self.path)) is not None:
            return read_image(file, MeshError)
        self.report(f"{self.path} names the texture {shown(name)}, which is not there: left out")
        return None


def _source(given: Any) -> Any:
    """The shader that an input is connected to."""
    from pxr import UsdShade

    if not given or not given.HasConnectedSource():
        return None
    return UsdShade.Shader(given.GetConnectedSources()[0][0].source.GetPrim())


def _value(shader: Any, name: str, default: Any) -> Any:
    given = shader.GetInput(name)
    value = given.Get() if given else None
    return default if value is None else value
