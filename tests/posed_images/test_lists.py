"""What a dataset's lists name: missing images, names of other systems, intrinsics of file and frame, models, keys."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreamfusion.config import PosedImagesConfig
from dreamfusion.errors import DatasetError
from dreamfusion.posed_images import colmap, files, keys, transforms
from dreamfusion.posed_images.dataset import PosedDataset, read_capture, read_dataset
from dreamfusion.posed_images.placement import MARGIN

Write = Callable[..., Path]


def read(folder: Path, **options: Any) -> PosedDataset:
    return read_dataset(PosedImagesConfig(path=str(folder), **options))


def message(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename(folder: Path, name: Callable[[str], str]) -> None:
    """Other names in the list; the files stay."""

    def change(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["file_path"] = name(frame["file_path"])

    edit(folder / "transforms.json", change)


# ------------------------------------------------------------------------------------------ missing images


def test_missing_images_are_left_out_with_one_count(
    write_transforms: Write, write_blender: Write, write_colmap: Write
) -> None:
    folder = write_transforms()
    for index in (0, 2, 3, 4):
        (folder / "images" / f"frame_{index:05d}.png").unlink()
    dataset = read(folder)
    assert dataset.held_out is not None
    assert sorted([*dataset.train.names, *dataset.held_out.names]) == [
        f"frame_{i:05d}.png" for i in (1, 5, 6, 7, 8)
    ]
    assert dataset.notes == (
        f"4 of 9 images that {folder}/transforms.json names are missing and are left out: "
        "'images/frame_00000.png', 'images/frame_00002.png', 'images/frame_00003.png', ...",
    )
    folder = write_colmap(True)
    (folder / "images" / "004 view.png").unlink()
    assert "1 of 9 images that" in read(folder).notes[0]
    folder = write_blender()
    for path in [folder / "train" / "r_0.png", *(folder / "test").iterdir()]:
        path.unlink()
    dataset = read(folder)
    assert len(dataset.train) == 5 and dataset.held_out is None
    assert [note[:11] for note in dataset.notes] == ["1 of 6 imag", "2 of 2 imag"]


@pytest.mark.parametrize("left", [0, 2, 4])
def test_a_list_most_of_whose_images_are_missing_is_refused(write_transforms: Write, left: int) -> None:
    folder = write_transforms()
    for index in range(left, 9):
        (folder / "images" / f"frame_{index:05d}.png").unlink()
    assert f"{9 - left} of 9 images that" in message(folder)


def test_what_is_no_file_is_missing_and_what_leads_out_is_refused(
    write_transforms: Write, tmp_path: Path
) -> None:
    folder = write_transforms()
    images = folder / "images"
    (images / "frame_00003.png").unlink()
    os.mkfifo(images / "frame_00003.png")
    (images / "frame_00004.png").unlink()
    (images / "frame_00004.png").mkdir()
    assert "2 of 9 images" in read(folder).notes[0]
    outside = tmp_path / "outside.png"
    outside.write_bytes((images / "frame_00005.png").read_bytes())
    (images / "frame_00005.png").unlink()
    (images / "frame_00005.png").symlink_to(images / "inside.png")
    (images / "inside.png").write_bytes(outside.read_bytes())
    assert len(read(folder).notes) == 1  # a link to a file under the folder is as good as the file
    (images / "frame_00005.png").unlink()
    (images / "frame_00005.png").symlink_to(outside)
    assert "leads out of" in message(folder)


@pytest.mark.parametrize(
    "name", ["../outside.png", "images/../../outside.png", "/etc/hostname", "..\\outside.png"]
)
def test_names_that_leave_the_folder_are_refused(write_transforms: Write, tmp_path: Path, name: str) -> None:
    folder = write_transforms()
    (tmp_path / "outside.png").write_bytes((folder / "images" / "frame_00005.png").read_bytes())
    edit(folder / "transforms.json", lambda content: content["frames"][5].update(file_path=name))
    assert "transforms.json names" in (text := message(folder)) and f"is not in {folder}" in text
    edit(folder / "transforms.json", lambda content: content["frames"][5].update(
        file_path="images/frame_00005.png", mask_path=name
    ))  # fmt: skip
    assert f"is not in {folder}" in message(folder)


def test_a_list_or_model_that_is_a_link_out_of_the_folder_is_refused(
    write_transforms: Write, write_colmap: Write, tmp_path: Path
) -> None:
    folder = write_transforms()
    (folder / "transforms.json").rename(tmp_path / "elsewhere.json")
    (folder / "transforms.json").symlink_to(tmp_path / "elsewhere.json")
    assert "leads out of" in message(folder)
    folder = write_colmap(False)
    (folder / "sparse").rename(tmp_path / "elsewhere")
    (folder / "sparse").symlink_to(tmp_path / "elsewhere")
    assert "leads out of" in message(folder)


@pytest.mark.parametrize("style", ["backslashes", "no ending", "absolute", "dots", "backslashes, no ending"])
def test_names_as_other_systems_write_them(write_transforms: Write, style: str) -> None:
    folder = write_transforms(test_filenames=["images/frame_00002.png"])
    names: dict[str, Callable[[str], str]] = {
        "backslashes": lambda name: name.replace("/", "\\"),
        "no ending": lambda name: "./" + name.removesuffix(".png"),
        "absolute": lambda name: str(folder / name),
        "dots": lambda name: "images/../" + name,
        "backslashes, no ending": lambda name: ".\\" + name.replace("/", "\\").removesuffix(".png"),
    }
    rename(folder, names[style])
    dataset = read(folder)
    assert dataset.notes == () and len(dataset.train) == 8
    assert dataset.held_out is not None and dataset.held_out.names == ["frame_00002.png"]


@pytest.mark.parametrize("ending", [".jpg", ".JPG", ".jpeg", ".JPEG", ".webp", ".tif", ".TIFF", ".PNG"])
def test_every_ending_may_be_left_out(write_transforms: Write, ending: str) -> None:
    folder = write_transforms()
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(ending))
    rename(folder, lambda name: name.removesuffix(".png"))
    assert read(folder).train.names[0] == f"frame_00001{ending}"


def test_an_archive_is_named_as_such(write_transforms: Write, tmp_path: Path) -> None:
    folder = write_transforms()
    with zipfile.ZipFile(tmp_path / "capture.zip", "w") as archive:
        archive.write(folder / "transforms.json", "transforms.json")
    assert (
        "capture.zip is an archive" in (text := message(tmp_path / "capture.zip"))
        and "Unpack it first" in text
    )
    (tmp_path / "download").write_bytes((tmp_path / "capture.zip").read_bytes())
    assert "is an archive" in message(tmp_path / "download")
    (tmp_path / "folder").mkdir()
    (tmp_path / "capture.zip").rename(tmp_path / "folder" / "capture.zip")
    assert "Unpack capture.zip first" in message(tmp_path / "folder")
    (tmp_path / "walk.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert "is a video" in message(tmp_path / "walk.mp4")


def test_lists_that_name_what_no_frame_has(write_transforms: Write) -> None:
    folder = write_transforms(test_filenames=["images/frame_00003.png", "images/frame_00099.png"])
    assert '"test_filenames" in' in (text := message(folder)) and "frame_00099.png" in text
    edit(
        folder / "transforms.json", lambda content: content.update(test_filenames=["images/frame_00003.png"])
    )
    (folder / "images" / "frame_00003.png").unlink()
    assert 'no image that "test_filenames"' in message(folder)


def test_a_million_frames_are_compared_by_name_before_one_is_opened(
    write_transforms: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of 20,000 names is the first one again: no pose or image has been looked at, and each folder once."""
    folder = write_transforms()
    count = 20_000

    def listed(path: str) -> frozenset[str]:
        folders.append(path)
        return frozenset(f"{index}.png" for index in range(count))

    def opened(*_: object, **__: object) -> Any:
        raise AssertionError("opened")

    folders: list[str] = []
    names = [f"images/{index}.png" for index in range(count - 1)] + ["./images/0.png"]
    (folder / "transforms.json").write_text(
        json.dumps({"fl_x": 30, "frames": [{"file_path": n} for n in names]})
    )
    monkeypatch.setattr(files, "_files_in", listed)
    for module, name in ((transforms, "checked_pose"), (transforms, "read_head")):
        monkeypatch.setattr(module, name, opened)
    assert "images/0.png is named twice" in message(folder)
    assert sorted(set(folders)) == [str(folder / "images")] and len(folders) == 2  # "images/" and "./images/"


