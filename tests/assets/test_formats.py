# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""Mesh files, read back by trimesh and by hand."""

from __future__ import annotations

import importlib
import json
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.assets import formats
from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.formats import (
    linear_color_16bit,
    linear_to_srgb,
    srgb_to_linear,
    vertex_colors,
    write_mesh,
)
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.texture import bake, split_at_seams
from dreamfusion.errors import ConfigError, OutputError

DTYPES = {5126: "<f4", 5125: "<u4", 5123: "<u2", 5121: "u1"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


@pytest.fixture
def head(toys):
    return extract_mesh(toys.head(), 1.0, resolution=40, threshold=50.0)[0]


def parse_glb(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON of a GLB and the arrays of its only primitive, from the specification and nothing else."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert magic == b"glTF" and version == 2 and length == len(data)
    json_length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and json_length % 4 == 0
    tree = json.loads(data[20 : 20 + json_length])
    binary_length, kind = struct.unpack_from("<I4s", data, 20 + json_length)
    assert kind == b"BIN\0" and binary_length % 4 == 0
    binary = data[28 + json_length :]
    (mesh,) = tree["meshes"]
    (primitive,) = mesh["primitives"]
    arrays = {}
    for name, index in {**primitive["attributes"], "indices": primitive["indices"]}.items():
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        assert start % 4 == 0
        width = WIDTHS[accessor["type"]]
        values = np.frombuffer(binary, DTYPES[accessor["componentType"]], accessor["count"] * width, start)
        arrays[name] = values.reshape(-1, width) if width > 1 else values
    return tree, arrays


def test_glb_is_what_the_specification_asks_for(head, tmp_path):
    tree, arrays = parse_glb(write_mesh(head, tmp_path / "head.glb"))
    (primitive,) = tree["meshes"][0]["primitives"]
    position = tree["accessors"][primitive["attributes"]["POSITION"]]
    assert np.allclose(position["min"], arrays["POSITION"].min(0))
    assert np.allclose(position["max"], arrays["POSITION"].max(0))
    assert np.allclose(arrays["POSITION"], head.vertices, atol=1e-6)
    assert np.allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, atol=1e-5)
    assert arrays["indices"].max() == len(head.vertices) - 1
    color = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    assert color["componentType"] == 5123 and color["type"] == "VEC4" and color["normalized"] is True
    material = tree["materials"][primitive["material"]]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 1
    assert material["doubleSided"] is False
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "COLOR_0"}
    assert tree["scene"] == 0 and tree["scenes"][0]["nodes"]


def test_glb_stands_upright_and_faces_front(head, tmp_path):
    tree, arrays = parse_glb(write_mesh(head, tmp_path / "head.glb"))
    for node in tree["nodes"]:
        assert np.allclose(node.get("matrix", np.eye(4).T.flatten()), np.eye(4).flatten())
        assert "rotation" not in node and "scale" not in node and "translation" not in node
    linear = arrays["COLOR_0"][:, :3] / 65535
    centre = {}
    for name, channel in (("nose", 0), ("ear", 1), ("hat", 2)):
        painted = linear[:, channel] - linear.sum(1) / 3 > 0.2
        centre[name] = arrays["POSITION"][painted].mean(0)
    assert centre["nose"][2] > 0.4 and np.abs(centre["nose"][:2]).max() < 0.05
    assert centre["hat"][1] > 0.4 and np.abs(centre["hat"][[0, 2]]).max() < 0.05
    assert centre["ear"][0] > 0.4 and np.abs(centre["ear"][1:]).max() < 0.05


def test_glb_is_not_inside_out(head, tmp_path):
    _, arrays = parse_glb(write_mesh(head, tmp_path / "head.glb"))
    a, b, c = arrays["POSITION"][arrays["indices"].reshape(-1, 3)].astype(np.float64).transpose(1, 0, 2)
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() > 0
    winding = np.cross(b - a, c - a)
    shading = arrays["NORMAL"][arrays["indices"].reshape(-1, 3)].sum(1)
    assert (np.einsum("ij,ij->i", winding, shading) > 0).mean() > 0.999


