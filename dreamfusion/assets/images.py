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
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dreamfusion.assets.files import atomic_path, choose_format
from dreamfusion.errors import ConfigError

What = Literal["rgb", "normal", "depth", "opacity"]
WHATS: tuple[str, ...] = get_args(What)
# The far side of the ball stays this bright, so that it is told from the empty background.
FAR_GREY = 0.15


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
    near = (distance.to(opacity.device) - radius).clamp(min=0)[:, None, None, None]
    share = ((output.depth[..., None] - near) / (2 * radius)).clamp(0, 1)
    grey = (1 - (1 - FAR_GREY) * share) * opacity
    return to_uint8(grey.expand(*grey.shape[:-1], 3))


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


def write_image(image: UInt8[np.ndarray, "h w 3"], path: Path | str, format: str | None = None) -> Path:
    """Writes a PNG or JPEG; the file appears only when it is complete. Missing folders are made.

    Raises:
        OutputError: unknown format, or the file cannot be written.
    """
    path = Path(path)
    chosen = choose_format(path, format, ("png", "jpg", "jpeg"))
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG" if chosen == "png" else "JPEG")
    return path