def test_a_million_frames_do_not_each_copy_what_the_file_says(write_transforms: Write) -> None:
    """Many keys in the file times many frames would be their product."""
    folder = write_transforms(count=9)
    edit(folder / "transforms.json", lambda content: content.update({f"key{k}": 0 for k in range(100_000)}))
    note = read(folder).notes[0]
    assert note.endswith("'key0', 'key1', 'key2', 'key3', 'key4', ...") and len(note) < 300


# --------------------------------------------------------------------------------------------- intrinsics

ANGLE = 2 * np.arctan(12 / 40.0)  # of a focal length of 40 for 24 pixels
INTRINSICS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[float, ...]]] = {
    # Of the file, of the frame, and the fx, fy, cx, cy that follow.
    "file": ({"fl_x": 30, "fl_y": 31, "cx": 11, "cy": 9}, {}, (30, 31, 11, 9)),
    "frame beats file": ({"fl_x": 30, "fl_y": 31, "cx": 11, "cy": 9}, {"fl_x": 40, "fl_y": 41, "cx": 12.5}, (40, 41, 12.5, 9)),
    "angle of the frame beats length of the file": ({"fl_x": 30, "fl_y": 31}, {"camera_angle_x": ANGLE}, (40, 40, 12, 10)),
    "length of the frame beats angle of the file": ({"camera_angle_x": ANGLE}, {"fl_x": 33}, (33, 33, 12, 10)),
    "one axis of the frame stands for both": ({"fl_x": 30, "fl_y": 31}, {"fl_x": 33}, (33, 33, 12, 10)),
    "one axis each": ({"fl_y": 31}, {"fl_x": 33}, (33, 31, 12, 10)),
    "degrees": ({"x_fov": np.degrees(ANGLE)}, {}, (40, 40, 12, 10)),
    "y alone": ({"camera_angle_y": 2 * np.arctan(10 / 25)}, {}, (25, 25, 12, 10)),
    "both say the same": ({"fl_x": 40.1, "camera_angle_x": ANGLE}, {}, (40.1, 40.1, 12, 10)),
}  # fmt: skip


