"""The comparison of a file with the NeRF: right files pass, and each kind of wrong file fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals

from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.check import Agreement, check_cameras, compare, draw
from dreamfusion.assets.formats import write_mesh
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.read_back import Shape
from dreamfusion.assets.texture import Texture, bake, split_at_seams


@pytest.fixture(scope="module")
def exported():
    from tests.assets.conftest import SlowRenderer, head

    field = head()
    field.sharpness = 200.0
    renderer = SlowRenderer(field)
    mesh, _ = extract_mesh(field, 1.0, resolution=64, renderer=renderer)
    atlas = box_atlas(mesh, 512)
    split = split_at_seams(mesh, atlas)
    return renderer, mesh, split, bake(field, split, atlas, 512, 1.0)


def agreement(exported, path):
    renderer, mesh, _, _ = exported
    cameras = check_cameras(3.0, 40.0, views=3, size=64)
    low, high = mesh.bounds[:, 1].tolist()
    return compare(path, renderer, cameras, (low, high))


@pytest.mark.parametrize(
    ("name", "textured"),
    [("a.glb", True), ("a.glb", False), ("a.obj", True), ("a.obj", False), ("a.ply", False),
     ("a.3mf", False), ("a.usdz", True), ("a.usdz", False)],
)  # fmt: skip
def test_files_look_like_the_nerf(exported, tmp_path, name, textured):
    _, mesh, split, texture = exported
    path = write_mesh(split if textured else mesh, tmp_path / name, texture=texture if textured else None)
    found, pairs = agreement(exported, path)
    assert found.good, found
    assert min(found.object_psnr_db) > 24 and min(found.iou) > 0.92
    assert pairs.shape == (3, 64, 128, 3)


@pytest.mark.parametrize(
    ("psnr_db", "iou", "good"),
    [
        ((25.0, 25.0), (0.95, 0.95), True),
        ((24.9, 25.0), (0.95, 0.95), False),
        ((25.0, 25.0), (0.94, 0.95), False),
        # The mean decides, not the worst view alone ...
        ((20.0, 30.0), (0.9, 1.0), True),
        # ... unless that one shows something else.
        ((19.9, 99.0), (0.99, 0.99), False),
        ((99.0,) * 8, (*(1.0,) * 7, 0.79), False),
        ((99.0,) * 8, (*(1.0,) * 7, 0.8), True),
        # No colours, no verdict on them.
        ((), (0.95, 0.95), True),
        ((), (0.9, 0.95), False),
    ],
)
def test_the_verdict_is_of_the_mean_and_of_the_worst_view(psnr_db, iou, good):
    assert Agreement(psnr_db, psnr_db, iou).good is good


def test_a_view_is_drawn_where_it_belongs_front_faces_alone_and_the_nearest_first():
    """Two squares before one another, and one that turns its back: all by hand, colours and pixels."""
    square = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    vertices = np.concatenate([square, square * 0.5 + [0, 0, 0.5], square * 0.5 + [0, 0, 1.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7], [8, 10, 9], [8, 11, 10]])
    colors = np.repeat([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], 4, axis=0)
    camera = check_cameras(3.0, 40.0, views=1, size=60)
    camera.c2w[:] = torch.eye(4)
    camera.c2w[:, 2, 3] = 3.0
    for order in (slice(None), slice(None, None, -1)):
        picture, covered = draw(Shape(vertices, faces[order], colors=colors), camera)
        assert picture[30, 30].tolist() == pytest.approx([0, 1, 0])
        # 60 / (2 tan 20 deg) pixels a unit at distance 1: the red square is 27.5 wide, the green one 16.5.
        assert covered[30].sum() == 28 and covered[:, 30].sum() == 28
        assert np.isclose(picture[30], [0, 1, 0]).all(axis=-1).sum() == 16
        assert not np.isclose(picture, [0, 0, 1]).all(axis=-1).any()
        assert picture[0, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_texture_is_drawn_without_a_shift(axis):
    """Black on one half and white on the other: what is drawn is the negative of its mirror image, blur and all."""
    square = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    uvs = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    image = np.array([0.0, 1.0]).reshape((2, 1) if axis == 0 else (1, 2))[..., None].repeat(3, axis=2)
    camera = check_cameras(3.0, 40.0, views=1, size=60)
    camera.c2w[:] = torch.eye(4)
    camera.c2w[:, 2, 3] = 3.0
    picture, covered = draw(Shape(square, np.array([[0, 1, 2], [0, 2, 3]]), uvs=uvs, image=image), camera)
    seen = covered.astype(bool)
    assert seen.sum() == 28**2 and np.ptp(picture[seen]) == pytest.approx(1)
    np.testing.assert_allclose((picture + np.flip(picture, axis))[seen], 1, atol=1e-6)


def test_the_checks_cameras_look_from_all_around_at_their_elevations():
    cameras = check_cameras(3.0, 40.0)
    assert [a % 360 for a in cameras.azimuth_deg.tolist()] == [0, 45, 90, 135, 180, 225, 270, 315]
    assert cameras.elevation_deg.tolist() == pytest.approx([10, 35, -15, 10, 35, -15, 10, 35], abs=1e-4)
    assert (cameras.height, cameras.width) == (192, 192)


def turned_left(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    turned = mesh.copy()
    turned.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [0, 1, 0]))
    return turned


def test_of_a_file_without_colours_the_silhouettes_are_compared(exported, tmp_path):
    _, mesh, _, _ = exported
    found, _ = agreement(exported, write_mesh(mesh, tmp_path / "a.stl"))
    assert found.good and found.psnr_db == found.object_psnr_db == () and min(found.iou) > 0.92
    assert not agreement(exported, write_mesh(turned_left(mesh), tmp_path / "b.stl"))[0].good


@pytest.mark.parametrize("ending", ["3mf", "usdz"])
def test_an_object_that_is_turned_or_painted_wrong_is_noticed_in_every_format(exported, tmp_path, ending):
    _, mesh, _, _ = exported
    good, _ = agreement(exported, write_mesh(mesh, tmp_path / f"a.{ending}"))
    dark = mesh.copy()
    dark.visual = ColorVisuals(dark, vertex_colors=np.asarray(mesh.visual.vertex_colors) // [2, 2, 2, 1])
    for wrong in (turned_left(mesh), dark):
        bad, _ = agreement(exported, write_mesh(wrong, tmp_path / f"b.{ending}"))
        assert np.mean(bad.object_psnr_db) < np.mean(good.object_psnr_db) - 1.5


def test_the_size_in_the_file_does_not_matter(exported, tmp_path):
    _, _, split, texture = exported
    found, _ = agreement(exported, write_mesh(split, tmp_path / "a.glb", height_cm=7, texture=texture))
    assert found.good


def wrong(kind: str, split: trimesh.Trimesh, texture: Texture) -> tuple[trimesh.Trimesh, Texture]:
    match kind:
        case "upside down texture":
            return split, Texture(texture.uvs * [1, -1] + [0, 1], texture.image, "boxes")
        case "linear colours":
            linear = (texture.image / 255.0) ** 2.2
            return split, Texture(texture.uvs, np.round(linear * 255).astype(np.uint8), "boxes")
        case "turned":
            return turned_left(split), texture
        case _:
            inside_out = trimesh.Trimesh(split.vertices, split.faces[:, ::-1], process=False)
            return inside_out, texture


@pytest.mark.parametrize("kind", ["upside down texture", "linear colours", "turned", "inside out"])
def test_wrong_files_are_noticed(exported, tmp_path, kind):
    _, _, split, texture = exported
    path = write_mesh(
        *wrong(kind, split, texture)[:1], tmp_path / "a.glb", texture=wrong(kind, split, texture)[1]
    )
    good, _ = agreement(exported, write_mesh(split, tmp_path / "good.glb", texture=texture))
    bad, _ = agreement(exported, path)
    assert np.mean(bad.object_psnr_db) < np.mean(good.object_psnr_db) - 1.5


def test_a_picture_that_is_missing_is_noticed(exported, tmp_path):
    _, _, split, texture = exported
    path = write_mesh(split, tmp_path / "a.obj", texture=texture)
    Image.new("RGB", (4, 4), "black").save(tmp_path / "a.png")
    assert not agreement(exported, path)[0].good
