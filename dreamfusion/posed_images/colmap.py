"""COLMAP's models, text and binary: `cameras` and `images` of a sparse reconstruction.

The formats are those of COLMAP's documentation ("Output Format") and its `src/colmap/scene/reconstruction_io`. A pose there is
world to camera, of a camera that looks along +z with +y down; pixel (0.5, 0.5) is the middle of the first one, as here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from dreamfusion.documents import reason, regular_file
from dreamfusion.errors import DatasetError
from dreamfusion.image_files import read_head
from dreamfusion.posed_images.files import DatasetFiles, check_size, find_images
from dreamfusion.posed_images.frames import Capture, Frame, Lens, checked_lens, checked_pose
from dreamfusion.posed_images.transforms import split_every

# Where COLMAP and nerfstudio put a model below the dataset.
MODEL_FOLDERS = ("sparse", "colmap/sparse", "")
IMAGE_FOLDERS = ("images/", "input/", "")
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


def find_model(folder: Path) -> tuple[Path, list[str]] | None:
    """The folder of the largest COLMAP model in or below `folder`, and what to report if there are others; None: there is none.

    COLMAP writes one model (`sparse/0`, `sparse/1`, ...) for each group of images that it could not join with the others.

    Raises:
        DatasetError: one of several models is damaged, or lies elsewhere.
    """
    for below in MODEL_FOLDERS:
        parent = folder / below
        numbered = sorted(
            (path for path in _folders(parent) if path.name.isdigit()), key=lambda p: int(p.name)
        )
        models = [path for path in [parent, *numbered] if _is_model(path, folder)]
        if len(models) > 1:
            return _largest(models)
        if models:
            return models[0], []
    return None


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _is_model(model: Path, folder: Path) -> bool:
    for ending in ("bin", "txt"):
        paths = [model / f"{name}.{ending}" for name in ("cameras", "images")]
        if all(path.is_file() for path in paths):
            for path in paths:  # a symbolic link must not show other files in a message
                regular_file(path, error=DatasetError, under=folder)
            return True
    return False


def _largest(models: list[Path]) -> tuple[Path, list[str]]:
    counts = {model: len({view.name for view in _views(model)}) for model in models}
    best = max(models, key=lambda model: counts[model])  # the first one of equals
    others = ", ".join(f"{model.name} has {counts[model]}" for model in models if model != best)
    return best, [f"COLMAP's model {best} with {counts[best]} images is taken; {others}"]


@dataclass(frozen=True)
class _View:
    """One image of a model, as it is written: world-to-camera quaternion (w, x, y, z), translation, number of the camera."""

    name: str
    pose: tuple[float, ...]
    camera: int


def _views(model: Path) -> list[_View]:
    with _damage(model):
        return list(_images_binary(model) if _is_binary(model) else _images_text(model))


def _is_binary(model: Path) -> bool:
    return (model / "images.bin").is_file() and (model / "cameras.bin").is_file()


@contextmanager
def _damage(model: Path) -> Iterator[None]:
    try:
        yield
    except (
        struct.error,
        ValueError,
        IndexError,
        OverflowError,
        OSError,
    ) as error:  # UnicodeDecodeError: a ValueError
        raise DatasetError(f"the COLMAP model in {model} is damaged", got=reason(error)) from error


def read_colmap(folder: Path, model: Path, notes: Sequence[str] = ()) -> Capture:
    """The model in `model` with the pictures in `folder`'s `images`; every eighth one is held out.

    Args:
        notes: what is to be reported already.

    Raises:
        DatasetError: see `read_dataset`.
    """
    with _damage(model):
        cameras = dict(_cameras_binary(model) if _is_binary(model) else _cameras_text(model))
    views, files = _views(model), DatasetFiles(folder)
    names = [view.name for view in views]
    below = _image_folder(files, names, model)
    images, missing = find_images([below + name for name in names], files, str(model), set())
    frames = []
    for view, found in zip(views, images, strict=True):
        if found is None:
            continue
        image = files.regular(found)
        if view.camera not in cameras:
            raise DatasetError(f"{image} has no intrinsics", expected=f"camera {view.camera} in {model}")
        lens = cameras[view.camera]
        head = read_head(image, DatasetError)
        check_size(image, head, (lens.width, lens.height), "as its camera says")
        frames.append(Frame(image, _pose(view.pose[:4], view.pose[4:], f"{model}, {view.name}"), lens))
    return split_every(frames, "colmap", notes=(*notes, *missing))


def _image_folder(files: DatasetFiles, names: list[str], model: Path) -> str:
    """Where most of the images are; the first of equals."""
    counts = {
        below: sum(files.find(below + name, str(model), endings=()) is not None for name in names)
        for below in IMAGE_FOLDERS
    }
    return max(IMAGE_FOLDERS, key=lambda below: counts[below])


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
    return checked_lens(Lens(width, height, **values), where)


def _pose(
    quaternion: tuple[float, ...], translation: tuple[float, ...], where: str
) -> Float[np.ndarray, "4 4"]:
    length = math.hypot(*quaternion)
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


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text that are neither blank nor comments, without blanks at both ends."""
    with path.open(encoding="utf-8-sig") as file:
        for line in map(str.strip, file):
            if line and not line.startswith("#"):
                yield line


def _cameras_text(model: Path) -> Iterator[tuple[int, Lens]]:
    path = model / "cameras.txt"
    for line in _lines(path):
        number, kind, width, height, *parameters = line.split()
        where = f"{path}, camera {number}"
        yield int(number), _lens(kind, int(width), int(height), tuple(map(float, parameters)), where)


def _images_text(model: Path) -> Iterator[_View]:
    """One line an image and one, which may be empty, for its points. Editors add and remove empty lines: they do not count."""
    for line in _lines(model / "images.txt"):
        if not _are_points(line):
            words = line.split(maxsplit=9)
            yield _View(words[9], tuple(map(float, words[1:8])), int(words[8]))


def _are_points(line: str) -> bool:
    """Whether a line holds X, Y and the integer POINT3D_ID of any number of points, and so no image, which ends with a name."""
    words = line.split()
    try:
        return len(words) % 3 == 0 and all(
            math.isfinite(float(x) + float(y) + int(number))
            for x, y, number in zip(words[:30:3], words[1:30:3], words[2:30:3], strict=True)
        )
    except ValueError:
        return False


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


def _images_binary(model: Path) -> Iterator[_View]:
    path = model / "images.bin"
    size = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            _, *numbers, camera = _unpack(file, "I7dI")
            name = b"".join(iter(lambda: _unpack(file, "c")[0], b"\0")).decode()
            (points,) = _unpack(file, "Q")
            if file.seek(24 * points, 1) > size:
                raise ValueError(f"the points of {name} are cut off")
            yield _View(name, tuple(numbers), camera)
