"""The same four looks at the object all along a run: front, side, back and overhead, in one strip."""

from __future__ import annotations

import io

import torch
from jaxtyping import UInt8
from torch import Tensor

from dreamfusion.cameras import Cameras, orbit_cameras
from dreamfusion.config import CameraConfig
from dreamfusion.rendering.renderer import Renderer

_AZIMUTH_DEG = (0.0, 90.0, 180.0, 0.0)
_ELEVATION_DEG = (15.0, 15.0, 15.0, 80.0)


def preview_cameras(config: CameraConfig, size: int) -> Cameras:
    """Front, side (from +X), back and overhead, `size` pixels a side, as far away and as wide as training cameras get."""
    return orbit_cameras(
        torch.tensor(_AZIMUTH_DEG),
        torch.tensor(_ELEVATION_DEG),
        config.distance[1],
        sum(config.fovy_deg) / 2,
        size,
    )


def preview_strip(renderer: Renderer, cameras: Cameras) -> UInt8[Tensor, "h bw 3"]:
    """The cameras' pictures side by side, sRGB; draws from no generator."""
    rgb = renderer.render_image(cameras).rgb
    strip = torch.cat(list(rgb), dim=1)
    return (strip.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu()


def png_bytes(image: UInt8[Tensor, "h w 3"]) -> bytes:
    """The image as the bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
