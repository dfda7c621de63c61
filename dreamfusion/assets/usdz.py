# usd-core fills its modules when they are imported, which no type checker sees.
# pyright: reportAttributeAccessIssue=false
"""USDZ, what phones show in a room: a package of a USD crate and a picture, by the optional library usd-core."""

# usd-core's modules are filled by C++ when they are imported, which no type checker sees.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import importlib.util
import io
import struct
import zipfile
from typing import Any

import numpy as np
import trimesh

from dreamfusion.assets.gltf import png
from dreamfusion.assets.texture import Texture
from dreamfusion.errors import OutputError
from dreamfusion.temporary import scratch_folder

# Time and date of an entry: 1 January 1980, the first that a zip can hold.
_DATE = struct.pack("<HH", 0, 1 << 5 | 1)


def check_usd() -> None:
    """Raises OutputError if the library is not installed."""
    if importlib.util.find_spec("pxr") is None:
        raise OutputError(
            "usdz needs the package usd-core, which is not installed",
            hint="run pip install 'dreamfusion[usdz]', or choose glb",
        )


def usdz(
    mesh: trimesh.Trimesh, colors: np.ndarray | None, texture: Texture | None, metres_per_unit: float
) -> bytes:
    """One mesh, Y up, with a rough material that is textured or takes the colours at the vertices.

    Args:
        mesh: its vertex normals are written as they are.
        colors: linear, "v 3" in [0, 1], where there is no texture.
        texture: its picture is sRGB.
        metres_per_unit: of the mesh's coordinates.

    Raises:
        OutputError: the library is missing, or did not take the scene.
    """
    check_usd()
    from pxr import Sdf, Usd, UsdGeom, UsdUtils

    with scratch_folder("usd") as folder:
        stage: Any = Usd.Stage.CreateNew(str(folder / "object.usdc"))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, metres_per_unit)
        root = UsdGeom.Xform.Define(stage, "/object")
        stage.SetDefaultPrim(root.GetPrim())
        shape = _shape(stage, mesh, colors, texture)
        if texture is not None:
            (folder / "texture.png").write_bytes(png(texture.image))
        _bind(stage, shape, texture is not None)
        stage.GetRootLayer().Save()
        package = folder / "object.usdz"
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(folder / "object.usdc")), str(package)):
            raise OutputError("usd-core could not make the usdz package")
        return _with_first_date(package.read_bytes())


def _with_first_date(package: bytes) -> bytes:
    """The zip with the first date that zips know in every entry: the clock's would make two packages of one mesh differ."""
    changed = bytearray(package)
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        place = archive.start_dir
        for entry in archive.infolist():
            # In the entry's own header and in the directory at the end (APPNOTE.TXT, 4.3.7 and 4.3.12).
            for start in (entry.header_offset + 10, place + 12):
                changed[start : start + len(_DATE)] = _DATE
            place += 46 + sum(struct.unpack_from("<HHH", package, place + 28))
    return bytes(changed)


def _shape(stage: Any, mesh: trimesh.Trimesh, colors: np.ndarray | None, texture: Texture | None) -> Any:
    from pxr import Sdf, UsdGeom, Vt

    shape = UsdGeom.Mesh.Define(stage, "/object/mesh")
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.asarray(mesh.vertices, dtype=np.float32)))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, dtype=np.int32)))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.asarray(mesh.faces, dtype=np.int32).ravel()))
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.asarray(mesh.vertex_normals, dtype=np.float32)))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.asarray(mesh.bounds, dtype=np.float32)))
    primvars = UsdGeom.PrimvarsAPI(shape)
    if texture is not None:
        # USD's pictures have their origin at the bottom left.
        st = np.stack([texture.uvs[:, 0], 1 - texture.uvs[:, 1]], axis=-1).astype(np.float32)
        coordinates = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
        coordinates.Set(Vt.Vec2fArray.FromNumpy(st))
    if colors is not None:
        shown = shape.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        shown.Set(Vt.Vec3fArray.FromNumpy(colors.astype(np.float32)))
    return shape


def _bind(stage: Any, shape: Any, textured: bool) -> None:
    from pxr import Sdf, UsdShade

    material = UsdShade.Material.Define(stage, "/object/material")
    surface = UsdShade.Shader.Define(stage, "/object/material/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    diffuse = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
    reader = UsdShade.Shader.Define(stage, "/object/material/reader")
    if textured:
        reader.CreateIdAttr("UsdPrimvarReader_float2")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
        st = reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        picture = UsdShade.Shader.Define(stage, "/object/material/picture")
        picture.CreateIdAttr("UsdUVTexture")
        picture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set("texture.png")
        picture.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
        for axis in ("wrapS", "wrapT"):
            picture.CreateInput(axis, Sdf.ValueTypeNames.Token).Set("clamp")
        picture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(st)
        diffuse.ConnectToSource(picture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3))
    else:
        reader.CreateIdAttr("UsdPrimvarReader_float3")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
        diffuse.ConnectToSource(reader.CreateOutput("result", Sdf.ValueTypeNames.Float3))
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
