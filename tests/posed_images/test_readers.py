"""Each layout as its programs write it ends in the same cameras; and what is wrong with a dataset is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.config import PosedImagesConfig
from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.dataset import PosedDataset, read_dataset
from dreamfusion.posed_images.frames import Lens

Write = Callable[..., Path]


def read(folder: Path, **options: Any) -> PosedDataset:
    return read_dataset(PosedImagesConfig(path=str(folder), **options))


def check_ring(dataset: PosedDataset, first_azimuth_deg: float) -> None:
    """Nine cameras in a ring, the first and the last held out, all looking at the origin, upright."""
    train = dataset.train.cameras
    towards = -train.positions / train.distance[:, None]
    torch.testing.assert_close(train.forward, towards, atol=1e-4, rtol=0)
    assert (train.c2w[:, 1, 1] > 0.7).all()  # up is up
    assert (train.elevation_deg > 20).all() and (train.elevation_deg < 36).all()
    # The training pictures are 1 .. 7; red says which picture it is, azimuth where it was taken.
    middle = dataset.train.rgba[:, 10, 12]
    assert (middle[:, 0] == 10 * torch.arange(1, 8)).all()
    expected = first_azimuth_deg + 40.0 * torch.arange(7)
    difference = torch.remainder(train.azimuth_deg - expected + 180, 360) - 180
    assert difference.abs().max() < 0.1


def test_blenders_layout(write_blender: Write) -> None:
    dataset = read(write_blender())
    assert (dataset.layout, len(dataset.train), dataset.with_alpha) == ("blender", 6, True)
    assert dataset.held_out is not None and dataset.held_out.names == ["r_0.png", "r_1.png"]
    # Blender's -y is the front, its z is up.
    azimuth = dataset.train.cameras.azimuth_deg
    torch.testing.assert_close(azimuth[:3], torch.tensor([0.0, 60.0, 120.0]), atol=1e-3, rtol=0)
    assert dataset.held_out.rgba[1, 10, 10].tolist() == [110, 200, 30, 255]
    # The grey under an opacity of 0 is nothing.
    assert dataset.held_out.rgba[1, 0, 0].tolist() == [0, 0, 0, 0]
    # A disc of 5 pixels radius at distance 4 and focal length 30: a ball of radius 4 sin(atan(5 / 30)), and the margin.
    radius = np.linalg.det(dataset.from_dataset[:3, :3]) ** (-1 / 3)
    assert radius == pytest.approx(1.1 * 4 * np.sin(np.arctan(5 / 30)), rel=0.05)
    assert float(dataset.train.cameras.distance[0]) == pytest.approx(4 / radius, rel=1e-5)


def test_which_list_counts_where_a_folder_has_several(
    write_blender: Write, write_transforms: Write, write_colmap: Write
) -> None:
    """Blender's, then nerfstudio's, then COLMAP's; of Blender's, test before val; of COLMAP's, binary before text."""
    folder = write_blender()
    for other in (write_transforms(), write_colmap(True), write_colmap(False)):
        shutil.copytree(other, folder, dirs_exist_ok=True)
    val = json.loads((folder / "transforms_test.json").read_text())
    val["frames"] = val["frames"][:1]
    (folder / "transforms_val.json").write_text(json.dumps(val))
    blender = read(folder)
    assert blender.layout == "blender" and blender.held_out is not None and len(blender.held_out) == 2
    (folder / "transforms_test.json").unlink()
    held_out = read(folder).held_out
    assert held_out is not None and len(held_out) == 1
    (folder / "transforms_train.json").unlink()
    assert read(folder).layout == "transforms"
    (folder / "transforms.json").unlink()
    (text,) = folder.glob("sparse/**/images.txt")
    text.write_text("damaged")
    assert read(folder, radius=1.0).layout == "colmap"


