"""The density at which the mesh looks like the render: a threshold chosen by silhouettes.

A pixel is covered by the surface's silhouette exactly when the largest density along its ray exceeds the threshold.
So one march through the sampled grid gives every threshold's silhouettes at once, and the best threshold is found by
sorting, not by trying.

Cost, for a grid of 128 cells and 12 views of 64 x 64: 12 small renders and about six million look-ups in the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dreamfusion.assets.devices import device_of
from dreamfusion.cameras import Cameras, orbit_cameras
from dreamfusion.errors import NoSurfaceError

VIEWS = 12
ELEVATIONS_DEG = (0.0, 30.0, 60.0)
VIEW_SIZE = 64
FOVY_DEG = 40.0
# Thresholds whose agreement is this close to the best are as good; the middle of them is the safest.
IOU_TOLERANCE = 0.003
PLATEAU_DEPTH = 1e-2
SAMPLES_A_CELL = 1.5


@runtime_checkable
class OpacityRenderer(Protocol):
    """What of a renderer is needed here (`dreamfusion.rendering.renderer.Renderer` has it)."""

    def render_image(self, cameras: Cameras) -> Any: ...


@dataclass(frozen=True)
class DensityGrid:
    """Densities on a cube of points around the origin.

    Attributes:
        sigmas: "n n n" by x, y, z, in 1/length; 0 outside the ball.
        axis: " n" the points' coordinates, the same for the three axes.
        spacing: of neighbouring points, in world units.
        radius: of the scene's ball, in world units.
    """

    sigmas: Float[np.ndarray, "n n n"]
    axis: Float[np.ndarray, " n"]
    spacing: float
    radius: float

    def in_ball(self) -> Bool[np.ndarray, "n n n"]:
        squares = self.axis**2
        return squares[:, None, None] + squares[:, None] + squares < self.radius**2


def ring_cameras(radius: float | int, views: int = VIEWS, resolution: int = VIEW_SIZE) -> Cameras:
    """Cameras all around, at alternating elevations, that hold the whole ball of `radius` in the picture."""
    azimuth_deg = torch.arange(views) * (360.0 / views)
    elevation_deg = torch.tensor([ELEVATIONS_DEG[i % len(ELEVATIONS_DEG)] for i in range(views)])
    distance = radius / math.sin(math.radians(FOVY_DEG / 2))
    return orbit_cameras(azimuth_deg, elevation_deg, distance, FOVY_DEG, resolution)


def silhouette_threshold(
    grid: DensityGrid, renderer: OpacityRenderer, report: Callable[[int], None] = lambda views: None
) -> tuple[float, float]:
    """The threshold whose silhouettes agree best with where the renders' opacity is above one half.

    Agreement is the intersection over the union of the covered pixels of all views of `ring_cameras`.
    `report` is called with the number of views done.

    Returns:
        threshold: density in 1/length, > 0.
        iou: its agreement in [0, 1].

    Raises:
        NoSurfaceError: no pixel of the renders is more than half opaque.
    """
    cameras = ring_cameras(grid.radius)
    opaque, highest, most = [], [], 0.0
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        opacity = renderer.render_image(camera.to(device_of(renderer))).opacity.detach().cpu()
        most = max(most, float(opacity.max()))
        opaque.append((opacity > 0.5).flatten().numpy())
        highest.append(max_density_along_rays(grid, camera).flatten().numpy())
        report(view + 1)
    if not any(view.any() for view in opaque):
        low, high = float(grid.sigmas[grid.in_ball()].min()), float(grid.sigmas.max())
        raise NoSurfaceError(
            f"no surface, the scene is a haze, nowhere more opaque than {most:.2f} of 1",
            hint=f"train longer, or pass a --threshold inside the field's density range {low:.4g} to {high:.4g}",
        )
    return best_threshold(np.concatenate(highest), np.concatenate(opaque))


def max_density_along_rays(grid: DensityGrid, cameras: Cameras) -> Float[Tensor, "b h w"]:
    """The largest trilinearly interpolated density on each pixel's chord through the ball; 0 where it misses."""
    rays_o, rays_d = cameras.rays()
    shape = rays_o.shape[:-1]
    rays_o, rays_d = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
    to_middle = -(rays_o * rays_d).sum(-1)
    closest = (rays_o + to_middle[:, None] * rays_d).norm(dim=-1)
    half_chord = (grid.radius**2 - closest**2).clamp(min=0).sqrt()
    hit = half_chord > 0
    result = torch.zeros(rays_o.shape[0])
    samples = math.ceil(2 * grid.radius / grid.spacing * SAMPLES_A_CELL)
    shares = (torch.arange(samples) + 0.5) / samples * 2 - 1
    t = to_middle[hit, None] + half_chord[hit, None] * shares
    positions = rays_o[hit, None] + t[..., None] * rays_d[hit, None]
    # grid_sample's order is x, y, z for the last, middle and first axis of the volume, hence the flip.
    coordinates = (positions / float(grid.axis[-1])).flip(-1)
    volume = torch.from_numpy(grid.sigmas)[None, None]
    sampled = torch.nn.functional.grid_sample(
        volume, coordinates[None, None], mode="bilinear", align_corners=True
    )
    result[hit] = sampled[0, 0, 0].amax(dim=-1)
    return result.reshape(shape)


def best_threshold(
    highest: Float[np.ndarray, " pixels"], opaque: Bool[np.ndarray, " pixels"]
) -> tuple[float, float]:
    """The threshold that makes `highest > threshold` agree best with `opaque`, over all thresholds there are.

    Sorted by falling density, the first k pixels are covered by every threshold between the k-th and the next value:
    IoU_k = hits_k / (targets + misses_k). Of the thresholds within `IOU_TOLERANCE` of the best and joined to it, the
    geometric middle is taken, but never one below a tenth of the largest of them.

    Returns:
        threshold: > 0.
        iou: its agreement, in [0, 1].
    """
    order = np.argsort(-highest, kind="stable")
    values, targets = highest[order].astype(np.float64), opaque[order]
    iou = np.cumsum(targets) / (targets.sum() + np.cumsum(~targets))
    following = np.append(values[1:], 0.0)
    # Equal values fall on the same side of every threshold, so only the last of them can end a silhouette.
    possible = values > following
    best = int(np.argmax(np.where(possible, iou, -1.0)))
    good = ((iou >= iou[best] - IOU_TOLERANCE) | ~possible) & (values > 0)
    first, last = best, best
    while first > 0 and good[first - 1]:
        first -= 1
    while last + 1 < len(good) and good[last + 1]:
        last += 1
    high = values[first]
    # Far down, a hard object's threshold would sit in its outermost haze, where colours were never trained.
    low = max(following[last], high * PLATEAU_DEPTH)
    threshold = float(math.sqrt(low * high))
    covered = highest > threshold
    return threshold, float((covered & opaque).sum() / (covered | opaque).sum())
