"""`transforms.json`: one file a split (Blender, NeRF-synthetic), or one for all (nerfstudio, instant-ngp).

All three write camera-to-world matrices of OpenGL cameras. Blender's layout gives one `camera_angle_x` and three files;
nerfstudio and instant-ngp give `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` and OpenCV's distortion, for the file or for each frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamfusion.errors import DatasetError
from dreamfusion.image_files import read_head
from dreamfusion.posed_images.frames import DISTORTION, Capture, Frame, Lens, checked_pose

ENDINGS = (".png", ".jpg", ".jpeg", ".JPG", ".PNG", ".webp")
HOLD_OUT_EVERY = 8
# Names of camera models without or with OpenCV's polynomial distortion.
KNOWN_MODELS = {"", "opencv", "pinhole", "simple_pinhole", "perspective", "simple_radial", "radial"}


def read_blender(folder: Path) -> Capture:
    """NeRF-synthetic's layout: `transforms_train.json`, and `_test` (or else `_val`) held out; the world's up is z.

    Raises:
        DatasetError: see `read_dataset`.
    """
    held_out = next(
        (path for split in ("test", "val") if (path := folder / f"transforms_{split}.json").is_file()), None
    )
    frames = [
        [] if path is None else _frames(folder, _read_json(path), path)
        for path in (folder / "transforms_train.json", held_out)
    ]
    # Blender's world is z up, and what faces the viewer there faces -y. The object stands in the origin.
    return Capture("blender", *frames, up=(0.0, 0.0, 1.0), front=(0.0, -1.0, 0.0), centre=(0.0, 0.0, 0.0))


def read_transforms(path: Path) -> Capture:
    """A single file as nerfstudio and instant-ngp write it.

    The frames that `test_filenames`, or else `val_filenames`, name are held out (nerfstudio's keys), and those of the other
    list are not learnt from; where there is `train_filenames`, nothing else is. Without the first two every eighth one in the
    order of the file names is held out, as is usual for captures (LLFF, arXiv 1905.00889).

    Raises:
        DatasetError: see `read_dataset`.
    """
    content = _read_json(path)
    frames = _frames(path.parent, content, path)
    train, val, test = (_named(content, f"{split}_filenames", path) for split in ("train", "val", "test"))
    wanted = test or val
    if not wanted:
        return split_every([frame for frame in frames if not train or frame.image in train], "transforms")
    held_out = [frame for frame in frames if frame.image in wanted]
    if not held_out:
        raise DatasetError(f"{path}: no frame is one of those to hold out", got=str(min(wanted)))
    learnt = (train or {frame.image for frame in frames} - val) - wanted
    return Capture("transforms", [frame for frame in frames if frame.image in learnt], held_out)


def _named(content: Mapping[str, Any], key: str, path: Path) -> set[Path]:
    """The pictures of one of nerfstudio's lists; none where there is no such list."""
    names = content.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f'"{key}" in {path}', expected="a list of the frames' file_path", got=str(names)[:60]
        )
    return {_image_path(path.parent, name) for name in names}


def split_every(frames: list[Frame], layout: str) -> Capture:
    """Every eighth frame in the order of file names held out, the first one among them."""
    ordered = sorted(frames, key=lambda frame: str(frame.image))
    if len(ordered) < 4:  # with so few, each is needed to learn from
        return Capture(layout, ordered, [])
    learnt = [frame for index, frame in enumerate(ordered) if index % HOLD_OUT_EVERY]
    return Capture(layout, learnt, ordered[::HOLD_OUT_EVERY])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON", got=str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise DatasetError(f"{path} has no list of frames", expected='a mapping with "frames"')
    return content


def _frames(folder: Path, content: dict[str, Any], path: Path) -> list[Frame]:
    frames = []
    for number, entry in enumerate(content["frames"]):
        where = f"frame {number} of {path}"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise DatasetError(f"{where} names no picture", expected='"file_path"')
        image = _image_path(folder, entry["file_path"])
        mask = entry.get("mask_path")
        frames.append(
            Frame(
                image=image,
                c2w=checked_pose(entry.get("transform_matrix"), where),
                lens=_lens({**content, **entry}, image, where),
                mask=None if mask is None else _existing(folder / str(mask)),
            )
        )
    return frames


def _image_path(folder: Path, name: str) -> Path:
    # Blender's layout and some of instant-ngp's leave out the ending.
    path = folder / name
    candidates = [path, *(path.with_name(path.name + end) for end in ENDINGS)]
    return next((candidate for candidate in candidates if candidate.is_file()), None) or _existing(path)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(
            f"the picture {path} is missing", hint="copy it there, or take its frame out of the list"
        )
    return path


def _lens(values: Mapping[str, Any], image: Path, where: str) -> Lens:
    _check_model(values, where)
    width, height = image_size(image)
    declared = (_number(values, "w", width, positive=True), _number(values, "h", height, positive=True))
    if declared != (width, height):
        raise DatasetError(
            f"{where}: the size of {image}",
            expected=f"{declared[0]:g} x {declared[1]:g} pixels, as its intrinsics say",
            got=f"{width} x {height}",
            hint="use the pictures that the cameras were found with; --downscale makes them smaller",
        )
    fx = _focal(values, "fl_x", "camera_angle_x", width)
    fy = _focal(values, "fl_y", "camera_angle_y", height)
    fx, fy = fx or fy, fy or fx
    if fx is None or fy is None:
        raise DatasetError(
            f"{where} has no intrinsics",
            expected='"fl_x" and "fl_y", or "camera_angle_x"',
            got="none of them",
        )
    return Lens(
        width,
        height,
        fx,
        fy,
        _number(values, "cx", width / 2),
        _number(values, "cy", height / 2),
        **{name: _number(values, name, 0.0) for name in DISTORTION},
    )


def _check_model(values: Mapping[str, Any], where: str) -> None:
    model = str(values.get("camera_model", "")).lower()
    if values.get("is_fisheye") or model not in KNOWN_MODELS:
        raise DatasetError(
            f"{where}: a camera of the model {model or 'fisheye'!r} is not understood",
            expected="a pinhole, or OpenCV's polynomial distortion",
            hint="undistort the pictures first, for example with `colmap image_undistorter`",
        )
    for name in ("k4", "k5", "k6"):
        if _number(values, name, 0.0) != 0.0:
            raise DatasetError(
                f"{where}: the distortion {name} = {values[name]} is not understood",
                expected="k1, k2, k3, p1 and p2 alone",
                hint="undistort the pictures first",
            )


def _focal(values: Mapping[str, Any], length: str, angle: str, size: int) -> float | None:
    if length in values:
        return _number(values, length, 0.0, positive=True)
    if angle in values:
        radians = _number(values, angle, 0.0, positive=True)
        if radians >= math.pi:
            raise DatasetError(
                f"the intrinsic {angle!r}", expected="radians, less than pi", got=f"{radians:g}"
            )
        return size / (2 * math.tan(radians / 2))
    return None


def _number(values: Mapping[str, Any], name: str, default: float | int, positive: bool = False) -> float:
    value = values.get(name, default)
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (positive and value <= 0):
        raise DatasetError(f"the intrinsic {name!r}", expected="a positive number" if positive else "a number",
                           got=repr(value))  # fmt: skip
    return float(value)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the file's head alone.

    Raises:
        DatasetError: it is no picture.
    """
    return read_head(path, DatasetError).size
