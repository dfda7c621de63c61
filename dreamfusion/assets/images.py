"""Pictures for people: what a render shows as 8-bit colours, sheets of them, and files.

What the colours mean:

- `rgb`: the object over its background, sRGB.
- `normal`: (n + 1) / 2 with n in the world frame: red is +X, green is up, blue is the front; white where nothing is.
- `depth`: along the camera's axis; white at the near side of the scene's ball, dark grey at its far side, black where
  nothing is. The scale depends on the camera's distance alone, so it does not flicker in a turntable.
- `opacity`: black is empty, white is opaque.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from PIL import Image
from torch import Tensor

from dreamfusion.assets.files import STILLS, atomic_path, choose_format
from dreamfusion.errors import ConfigError

What = Literal["rgb", "normal", "depth", "opacity"]
WHATS: tuple[str, ...] = get_args(What)
# The far side of the ball stays this bright, so that it is told from the empty background.
FAR_GREY = 0.15
_TINY = 1e-6


def check_what(what: str) -> None:
    """Raises ConfigError for anything that is no `What`."""
    if what not in WHATS:
        raise ConfigError("what to render", expected="one of " + ", ".join(WHATS), got=repr(what))


def to_uint8(image: Float[Tensor, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Values in [0, 1], clipped to it, as the nearest of 256 levels."""
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def visualise(
    output: Any, what: str, distance: Float[Tensor, " b"], radius: float
) -> UInt8[np.ndarray, "b h w 3"]:
    """A render as pictures; the module's docstring says what the colours mean.

    Args:
        output: a `RenderOutput` of b cameras, with `normals` where `what` is `normal`.
        what: one of `WHATS`.
        distance: of the b cameras from the origin, in world units.
        radius: of the scene's ball, in world units.
    """
    check_what(what)
    opacity = output.opacity[..., None]
    if what == "rgb":
        return to_uint8(output.rgb)
    if what == "normal":
        return to_uint8((output.normals + 1) / 2 * opacity + (1 - opacity))
    if what == "opacity":
        return to_uint8(opacity.expand(*opacity.shape[:-1], 3))
    grey = _grey_of_depth(output, distance, radius) * opacity
    return to_uint8(grey.expand(*grey.shape[:-1], 3))


def cut_out(
    output: Any, what: str, distance: Float[Tensor, " b"], radius: float
) -> UInt8[np.ndarray, "b h w 4"]:
    """The same without a background: colours as of the object alone (not premultiplied), and its opacity as alpha.

    `opacity` is white where it is opaque and clear where nothing is.
    """
    check_what(what)
    opacity = output.opacity[..., None]
    if what == "rgb":
        colour = output.foreground_rgb / opacity.clamp(min=_TINY)
    elif what == "normal":
        colour = (output.normals + 1) / 2
    elif what == "opacity":
        colour = torch.ones_like(opacity).expand(*opacity.shape[:-1], 3)
    else:
        colour = _grey_of_depth(output, distance, radius).expand(*opacity.shape[:-1], 3)
    return to_uint8(torch.cat([colour, opacity], dim=-1))


def _grey_of_depth(output: Any, distance: Float[Tensor, " b"], radius: float) -> Float[Tensor, "b h w 1"]:
    near = (distance.to(output.depth.device) - radius).clamp(min=0)[:, None, None, None]
    share = ((output.depth[..., None] - near) / (2 * radius)).clamp(0, 1)
    return 1 - (1 - FAR_GREY) * share


def depth_millimetres(output: Any) -> UInt16[np.ndarray, "b h w"]:
    """Depth along the camera's axis in thousandths of a world unit, 0 where the object is less than half opaque.

    As other tools store it: a unit taken for a metre gives millimetres.
    """
    found = torch.where(output.opacity > 0.5, output.depth * 1000, 0.0)
    return found.round().clamp(0, 65535).cpu().numpy().astype(np.uint16)


def contact_sheet(
    images: UInt8[np.ndarray, "n h w 3"], columns: int | None = None, gap: int = 4, grey: int = 255
) -> UInt8[np.ndarray, "height width 3"]:
    """All images in rows of `columns` (one row by default), `gap` pixels of `grey` between and around them."""
    count, height, width, _ = images.shape
    across = min(columns or count, count)
    rows = -(-count // across)
    sheet = np.full((rows * (height + gap) + gap, across * (width + gap) + gap, 3), grey, dtype=np.uint8)
    for index, image in enumerate(images):
        top = gap + (index // across) * (height + gap)
        left = gap + (index % across) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_image(
    image: UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w"],
    path: Path | str,
    format: str | None = None,
) -> Path:
    """Writes a PNG, JPEG or WebP; the file appears only when it is complete. Missing folders are made.

    Args:
        image: three channels, four with alpha, or one of 16 bits; JPEG takes three alone, WebP no 16 bits.
        path: where.
        format: None takes it from the path's ending.

    Raises:
        OutputError: unknown format, or the file cannot be written.
    """
    path = Path(path)
    chosen = choose_format(path, format, STILLS)
    encoder = {"png": "PNG", "webp": "WEBP"}.get(chosen, "JPEG")
    # WebP forgets the colours of clear texels unless it is lossless.
    options = {"lossless": True} if encoder == "WEBP" else {}
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format=encoder, **options)
    return path
