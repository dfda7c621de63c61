"""From a density field to a triangle mesh: marching cubes, exact vertices, no floaters, colours at the vertices.

World coordinates are kept as they are: right-handed, +Y up, the front faces +Z, so the mesh is in glTF's own frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import mcubes
import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from trimesh.visual import ColorVisuals

from dreamfusion.assets.devices import device_of
from dreamfusion.assets.threshold import VIEWS, DensityGrid, OpacityRenderer, silhouette_threshold
from dreamfusion.errors import ConfigError, NoSurfaceError

Progress = Callable[[int, int], None]

# Points a block: small enough that a 128-wide MLP stays under 100 MB, large enough that calls cost nothing.
BLOCK = 65536
RESOLUTIONS = (8, 512)
# Vertices keep this share of an edge away from its ends, so that no two of them coincide and no face is degenerate.
EDGE_MARGIN = 1e-3
ROOT_STEPS = 6
# Where colours are gathered: from this far outside to this far inside the surface, in shares of the ball's radius.
SKIN = (-1 / 32, 3 / 32)
SKIN_SAMPLES = 8
OWN_WEIGHT = 1e-4


@runtime_checkable
class DensityField(Protocol):
    """What of a field is needed here (`dreamfusion.scene.fields.Field` has it)."""

    def density(self, positions: Tensor) -> Tensor: ...

    def __call__(self, positions: Tensor) -> Any: ...


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
        volume: of the mesh, in world units cubed.
    """

    threshold: float
    silhouette_iou: float | None
    density_range: tuple[float, float]
    resolution: int
    vertices: int
    faces: int
    floaters: int
    cavities: int
    volume: float


def extract_mesh(
    field: DensityField,
    radius: float | int,
    *,
    resolution: int = 128,
    threshold: float | int | str = "auto",
    renderer: OpacityRenderer | None = None,
    min_component_share: float = 0.01,
    progress: Progress | None = None,
) -> tuple[trimesh.Trimesh, MeshInfo]:
    """The surface on which the field's density equals `threshold`, inside the scene's ball, as a closed mesh.

    Marching cubes (Lorensen & Cline 1987) finds the topology on a grid over [-radius, radius]^3 with one layer of
    padding; each vertex is then moved along its grid edge to where the field itself crosses the threshold, so it is
    exact far below a cell. What leaves the ball is cut off at the ball, where renders end too.

    Args:
        field: `density(positions "n 3") -> " n"` and `field(positions)` with `.sigmas " n"` and `.albedo "n 3"` in [0, 1], sRGB.
        radius: of the scene's ball around the origin, in world units.
        resolution: cells along the diameter, 8 to 512; memory is about 12 bytes times its cube.
        threshold: density in 1/length, > 0; the word `auto` takes the one whose silhouettes match the opacity renders best.
        renderer: needed for `auto`; its `render_image(cameras).opacity` is what the silhouettes are compared with.
        min_component_share: pieces with less than this share of the largest piece's volume are floaters and dropped
            (0.01 is a fifth of its size in each direction); 0 keeps all.
        progress: called with (parts done, parts in all).

    Returns:
        mesh: watertight, outward normals, 8-bit sRGB vertex colours; `mesh.visual.vertex_colors` is "v 4".
        info: how it came about.

    Raises:
        NoSurfaceError: the density crosses the threshold nowhere, or is not finite.
        ConfigError: a resolution, threshold or share out of range.
    """
    _check_options(resolution, threshold, min_component_share)
    if isinstance(threshold, str) and renderer is None:
        raise ValueError("threshold='auto' compares with renders: pass the renderer, or a number")
    auto = isinstance(threshold, str)
    # Layers of the grid, views of the threshold, and one for the surface: about equal in time on a CPU.
    total = resolution + 3 + (VIEWS if auto else 0) + 1
    report = (lambda done: progress(done, total)) if progress is not None else (lambda done: None)
    grid = sample_density(field, radius, resolution, report)
    density_range = _density_range(grid)
    if isinstance(threshold, str):
        assert renderer is not None
        level, iou = silhouette_threshold(grid, renderer, lambda views: report(resolution + 3 + views))
    else:
        level, iou = float(threshold), None
    inside = grid.sigmas > level
    if not inside.any() or inside[grid.in_ball()].all():
        raise NoSurfaceError(
            f"no surface at the density threshold {level:.4g}",
            expected=f"a threshold inside the field's range {density_range[0]:.4g} to {density_range[1]:.4g}",
            hint="pass another --threshold, or train longer",
        )
    vertices, faces = _surface(field, grid, inside, level)
    vertices, faces, floaters, cavities = _keep_large_solids(vertices, faces, min_component_share)
    mesh = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    normals = np.asarray(mesh.vertex_normals)
    mesh.visual = ColorVisuals(mesh, vertex_colors=_vertex_colors(field, vertices, normals, radius))
    report(total)
    # Both follow from the construction; a mesh that breaks them is a bug here and must not reach a user.
    assert mesh.is_watertight and mesh.is_winding_consistent, "marching cubes left an open mesh"
    assert mesh.volume > 0, "the mesh is inside out"
    return mesh, MeshInfo(
        threshold=level,
        silhouette_iou=iou,
        density_range=density_range,
        resolution=resolution,
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        floaters=floaters,
        cavities=cavities,
        volume=float(mesh.volume),
    )


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