def test_glb_colours_are_linear_and_return_to_the_very_same_bytes(head, tmp_path):
    _, arrays = parse_glb(write_mesh(head, tmp_path / "head.glb"))
    stored = vertex_colors(head)
    assert np.array_equal(np.round(linear_to_srgb(arrays["COLOR_0"][:, :3] / 65535) * 255), stored[:, :3])
    assert (arrays["COLOR_0"][:, 3] == 65535).all()
    # 0.6 in sRGB is 0.3185 in linear light: the grey must not be written as it stands.
    grey = (stored[:, :3] == 153).all(1)
    assert grey.any() and np.allclose(arrays["COLOR_0"][grey, :3] / 65535, 0.3185, atol=1e-3)


def test_all_256_levels_survive_the_linear_16_bits():
    levels = np.arange(256, dtype=np.uint8)
    rgba = np.stack([levels, levels, levels, levels], -1)
    linear = linear_color_16bit(rgba)
    assert len(np.unique(linear[:, 0])) == 256
    assert np.array_equal(np.round(linear_to_srgb(linear[:, 0] / 65535) * 255), levels)
    assert np.array_equal(linear[:, 3], levels.astype(np.uint16) * 257)


def test_srgb_curve_at_known_points():
    assert srgb_to_linear(np.array([0.0, 0.04045, 0.5, 1.0])) == pytest.approx(
        [0, 0.0031308, 0.2140411, 1], abs=1e-6
    )
    values = np.linspace(0, 1, 101)
    assert np.allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)


@pytest.mark.parametrize("format", ["glb", "obj", "ply", "stl"])
def test_trimesh_reads_back_the_same_solid(head, tmp_path, format):
    path = write_mesh(head, tmp_path / "deep" / "folder" / f"head.{format}")
    again = trimesh.load_mesh(path)
    assert again.is_watertight and again.volume == pytest.approx(head.volume, rel=1e-4)
    assert np.allclose(again.bounds, head.bounds, atol=1e-5)
    if format in ("obj", "ply"):
        again = trimesh.load_mesh(path, process=False)
        assert np.allclose(again.vertices, head.vertices, atol=1e-6)
        assert np.array_equal(vertex_colors(again)[:, :3], vertex_colors(head)[:, :3])


@pytest.mark.parametrize(("format", "unit"), [("glb", 1.0), ("obj", 1.0), ("ply", 1.0), ("stl", 1e-3)])
def test_a_height_in_cm_is_that_high_in_the_formats_unit(head, tmp_path, format, unit):
    before = head.vertices.copy()
    again = trimesh.load_mesh(write_mesh(head, tmp_path / f"head.{format}", height_cm=25))
    assert again.extents[1] * unit == pytest.approx(0.25, rel=1e-5)
    assert again.extents[0] / again.extents[1] == pytest.approx(head.extents[0] / head.extents[1], rel=1e-5)
    assert np.array_equal(head.vertices, before)