@pytest.mark.parametrize("kind", INTRINSICS)
def test_what_a_frame_says_beats_what_the_file_says(write_transforms: Write, kind: str) -> None:
    shared, own, expected = INTRINSICS[kind]
    folder = write_transforms(intrinsics=shared)
    edit(folder / "transforms.json", lambda content: content["frames"][3].update(own))
    capture = read_capture(folder)
    lenses = {frame.image.name: frame.lens for frame in [*capture.train, *capture.held_out]}
    lens = lenses["frame_00003.png"]
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == pytest.approx(expected)
    if own:  # and only for this one
        assert lenses["frame_00004.png"] != lens


@pytest.mark.parametrize("key", ["k1", "k2", "k3", "p1", "p2"])
def test_distortion_of_a_frame_beats_the_files(write_transforms: Write, key: str) -> None:
    folder = write_transforms(**{key: 0.02})
    edit(folder / "transforms.json", lambda content: content["frames"][1].update({key: 0.0}))
    capture = read_capture(folder)
    values = {frame.image.name: vars(frame.lens)[key] for frame in [*capture.train, *capture.held_out]}
    assert values.pop("frame_00001.png") == 0.0 and set(values.values()) == {0.02}


def test_the_frames_own_size_and_model_count(write_transforms: Write) -> None:
    folder = write_transforms()
    edit(folder / "transforms.json", lambda content: content["frames"][2].update(w=25))
    assert "expected 25 x 20 pixels" in message(folder)
    edit(
        folder / "transforms.json",
        lambda content: content["frames"][2].update(w=24, camera_model="OPENCV_FISHEYE"),
    )
    assert "frame 2 of" in (text := message(folder)) and "not understood" in text


@pytest.mark.parametrize(("key", "wrong"), [
    ("fl_x", 1e-9), ("fl_y", 1e30), ("cx", 1e30), ("cy", -1e5), ("k1", 1e30), ("p2", -1e7), ("camera_angle_x", 3.1415),
])  # fmt: skip
def test_numbers_that_no_camera_has_are_refused(write_transforms: Write, key: str, wrong: float) -> None:
    text = message(
        write_transforms(
            intrinsics={"fl_x": 30, "fl_y": 30} | {key: wrong} if key[:2] != "ca" else {key: wrong}
        )
    )
    assert (
        text.startswith("frame 0 of") and "pixels, got" in text
        if key[0] in "fc"
        else f"distortion {key}" in text
    )


