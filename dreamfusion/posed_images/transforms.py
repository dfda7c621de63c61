"""`transforms.json`: one file a split (Blender, NeRF-synthetic), or one for all (nerfstudio, instant-ngp).

All three write camera-to-world matrices of OpenGL cameras. Blender's layout gives one `camera_angle_x` and three files;
nerfstudio and instant-ngp give `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` and OpenCV's distortion, for the file or for each frame.
What a frame says beats what the file says. All other keys: `dreamfusion.posed_images.keys`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamfusion.documents import MIB, Limits, read_json
from dreamfusion.errors import DatasetError, printable, shown
from dreamfusion.image_files import read_head
from dreamfusion.posed_images.files import DatasetFiles, check_size, find_images
from dreamfusion.posed_images.frames import DISTORTION, Capture, Frame, Lens, checked_lens, checked_pose
from dreamfusion.posed_images.keys import check_keys

HOLD_OUT_EVERY = 8
# Names of camera models without or with OpenCV's polynomial distortion.
KNOWN_MODELS = {"", "opencv", "pinhole", "simple_pinhole", "perspective", "simple_radial", "radial"}
# A million frames of 4 x 4 numbers.
LIMITS = Limits(bytes=1024 * MIB, containers=8_000_000)
# Focal lengths that two keys give may differ by rounding only.
_SAME_FOCAL = 0.02


def read_blender(folder: Path) -> Capture:
    """NeRF-synthetic's layout: `transforms_train.json`, and `_test` (or else `_val`) held out; the world's up is z.

    Raises:
        DatasetError: see `read_dataset`.
    """
    files, taken = DatasetFiles(folder), set[str]()
    train = folder / "transforms_train.json"
    held_out = next(
        (path for split in ("test", "val") if (path := folder / f"transforms_{split}.json").is_file()), None
    )
    # All names first: that an image is named twice shows before a million of them are opened.
    lists = [
        _Listed(path, folder, files, taken, path == train) for path in (train, held_out) if path is not None
    ]
    frames = [listed.frames() for listed in lists] + [[]]
    notes = tuple(note for listed in lists for note in listed.notes)
    # Blender's world is z up, and what faces the viewer there faces -y. The object stands in the origin.
    return Capture(
        "blender",
        *frames[:2],
        up=(0.0, 0.0, 1.0),
        front=(0.0, -1.0, 0.0),
        centre=(0.0, 0.0, 0.0),
        notes=notes,
    )


def read_transforms(path: Path, under: Path | None = None) -> Capture:
    """A single file as nerfstudio and instant-ngp write it.

    The frames that `test_filenames`, or else `val_filenames`, name are held out (nerfstudio's keys), and those of the other
    list are not learnt from; where there is `train_filenames`, nothing else is. Without the first two every eighth one in the
    order of the file names is held out, as is usual for captures (LLFF, arXiv 1905.00889).

    Args:
        under: folder that the file must really lie in; None: the user named the file itself.

    Raises:
        DatasetError: see `read_dataset`.
    """
    listed = _Listed(path, under, DatasetFiles(path.parent), set())
    train, val, test = (listed.named(f"{split}_filenames") for split in ("train", "val", "test"))
    frames = listed.frames()
    details: dict[str, Any] = {"up": _up(listed.content, path), "notes": tuple(listed.notes)}
    wanted = test or val
    if not wanted:
        learnt = [frame for frame in frames if not train or frame.image in train]
        return split_every(learnt, "transforms", **details)
    held_out = [frame for frame in frames if frame.image in wanted]
    names = (train or {frame.image for frame in frames} - val) - wanted
    return Capture("transforms", [frame for frame in frames if frame.image in names], held_out, **details)


def split_every(frames: list[Frame], layout: str, **details: Any) -> Capture:
    """Every eighth frame in the order of file names held out, the first one among them.

    Args:
        details: further attributes of the capture.
    """
    ordered = sorted(frames, key=lambda frame: str(frame.image))
    if len(ordered) < 4:  # with so few, each is needed to learn from
        return Capture(layout, ordered, [], **details)
    learnt = [frame for index, frame in enumerate(ordered) if index % HOLD_OUT_EVERY]
    return Capture(layout, learnt, ordered[::HOLD_OUT_EVERY], **details)


class _Listed:
    """One file's frames: first the names of all, then, for those whose image is there, pose and lens."""

    def __init__(
        self, path: Path, under: Path | None, files: DatasetFiles, taken: set[str], required: bool = True
    ) -> None:
        self.path, self.files = path, files
        self.content = _read_json(path, under)
        self.entries: list[dict[str, Any]] = self.content["frames"]
        names = [_file_path(entry, f"frame {number} of {path}") for number, entry in enumerate(self.entries)]
        self.images, notes = find_images(names, files, str(path), taken, required=required)
        self.notes = [*check_keys(self.content, self.entries, path), *notes]
        self._paths = dict(zip(names, self.images, strict=True))

    def frames(self) -> list[Frame]:
        return [
            self._frame(entry, image, f"frame {number} of {self.path}")
            for number, (entry, image) in enumerate(zip(self.entries, self.images, strict=True))
            if image is not None
        ]

    def _frame(self, entry: dict[str, Any], found: str, where: str) -> Frame:
        pose = checked_pose(entry.get("transform_matrix"), where)
        image = self.files.regular(found)
        return Frame(image, pose, _lens(entry, self.content, image, where), self._mask(entry, where))

    def _mask(self, entry: dict[str, Any], where: str) -> Path | None:
        name = entry.get("mask_path")
        if name is None:
            return None
        found = self.files.find(name, where, endings=()) if isinstance(name, str) else None
        if found is None:
            raise DatasetError(
                f"{where}: the mask {self.files.folder}/{printable(str(name))} is missing",
                hint='copy it there, or take "mask_path" out',
            )
        return self.files.regular(found)

    def named(self, key: str) -> set[Path]:
        """The images of one of nerfstudio's lists that are there; none where there is no such list."""
        names = self.content.get(key) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DatasetError(
                f'"{key}" in {self.path}', expected="a list of the frames' file_path", got=shown(names)
            )
        known = {image for image in self.images if image is not None}
        found: set[Path] = set()
        for name in names:
            image = (
                self._paths[name] if name in self._paths else self.files.find(name, f'"{key}" in {self.path}')
            )
            if image in known:
                found.add(Path(image))
            elif name not in self._paths:
                raise DatasetError(
                    f'"{key}" in {self.path} names {shown(name)}', expected="a frame's file_path"
                )
        if names and not found:
            raise DatasetError(f'no image that "{key}" in {self.path} names is there', got=shown(names[0]))
        return found


def _file_path(entry: object, where: str) -> str:
    if isinstance(entry, dict) and isinstance(name := entry.get("file_path"), str) and name:
        return name
    raise DatasetError(f"{where} names no picture", expected='"file_path"')


def _read_json(path: Path, under: Path | None) -> dict[str, Any]:
    # Some programs write NaN, which is refused by the name of its key.
    content = read_json(path, error=DatasetError, under=under, limits=LIMITS, finite=False)
    if not isinstance(content.get("frames"), list):
        raise DatasetError(f"{path} has no list of frames", expected='a mapping with "frames"')
    return content


def _up(content: Mapping[str, Any], path: Path) -> tuple[float, float, float] | None:
    """instant-ngp's "up", in the world of the poses."""
    if (up := content.get("up")) is None:
        return None
    good = isinstance(up, list) and len(up) == 3 and all(_is_number(value) for value in up)
    length = math.hypot(*up) if good else 0.0
    if not 0 < length < math.inf:
        raise DatasetError(f'"up" in {path}', expected="three numbers, not all 0", got=shown(up))
    return up[0] / length, up[1] / length, up[2] / length


def _lens(entry: Mapping[str, Any], content: Mapping[str, Any], image: Path, where: str) -> Lens:
    values = {name: level[name] for level in (content, entry) for name in _LENS_KEYS if name in level}
    _check_model(values, where)
    head = read_head(image, DatasetError)
    size = head.size
    declared = [_number(values, name, side, positive=True) for name, side in zip("wh", size, strict=True)]
    check_size(image, head, (declared[0], declared[1]), "as its intrinsics say")
    fx, fy = _focals(entry, content, size, where)
    middle = [_number(values, name, side / 2) for name, side in zip(("cx", "cy"), size, strict=True)]
    distortion = {name: _number(values, name, 0.0) for name in DISTORTION}
    return checked_lens(Lens(*size, fx, fy, middle[0], middle[1], **distortion), where)


_LENS_KEYS = ("w", "h", "cx", "cy", *DISTORTION, "k4", "k5", "k6", "camera_model", "is_fisheye")


def _check_model(values: Mapping[str, Any], where: str) -> None:
    model = str(values.get("camera_model") or "").lower()
    if values.get("is_fisheye") or model not in KNOWN_MODELS:
        raise DatasetError(
            f"{where}: a camera of the model {shown(model or 'fisheye')} is not understood",
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


def _focals(
    entry: Mapping[str, Any], content: Mapping[str, Any], size: tuple[int, int], where: str
) -> tuple[float, float]:
    """fx and fy in pixels: the frame's where it gives one, else the file's.

    An axis that is not given has the other one's focal length, for pixels are square; the file's counts for it only where the
    file gives that axis alone.
    """
    own, shared = (
        [_focal(level, axis, side) for axis, side in zip("xy", size, strict=True)]
        for level in (entry, content)
    )
    if own == [None, None]:
        own, shared = shared, [None, None]
    x, y = (own[k] or (shared[k] if shared[1 - k] is None else None) or own[1 - k] for k in (0, 1))
    if x is None or y is None:
        raise DatasetError(
            f"{where} has no intrinsics",
            expected='"fl_x" and "fl_y", or "camera_angle_x"',
            got="none of them",
        )
    return x, y


def _focal(level: Mapping[str, Any], axis: str, size: int) -> float | None:
    """What one level says of one axis, in pixels; its keys must agree."""
    found = {}
    if (name := f"fl_{axis}") in level:
        found[name] = _number(level, name, 0.0, positive=True)
    for name, unit in ((f"camera_angle_{axis}", 1.0), (f"{axis}_fov", math.pi / 180)):
        if name in level:
            radians = unit * _number(level, name, 0.0, positive=True)
            if radians >= math.pi:
                limit = "radians, less than pi" if unit == 1.0 else "degrees, less than 180"
                raise DatasetError(f"the intrinsic {name!r}", expected=limit, got=shown(level[name]))
            found[name] = size / (2 * math.tan(radians / 2))
    if found and max(found.values()) > (1 + _SAME_FOCAL) * min(found.values()):
        raise DatasetError(
            "the intrinsics " + " and ".join(map(repr, found)) + " contradict each other",
            got=" and ".join(f"{value:g}" for value in found.values()) + " pixels of focal length",
            hint="take the wrong one out",
        )
    return next(iter(found.values()), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(values: Mapping[str, Any], name: str, default: float | int, positive: bool = False) -> float:
    value = values.get(name, default)
    if not _is_number(value) or (positive and value <= 0):
        raise DatasetError(
            f"the intrinsic {name!r}",
            expected="a positive number" if positive else "a number",
            got=shown(value),
        )
    return float(value)