def test_nerfstudio_and_instant_ngp(write_transforms: Write) -> None:
    folder = write_transforms(camera_model="OPENCV", k1=0.0, aabb_scale=16, is_fisheye=False)
    dataset = read(folder)
    assert (dataset.layout, dataset.with_alpha) == ("transforms", False)
    # Every eighth of nine is held out: 0 and 8. The front is the side of the first training picture.
    assert dataset.held_out is not None
    assert dataset.held_out.names == ["frame_00000.png", "frame_00008.png"]
    check_ring(dataset, first_azimuth_deg=0.0)
    # Without silhouettes the ball is what every camera sees to its edge: the narrower half is 10 of 30 pixels.
    radius = np.linalg.det(dataset.from_dataset[:3, :3]) ** (-1 / 3)
    assert radius == pytest.approx(4 * np.sin(np.arctan(10 / 30)), rel=1e-3)


@pytest.mark.parametrize("key", ["test_filenames", "val_filenames"])
def test_intrinsics_of_each_frame_and_names_to_hold_out(write_transforms: Write, key: str) -> None:
    frame = {"fl_x": 31.0, "fl_y": 29.0, "cx": 11.0, "cy": 10.5, "w": 24, "h": 20}
    folder = write_transforms(intrinsics={}, per_frame=frame, **{key: ["images/frame_00003.png"]})
    dataset = read(folder)
    assert dataset.held_out is not None and dataset.held_out.names == ["frame_00003.png"]
    assert dataset.train.cameras.intrinsics is not None
    assert dataset.train.cameras.intrinsics[0].tolist() == [31.0, 29.0, 11.0, 10.5]


def test_the_principal_point_is_the_middle_where_nobody_says_otherwise(write_transforms: Write) -> None:
    dataset = read(write_transforms(intrinsics={"fl_x": 30.0}))
    assert dataset.train.cameras.intrinsics is not None
    assert dataset.train.cameras.intrinsics[0].tolist() == [30.0, 30.0, 12.0, 10.0]


def test_what_is_held_out_goes_by_names_and_not_by_the_lists_order(write_transforms: Write) -> None:
    folder = write_transforms()
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    change(folder, frames=frames[4:] + frames[:4])
    dataset = read(folder)
    assert dataset.held_out is not None
    assert dataset.held_out.names == ["frame_00000.png", "frame_00008.png"]


def test_nerfstudios_three_lists_keep_their_pictures_apart(write_transforms: Write) -> None:
    names = [f"images/frame_{index:05d}.png" for index in range(9)]
    folder = write_transforms(train_filenames=names[:4], val_filenames=names[4:6], test_filenames=names[6:8])

    def split() -> list[list[str]]:
        dataset = read(folder)
        assert dataset.held_out is not None
        return [[name[10:11] for name in part.names] for part in (dataset.train, dataset.held_out)]

    assert split() == [["0", "1", "2", "3"], ["6", "7"]]
    change(folder, train_filenames=None)  # what is to be validated with is not learnt from
    assert split() == [["0", "1", "2", "3", "8"], ["6", "7"]]
    change(folder, val_filenames=[], test_filenames=None, train_filenames=names[2:])
    assert split() == [["3", "4", "5", "6", "7", "8"], ["2"]]
    change(folder, test_filenames=names[0])
    assert '"test_filenames" in' in message(folder)


def test_the_ending_may_be_left_out_or_be_any(write_transforms: Write) -> None:
    folder = write_transforms()
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    for frame in frames:
        picture = folder / frame["file_path"]
        frame["file_path"] = frame["file_path"].replace("frame_", "frame.").replace("png", "JPEG")
        Image.open(picture).save(folder / frame["file_path"], format="PNG")
        picture.unlink()
    change(folder, frames=frames)
    assert read(folder).train.names[0] == "frame.00001.JPEG"


def test_an_opacity_that_is_full_everywhere_is_none(write_transforms: Write) -> None:
    folder = write_transforms(alpha=True, k1=0.3)  # undistortion leaves corners without a picture
    for path in (folder / "images").iterdir():
        image = Image.open(path)
        image.putalpha(255)
        image.save(path)
    assert not read(folder).with_alpha


