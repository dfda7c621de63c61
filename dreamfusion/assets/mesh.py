"""From a density field to a triangle mesh: marching cubes, exact vertices, no floaters, colours at the vertices.

World coordinates are kept as they are: right-handed, +Y up, the front faces +Z, so the mesh is in glTF's own frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float, UInt8
from trimesh.visual import ColorVisuals

from dreamfusion.assets.cavities import with_unseen_filled
from dreamfusion.assets.cleaning import decimated, keep_large_solids, smoothed
from dreamfusion.assets.sampling import DensityField, sample_density, seen_colors
from dreamfusion.assets.surface import (
    Occupied,
    occupied_in_field,
    occupied_in_grid,
    surface,
    with_holes_closed,
)
from dreamfusion.assets.threshold import VIEWS, OpacityRenderer, silhouette_threshold
from dreamfusion.errors import ConfigError, NoSurfaceError

Progress = Callable[[int, int], None]

RESOLUTIONS = (8, 512)
# Above this, silhouettes are compared on a coarser grid of this many cells, so that no large grid of floats is held.
THRESHOLD_RESOLUTION = 128
MAX_SMOOTHING = 100
MAX_CLOSED_CELLS = 32
MIN_FACES = 100


@dataclass(frozen=True)
class MeshInfo:
    """How a mesh came about.

    Attributes:
        threshold: density of the surface, in 1/length.
        silhouette_iou: agreement of the surface's silhouettes with the opacity renders, in [0, 1]; None for a given
            threshold.
        density_range: smallest and largest density found in the ball.
        resolution: cells of the grid along the ball's diameter.
        floaters: separate pieces that were dropped because of their size.
        cavities: closed hollows that were filled.
        marched_faces: before decimation.
        watertight: every edge has exactly two faces; only decimation can break it.
        volume: of the mesh, in world units cubed.
        dense: the same surface before decimation, or None where that took nothing away.
    """

    threshold: float
    silhouette_iou: float | None
    density_range: tuple[float, float]
    resolution: int
    vertices: int
    faces: int
    floaters: int
    cavities: int
    marched_faces: int
    watertight: bool
    volume: float
    dense: trimesh.Trimesh | None


def extract_mesh(
    field: DensityField,
    radius: float | int,
    *,
    resolution: int = 128,
    threshold: float | int | str = "auto",
    renderer: OpacityRenderer | None = None,
    min_component_share: float = 0.01,
    close_holes: int = 0,
    solid: bool = False,
    smooth: int = 0,
    faces: int | None = None,
    progress: Progress | None = None,
) -> tuple[trimesh.Trimesh, MeshInfo]:
    """The surface on which the field's density equals `threshold`, inside the scene's ball, as a closed mesh.

    Marching cubes (Lorensen & Cline 1987) finds the topology on a grid over [-radius, radius]^3 with one layer of
    padding; each vertex is then moved along its grid edge to where the field itself crosses the threshold, so it is
    exact far below a cell. What leaves the ball is cut off at the ball, where renders end too.

    Args:
        field: `density(positions "n 3") -> " n"` and `field(positions)` with `.sigmas " n"` and `.albedo "n 3"` in [0, 1], sRGB.
        radius: of the scene's ball around the origin, in world units.
        resolution: cells along the diameter, 8 to 512; memory is about one byte times its cube.
        threshold: density in 1/length, > 0; the word `auto` takes the one whose silhouettes match the opacity renders best.
        renderer: needed for `auto`; its `render_image(cameras).opacity` is what the silhouettes are compared with.
        min_component_share: pieces with less than this share of the largest piece's volume are floaters and dropped
            (0.01 is a fifth of its size in each direction); 0 keeps all.
        close_holes: holes and cracks up to twice as many cells wide are filled, 0 to 32.
        solid: fill what nobody sees from outside, also where it is open somewhere (`with_unseen_filled`).
        smooth: iterations of Taubin's smoothing, 0 to 100.
        faces: at most about so many, 100 or more, by quadric error decimation; None keeps all.
        progress: called with (parts done, parts in all).

    Returns:
        mesh: outward normals, 8-bit sRGB vertex colours; `mesh.visual.vertex_colors` is "v 4". Watertight, unless
            decimation broke it, which `info` tells.
        info: how it came about.

    Raises:
        NoSurfaceError: the density crosses the threshold nowhere, or is not finite.
        ConfigError: an option out of range, or `faces` without the library for it.
    """
    _check_options(resolution, threshold, min_component_share)
    _check_counts(close_holes, smooth, faces)
    if isinstance(threshold, str) and renderer is None:
        raise ValueError("threshold='auto' compares with renders: pass the renderer, or a number")
    # Layers of the grid, views of the threshold, and three for the surface: about equal in time on a CPU.
    coarse = min(resolution, THRESHOLD_RESOLUTION) + 3 + VIEWS if isinstance(threshold, str) else 0
    total = coarse + resolution + 3 + 3
    report = (lambda done: progress(done, total)) if progress is not None else (lambda done: None)
    occupied, iou = _occupied(field, radius, resolution, threshold, renderer, report, coarse)
    report(total - 3)
    _check_crossed(occupied)
    occupied = with_holes_closed(occupied, close_holes)
    vertices, triangles = surface(field, with_unseen_filled(occupied) if solid else occupied)
    vertices, triangles, floaters, cavities = keep_large_solids(vertices, triangles, min_component_share)
    marched = trimesh.Trimesh(vertices, triangles, process=False, validate=False)
    # Both follow from the construction; a mesh that breaks them is a bug here and must not reach a user.
    assert marched.is_watertight and marched.is_winding_consistent, "marching cubes left an open mesh"
    assert marched.volume > 0, "the mesh is inside out"
    report(total - 2)
    vertices = smoothed(vertices, triangles, smooth)
    mesh = trimesh.Trimesh(vertices, triangles, process=False, validate=False)
    dense = None
    if faces is not None and len(triangles) > faces:
        dense = mesh
        mesh = trimesh.Trimesh(*decimated(vertices, triangles, faces), process=False, validate=False)
    report(total - 1)
    mesh.visual = ColorVisuals(mesh, vertex_colors=_vertex_colors(field, mesh, radius))
    report(total)
    return mesh, MeshInfo(
        threshold=occupied.level,
        silhouette_iou=iou,
        density_range=occupied.density_range,
        resolution=resolution,
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        floaters=floaters,
        cavities=cavities,
        marched_faces=len(marched.faces),
        watertight=bool(mesh.is_watertight),
        volume=float(mesh.volume),
        dense=dense,
    )


def _occupied(
    field: DensityField,
    radius: float | int,
    resolution: int,
    threshold: float | int | str,
    renderer: OpacityRenderer | None,
    report: Callable[[int], None],
    coarse_parts: int,
) -> tuple[Occupied, float | None]:
    """The grid's inner points, and the silhouettes' agreement where the threshold was to be found."""
    if not isinstance(threshold, str):
        return occupied_in_field(field, radius, resolution, float(threshold), report), None
    assert renderer is not None
    grid = sample_density(field, radius, min(resolution, THRESHOLD_RESOLUTION), report)
    layers = len(grid.axis)
    level, iou = silhouette_threshold(grid, renderer, lambda views: report(layers + views))
    if resolution <= THRESHOLD_RESOLUTION:
        return occupied_in_grid(grid, level), iou
    del grid
    return occupied_in_field(field, radius, resolution, level, lambda done: report(coarse_parts + done)), iou


def _check_crossed(occupied: Occupied) -> None:
    if not occupied.inside.any() or occupied.fills_ball():
        low, high = occupied.density_range
        raise NoSurfaceError(
            f"no surface at the density threshold {occupied.level:.4g}",
            expected=f"a threshold inside the field's range {low:.4g} to {high:.4g}",
            hint="pass another --threshold, or train longer",
        )


def _vertex_colors(
    field: DensityField, mesh: trimesh.Trimesh, radius: float | int
) -> UInt8[np.ndarray, "v 4"]:
    """What renders show at the vertices: 8-bit sRGB and an alpha of 255."""
    colors: Float[np.ndarray, "v 3"] = seen_colors(
        field, np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals), radius
    )
    out = np.full((len(colors), 4), 255, dtype=np.uint8)
    out[:, :3] = np.round(colors * 255)
    return out


def _check_counts(close_holes: int, smooth: int, faces: int | None) -> None:
    for name, value, low, high in (
        ("close_holes", close_holes, 0, MAX_CLOSED_CELLS),
        ("smooth", smooth, 0, MAX_SMOOTHING),
    ):
        if not low <= value <= high:
            raise ConfigError(name, expected=f"{low} to {high}", got=str(value))
    if faces is not None and faces < MIN_FACES:
        raise ConfigError("faces", expected=f"{MIN_FACES} or more", got=str(faces))


def _check_options(resolution: int, threshold: float | int | str, min_component_share: float) -> None:
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ConfigError("mesh resolution", expected=f"{low} to {high} cells", got=str(resolution))
    if isinstance(threshold, str):
        if threshold != "auto":
            raise ConfigError(
                "density threshold", expected="a positive number or 'auto'", got=repr(threshold)
            )
    elif not (math.isfinite(threshold) and threshold > 0):
        raise ConfigError("density threshold", expected="a positive number or 'auto'", got=str(threshold))
    if not 0 <= min_component_share <= 1:
        raise ConfigError("min_component_share", expected="0 to 1", got=str(min_component_share))
