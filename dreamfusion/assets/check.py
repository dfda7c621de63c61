"""Does the exported file look like the NeRF? It is read back, drawn without the NeRF's code, and compared.

The drawing knows nothing of fields or rays: triangles, a depth buffer, the file's own texture or colours, and only the
sides that face the camera. A file with flipped faces, wrong colours or a wrong texture origin fails here. Of an STL, which
has no colours, the silhouettes are compared alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.assets.devices import device_of
from dreamfusion.assets.raster import rasterise
from dreamfusion.assets.read_back import Shape, read_shape
from dreamfusion.cameras import Cameras, orbit_cameras

VIEWS = 8
ELEVATIONS_DEG = (10.0, 35.0, -15.0)
SIZE = 192
# Both pictures are drawn twice as large and averaged: a mesh's edge is sharp, a NeRF's is not.
SUPERSAMPLES = 2
MIN_PSNR_DB = 25.0
MIN_IOU = 0.95
# Of the worst view: seven good views must not hide that the eighth shows something else. Thin parts edge-on reach 0.90.
MIN_WORST_PSNR_DB = 20.0
MIN_WORST_IOU = 0.8


@runtime_checkable
class PictureRenderer(Protocol):
    """What of a renderer is needed here (`dreamfusion.rendering.renderer.Renderer` has it)."""

    def render_image(self, cameras: Cameras) -> Any: ...


@dataclass(frozen=True)
class Agreement:
    """How much the file looks like the NeRF.

    Attributes:
        psnr_db: of each view's whole picture over white, the peak being 1; empty for a file without colours.
        object_psnr_db: the same of the pixels that the object covers in either picture; stricter.
        iou: of each view's silhouettes, in [0, 1].
    """

    psnr_db: tuple[float, ...]
    object_psnr_db: tuple[float, ...]
    iou: tuple[float, ...]

    @property
    def good(self) -> bool:
        """Whether the mean over the views reaches `MIN_IOU`, the worst of them `MIN_WORST_IOU`, and colours theirs."""
        colours = not self.psnr_db or (
            float(np.mean(self.psnr_db)) >= MIN_PSNR_DB and min(self.psnr_db) >= MIN_WORST_PSNR_DB
        )
        return colours and float(np.mean(self.iou)) >= MIN_IOU and min(self.iou) >= MIN_WORST_IOU


def check_cameras(
    distance: float | int, fovy_deg: float | int, views: int = VIEWS, size: int = SIZE
) -> Cameras:
    """Views all around at alternating elevations."""
    azimuth_deg = torch.arange(views) * (360.0 / views)
    elevation_deg = torch.tensor([ELEVATIONS_DEG[i % len(ELEVATIONS_DEG)] for i in range(views)])
    return orbit_cameras(azimuth_deg, elevation_deg, distance, fovy_deg, size)


def compare(
    path: Path,
    renderer: PictureRenderer,
    cameras: Cameras,
    world_y: tuple[float, float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Agreement, Float[np.ndarray, "b h w2 3"]]:
    """The file against the NeRF's albedo, view by view.

    Args:
        path: a file of any format that `dreamfusion.assets.formats` writes, under its ending.
        renderer: of the NeRF.
        cameras: b square pictures.
        world_y: where the object begins and ends along +Y in world units: the file may be of another size, and a 3mf stands
            on its bed.
        progress: called with (views done, views in all).

    Returns:
        The agreement, and for each view both pictures side by side (NeRF, file), sRGB in [0, 1].
    """
    shape = read_shape(path, world_y)
    size = cameras.height * SUPERSAMPLES
    psnr, object_psnr, iou, pairs = [], [], [], []
    for view in range(len(cameras)):
        camera = cameras[view : view + 1].resized(size, size)
        seen = renderer.render_image(camera.to(device_of(renderer)))
        over_white = seen.foreground_rgb + (1 - seen.opacity)[..., None]
        truth, opacity = _reduced(over_white[0]), _reduced(seen.opacity[0, ..., None])[..., 0]
        drawn, coverage = draw(shape, camera)
        drawn, coverage = _reduced(drawn), _reduced(coverage[..., None])[..., 0]
        either = (opacity > 0.5) | (coverage > 0.5)
        iou.append(float(((opacity > 0.5) & (coverage > 0.5)).sum() / max(either.sum(), 1)))
        if shape.coloured:
            psnr.append(_psnr(truth, drawn))
            object_psnr.append(_psnr(truth[either], drawn[either]) if either.any() else 0.0)
        pairs.append(np.concatenate([truth, drawn], axis=1))
        progress(view + 1, len(cameras))
    return Agreement(tuple(psnr), tuple(object_psnr), tuple(iou)), np.stack(pairs)


def _psnr(truth: np.ndarray, drawn: np.ndarray) -> float:
    return -10 * math.log10(max(float(np.square(truth - drawn).mean()), 1e-10))


def _reduced(picture: Tensor | np.ndarray) -> np.ndarray:
    values = picture.float().cpu().numpy() if isinstance(picture, Tensor) else picture
    height, width, channels = values.shape
    n = SUPERSAMPLES
    return values.clip(0, 1).reshape(height // n, n, width // n, n, channels).mean(axis=(1, 3))


# ---------------------------------------------------------------------------------------------- the file alone


def draw(shape: Shape, camera: Cameras) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """What one camera sees of the file over white, sRGB in [0, 1], and which pixels the object covers."""
    c2w = camera.c2w[0].double().numpy()
    local = (shape.vertices - c2w[:3, 3]) @ c2w[:3, :3]
    depth = np.maximum(-local[:, 2], 1e-6)
    half = math.tan(math.radians(float(camera.fovy_deg[0])) / 2) * depth
    size = camera.height
    screen = np.stack([(local[:, 0] / half + 1) / 2, (1 - local[:, 1] / half) / 2], axis=-1) * size
    corners = screen[shape.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    # With y downwards, a face that is counter-clockwise for the camera has a negative area here.
    towards = np.flatnonzero(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0)
    nearness = np.zeros(size * size)
    face_of = np.full(size * size, -1, dtype=np.int64)
    weights_of = np.zeros((size * size, 3))
    for hits in rasterise(corners[towards], size, size):
        faces = towards[hits.triangles]
        # 1 / depth is linear in the picture, and so is everything else divided by depth.
        shares = hits.weights / depth[shape.faces[faces]]
        near = shares.sum(axis=1)
        np.maximum.at(nearness, hits.pixels, near)
        front = near >= nearness[hits.pixels]
        face_of[hits.pixels[front]] = faces[front]
        weights_of[hits.pixels[front]] = shares[front] / near[front, None]
    picture = np.ones((size * size, 3))
    covered = np.flatnonzero(face_of >= 0)
    picture[covered] = _painted(shape, shape.faces[face_of[covered]], weights_of[covered])
    return picture.reshape(size, size, 3), (face_of >= 0).astype(np.float64).reshape(size, size)


def _painted(shape: Shape, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if shape.uvs is None or shape.image is None:
        if shape.colors is None:
            return np.full((len(corners), 3), 0.5)
        return np.einsum("nk,nkc->nc", weights, shape.colors[corners])
    u, v = np.einsum("nk,nkc->nc", weights, shape.uvs[corners]).T
    height, width, _ = shape.image.shape
    x, y = np.clip(u * width - 0.5, 0, width - 1), np.clip(v * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]
    upper = shape.image[top, left] * (1 - across) + shape.image[top, right] * across
    lower = shape.image[bottom, left] * (1 - across) + shape.image[bottom, right] * across
    return upper * (1 - down) + lower * down