def test_intrinsics_that_contradict_each_other_are_refused(write_transforms: Write) -> None:
    text = message(write_transforms(camera_angle_x=ANGLE))
    assert "'fl_x' and 'camera_angle_x' contradict each other: got 30 and 40 pixels" in text


def test_an_orientation_that_swaps_the_sides_is_named(write_transforms: Write) -> None:
    folder = write_transforms(w=20, h=24)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            image.load()
            image.save(path, exif=exif)
    assert (
        "expected 20 x 24 pixels" in (text := message(folder)) and "EXIF orientation is not applied" in text
    )


def test_a_transposed_matrix_is_refused(write_transforms: Write) -> None:
    folder = write_transforms()

    def transposed(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = np.transpose(frame["transform_matrix"]).tolist()

    edit(folder / "transforms.json", transposed)
    assert (
        "the last row of the pose of frame 0" in (text := message(folder))
        and "Transpose the matrices" in text
    )


# --------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("place", ["file", "frame"])
@pytest.mark.parametrize("key", sorted({*keys.REFUSED, *keys.REPORTED, *keys.HARMLESS, "gain"}))
def test_every_key_is_used_or_refused_or_reported(write_transforms: Write, key: str, place: str) -> None:
    value = (
        [0.0, 0.5] if key in ("rolling_shutter", "distortion_params") else "x" if key.endswith("path") else 1
    )
    where = {key: value}
    folder = write_transforms(per_frame=where) if place == "frame" else write_transforms(**where)
    if key in keys.REFUSED:
        named = f'"{key}" in ' + ("frame 0 of " if place == "frame" else "") + f"{folder}/transforms.json"
        assert f"{named} is not supported" in message(folder)
        return
    notes = read(folder).notes
    if key in keys.HARMLESS:
        assert notes == ()
    else:
        assert len(notes) == 1 and key in notes[0]


@pytest.mark.parametrize("nothing", [None, False, 0, [], [0, 0.0], ""])
def test_keys_that_say_nothing_are_no_matter(write_transforms: Write, nothing: Any) -> None:
    assert read(write_transforms(**dict.fromkeys([*keys.REFUSED, *keys.REPORTED], nothing))).notes == ()


def test_keys_that_matter_by_their_values(write_transforms: Write) -> None:
    folder = write_transforms(n_frames=9, per_frame={"time": 0.5})
    assert read(folder).notes == ()
    edit(folder / "transforms.json", lambda content: content.update(n_frames=4))
    edit(folder / "transforms.json", lambda content: content["frames"][3].update(time=0.75))
    assert [note.split()[0] for note in read(folder).notes] == ['"n_frames"', '"time"']
    edit(
        folder / "transforms.json", lambda content: content["frames"][3].update(transform_matrix_start=[[1]])
    )
    assert "a camera that moves" in message(folder)


def test_the_up_direction_of_the_file_is_used(write_transforms: Write) -> None:
    folder = write_transforms(up=[0.0, 0.6, 0.8])
    assert read_capture(folder).up == (0.0, 0.6, 0.8)
    up = read(folder).from_dataset[1, :3]
    np.testing.assert_allclose(up / np.linalg.norm(up), [0.0, 0.6, 0.8], atol=1e-9)
    edit(folder / "transforms.json", lambda content: content.update(up=[0, 0, 0]))
    assert '"up" in' in message(folder)


# ------------------------------------------------------------------------------------- opacity and masks


def test_one_frame_with_opacity_among_others_without_is_no_alpha_set(write_transforms: Write) -> None:
    folder = write_transforms()
    path = folder / "images" / "frame_00004.png"
    with Image.open(path) as image:
        image = image.convert("RGBA")
    image.putpixel((3, 2), (9, 9, 9, 0))
    image.save(path)
    dataset = read(folder)
    assert not dataset.with_alpha
    assert "1 of 9 frames (frame_00004.png) have transparent pixels" in dataset.notes[0]
    index = dataset.train.names.index("frame_00004.png")
    # What is transparent is unknown, not black.
    assert int((~dataset.train.real).sum()) == 1 and not dataset.train.real[index, 2, 3]
    assert (dataset.train.rgba[..., 3] == 255).all()


def test_one_frame_without_opacity_among_others_with_it_is_left_out(write_transforms: Write) -> None:
    folder = write_transforms(alpha=True)
    path = folder / "images" / "frame_00004.png"
    with Image.open(path) as image:
        image = image.convert("RGB")
    image.save(path)
    dataset = read(folder)
    assert dataset.with_alpha and "frame_00004.png" not in dataset.train.names and len(dataset.train) == 6
    assert "1 of 9 frames (frame_00004.png) have no opacity" in dataset.notes[0]


def test_a_close_up_that_the_object_fills_belongs_to_an_alpha_set(write_transforms: Write) -> None:
    folder = write_transforms(alpha=True)
    Image.new("RGBA", (24, 20), (9, 9, 9, 255)).save(folder / "images" / "frame_00004.png")
    dataset = read(folder)
    assert dataset.with_alpha and len(dataset.train) == 7 and dataset.notes == ()


@pytest.mark.parametrize("kind", ["png", "jpg", "16 bit", "LA", "palette"])
def test_a_mask_is_cut_at_half(write_transforms: Write, kind: str) -> None:
    folder = write_transforms(per_frame={"mask_path": f"mask.{'jpg' if kind == 'jpg' else 'png'}"})
    left = np.zeros((20, 24), np.uint8)
    left[:, :12] = 255
    mask = Image.fromarray(left)
    if kind == "16 bit":
        mask = Image.fromarray(left.astype(np.uint16) * 200 + 5)
    if kind == "LA":
        mask = Image.merge("LA", (Image.new("L", (24, 20), 255), mask))
    if kind == "palette":
        mask = mask.convert("P")
    mask.save(folder / f"mask.{'jpg' if kind == 'jpg' else 'png'}", quality=30)
    if kind == "jpg":  # black is not 0 there
        with Image.open(folder / "mask.jpg") as opened:
            assert np.asarray(opened)[:, 12:].max() > 0
    real = read(folder).train.real
    assert real[:, :, :12].all() and not real[:, :, 12:].any()


def test_sixteen_bits_of_grey_are_not_white(write_transforms: Write) -> None:
    folder = write_transforms()
    for path in (folder / "images").iterdir():
        Image.fromarray(np.full((20, 24), 257 * 77, np.uint16)).save(path)
    assert set(read(folder).train.rgba.flatten().tolist()) == {77, 255}


# ------------------------------------------------------------------------------- the ball, from real images


@pytest.mark.parametrize("alpha", [True, False])
def test_two_close_ups_among_eighteen_views_leave_the_ball_as_it_is(
    write_transforms: Write, ring: Callable[..., list[np.ndarray]], alpha: bool
) -> None:
    """Images of a ball of radius 0.5; the close-ups are filled by it."""
    poses = ring(16) + ring(2, distance=1.0)
    folder = write_transforms(poses=poses, alpha=alpha, test_filenames=["images/frame_00003.png"])
    rows, columns = np.mgrid[:20, :24] + 0.5
    tangent = ((columns - 12) ** 2 + (rows - 10) ** 2) / 30**2
    for index, pose in enumerate(poses):
        sine = 0.5 / np.linalg.norm(pose[:3, 3])
        pixels = np.full((20, 24, 4), 80, np.uint8)
        pixels[..., 3] = np.where(tangent < sine**2 / (1 - sine**2), 255, 0)
        Image.fromarray(pixels if alpha else pixels[..., :3]).save(
            folder / "images" / f"frame_{index:05d}.png"
        )
    dataset = read(folder)
    radius = np.linalg.det(dataset.from_dataset[:3, :3]) ** (-1 / 3)
    # A pixel is an eighth of the ball; without silhouettes: what the other cameras see to the edge.
    assert (
        radius == pytest.approx(MARGIN * 0.5, rel=0.13)
        if alpha
        else radius == pytest.approx(4 * np.sin(np.arctan(1 / 3)))
    )
    if not alpha:
        assert dataset.notes == (
            "2 of 17 frames (frame_00016.png, frame_00017.png): a close-up, no help in sizing the ball",
        )


# ------------------------------------------------------------------------------------------------- COLMAP


@pytest.mark.parametrize("binary", [False, True])
def test_the_largest_of_colmaps_models_is_taken_and_named(write_colmap: Write, binary: bool) -> None:
    folder = write_colmap(binary)
    for number, count in ((1, 9), (2, 4), (10, 9)):
        target = folder / "sparse" / str(number)
        target.mkdir()
        for path in (folder / "sparse" / "0").iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        _keep(target, count, binary)
    _keep(folder / "sparse" / "0", 5, binary)
    dataset = read(folder)
    assert dataset.held_out is not None and len(dataset.train) + len(dataset.held_out) == 9
    assert dataset.notes == (
        f"COLMAP's model {folder}/sparse/1 with 9 images is taken; 0 has 5, 2 has 4, 10 has 9",
    )


def _keep(model: Path, count: int, binary: bool) -> None:
    """Only the first `count` images."""
    if binary:
        data = (model / "images.bin").read_bytes()
        (model / "images.bin").write_bytes(count.to_bytes(8, "little") + data[8:])
    else:
        lines = (model / "images.txt").read_text().splitlines()
        (model / "images.txt").write_text("\n".join(lines[: 2 + 2 * count]) + "\n")


SPOILT: dict[str, Callable[[str], str]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "trailing blanks": lambda text: text.replace("\n", " \t \n"),
    "leading blanks": lambda text: "".join(f"  {line}\n" for line in text.splitlines()),
    "blank lines at the start": lambda text: "\n\n" + text,
    "blank lines between": lambda text: text.replace("\n", "\n\n"),
    "no blank lines": lambda text: "\n".join(filter(None, text.splitlines())),
    "comments between": lambda text: text.replace("view.png\n", "view.png\n# points\n"),
    "no end of the last line": lambda text: text.rstrip("\n"),
    "byte-order mark": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_colmaps_texts_after_an_editor(write_colmap: Write, kind: str) -> None:
    folder = write_colmap(False)
    expected = read(folder)
    for name in ("cameras", "images"):
        path = folder / "sparse" / "0" / f"{name}.txt"
        path.write_bytes(SPOILT[kind](path.read_text()).encode())
    dataset = read(folder)
    assert dataset.notes == () and dataset.train.names == expected.train.names
    np.testing.assert_array_equal(dataset.train.cameras.c2w, expected.train.cameras.c2w)


@pytest.mark.parametrize("name", ["cameras", "images"])
def test_a_binary_model_that_is_cut_off_is_one_line(write_colmap: Write, name: str) -> None:
    folder = write_colmap(True)
    path = folder / "sparse" / "0" / f"{name}.bin"
    data = path.read_bytes()
    for length in [*range(0, len(data) - 1, 13), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DatasetError, match="is damaged") as caught:
            read_capture(folder)
        assert "\n" not in str(caught.value)


def test_numbers_of_points_that_no_file_holds(write_colmap: Write) -> None:
    folder = write_colmap(True)
    path = folder / "sparse" / "0" / "images.bin"
    data = path.read_bytes()
    at = data.index(b"view.png\0") + 9
    for count in (2**61, 2**64 - 1, 2**40):
        path.write_bytes(data[:at] + count.to_bytes(8, "little") + data[at + 8 :])
        with pytest.raises(DatasetError, match="is damaged"):
            read_capture(folder)


def test_a_model_that_names_an_image_twice_or_far_away(write_colmap: Write) -> None:
    folder = write_colmap(False)
    path = folder / "sparse" / "0" / "images.txt"
    content = path.read_text()
    path.write_text(content.replace("005 view.png", "004 view.png"))
    assert "004 view.png is named twice" in message(folder)
    path.write_text(content.replace("005 view.png", "../../../etc/hostname"))
    assert "is not in" in message(folder)


def test_the_images_of_a_model_are_where_most_of_them_are(write_colmap: Write) -> None:
    folder = write_colmap(False)
    (folder / "images").rename(folder / "input")
    (folder / "images").mkdir()
    (folder / "input" / "000 view.png").rename(folder / "images" / "000 view.png")
    assert "1 of 9 images" in read(folder).notes[0]
    # Of equals the first: images/, then input/, then the folder itself.
    shutil.copy(folder / "images" / "000 view.png", folder / "input")
    red = Image.new("RGB", (24, 20), (255, 0, 0))
    for path in (folder / "input").iterdir():
        red.save(folder / path.name)
    assert read(folder).train.rgba[0, 0, 0].tolist() == [90, 90, 90, 255]
    for path in (folder / "input").iterdir():
        red.save(folder / "images" / path.name)
    assert read(folder).train.rgba[0, 0, 0].tolist() == [255, 0, 0, 255]


def test_every_model_of_colmap_is_read_or_refused_by_name() -> None:
    assert set(colmap.MODELS) | set(colmap.OTHER_MODELS) == set(range(11))