def test_blenders_origin_is_the_middle_only_where_the_cameras_show_it(write_blender: Write) -> None:
    folder = write_blender()
    for split in ("train", "test"):
        path = folder / f"transforms_{split}.json"
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            frame["transform_matrix"][0][3] += 50.0
        path.write_text(json.dumps(content))
    dataset = read(folder)
    towards = -dataset.train.cameras.positions / dataset.train.cameras.distance[:, None]
    torch.testing.assert_close(dataset.train.cameras.forward, towards, atol=1e-3, rtol=0)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("model", [
    (0, "SIMPLE_PINHOLE", (31.0, 12.5, 9.5)), (2, "SIMPLE_RADIAL", (31.0, 12.5, 9.5, 0.1)),
    (3, "RADIAL", (31.0, 12.5, 9.5, 0.1, 0.05)),
])  # fmt: skip
def test_each_of_colmaps_models_has_its_parameters_in_their_places(
    write_colmap: Write, write_transforms: Write, binary: bool, model: tuple[int, str, tuple[float, ...]]
) -> None:
    f, cx, cy, *radial = model[2]
    lens = {"fl_x": f, "fl_y": f, "cx": cx, "cy": cy} | dict(zip(("k1", "k2"), radial, strict=False))
    one, other = read(write_colmap(binary, model=model)), read(write_transforms(intrinsics=lens))
    torch.testing.assert_close(other.train.cameras.intrinsics, one.train.cameras.intrinsics)
    torch.testing.assert_close(other.train.rgba, one.train.rgba)
    assert other.train.real.equal(one.train.real) and other.train.real.all() == (not radial)


@pytest.mark.parametrize(("binary", "length"), [(False, 1.0), (True, 1.0), (False, 1.01), (True, 3.0)])
def test_colmap(write_colmap: Write, binary: bool, length: float) -> None:
    dataset = read(write_colmap(binary, length=length))
    assert dataset.layout == "colmap"
    assert dataset.held_out is not None and dataset.held_out.names == ["000 view.png", "008 view.png"]
    check_ring(dataset, first_azimuth_deg=0.0)


def test_colmaps_models_and_nerfstudios_file_are_the_same_cameras(
    write_colmap: Write, write_transforms: Write
) -> None:
    parameters = (31.0, 29.0, 11.0, 10.5, 0.02, -0.01, 0.001, -0.002)
    names = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")
    lens = dict(zip(names, parameters, strict=True)) | {"w": 24, "h": 20}
    one = read(write_colmap(True, model=(4, "OPENCV", parameters)))
    other = read(write_colmap(False, model=(4, "OPENCV", parameters)))
    third = read(write_transforms(intrinsics=lens, camera_model="OPENCV"))
    for dataset in (other, third):
        torch.testing.assert_close(dataset.train.cameras.c2w, one.train.cameras.c2w, atol=1e-4, rtol=0)
        torch.testing.assert_close(dataset.train.cameras.intrinsics, one.train.cameras.intrinsics)
        torch.testing.assert_close(dataset.train.rgba, one.train.rgba)


def test_an_angle_counts_along_its_own_side(write_transforms: Write) -> None:
    angles = {"camera_angle_x": 2 * np.arctan(12 / 31), "camera_angle_y": 2 * np.arctan(10 / 29)}
    dataset = read(write_transforms(intrinsics=angles))
    assert dataset.train.cameras.intrinsics is not None
    assert dataset.train.cameras.intrinsics[0].tolist() == pytest.approx([31.0, 29.0, 12.0, 10.0], rel=1e-6)


def test_distortion_is_opencvs_formula() -> None:
    """Term by term as its documentation writes it, with no two numbers alike."""
    k1, k2, k3, p1, p2 = 0.11, -0.23, 0.37, 0.013, -0.029
    lens = Lens(10, 10, 9.0, 9.0, 5.0, 5.0, k1, k2, k3, p1, p2)
    x, y = np.array([0.4, -0.7]), np.array([-0.2, 0.5])
    r = np.sqrt(x**2 + y**2)
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    found = lens.distort(x, y)
    np.testing.assert_allclose(found[0], x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2))
    np.testing.assert_allclose(found[1], y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y)


