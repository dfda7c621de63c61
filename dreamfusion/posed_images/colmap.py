"""COLMAP's models, text and binary: `cameras` and `images` of a sparse reconstruction.

The formats are those of COLMAP's documentation ("Output Format") and its `src/colmap/scene/reconstruction_io`. A pose there is
world to camera, of a camera that looks along +z with +y down; pixel (0.5, 0.5) is the middle of the first one, as here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.frames import Capture, Frame, Lens, checked_pose
from dreamfusion.posed_images.transforms import image_size, split_every

# Where COLMAP and nerfstudio put a model below the dataset.
MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "")
IMAGE_FOLDERS = ("images", "input", "")
# Number of each model, its name, and which intrinsics its parameters are; the others are refused by name.
MODELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("SIMPLE_PINHOLE", ("f", "cx", "cy")),
    1: ("PINHOLE", ("fx", "fy", "cx", "cy")),
    2: ("SIMPLE_RADIAL", ("f", "cx", "cy", "k1")),
    3: ("RADIAL", ("f", "cx", "cy", "k1", "k2")),
    4: ("OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
}
OTHER_MODELS = {
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    7: "FOV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
}
# From COLMAP's camera (y down, z forward) to OpenGL's (y up, z back).
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def find_model(folder: Path) -> Path | None:
    """The folder of a COLMAP model in or below `folder`, if there is one."""
    for below in MODEL_FOLDERS:
        for ending in ("bin", "txt"):
            if all((folder / below / f"{name}.{ending}").is_file() for name in ("cameras", "images")):
                return folder / below
    return None


def read_colmap(folder: Path, model: Path) -> Capture:
    """The model in `model` with the pictures in `folder`'s `images`; every eighth one is held out.

    Raises:
        DatasetError: see `read_dataset`.
    """
    binary = (model / "images.bin").is_file() and (model / "cameras.bin").is_file()
    try:
        cameras = dict(_cameras_binary(model) if binary else _cameras_text(model))
        poses = list(_images_binary(model) if binary else _images_text(model))
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise DatasetError(f"the COLMAP model in {model} is damaged", got=str(error)) from error
    pictures = _image_folder(folder, [name for name, _, _ in poses])
    frames = []
    for name, pose, camera in poses:
        image = pictures / name
        if not image.is_file():
            raise DatasetError(
                f"the picture {image} is missing", hint="the model names it: copy it there, or take it out"
            )
        if camera not in cameras:
            raise DatasetError(f"{image} has no intrinsics", expected=f"camera {camera} in {model}")
        lens = cameras[camera]
        if (size := image_size(image)) != (lens.width, lens.height):
            raise DatasetError(
                f"the size of {image}",
                expected=f"{lens.width} x {lens.height} pixels, as its camera says",
                got=f"{size[0]} x {size[1]}",
                hint="use the pictures that COLMAP saw; --downscale makes them smaller",
            )
        frames.append(Frame(image, pose, lens))
    return split_every(frames, "colmap")


def _image_folder(folder: Path, names: list[str]) -> Path:
    for below in IMAGE_FOLDERS:
        if names and (folder / below / names[0]).is_file():
            return folder / below
    return folder / IMAGE_FOLDERS[0]


def _lens(model: int | str, width: int, height: int, parameters: tuple[float, ...], where: str) -> Lens:
    known = {number: entry for number, entry in MODELS.items() if model in (number, entry[0])}
    if not known:
        name = OTHER_MODELS.get(model, str(model)) if isinstance(model, int) else model
        raise DatasetError(
            f"{where}: a camera of the model {name} is not understood",
            expected="one of " + ", ".join(entry[0] for entry in MODELS.values()),
            hint="undistort the pictures with `colmap image_undistorter`",
        )
    ((_, names),) = known.values()
    if len(parameters) != len(names):
        raise DatasetError(
            f"{where}: parameters of a camera", expected=str(len(names)), got=str(len(parameters))
        )
    values = dict(zip(names, parameters, strict=True))
    if "f" in values:
        values["fx"] = values["fy"] = values.pop("f")
    if not all(map(math.isfinite, values.values())) or min(values["fx"], values["fy"]) <= 0:
        raise DatasetError(
            f"{where}: parameters of a camera", expected="finite numbers, the focal length above 0",
            got=" ".join(f"{value:g}" for value in parameters),
        )  # fmt: skip
    return Lens(width, height, **values)


def _pose(
    quaternion: tuple[float, ...], translation: tuple[float, ...], where: str
) -> Float[np.ndarray, "4 4"]:
    length = np.linalg.norm(quaternion)
    if not 0 < length < math.inf:
        raise DatasetError(f"the quaternion of {where}", expected="length 1", got=f"length {length:g}")
    w, x, y, z = np.asarray(quaternion) / length
    w2c = np.eye(4)
    w2c[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    w2c[:3, 3] = translation
    return checked_pose(np.linalg.inv(w2c) @ _FLIP, where)


# -------------------------------------------------------------------------------------------------- text


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _cameras_text(model: Path) -> Iterator[tuple[int, Lens]]:
    path = model / "cameras.txt"
    for line in _lines(path):
        if words := line.split():
            number, kind, width, height, *parameters = words
            yield (
                int(number),
                _lens(
                    kind, int(width), int(height), tuple(map(float, parameters)), f"{path}, camera {number}"
                ),
            )


def _images_text(model: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    path = model / "images.txt"
    # Two lines a picture; the second one, its points, is empty where it has none.
    for line in _lines(path)[::2]:
        if words := line.split(maxsplit=9):
            numbers = tuple(map(float, words[1:8]))
            yield words[9], _pose(numbers[:4], numbers[4:], f"{path}, {words[9]}"), int(words[8])


# ------------------------------------------------------------------------------------------------ binary


def _unpack(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _cameras_binary(model: Path) -> Iterator[tuple[int, Lens]]:
    path = model / "cameras.bin"
    with path.open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            number, kind, width, height = _unpack(file, "IiQQ")
            # The count of parameters is not in the file: it follows from the model.
            count = len(MODELS[kind][1]) if kind in MODELS else 0
            yield number, _lens(kind, width, height, _unpack(file, f"{count}d"), f"{path}, camera {number}")


def _images_binary(model: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    path = model / "images.bin"
    with path.open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            _, *numbers, camera = _unpack(file, "I7dI")
            name = b"".join(iter(lambda: _unpack(file, "c")[0], b"\0")).decode()
            (points,) = _unpack(file, "Q")
            file.seek(24 * points, 1)
            yield name, _pose(tuple(numbers[:4]), tuple(numbers[4:]), f"{path}, {name}"), camera