def test_obj_has_srgb_colours_and_normals(head, tmp_path):
    lines = write_mesh(head, tmp_path / "head.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], dtype=float)
    assert vertices.shape == (len(head.vertices), 6)
    assert np.allclose(vertices[:, 3:] * 255, vertex_colors(head)[:, :3], atol=1e-3)
    assert sum(line.startswith("vn ") for line in lines) == len(head.vertices)
    assert not any(line.startswith("mtllib") for line in lines)


def test_ply_has_byte_colours(head, tmp_path):
    header = write_mesh(head, tmp_path / "head.ply").read_bytes().split(b"end_header")[0]
    assert b"property uchar red" in header and b"property float nx" in header


def test_the_format_option_wins_over_the_ending(head, tmp_path):
    path = write_mesh(head, tmp_path / "model.bin", format="STL")
    assert trimesh.load_mesh(path, file_type="stl").is_watertight


@pytest.mark.parametrize(("name", "format"), [("a.fbx", None), ("a", None), ("a.glb", "dae")])
def test_unknown_formats_list_the_known_ones(head, tmp_path, name, format):
    with pytest.raises(OutputError, match="glb, obj, ply, stl"):
        write_mesh(head, tmp_path / name, format)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(head, tmp_path, monkeypatch):
    path = tmp_path / "head.glb"
    path.write_text("old")

    def failing(asset):
        raise RuntimeError("broken")

    monkeypatch.setitem(formats.WRITERS, "glb", failing)
    with pytest.raises(RuntimeError):
        write_mesh(head, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_disk_trouble_is_the_users_error(head, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_mesh(head, tmp_path / "file" / "head.glb")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(OutputError, match="a folder"):
        write_mesh(head, tmp_path / "folder.glb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.glb"]


def test_a_full_disk_leaves_nothing(head, tmp_path, monkeypatch):
    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        write_mesh(head, tmp_path / "head.glb")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- textures


@pytest.fixture
def textured(toys):
    """The head, split at the seams of an atlas, and its texture."""
    field = toys.head()
    mesh, _ = extract_mesh(field, 1.0, resolution=32, threshold=50.0)
    atlas = box_atlas(mesh, 64)
    split = split_at_seams(mesh, atlas)
    return split, bake(field, split, atlas, 64, 1.0)


def test_glb_holds_the_very_picture_and_coordinates(textured, tmp_path):
    mesh, texture = textured
    path = write_mesh(mesh, tmp_path / "head.glb", texture=texture, unlit=True)
    tree, arrays = parse_glb(path)
    assert np.allclose(arrays["TEXCOORD_0"], texture.uvs, atol=1e-6)
    assert "COLOR_0" not in arrays
    material = tree["materials"][0]
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    assert material["extensions"] == {"KHR_materials_unlit": {}} and tree["extensionsUsed"]
    (again,) = list[Any](trimesh.load_scene(path, process=False).geometry.values())
    assert np.array_equal(np.asarray(again.visual.material.baseColorTexture.convert("RGB")), texture.image)


def test_obj_names_its_material_and_the_material_its_picture(textured, tmp_path):
    mesh, texture = textured
    write_mesh(mesh, tmp_path / "head.obj", texture=texture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.mtl", "head.obj", "head.png"]
    again: Any = trimesh.load_mesh(tmp_path / "head.obj", process=False)
    assert np.array_equal(np.asarray(again.visual.material.image.convert("RGB")), texture.image)
    # A corner's colour: OBJ counts v from the bottom.
    corners = np.asarray(again.visual.uv)[again.faces] * [1, -1] + [0, 1]
    assert np.allclose(corners, texture.uvs[mesh.faces], atol=1e-6)
    assert np.allclose(again.triangles, mesh.triangles, atol=1e-6)


def with_normals(texture):
    return replace(texture, normals=np.full((32, 32, 3), [128, 140, 250], dtype=np.uint8))


def test_a_normal_map_is_the_second_picture_and_has_its_tangents(textured, tmp_path):
    mesh, texture = textured
    path = write_mesh(mesh, tmp_path / "head.glb", height_cm=5, texture=with_normals(texture))
    tree, arrays = parse_glb(path)
    assert tree["materials"][0]["normalTexture"] == {"index": 1}
    assert tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    assert np.allclose(np.linalg.norm(arrays["TANGENT"][:, :3], axis=1), 1, atol=1e-6)
    assert np.allclose((arrays["TANGENT"][:, :3] * arrays["NORMAL"]).sum(1), 0, atol=1e-6)
    (again,) = list[Any](trimesh.load_scene(path, process=False).geometry.values())
    material = again.visual.material
    assert np.array_equal(np.asarray(material.normalTexture.convert("RGB")), with_normals(texture).normals)
    assert np.array_equal(np.asarray(material.baseColorTexture.convert("RGB")), texture.image)
    assert "TANGENT" not in parse_glb(write_mesh(mesh, tmp_path / "plain.glb", texture=texture))[1]


def test_an_objs_material_names_the_normal_map_as_one(textured, tmp_path):
    mesh, texture = textured
    write_mesh(mesh, tmp_path / "head.obj", texture=with_normals(texture))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "head-normal.png",
        "head.mtl",
        "head.obj",
        "head.png",
    ]
    assert (tmp_path / "head.mtl").read_text().splitlines()[-2:] == [
        "map_Kd head.png",
        "norm head-normal.png",
    ]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "head-normal.png")), with_normals(texture).normals)
    with pytest.raises(ConfigError, match="normal map"):
        write_mesh(mesh, tmp_path / "head.usdz", texture=with_normals(texture))


