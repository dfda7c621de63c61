"""Every one of the 256 levels arrives as itself: baked, at vertices, in every format, in every image."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals

from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.formats import linear_to_srgb, srgb_to_linear, write_mesh
from dreamfusion.assets.images import cut_out, to_uint8, visualise, write_image
from dreamfusion.assets.mesh import _vertex_colors
from dreamfusion.assets.read_back import read_shape
from dreamfusion.assets.texture import Texture, bake, covered, split_at_seams
from dreamfusion.evaluation.text_scores import before_backdrop

LEVELS = np.arange(256)


AXIS = torch.tensor([0.48, 0.6, 0.64])


def bands(positions: torch.Tensor) -> torch.Tensor:
    """Grey levels around an oblique axis of a centred ball, each constant along every radius."""
    level = (128 * (torch.nn.functional.normalize(positions, dim=-1) @ AXIS + 1)).floor().clamp(0, 255)
    return torch.stack([level, 255 - level, level], dim=-1) / 255


def test_all_grays_bake_to_themselves_in_the_texture_and_at_the_vertices(toys):
    field = toys.Solid(toys.ball(0.5), bands)
    # A ball's normals are its radii: along them the field has one colour.
    ball = trimesh.creation.icosphere(3, radius=0.5)
    atlas = box_atlas(ball, 256)
    split = split_at_seams(ball, atlas)
    split.vertex_normals = split.vertices / np.linalg.norm(split.vertices, axis=1, keepdims=True)
    texels, faces, weights = covered(atlas, 256)
    places = np.einsum("nk,nkc->nc", weights, split.vertices[atlas.faces[faces]])
    expected = (bands(torch.from_numpy(places).float()) * 255).round().numpy()
    image = bake(field, split, atlas, 256, 1.0).image.reshape(-1, 3)[texels]
    assert set(image[:, 0].tolist()) == set(range(256))
    # Rounding of a place may put it into the next band; a level that is lost or gained is so everywhere.
    assert (image == expected).all(axis=1).mean() > 0.999
    at_vertices = _vertex_colors(field, split, 1.0)
    expected = (bands(torch.from_numpy(split.vertices).float()) * 255).round().numpy()
    assert (at_vertices[:, :3] == expected).all(axis=1).mean() > 0.98
    assert (at_vertices[:, 3] == 255).all()


def greys() -> trimesh.Trimesh:
    """256 vertices, one of each level, in triangles of a strip."""
    vertices = np.stack([LEVELS // 2 * 0.01, LEVELS % 2 * 0.5, np.zeros(256)], axis=-1)
    faces = np.stack([LEVELS[:-2], LEVELS[1:-1], LEVELS[2:]], axis=-1)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    colours = np.stack([LEVELS, 255 - LEVELS, LEVELS // 2, np.full(256, 255)], axis=-1).astype(np.uint8)
    mesh.visual = ColorVisuals(mesh, vertex_colors=colours)
    return mesh


@pytest.mark.parametrize("format", ["glb", "obj", "ply", "3mf", "usdz"])
def test_all_levels_at_vertices_are_the_same_bytes_in_every_format(tmp_path, format):
    mesh = greys()
    shape = read_shape(write_mesh(mesh, tmp_path / f"a.{format}"), (0.0, 0.5))
    assert shape.colors is not None
    found = np.round(shape.colors * 255).astype(int)
    assert np.abs(shape.colors * 255 - found).max() < 0.1
    expected = np.asarray(mesh.visual.vertex_colors)[:, :3].astype(int)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    if format == "3mf":
        expected = expected[np.asarray(mesh.faces).ravel()]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("format", ["glb", "obj", "usdz"])
def test_all_levels_of_a_texture_are_the_same_bytes_in_every_format(tmp_path, format):
    mesh = greys()
    rows = np.broadcast_to(LEVELS[:, None, None], (256, 256, 3)).copy()
    rows[..., 1] = LEVELS[None, :]
    image = rows.astype(np.uint8)
    uvs = np.stack([LEVELS / 255, 1 - LEVELS / 255], axis=-1)
    shape = read_shape(
        write_mesh(mesh, tmp_path / f"a.{format}", texture=Texture(uvs, image, "boxes")), (0.0, 0.5)
    )
    assert shape.image is not None and shape.uvs is not None
    assert np.array_equal(np.round(shape.image * 255).astype(np.uint8), image)
    # Upright: u to the right, v down, to single precision.
    assert np.abs(shape.uvs - uvs).max() < 1e-6


def test_usd_names_the_colour_space_of_its_picture_and_reads_it_by_the_coordinates(tmp_path):
    pytest.importorskip("pxr", reason="usd-core is an optional extra")
    Usd, UsdShade = (importlib.import_module(f"pxr.{name}") for name in ("Usd", "UsdShade"))
    texture = Texture(np.zeros((256, 2)), np.full((8, 8, 3), 9, dtype=np.uint8), "boxes")
    stage = Usd.Stage.Open(str(write_mesh(greys(), tmp_path / "a.usdz", texture=texture)))
    picture, surface = (
        UsdShade.Shader(stage.GetPrimAtPath(f"/object/material/{name}")) for name in ("picture", "surface")
    )
    values = {name: picture.GetInput(name).Get() for name in ("sourceColorSpace", "wrapS", "wrapT")} | {
        name: surface.GetInput(name).Get() for name in ("roughness", "metallic")
    }
    assert values == {
        "sourceColorSpace": "sRGB",
        "wrapS": "clamp",
        "wrapT": "clamp",
        "roughness": 1.0,
        "metallic": 0.0,
    }
    assert picture.GetInput("st").GetConnectedSource()[0].GetPath().name == "reader"
    assert surface.GetInput("diffuseColor").GetConnectedSource()[0].GetPath().name == "picture"
    assert stage.GetDefaultPrim().GetPath() == "/object"


def test_the_srgb_curve_and_its_inverse_meet_at_every_level():
    values = LEVELS / 255
    linear = srgb_to_linear(values)
    assert np.abs(linear_to_srgb(linear) - values).max() < 1e-12
    assert (np.diff(linear) > 0).all() and linear[0] == 0 and linear[255] == 1
    # IEC 61966-2-1: 0.2159 is level 128, and the line's end meets the power.
    assert linear[128] == pytest.approx(0.2158605)
    assert srgb_to_linear(np.array(0.04045)) == pytest.approx(0.0031308, abs=1e-7)


def test_all_levels_of_an_image_are_the_same_bytes(tmp_path):
    values = torch.arange(256, dtype=torch.float32) / 255
    assert to_uint8(values).tolist() == LEVELS.tolist()
    assert to_uint8(values + 0.4 / 255).tolist() == LEVELS.tolist()
    assert to_uint8(values - 0.4 / 255).tolist() == LEVELS.tolist()
    assert to_uint8(torch.tensor([-3.0, 7.0])).tolist() == [0, 255]
    image = np.stack([LEVELS, LEVELS[::-1], LEVELS // 2], axis=-1).astype(np.uint8)[None].repeat(2, axis=0)
    for ending in ("png", "webp"):
        path = tmp_path / f"a.{ending}"
        write_image(image, path, None)
        assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), image), ending


def test_what_a_half_transparent_pixel_shows_in_every_kind():
    """Premultiplied colours, and each kind over its own background."""
    half = torch.full((1, 1, 1), 0.5)
    output = SimpleNamespace(
        rgb=torch.tensor([0.6, 0.7, 0.8]).view(1, 1, 1, 3),
        foreground_rgb=torch.tensor([0.1, 0.2, 0.3]).view(1, 1, 1, 3),
        opacity=half,
        depth=torch.full((1, 1, 1), 2.5),
        normals=torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 1, 3),
    )
    distance = torch.tensor([2.5])

    def shown(what):
        return visualise(output, what, distance, 1.0)[0, 0, 0].tolist()

    def alone(what):
        return cut_out(output, what, distance, 1.0)[0, 0, 0].tolist()

    def level(value):
        return round(value * 255)

    # The ball begins at 1.5 and ends at 3.5: half way between white and 0.15.
    grey = 1 - 0.85 / 2
    assert shown("rgb") == [level(0.6), level(0.7), level(0.8)]
    assert shown("normal") == [level(0.75), 255, level(0.75)]
    assert shown("opacity") == [level(0.5)] * 3
    assert shown("depth") == [level(grey / 2)] * 3
    assert alone("rgb") == [level(0.2), level(0.4), level(0.6), level(0.5)]
    assert alone("normal") == [level(0.5), 255, level(0.5), level(0.5)]
    assert alone("opacity") == [255, 255, 255, level(0.5)]
    assert alone("depth") == [level(grey)] * 3 + [level(0.5)]
    over = before_backdrop(torch.tensor([[[[0.1, 0.2, 0.3]]]]), half)
    assert over.shape == (1, 1, 1, 3) and (over > torch.tensor([0.1, 0.2, 0.3])).all()