def test_undistortion_straightens_what_the_lens_bent(write_transforms: Write) -> None:
    """A picture made by the lens' forward model (a dot at a known direction) has its dot back where a pinhole sees it."""
    lens = {"fl_x": 60.0, "fl_y": 60.0, "cx": 30.0, "cy": 26.0, "w": 60, "h": 52, "k1": -0.25, "p1": 0.01}
    folder = write_transforms(intrinsics=lens)
    x, y = 0.3, -0.2
    square = x * x + y * y
    # The formulas of OpenCV's documentation.
    bent_x = x * (1 - 0.25 * square) + 2 * 0.01 * x * y
    bent_y = y * (1 - 0.25 * square) + 0.01 * (square + 2 * y * y)
    rows, columns = np.mgrid[:52, :60] + 0.5
    for path in (folder / "images").iterdir():
        distance = (columns - 60 * bent_x - 30) ** 2 + (rows - 60 * bent_y - 26) ** 2
        Image.fromarray((255 * np.exp(-distance / 4)).astype(np.uint8)).convert("RGB").save(path)
    dataset = read(folder)
    dot = dataset.train.rgba[0, ..., 0].double() * dataset.train.real[0]
    row, column = ((dot * torch.tensor(axis)).sum() / dot.sum() for axis in (rows, columns))
    assert float(column) == pytest.approx(60 * x + 30, abs=0.1)
    assert float(row) == pytest.approx(60 * y + 26, abs=0.1)
    # Barrel distortion keeps less than a pinhole of the same focal length sees: nothing is invented at the corners.
    assert dataset.train.real.all()
    content = json.loads((folder / "transforms.json").read_text()) | {"k1": 0.25}
    (folder / "transforms.json").write_text(json.dumps(content))
    real = read(folder).train.real[0]
    assert not real[0, 0] and real[26, 30]


def test_a_mask_takes_pixels_away(write_transforms: Write) -> None:
    folder = write_transforms(per_frame={"mask_path": "mask.png"})
    mask = np.full((20, 24), 255, np.uint8)
    mask[:5] = mask[11, 13] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    train = read(folder).train
    assert (train.real.numpy() == (mask > 0)).all()
    cameras, pixels = train.draw(500, torch.Generator().manual_seed(0))
    assert cameras.intrinsics is not None and (cameras.intrinsics[:, 3] <= 10.0 - 5).all()
    assert pixels.shape == (500, 1, 1, 4)
    # A pixel that is made of real and of masked ones is not real.
    half = read(folder, downscale=2).train
    assert (half.real.numpy() == (mask.reshape(10, 2, 12, 2).min(axis=(1, 3)) > 0)).all()


def test_a_drawn_pixel_comes_with_its_own_ray(write_transforms: Write) -> None:
    """In pictures that are wider than high: each pixel's colour says where it is, and its camera's principal point too."""
    folder = write_transforms()
    rows, columns = np.mgrid[:20, :24]
    for index, path in enumerate(sorted((folder / "images").iterdir())):
        planes = [rows, columns, np.full_like(rows, index)]
        Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).save(path)
    train = read(folder).train
    cameras, pixels = train.draw(300, torch.Generator().manual_seed(0))
    row, column, picture = (pixels[:, 0, 0, :3] * 255).round().long().unbind(-1)
    assert cameras.intrinsics is not None
    torch.testing.assert_close(cameras.intrinsics[:, 2], 12.0 - column)
    torch.testing.assert_close(cameras.intrinsics[:, 3], 10.0 - row)
    assert torch.equal(cameras.c2w, train.cameras.c2w[picture - 1])
    assert len(set(row.tolist())) == 20 and len(set(column.tolist())) == 24


def test_downscaled_pictures_see_the_same(write_transforms: Write) -> None:
    folder = write_transforms(alpha=True)
    full, half = read(folder, radius=1.0).train, read(folder, radius=1.0, downscale=2).train
    assert half.rgba.shape[1:] == (10, 12, 4)
    whole = full.rgba.double().view(7, 10, 2, 12, 2, 4).mean(dim=(2, 4))
    torch.testing.assert_close(half.rgba.double(), whole, atol=0.51, rtol=0)
    _, big = full.cameras.rays()
    _, small = half.cameras.rays()
    # The middle of a pixel that is twice as large lies between those of its four.
    middle = torch.nn.functional.normalize(big.view(7, 10, 2, 12, 2, 3).mean(dim=(2, 4)), dim=-1)
    torch.testing.assert_close(small, middle, atol=1e-4, rtol=0)
    # The ball that the silhouettes ask for does not depend on the size of the pixels, up to one of them.
    sizes = [np.cbrt(np.linalg.det(read(folder, downscale=n).from_dataset[:3, :3])) for n in (1, 2)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


@pytest.mark.parametrize(("downscale", "size"), [(1, (20, 24)), (3, (6, 8)), (16, (1, 1))])
def test_what_does_not_fill_a_pixel_is_cut_off(
    write_transforms: Write, downscale: int, size: tuple[int, int]
) -> None:
    assert read(write_transforms(), radius=1.0, downscale=downscale).train.rgba.shape[1:3] == size


# ------------------------------------------------------------------------------------------------- errors


def change(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "transforms.json").read_text()) | changes
    (folder / "transforms.json").write_text(json.dumps(content))


