"""From a picture's file to the pixels that a pinhole would have seen: read, undistorted, made smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import map_coordinates

from dreamfusion.errors import DatasetError
from dreamfusion.image_files import read_head, read_image
from dreamfusion.posed_images.frames import Frame, Lens


def load_picture(frame: Frame, downscale: int) -> tuple[UInt8[np.ndarray, "h w 4"], Bool[np.ndarray, "h w"]]:
    """The frame's pixels as its pinhole would have them, and which of them are real.

    The colours are sRGB, multiplied with the opacity: only then may pixels be averaged. Pixels that the mask blackens, or that
    undistortion takes from outside the picture, are not real.

    Raises:
        DatasetError: a file that is no picture, or a mask of another size.
    """
    pixels = _read(frame.image)
    real = np.ones(pixels.shape[:2]) if frame.mask is None else _read_mask(frame.mask, pixels.shape[:2])
    if frame.lens.is_distorted:
        pixels, real = _undistorted(pixels, frame.lens), _undistorted(real[..., None], frame.lens)[..., 0]
    if downscale > 1:
        pixels, real = _shrunk(pixels, downscale), _shrunk(real[..., None], downscale)[..., 0]
    # A pixel that is real in part holds some of what is not.
    return (pixels * 255.0).round().astype(np.uint8), real > 1 - 1e-3


def has_alpha(path: Path) -> bool:
    """Whether the file says how opaque its pixels are; read from its head alone."""
    return read_head(path, DatasetError).has_alpha


def _read(path: Path) -> Float[np.ndarray, "h w 4"]:
    pixels = read_image(path, DatasetError) / 255.0
    pixels[..., :3] *= pixels[..., 3:]
    return pixels


def _read_mask(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    # Luma of ITU-R BT.601; what is transparent counts as black.
    rgba = read_image(path, DatasetError).astype(np.float64)
    mask = rgba[..., :3] @ [0.299, 0.587, 0.114] * rgba[..., 3] / 255.0
    if mask.shape != size:
        raise DatasetError(
            f"the size of the mask {path}", expected=f"{size[1]} x {size[0]} pixels",
            got=f"{mask.shape[1]} x {mask.shape[0]}",
        )  # fmt: skip
    # Masks of JPEG are not exactly black and white.
    return (mask >= 127.5).astype(np.float64)


def _undistorted(pixels: Float[np.ndarray, "h w c"], lens: Lens) -> Float[np.ndarray, "h w c"]:
    """What the lens would see without its distortion, bilinear, 0 where the picture shows nothing.

    The same as OpenCV's `undistort` with the camera matrix kept. No equation is solved: the distortion itself says for each pixel
    of the straight picture where it is found in the bent one.
    """
    rows, columns = np.mgrid[: lens.height, : lens.width] + 0.5
    x, y = lens.distort((columns - lens.cx) / lens.fx, (rows - lens.cy) / lens.fy)
    at = np.stack([y * lens.fy + lens.cy - 0.5, x * lens.fx + lens.cx - 0.5])
    planes = [map_coordinates(pixels[..., c], at, order=1, mode="constant") for c in range(pixels.shape[-1])]
    return np.stack(planes, axis=-1)


def _shrunk(pixels: Float[np.ndarray, "h w c"], factor: int) -> Float[np.ndarray, "h2 w2 c"]:
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3))
