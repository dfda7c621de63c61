"""A folder of posed pictures, read whole: which layout it is, whether it can be used, and its pixels and cameras.

    train, held out = read_dataset(PosedImagesConfig(path="lego"))

Cameras are in this package's world, whose ball of radius 1 holds the object; see `dreamfusion.posed_images.placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dreamfusion.cameras import Cameras, cameras_from_poses, pencil_cameras
from dreamfusion.config import PosedImagesConfig
from dreamfusion.documents import open_regular
from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.colmap import find_model, read_colmap
from dreamfusion.posed_images.files import MIN_VIEWS
from dreamfusion.posed_images.frames import Capture, Frame
from dreamfusion.posed_images.pictures import has_alpha, load_picture
from dreamfusion.posed_images.placement import find_ball, placed, scene_centre, similarity_to
from dreamfusion.posed_images.transforms import read_blender, read_transforms

# A pixel as opaque as this belongs to the object.
_OPAQUE = 128


@dataclass(frozen=True)
class PosedImages:
    """n pictures of one size, with a camera each.

    Attributes:
        names: their files' names.
        rgba: sRGB multiplied with the opacity, 8 bits.
        real: which pixels were seen; the others are to be left out of every comparison.
        cameras: theirs, in this package's world.
    """

    names: list[str]
    rgba: UInt8[Tensor, "n h w 4"]
    real: Bool[Tensor, "n h w"]
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.names)

    def over(self, background: Float[Tensor, "k h w 3"], index: slice) -> Float[Tensor, "k h w 3"]:
        """The pictures at `index` in front of a background, both sRGB in [0, 1]."""
        rgba = self.rgba[index].to(background) / 255.0
        return rgba[..., :3] + (1.0 - rgba[..., 3:]) * background

    def draw(self, count: int, generator: torch.Generator) -> tuple[Cameras, Float[Tensor, "count 1 1 4"]]:
        """`count` pixels of all pictures, uniformly, as cameras of one pixel each; and what they show.

        Args:
            generator: on the CPU.
        """
        seen = self._real_indices
        chosen = torch.randint(len(seen), (count,), generator=generator)
        flat = seen.index_select(0, chosen)
        height, width = self.real.shape[1:]
        view, pixel = flat // (height * width), flat % (height * width)
        cameras = pencil_cameras(self.cameras, view, pixel // width, pixel % width)
        return cameras, self.rgba.view(-1, 4)[flat].view(count, 1, 1, 4) / 255.0

    @property
    def _real_indices(self) -> Int[Tensor, " seen"]:
        cached = self.__dict__.get("_indices")
        if cached is None:
            cached = self.real.flatten().nonzero()[:, 0]
            object.__setattr__(self, "_indices", cached)
        return cached


@dataclass(frozen=True)
class PosedDataset:
    """What `dreamfusion fit` learns from and is measured on.

    Attributes:
        layout: `blender`, `transforms` or `colmap`.
        train, held_out: the pictures; None: nothing is held out.
        with_alpha: whether the pictures say where the object ends.
        from_dataset: 4x4 similarity from the dataset's world to this package's.
        notes: what was left out, ignored or had no say, one line each.
    """

    layout: str
    train: PosedImages
    held_out: PosedImages | None
    with_alpha: bool
    from_dataset: Float[np.ndarray, "4 4"]
    notes: tuple[str, ...] = ()


def read_capture(folder: Path) -> Capture:
    """Find out which layout `folder` has and read its lists; no pixel is.

    Raises:
        DatasetError: see `read_dataset`.
    """
    if folder.is_file():
        if folder.suffix.lower() == ".json":
            return read_transforms(folder)
        raise _no_folder(folder)
    if not folder.is_dir():
        raise DatasetError(f"there is no dataset {folder}", expected="a folder, or a transforms.json")
    if (folder / "transforms_train.json").is_file():
        return read_blender(folder)
    if (folder / "transforms.json").is_file():
        return read_transforms(folder / "transforms.json", under=folder)
    if (found := find_model(folder)) is not None:
        return read_colmap(folder, *found)
    archives = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in ARCHIVES)
    raise DatasetError(
        f"{folder} is in no layout that is known",
        expected="transforms_train.json (Blender), transforms.json (nerfstudio, instant-ngp), "
        "or a COLMAP model in sparse/0 beside images/",
        hint=f"unpack {archives[0]} first" if archives else None,
    )


def _no_folder(path: Path) -> DatasetError:
    """What to do with a file that is no list of frames."""
    with open_regular(path, error=DatasetError) as file:
        start = file.read(16)
    if start.startswith(_PACKED) or path.suffix.lower() in ARCHIVES:
        kind, hint = "an archive", "unpack it first, and give the folder"
    elif start[4:8] == b"ftyp" or path.suffix.lower() in _VIDEOS:
        kind, hint = "a video", "find the cameras of its frames first, for example with COLMAP"
    else:
        kind, hint = "a file", "give the folder of the images and their cameras"
    return DatasetError(f"{path} is {kind}", expected="a folder, or a transforms.json", hint=hint)


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_PACKED = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"(\xb5/\xfd",
)
_VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")


def read_dataset(
    config: PosedImagesConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> PosedDataset:
    """All pictures and cameras of `config.path`.

    Args:
        config: folder, downscale, and the ball's radius if it is known.
        progress: called with (pictures read, pictures in all).

    Raises:
        DatasetError: unknown layout; a missing or unreadable picture; no intrinsics, or of a lens that is not understood;
            pictures of different sizes, or masked altogether; one picture twice; a pose that is none; poses that do not look at
            a common point; fewer than three views.
    """
    capture = read_capture(Path(config.path).expanduser())
    _check(capture)
    frames = [*capture.train, *capture.held_out]
    lens = frames[0].lens
    if config.downscale > min(lens.width, lens.height):
        raise DatasetError(
            f"the pictures are too small to be made {config.downscale} times smaller",
            expected=f"{config.downscale} pixels a side or more",
            got=_size(frames[0]),
            hint="take a smaller --downscale",
        )
    pictures = []
    for frame in frames:
        pictures.append(load_picture(frame, config.downscale))
        progress(len(pictures), len(frames))
    with_alpha, capture, pictures, notes = _by_opacity(capture, pictures)
    if not any(real.any() for _, real in pictures[: len(capture.train)]):
        raise DatasetError(
            "no pixel is left to learn from", hint="white pixels of a mask are looked at, black ones are not"
        )
    silhouettes = pictures[: len(capture.train)]
    sines = _silhouette_sines(capture, silhouettes, config.downscale) if with_alpha else None
    ball = find_ball(capture, sines, config.radius)
    similarity = similarity_to(capture, ball)
    split = len(capture.train)
    held_out = None
    if capture.held_out:
        held_out = _images(capture.held_out, pictures[split:], similarity, config.downscale)
    return PosedDataset(
        capture.layout,
        _images(capture.train, pictures[:split], similarity, config.downscale),
        held_out,
        with_alpha,
        similarity,
        (*capture.notes, *notes, *ball.notes),
    )


Picture = tuple[UInt8[np.ndarray, "h w 4"], Bool[np.ndarray, "h w"]]


def _images(
    frames: list[Frame], pictures: list[Picture], similarity: Float[np.ndarray, "4 4"], downscale: int
) -> PosedImages:
    lenses = [frame.lens.shrunk(downscale) for frame in frames]
    rgba, real = (np.stack(planes) for planes in zip(*pictures, strict=True))
    cameras = cameras_from_poses(
        torch.from_numpy(np.stack([placed(frame.c2w, similarity) for frame in frames])).float(),
        torch.tensor([[lens.fx, lens.fy, lens.cx, lens.cy] for lens in lenses]),
        lenses[0].height,
        lenses[0].width,
    )
    names = [frame.image.name for frame in frames]
    return PosedImages(names, torch.from_numpy(rgba), torch.from_numpy(real), cameras)


def _by_opacity(capture: Capture, pictures: list[Picture]) -> tuple[bool, Capture, list[Picture], list[str]]:
    """Whether the pictures say where the object ends, and the capture and pictures of which all do, or none does.

    They do if most have transparent pixels: a channel that is opaque throughout, as in screenshots, says nothing about the
    object. Frames that differ from most would teach the scene a background that is not there. A frame without opacity
    among such with it is left out; what is transparent in a frame among opaque ones is unknown, and left out of every comparison.
    """
    frames = [*capture.train, *capture.held_out]
    transparent = [bool((rgba[real, 3] < 255).any()) for rgba, real in pictures]
    if sum(transparent) < len(frames) / 2:
        if not any(transparent):
            return False, capture, pictures, []
        opaque = [_without_opacity(picture) for picture in pictures]
        odd = [frame for frame, is_it in zip(frames, transparent, strict=True) if is_it]
        return (
            False,
            capture,
            opaque,
            [f"{_some(odd, frames)} have transparent pixels, unlike the others: these pixels are left out"],
        )
    kept = [is_it or has_alpha(frame.image) for frame, is_it in zip(frames, transparent, strict=True)]
    if all(kept):
        return True, capture, pictures, []
    count = len(capture.train)
    fewer = replace(
        capture,
        train=[frame for frame, is_it in zip(capture.train, kept[:count], strict=True) if is_it],
        held_out=[frame for frame, is_it in zip(capture.held_out, kept[count:], strict=True) if is_it],
    )
    _check(fewer)
    odd = [frame for frame, is_it in zip(frames, kept, strict=True) if not is_it]
    remaining = [picture for picture, is_it in zip(pictures, kept, strict=True) if is_it]
    return (
        True,
        fewer,
        remaining,
        [f"{_some(odd, frames)} have no opacity, unlike the others, and are left out"],
    )


def _some(odd: list[Frame], frames: list[Frame]) -> str:
    names = ", ".join(frame.image.name for frame in odd[:3]) + (", ..." if len(odd) > 3 else "")
    return f"{len(odd)} of {len(frames)} frames ({names})"


def _without_opacity(picture: Picture) -> Picture:
    rgba, real = picture
    seen = real & (rgba[..., 3] == 255)
    return np.concatenate([rgba[..., :3], np.full_like(rgba[..., 3:], 255)], axis=-1), seen


def _check(capture: Capture) -> None:
    if len(capture.train) < MIN_VIEWS:
        raise DatasetError(
            "too few views to learn from",
            expected=f"{MIN_VIEWS} at least, beside those held out",
            got=str(len(capture.train)),
        )
    first, seen = capture.train[0], set[Path]()
    for frame in [*capture.train, *capture.held_out]:
        if frame.image in seen:  # held out, it would be learnt from as well
            raise DatasetError(f"the picture {frame.image} is named twice", hint="take one of its frames out")
        seen.add(frame.image)
        if (frame.lens.width, frame.lens.height) != (first.lens.width, first.lens.height):
            raise DatasetError(
                f"the pictures have different sizes: {first.image.name} is {_size(first)}, {frame.image.name} {_size(frame)}",
                hint="crop or scale them to one size, and their intrinsics with them",
            )
    scene_centre(capture)


def _size(frame: Frame) -> str:
    return f"{frame.lens.width} x {frame.lens.height}"


def _silhouette_sines(
    capture: Capture, pictures: list[tuple[np.ndarray, np.ndarray]], downscale: int
) -> Float[np.ndarray, " n"] | None:
    """Sine of the largest angle at which each picture shows the object, seen from the scene's centre; nan where it is cut off.

    None: the object is not in any picture.
    """
    centre = scene_centre(capture)
    sines = []
    for frame, (rgba, _) in zip(capture.train, pictures, strict=True):
        opaque = rgba[..., 3] >= _OPAQUE
        if opaque[[0, -1]].any() or opaque[:, [0, -1]].any():
            sines.append(math.nan)
            continue
        rows, columns = opaque.nonzero()
        if not len(rows):
            sines.append(0.0)
            continue
        lens = frame.lens.shrunk(downscale)
        rays = np.stack(
            [(columns + 0.5 - lens.cx) / lens.fx, -(rows + 0.5 - lens.cy) / lens.fy, -np.ones(len(rows))], -1
        )
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        towards = frame.c2w[:3, :3].T @ (centre - frame.c2w[:3, 3])
        cosines = rays @ (towards / np.linalg.norm(towards))
        sines.append(float(np.sqrt(1 - np.clip(cosines.min(), 0.0, 1.0) ** 2)))
    return np.asarray(sines) if any(sine != 0.0 for sine in sines) else None