@pytest.mark.parametrize("format", ["ply", "stl", "3mf"])
def test_a_texture_for_a_format_without_pictures_is_refused(textured, tmp_path, format):
    with pytest.raises(ConfigError, match="glb, obj, usdz"):
        write_mesh(textured[0], tmp_path / f"a.{format}", texture=textured[1])
    with pytest.raises(ConfigError, match="unlit"):
        write_mesh(textured[0], tmp_path / f"a.{format}", unlit=True)
    assert list(tmp_path.iterdir()) == []


def test_3mf_stands_on_the_bed_in_millimetres_with_colours(head, tmp_path):
    with zipfile.ZipFile(write_mesh(head, tmp_path / "head.3mf")) as archive:
        assert archive.namelist()[0] == "[Content_Types].xml" and archive.testzip() is None
        root: Any = ElementTree.fromstring(archive.read("3D/3dmodel.model"))
    core = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
    material = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"
    assert root.get("unit") == "millimeter"
    points = np.array([[float(v.get(k)) for k in "xyz"] for v in root.iter(f"{core}vertex")])
    faces = [[int(t.get(f"v{k}")) for k in (1, 2, 3)] for t in root.iter(f"{core}triangle")]
    assert np.ptp(points[:, 2]) == pytest.approx(100, abs=1e-3) and points[:, 2].min() == pytest.approx(0)
    solid = trimesh.Trimesh(points, faces, process=False)
    assert solid.is_watertight and solid.volume > 0
    palette = [c.get("color") for c in root.iter(f"{material}color")]
    first = [int(t.get("p1")) for t in root.iter(f"{core}triangle")]
    by_vertex = {face[0]: palette[index] for face, index in zip(faces, first, strict=True)}
    for vertex, color in list(by_vertex.items())[::50]:
        assert color == "#{:02X}{:02X}{:02X}".format(*vertex_colors(head)[vertex, :3])
    # The front, where the nose is, looks towards -Y: out of the printer.
    red = [v for v, c in by_vertex.items() if c.startswith("#E") and c.endswith(("1A", "19"))]
    assert red and points[red, 1].max() < 0


def test_3mf_is_as_high_as_it_is_wanted(head, tmp_path):
    with zipfile.ZipFile(write_mesh(head, tmp_path / "head.3mf", height_cm=25)) as archive:
        heights = re.findall(r'<vertex [^>]*z="([^"]+)"', archive.read("3D/3dmodel.model").decode())
    assert len(heights) == len(head.vertices)
    assert np.ptp(np.array(heights, dtype=float)) == pytest.approx(250, abs=1e-2)


@pytest.mark.parametrize("kind", ["texture", "vertex"])
def test_usdz_passes_usds_own_validators(head, textured, tmp_path, kind):
    pytest.importorskip("pxr", reason="usd-core is an optional extra")
    # Filled by C++ when they are imported, which no type checker sees.
    Usd, UsdGeom, UsdValidation = (
        importlib.import_module(f"pxr.{name}") for name in ("Usd", "UsdGeom", "UsdValidation")
    )
    mesh, texture = textured if kind == "texture" else (head, None)
    path = write_mesh(mesh, tmp_path / "head.usdz", texture=texture, height_cm=30)
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 20
    stage = Usd.Stage.Open(str(path))
    assert [e.GetMessage() for e in UsdValidation.ValidationContext(validators).Validate(stage)] == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/object/mesh"))
    points = np.asarray(shape.GetPointsAttr().Get())
    assert np.ptp(points[:, 1]) == pytest.approx(0.3, abs=1e-5) and len(points) == len(mesh.vertices)
    assert (shape.GetDisplayColorPrimvar().HasValue()) is (kind == "vertex")


def test_usdz_without_the_library_says_how_to_get_it(head, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion.assets.usdz.importlib.util.find_spec", lambda name: None)
    with pytest.raises(OutputError, match="usd-core"):
        write_mesh(head, tmp_path / "head.usdz")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_writing_leaves_no_half_of_a_file(textured, tmp_path, monkeypatch):
    path = tmp_path / "head.obj"
    path.write_text("old")
    write = Path.write_bytes

    def interrupted(self, data):
        write(self, data[: len(data) // 2])
        if self.suffix == ".obj":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_mesh(textured[0], path, texture=textured[1])
    assert path.read_text() == "old"
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
