"""Asking a field for densities and for the colours that an eye would see, in blocks that bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.assets.devices import device_of
from dreamfusion.assets.threshold import DensityGrid
from dreamfusion.errors import NoSurfaceError

# Points a block: small enough that a 128-wide MLP stays under 100 MB, large enough that calls cost nothing.
BLOCK = 65536
# Where colours are gathered: from this far outside to this far inside the surface, in shares of the ball's radius.
SKIN = (-1 / 32, 3 / 32)
SKIN_SAMPLES = 8
OWN_WEIGHT = 1e-4


@runtime_checkable
class DensityField(Protocol):
    """What of a field is needed here (`dreamfusion.scene.fields.Field` has it)."""

    def density(self, positions: Tensor) -> Tensor: ...

    def __call__(self, positions: Tensor) -> Any: ...


def blocks(count: int, size: int) -> Iterator[slice]:
    """0 .. count in slices of `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@torch.no_grad()
def densities(field: DensityField, positions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """The field's density at world positions, 1/length."""
    device = device_of(field)
    out = np.empty(len(positions), dtype=np.float32)
    for block in blocks(len(positions), BLOCK):
        points = torch.from_numpy(positions[block].astype(np.float32)).to(device)
        out[block] = field.density(points).float().cpu().numpy()
    return out


@torch.no_grad()
def seen_colors(
    field: DensityField,
    positions: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    radius: float | int,
    report: Callable[[int], None] = lambda done: None,
) -> Float[np.ndarray, "n 3"]:
    """What an eye sees that looks straight at each point: the field's albedo, composited along the inward normal.

    A field is a little soft, and its albedo is trained where light is stopped, which is below the surface: the albedo
    at the very surface is 1.6 times as far from what renders show.

    Args:
        field: the whole field.
        positions: on the surface, world units.
        normals: unit, outward.
        radius: of the scene's ball, world units.
        report: called with the number of points done.

    Returns:
        sRGB in [0, 1]: albedo is trained to match sRGB images, so it is sRGB as it stands.
    """
    device = device_of(field)
    (first, last), count = SKIN, SKIN_SAMPLES
    delta = (last - first) * radius / count
    depths = first * radius + (torch.arange(count, device=device) + 0.5) * delta
    out = np.empty((len(positions), 3), dtype=np.float32)
    for block in blocks(len(positions), BLOCK // (count + 1)):
        surface, outward = (
            torch.from_numpy(part[block].astype(np.float32)).to(device) for part in (positions, normals)
        )
        samples = surface[:, None] - depths[:, None] * outward[:, None]
        seen = field(torch.cat([samples.reshape(-1, 3), surface]))
        albedo, own = seen.albedo.float().split([samples.shape[0] * count, len(surface)])
        optical = seen.sigmas.float()[: len(albedo)].view(-1, count) * delta
        before = torch.cumsum(optical, dim=1) - optical
        weights = (torch.exp(-before) * -torch.expm1(-optical))[..., None]
        # A trace of the point's own albedo: on a spike thinner than the samples there may be nothing else.
        total = (weights * albedo.view(-1, count, 3)).sum(1) + OWN_WEIGHT * own
        out[block] = (total / (weights.sum(1) + OWN_WEIGHT)).clamp(0, 1).cpu().numpy()
        report(block.stop)
    return out


# ------------------------------------------------------------------------------------------------ whole grids


def grid_axis(radius: float | int, resolution: int) -> tuple[Float[np.ndarray, " n"], float]:
    """The `resolution` + 3 coordinates along each axis, which reach one cell beyond the ball, and their spacing."""
    spacing = 2.0 * radius / resolution
    side = resolution + 3
    return (np.arange(side) - (side - 1) / 2) * spacing, spacing


def sample_layers(
    field: DensityField, radius: float | int, resolution: int
) -> Iterator[tuple[slice, Float[np.ndarray, "layers n n"]]]:
    """The density of a few layers of the grid (along x) at a time; 0 outside the ball.

    Points outside the ball are not asked: renders never see them, and they are half of the cube.

    Raises:
        NoSurfaceError: a density is not finite.
    """
    axis, _ = grid_axis(radius, resolution)
    side = len(axis)
    for layers in blocks(side, max(1, BLOCK // side**2)):
        points = np.stack(np.meshgrid(axis[layers], axis, axis, indexing="ij"), axis=-1)
        mask = (points**2).sum(-1) < radius**2
        sigmas = np.zeros(mask.shape, dtype=np.float32)
        values = densities(field, points[mask])
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise NoSurfaceError(
                f"the field's density is not finite at {bad} of {values.size} points",
                hint="export an earlier checkpoint: this one has diverged",
            )
        sigmas[mask] = values
        yield layers, sigmas


def sample_density(
    field: DensityField,
    radius: float | int,
    resolution: int,
    report: Callable[[int], None] = lambda layers: None,
) -> DensityGrid:
    """The density on (resolution + 3)^3 points, 4 bytes each; `report` is called with the number of layers done.

    Raises:
        NoSurfaceError: a density is not finite.
    """
    axis, spacing = grid_axis(radius, resolution)
    grid = DensityGrid(np.zeros((len(axis),) * 3, dtype=np.float32), axis, spacing, float(radius))
    for layers, sigmas in sample_layers(field, radius, resolution):
        grid.sigmas[layers] = sigmas
        report(layers.stop)
    return grid