def message(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_picture_that_is_none(write_transforms: Write) -> None:
    folder = write_transforms()
    (folder / "images" / "frame_00004.png").write_bytes(b"not a picture")
    assert "frame_00004.png cannot be read: expected a PNG" in message(folder)


def test_no_intrinsics(write_transforms: Write) -> None:
    assert "has no intrinsics" in message(write_transforms(intrinsics={"w": 24, "h": 20}))


def test_pictures_of_different_sizes(write_transforms: Write) -> None:
    folder = write_transforms(intrinsics={"fl_x": 30.0})
    Image.new("RGB", (30, 20)).save(folder / "images" / "frame_00004.png")
    text = message(folder)
    assert "different sizes" in text and "frame_00004.png 30 x 20" in text
    change(folder, w=24, h=20)
    assert "expected 24 x 20 pixels, as its intrinsics say, got 30 x 20" in message(folder)


def test_pictures_smaller_than_a_pixel_of_the_smaller_ones(write_transforms: Write) -> None:
    folder = write_transforms(intrinsics={"fl_x": 30.0})
    for path in (folder / "images").iterdir():
        Image.new("RGB", (24, 15)).save(path)
    assert read(folder, radius=1.0, downscale=15).train.rgba.shape[1:3] == (1, 1)
    with pytest.raises(DatasetError, match="expected 16 pixels a side or more, got 24 x 15"):
        read(folder, radius=1.0, downscale=16)


def test_too_few_views(write_transforms: Write) -> None:
    assert "too few views to learn from: expected 3" in message(write_transforms(count=2))


def test_three_views_are_enough_and_all_are_learnt_from(write_transforms: Write) -> None:
    dataset = read(write_transforms(count=3))
    assert len(dataset.train) == 3 and dataset.held_out is None


@pytest.mark.parametrize("kind", ["parallel", "outward", "opencv"])
def test_poses_without_a_common_point(write_transforms: Write, ring: Callable[..., list], kind: str) -> None:
    poses = ring(9)
    if kind == "parallel":
        poses = [np.eye(4) for _ in poses]
        for index, pose in enumerate(poses):
            pose[0, 3] = index
    else:  # looking away; or OpenCV's cameras taken for OpenGL's, which is the same turned upside down
        flip = np.diag([-1.0, 1, -1, 1] if kind == "outward" else [1.0, -1, -1, 1])
        poses = [pose @ flip for pose in poses]
    assert "do not look at a common point" in message(write_transforms(poses=poses))


def test_a_pose_that_is_none(write_transforms: Write, ring: Callable[..., list]) -> None:
    poses = ring(9)
    poses[3] = np.diag([-1.0, 1, 1, 1]) @ poses[3]
    assert "frame 3" in (text := message(write_transforms(poses=poses))) and "no rotation" in text


def test_a_picture_that_is_named_twice(write_transforms: Write, write_blender: Write) -> None:
    folder = write_transforms()
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    change(folder, frames=[*frames, frames[4]])
    assert "frame_00004.png is named twice" in message(folder)
    folder = write_blender()  # held out and learnt from
    (folder / "transforms_test.json").write_bytes((folder / "transforms_train.json").read_bytes())
    assert "r_0.png is named twice" in message(folder)


def test_a_mask_that_leaves_nothing(write_transforms: Write) -> None:
    folder = write_transforms(per_frame={"mask_path": "mask.png"})
    assert "mask.png is missing" in message(folder)
    Image.new("L", (24, 10)).save(folder / "mask.png")
    assert "the size of the mask" in message(folder)
    Image.new("L", (24, 20)).save(folder / "mask.png")
    assert "no pixel is left to learn from" in message(folder)


@pytest.mark.parametrize(("wrong", "what"), [
    ({"w": "24"}, "'w': expected a positive number, got '24'"),
    ({"h": None}, "'h': expected a positive number, got None"),
    ({"k1": "0.1"}, "'k1': expected a number"),
    ({"fl_x": 0}, "'fl_x': expected a positive number, got 0"),
    ({"cx": float("nan")}, "'cx': expected a number, got nan"),
    ({"fl_x": None, "fl_y": None}, "'fl_x': expected a positive number, got None"),
])  # fmt: skip
def test_intrinsics_that_are_none(write_transforms: Write, wrong: dict[str, Any], what: str) -> None:
    assert what in message(write_transforms(**wrong))


def test_an_angle_in_degrees_is_none(write_transforms: Write) -> None:
    assert "'camera_angle_x': expected radians" in message(
        write_transforms(intrinsics={"camera_angle_x": 43.6})
    )


def test_a_frame_without_a_pose(write_transforms: Write) -> None:
    folder = write_transforms()
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    for pose, what in ((None, "frame 2 of"), ([[1, 2], [3]], "4x4 finite numbers"),
                       ([[float("inf")] * 4] * 4, "got inf or nan")):  # fmt: skip
        frames[2]["transform_matrix"] = pose
        change(folder, frames=frames)
        assert "pose" in (text := message(folder)) and what in text


@pytest.mark.parametrize(("file", "old", "new", "what"), [
    ("cameras", "PINHOLE 24 20 30.0", "PINHOLE 24 20 0", "the focal length above 0, got 0 30 12 10"),
    ("cameras", "PINHOLE 24 20 30.0", "PINHOLE 24 20", "parameters of a camera: expected 4, got 3"),
    ("cameras", "PINHOLE 24 20", "PINHOLE 24 x", "is damaged"),
    ("cameras", "PINHOLE 24 20", "PINHOLE 24 21", "expected 24 x 21 pixels, as its camera says, got 24 x 20"),
    ("cameras", "7 PINHOLE", "8 PINHOLE", "000 view.png has no intrinsics"),
    ("images", " 7 004 view.png", " 7", "is damaged"),
])  # fmt: skip
def test_mistakes_in_colmaps_text(write_colmap: Write, file: str, old: str, new: str, what: str) -> None:
    folder = write_colmap(False)
    path = folder / "sparse" / "0" / f"{file}.txt"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    assert what in message(folder)


def test_a_quaternion_without_a_length(write_colmap: Write) -> None:
    folder = write_colmap(False)
    path = folder / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    words = lines[2].split()
    path.write_text("\n".join([*lines[:2], " ".join([words[0], *["0"] * 4, *words[5:]]), *lines[3:]]))
    assert "000 view.png: expected length 1, got length 0" in message(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"camera_model": "OPENCV_FISHEYE"},
        {"is_fisheye": True},
        {"k4": 0.1},
        {"camera_model": "EQUIRECTANGULAR"},
    ],
)
def test_lenses_that_are_not_understood_are_refused(write_transforms: Write, wrong: dict[str, Any]) -> None:
    assert "not understood" in message(write_transforms(**wrong))


@pytest.mark.parametrize("binary", [False, True])
def test_colmaps_fisheye_is_refused_by_name(write_colmap: Write, binary: bool) -> None:
    folder = write_colmap(binary, model=(5, "OPENCV_FISHEYE", (30.0, 30.0, 12.0, 10.0, 0, 0, 0, 0)))
    assert "OPENCV_FISHEYE is not understood" in message(folder)


def test_a_cut_off_model_and_no_dataset_at_all(write_colmap: Write, tmp_path: Path) -> None:
    folder = write_colmap(True)
    path = folder / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in message(folder)
    (tmp_path / "empty").mkdir()
    assert "no layout that is known" in message(tmp_path / "empty")
    assert "there is no dataset" in message(tmp_path / "absent")