# ------------------------------------------------------------------------------------------- asking the field


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@torch.no_grad()
def _densities(field: DensityField, positions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    device = device_of(field)
    out = np.empty(len(positions), dtype=np.float32)
    for block in _blocks(len(positions), BLOCK):
        points = torch.from_numpy(positions[block].astype(np.float32)).to(device)
        out[block] = field.density(points).float().cpu().numpy()
    return out


@torch.no_grad()
def _vertex_colors(
    field: DensityField,
    vertices: Float[np.ndarray, "v 3"],
    normals: Float[np.ndarray, "v 3"],
    radius: float | int,
) -> UInt8[np.ndarray, "v 4"]:
    """What an eye sees that looks straight at each vertex: the field's albedo, composited along the inward normal.

    A field is a little soft, and its albedo is trained where light is stopped, which is below the surface: the albedo
    at the very vertex is 1.6 times as far from what renders show. 8-bit sRGB and an alpha of 255; albedo
    is trained to match sRGB images, so it is sRGB as it stands.
    """
    device = device_of(field)
    (first, last), count = SKIN, SKIN_SAMPLES
    delta = (last - first) * radius / count
    depths = first * radius + (torch.arange(count, device=device) + 0.5) * delta
    out = np.full((len(vertices), 4), 255, dtype=np.uint8)
    for block in _blocks(len(vertices), BLOCK // (count + 1)):
        surface, outward = (
            torch.from_numpy(part[block].astype(np.float32)).to(device) for part in (vertices, normals)
        )
        positions = surface[:, None] - depths[:, None] * outward[:, None]
        seen = field(torch.cat([positions.reshape(-1, 3), surface]))
        albedo, own = seen.albedo.float().split([positions.shape[0] * count, len(surface)])
        optical = seen.sigmas.float()[: len(albedo)].view(-1, count) * delta
        before = torch.cumsum(optical, dim=1) - optical
        weights = (torch.exp(-before) * -torch.expm1(-optical))[..., None]
        # A trace of the vertex's own albedo: on a spike thinner than the samples there may be nothing else.
        total = (weights * albedo.view(-1, count, 3)).sum(1) + OWN_WEIGHT * own
        colour = (total / (weights.sum(1) + OWN_WEIGHT)).clamp(0, 1)
        out[block, :3] = (colour * 255).round().to(torch.uint8).cpu().numpy()
    return out


def sample_density(
    field: DensityField,
    radius: float | int,
    resolution: int,
    report: Callable[[int], None] = lambda layers: None,
) -> DensityGrid:
    """The density on (resolution + 3)^3 points that reach one cell beyond the ball; 0 outside the ball.

    Points outside the ball are not asked: renders never see them, and they are half of the cube.
    `report` is called with the number of layers done.
    """
    spacing = 2.0 * radius / resolution
    side = resolution + 3
    axis = (np.arange(side) - (side - 1) / 2) * spacing
    grid = DensityGrid(np.zeros((side, side, side), dtype=np.float32), axis, spacing, radius)
    layers_a_block = max(1, BLOCK // side**2)
    starts = range(0, side, layers_a_block)
    for start in starts:
        layers = slice(start, start + layers_a_block)
        points = np.stack(np.meshgrid(axis[layers], axis, axis, indexing="ij"), axis=-1)
        mask = (points**2).sum(-1) < radius**2
        grid.sigmas[layers][mask] = _densities(field, points[mask])
        report(min(start + layers_a_block, side))
    return grid


def _density_range(grid: DensityGrid) -> tuple[float, float]:
    values = grid.sigmas[grid.in_ball()]
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise NoSurfaceError(
            f"the field's density is not finite at {bad} of {values.size} points",
            hint="export an earlier checkpoint: this one has diverged",
        )
    return float(values.min()), float(values.max())


# ------------------------------------------------------------------------------------------------ the surface


def _surface(
    field: DensityField, grid: DensityGrid, inside: Bool[np.ndarray, "n n n"], level: float
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Marching cubes for the topology, then a root search along each vertex's own grid edge for the position."""
    # With plus and minus one every vertex lies exactly in the middle of its edge, which names the edge without doubt.
    signs = inside.astype(np.float32)
    signs *= 2
    signs -= 1
    middles, faces = mcubes.marching_cubes(signs, 0.0)
    low, high = np.floor(middles).astype(np.int64), np.ceil(middles).astype(np.int64)
    axis = grid.axis
    ends = axis[low], axis[high]

    def excess(points: Float[np.ndarray, "v 3"], sigmas: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
        # > 0 inside. The ball's own wall is a second surface; its slope only matters for the speed of the search.
        to_wall = (grid.radius - np.linalg.norm(points, axis=-1)) * (level / grid.spacing)
        return np.where(to_wall > 0, np.minimum(sigmas.astype(np.float64) - level, to_wall), to_wall)

    values = [excess(p, grid.sigmas[tuple(i.T)]) for p, i in zip(ends, (low, high), strict=True)]
    shares = _roots(lambda points: excess(points, _densities(field, points)), ends, values)
    return ends[0] + shares[:, None] * (ends[1] - ends[0]), faces.astype(np.int64)


def _roots(
    excess: Callable[[np.ndarray], np.ndarray],
    ends: tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v 3"]],
    values: list[Float[np.ndarray, " v"]],
) -> Float[np.ndarray, " v"]:
    """Where along each edge `excess` changes its sign, as a share in (0, 1): false position, Illinois variant.

    An end that stays for a second step counts half (Dowell & Jarratt 1971), or steep curves would hardly move it.
    """
    left, right = np.zeros(len(ends[0])), np.ones(len(ends[0]))
    at_left, at_right = values
    left_is_inside = at_left > 0
    moved_left = moved_right = np.zeros(len(left), dtype=bool)
    for _ in range(ROOT_STEPS):
        guess = _secant(left, right, at_left, at_right)
        value = excess(ends[0] + guess[:, None] * (ends[1] - ends[0]))
        same_as_left = (value > 0) == left_is_inside
        at_right = np.where(same_as_left, np.where(moved_left, at_right / 2, at_right), value)
        at_left = np.where(same_as_left, value, np.where(moved_right, at_left / 2, at_left))
        left, right = np.where(same_as_left, guess, left), np.where(same_as_left, right, guess)
        moved_left, moved_right = same_as_left, ~same_as_left
    return np.clip(_secant(left, right, at_left, at_right), EDGE_MARGIN, 1 - EDGE_MARGIN)


def _secant(left: np.ndarray, right: np.ndarray, at_left: np.ndarray, at_right: np.ndarray) -> np.ndarray:
    span = at_left - at_right
    share = np.divide(at_left, span, out=np.full_like(span, 0.5), where=span != 0)
    return left + share * (right - left)


def _keep_large_solids(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], min_share: float
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"], int, int]:
    """Drops closed hollows (their signed volume is negative) and pieces below `min_share` of the largest volume.

    Returns:
        vertices, faces: of what is left, renumbered; then the numbers of dropped floaters and cavities.
    """
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    labels = trimesh.graph.connected_component_labels(edges, node_count=len(vertices))
    face_labels = labels[faces[:, 0]]
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volumes = np.bincount(face_labels, weights=np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)
    solid = volumes > 0
    keep = solid & (volumes >= min_share * volumes.max())
    kept_faces = faces[keep[face_labels]]
    used, renumbered = np.unique(kept_faces, return_inverse=True)
    dropped_solids, cavities = int((solid & ~keep).sum()), int((volumes < 0).sum())
    return vertices[used], renumbered.reshape(-1, 3), dropped_solids, cavities
