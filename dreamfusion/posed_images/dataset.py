"""A folder of posed pictures, read whole: which layout it is, whether it can be used, and its pixels and cameras.

    train, held out = read_dataset(PosedImagesConfig(path="lego"))

Cameras are in this package's world, whose ball of radius 1 holds the object; see `dreamfusion.posed_images.placement`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dreamfusion.cameras import Cameras, cameras_from_poses, pencil_cameras
from dreamfusion.config import PosedImagesConfig
from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.colmap import find_model, read_colmap
from dreamfusion.posed_images.frames import Capture, Frame
from dreamfusion.posed_images.pictures import has_alpha, load_picture
from dreamfusion.posed_images.placement import place, placed, scene_centre
from dreamfusion.posed_images.transforms import read_blender, read_transforms

MIN_VIEWS = 3
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
    """

    layout: str
    train: PosedImages
    held_out: PosedImages | None
    with_alpha: bool
    from_dataset: Float[np.ndarray, "4 4"]


def read_capture(folder: Path) -> Capture:
    """Find out which layout `folder` has and read its lists; no pixel is.

    Raises:
        DatasetError: see `read_dataset`.
    """
    if folder.is_file() and folder.suffix == ".json":
        return read_transforms(folder)
    if not folder.is_dir():
        raise DatasetError(f"there is no dataset {folder}", expected="a folder, or a transforms.json")
    if (folder / "transforms_train.json").is_file():
        return read_blender(folder)
    if (folder / "transforms.json").is_file():
        return read_transforms(folder / "transforms.json")
    if (model := find_model(folder)) is not None:
        return read_colmap(folder, model)
    raise DatasetError(
        f"{folder} is in no layout that is known",
        expected="transforms_train.json (Blender), transforms.json (nerfstudio, instant-ngp), "
        "or a COLMAP model in sparse/0 beside images/",
    )


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
    pictures = []
    for frame in frames:
        pictures.append(load_picture(frame, config.downscale))
        progress(len(pictures), len(frames))
    count = len(capture.train)
    # A channel that is opaque throughout, as in screenshots, says nothing about the object.
    with_alpha = all(has_alpha(frame.image) for frame in frames) and any(
        (rgba[real, 3] < 255).any() for rgba, real in pictures
    )
    if not any(real.any() for _, real in pictures[:count]):
        raise DatasetError(
            "no pixel is left to learn from", hint="white pixels of a mask are looked at, black ones are not"
        )
    sines = _silhouette_sines(capture, pictures[:count], config.downscale) if with_alpha else None
    similarity = place(capture, sines, config.radius)

    def images(part: slice) -> PosedImages:
        lenses = [frame.lens.shrunk(config.downscale) for frame in frames[part]]
        rgba, real = (np.stack(planes) for planes in zip(*pictures[part], strict=True))
        cameras = cameras_from_poses(
            torch.from_numpy(np.stack([placed(frame.c2w, similarity) for frame in frames[part]])).float(),
            torch.tensor([[lens.fx, lens.fy, lens.cx, lens.cy] for lens in lenses]),
            lenses[0].height,
            lenses[0].width,
        )
        names = [frame.image.name for frame in frames[part]]
        return PosedImages(names, torch.from_numpy(rgba), torch.from_numpy(real), cameras)

    held_out = images(slice(count, None)) if capture.held_out else None
    return PosedDataset(capture.layout, images(slice(count)), held_out, with_alpha, similarity)


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
    """Sine of the largest angle at which each picture shows the object, seen from the scene's centre; None if one cuts it off."""
    centre = scene_centre(capture)
    sines = []
    for frame, (rgba, _) in zip(capture.train, pictures, strict=True):
        opaque = rgba[..., 3] >= _OPAQUE
        if opaque[[0, -1]].any() or opaque[:, [0, -1]].any():
            return None
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
    return np.asarray(sines) if max(sines) > 0 else None
