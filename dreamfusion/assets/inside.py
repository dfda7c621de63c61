"""Which cells of a grid lie inside a triangle mesh, by winding numbers along lines of sight.

People's meshes are rarely one clean skin: parts overlap, faces lie twice at one place, whole parts are inside out, and some are
open. So faces are welded and freed of repetitions, every part is turned the right way out, and a cell is inside where the signed
crossings along most of the six lines from it say so. Averaged over all directions those sums are the generalised winding number
(Jacobson et al. 2013, "Robust Inside-Outside Segmentation using Generalized Winding Numbers", eq. 5); closed parts need one line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_erosion
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Corners nearer than this fraction of the mesh's size are one.
WELD = 1e-6
# Of six lines of sight: a hole in the surface blinds some of them.
VOTES = 4
# A part with so many of its crossings inside others lies in them.
WITHIN = 0.95
# Pairs of a triangle and a line worked on at once, about 150 bytes each.
_PAIRS_PER_CHUNK = 1_000_000


@dataclass(frozen=True)
class Inside:
    """What lies inside.

    Attributes:
        cells: by their middles, x y z over [-radius, radius]^3.
        doubtful: fraction of the inner cells about which the six lines disagreed, away from the surface: it has holes.
    """

    cells: Bool[np.ndarray, "n n n"]
    doubtful: float


@dataclass(frozen=True)
class _Skin:
    """Triangles without repetitions, and to which connected part each belongs.

    Attributes:
        mixed: of each part, whether neighbouring faces contradict each other about which side is out.
        volumes: signed, about each part's own middle.
    """

    triangles: Float[np.ndarray, "f 3 3"]
    part: Int[np.ndarray, " f"]
    mixed: Bool[np.ndarray, " p"]
    volumes: Float[np.ndarray, " p"]


@dataclass(frozen=True)
class _Crossings:
    """Where the lines along one axis meet the skin, ordered by line and along it.

    Attributes:
        line: i * resolution + j.
        cell: the first cell behind the crossing, 0 to resolution.
        step: +1 where the line enters, by the face's winding, and -1 where it leaves.
    """

    line: Int[np.ndarray, " n"]
    cell: Int[np.ndarray, " n"]
    step: Int[np.ndarray, " n"]
    part: Int[np.ndarray, " n"]


def occupancy_grid(
    triangles: Float[np.ndarray, "f 3 3"], radius: float, resolution: int
) -> Bool[np.ndarray, "n n n"]:
    """Which cells' middles, x y z over [-radius, radius]^3, lie inside."""
    return inside_cells(triangles, radius, resolution).cells


def inside_cells(triangles: Float[np.ndarray, "f 3 3"], radius: float, resolution: int) -> Inside:
    """The union of all parts, less the cavities: parts inside others that are wound the other way.

    A part that contradicts itself about its outside (some faces are flipped) counts by the parity of its crossings. A mesh that
    is wholly inside out is turned the right way out first.
    """
    skin = _skin(triangles)
    axes = [_crossings(skin, axis, radius, resolution) for axis in range(3)]
    turned = _turned(axes, skin)
    votes = np.zeros((resolution,) * 3, dtype=np.int8)
    for axis, crossings in enumerate(axes):
        found = _line_votes(crossings, skin.mixed, turned, resolution)
        # The array's axes are axis, axis + 1, axis + 2.
        votes += np.moveaxis(found, (0, 1, 2), (axis, (axis + 1) % 3, (axis + 2) % 3))
    cells = votes >= VOTES
    # At the surface the axes differ by their lines' shift.
    doubted = np.asarray(binary_erosion(cells), dtype=bool) & (votes < 6)
    return Inside(cells, float(doubted.sum() / max(int(cells.sum()), 1)))


# ------------------------------------------------------------------------------------------------ the skin


def _skin(triangles: Float[np.ndarray, "f 3 3"]) -> _Skin:
    faces = _welded(triangles)
    kept = _kept(faces)
    faces, triangles = faces[kept], np.asarray(triangles, dtype=np.float64)[kept]
    edges, ways = _edges(faces)
    part = _parts(edges)
    count = int(part.max(initial=-1)) + 1
    # Around an edge with an even number of faces, as many should lead one way as the other.
    uses, net = np.bincount(edges.ravel()), np.bincount(edges.ravel(), ways.ravel())
    contrary = np.asarray(np.where(uses % 2 == 0, net != 0, np.abs(net) > 1))[edges].any(axis=1)
    mixed = np.zeros(count, dtype=bool)
    mixed[part[contrary]] = True
    sizes = np.bincount(part, minlength=count)
    middles = triangles.mean(axis=1)
    centres = np.stack([np.bincount(part, middles[:, k], count) / sizes for k in range(3)], axis=-1)
    a, b, c = np.moveaxis(triangles - centres[part][:, None], 1, 0)
    volumes = np.bincount(part, np.einsum("fi,fi->f", a, np.cross(b, c)) / 6, count)
    return _Skin(triangles, part, mixed, volumes)


def _welded(triangles: Float[np.ndarray, "f 3 3"]) -> Int[np.ndarray, "f 3"]:
    """Corners at the same place get the same number: files split them at seams of textures and normals."""
    corners = triangles.reshape(-1, 3)
    extent = float(np.ptp(corners, axis=0).max(initial=0.0)) or 1.0
    rounded = np.round((corners - corners.min(axis=0, initial=np.inf)) / (WELD * extent)).astype(np.int64)
    # Twenty bits each: one number sorts faster than three.
    keys = (rounded[:, 0] << 42) | (rounded[:, 1] << 21) | rounded[:, 2]
    return np.unique(keys, return_inverse=True)[1].reshape(-1, 3)


def _kept(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, " k"]:
    """Of faces at the same place one, or none where both ways cancel inside a body: the wall between two boxes, say."""
    order = np.asarray(np.sort(faces, axis=1))
    proper = np.flatnonzero((order[:, 0] < order[:, 1]) & (order[:, 1] < order[:, 2]))
    if not len(proper):
        return proper
    _, group = np.unique(order[proper], axis=0, return_inverse=True)
    group = group.ravel()
    # An even permutation of the ordered corners winds one way, an odd one the other.
    rows = np.arange(len(proper))
    least = faces[proper].argmin(axis=1)
    way = np.where(
        faces[proper][rows, (least + 1) % 3] < faces[proper][rows, (least + 2) % 3], 1, -1
    )  # fmt: skip
    net = np.bincount(group, way).astype(np.int64)
    fitting = np.flatnonzero((way * net[group] > 0) | (net[group] == 0))
    first = fitting[np.unique(group[fitting], return_index=True)[1]]
    cancelled = net[group[first]] == 0
    chosen = proper[first]
    if cancelled.any():
        return chosen[~_walls(faces[chosen], cancelled)]
    return chosen


def _walls(faces: Int[np.ndarray, "f 3"], cancelled: Bool[np.ndarray, " f"]) -> Bool[np.ndarray, " f"]:
    """Which of the faces that exist both ways lie inside a body: the rest is closed without them along all their border.

    Otherwise a model has been made two-sided, and its surface would vanish.
    """
    edges, ways = _edges(faces)
    count = int(edges.max()) + 1
    rest_net = np.bincount(edges[~cancelled].ravel(), ways[~cancelled].ravel(), count)
    rest_uses = np.bincount(edges[~cancelled].ravel(), minlength=count)
    patch = np.full(len(faces), -1)
    patch[cancelled] = _parts(edges[cancelled])
    border = np.bincount(edges[cancelled].ravel(), minlength=count) % 2 == 1
    needed = border & ((rest_net != 0) | (rest_uses == 0))
    patches = int(patch.max()) + 1
    has_border, is_needed = np.zeros(patches, dtype=bool), np.zeros(patches, dtype=bool)
    has_border[patch[cancelled][border[edges[cancelled]].any(axis=1)]] = True
    is_needed[patch[cancelled][needed[edges[cancelled]].any(axis=1)]] = True
    wall = np.zeros(len(faces), dtype=bool)
    wall[cancelled] = (has_border & ~is_needed)[patch[cancelled]]
    return wall


def _edges(faces: Int[np.ndarray, "f 3"]) -> tuple[Int[np.ndarray, "f 3"], Int[np.ndarray, "f 3"]]:
    """The number of each face's three edges, and +1 or -1 for the way in which it follows them."""
    start, end = faces, np.roll(faces, -1, axis=1)
    low, high = np.minimum(start, end), np.maximum(start, end)
    numbers = np.unique(low * (int(faces.max(initial=0)) + 1) + high, return_inverse=True)[1]
    return numbers.reshape(-1, 3), np.where(start < end, 1, -1)


def _parts(edges: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, " f"]:
    """The connected part of each face: those that share an edge are of one."""
    numbers = np.unique(edges, return_inverse=True)[1].ravel()
    count, nodes = len(edges), len(edges) + int(numbers.max(initial=-1)) + 1
    rows = np.repeat(np.arange(count), 3)
    links = coo_array((np.ones(len(rows), dtype=bool), (rows, count + numbers)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1][:count].astype(np.int64)


# ------------------------------------------------------------------------------------------------ lines of sight


def _crossings(skin: _Skin, axis: int, radius: float, resolution: int) -> _Crossings:
    """Along the last coordinate after a turn of the axes by `axis`, for lines through the cells' middles."""
    triangles = np.roll(skin.triangles, -axis, axis=-1)
    # A shift by an odd share of a cell keeps lines off the edges and corners that models love to put on round numbers.
    shift = np.array([0.5 + 0.01234, 0.5 + 0.02345])
    flat = (triangles[..., :2] / radius + 1) / 2 * resolution - shift
    low = np.clip(np.ceil(flat.min(axis=1)), 0, resolution).astype(np.int64)
    high = np.clip(np.floor(flat.max(axis=1)), -1, resolution - 1).astype(np.int64)
    widths = np.maximum(high - low + 1, 0)
    counts = widths[:, 0] * widths[:, 1]
    ends = counts.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    chunks = np.split(
        np.arange(len(triangles)), np.searchsorted(ends, np.arange(_PAIRS_PER_CHUNK, total, _PAIRS_PER_CHUNK))
    )
    found = []
    for chunk in chunks:
        face = np.repeat(chunk, counts[chunk])
        local = np.arange(len(face)) - np.repeat(counts[chunk].cumsum() - counts[chunk], counts[chunk])
        i = low[face, 0] + local % np.maximum(widths[face, 0], 1)
        j = low[face, 1] + local // np.maximum(widths[face, 0], 1)
        a, b, c = (flat[face, corner] - np.stack([i, j], axis=-1) for corner in range(3))
        parts = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=-1)
        out, into = np.asarray((parts > 0).all(axis=1)), np.asarray((parts < 0).all(axis=1))
        met = out | into
        face, parts = face[met], parts[met]
        depth = (triangles[face, :, 2] * parts).sum(axis=1) / parts.sum(axis=1)
        # Counter-clockwise from ahead, so the face looks ahead: the line leaves.
        found.append((face, (i * resolution + j)[met], depth, np.where(out[met], -1, 1)))
    face, line, depth, step = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((depth, line))
    cell = np.ceil((depth / radius + 1) / 2 * resolution - 0.5).clip(0, resolution).astype(np.int64)
    return _Crossings(line[order], cell[order], step[order], skin.part[face[order]])


def _cross(p: Float[np.ndarray, "n 2"], q: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]


def _steps(
    crossings: _Crossings, mixed: Bool[np.ndarray, " p"], from_end: bool = False
) -> Int[np.ndarray, " n"]:
    """`crossings.step`; of parts that contradict themselves, in and out in turn, counted from the line's start or its end."""
    if not mixed.any():
        return crossings.step
    order = np.lexsort((np.arange(len(crossings.line)), crossings.part, crossings.line))
    line, part = crossings.line[order], crossings.part[order]
    fresh = np.append(True, (line[1:] != line[:-1]) | (part[1:] != part[:-1]))[: len(order)]
    starts = np.flatnonzero(fresh)
    lengths = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    if from_end:
        rank = rank + np.repeat(lengths, lengths)
    turns = np.empty_like(crossings.step)
    turns[order] = np.where(rank % 2 == 0, 1, -1)
    return np.where(mixed[crossings.part], turns, crossings.step)


def _turned(axes: list[_Crossings], skin: _Skin) -> Int[np.ndarray, " p"]:
    """-1 for the parts that must be turned over: inside out on their own, or within one that is.

    A part that winds inwards within others that do not is a cavity and stays. One that contradicts itself is a cavity where it
    lies within an odd number of others, as parity has it.
    """
    count = len(skin.volumes)
    inverted = ~skin.mixed & (skin.volumes < 0)
    if not (inverted.any() or skin.mixed.any()):
        return np.ones(count, dtype=np.int64)
    seen, within, without, odd = (np.zeros(count) for _ in range(4))
    for crossings in axes:
        steps = _steps(crossings, skin.mixed)
        order = np.lexsort((np.arange(len(steps)), crossings.part, crossings.line))
        own = np.empty_like(steps)
        own[order] = _before(steps[order], crossings.line[order] * count + crossings.part[order])
        others = _before(steps, crossings.line) - own
        seen += np.bincount(crossings.part, minlength=count)
        within += np.bincount(crossings.part, others > 0, count)
        without += np.bincount(crossings.part, others < 0, count)
        odd += np.bincount(crossings.part, others % 2 == 1, count)
    least = np.maximum(WITHIN * seen, 1)
    free = (within < least) & (without < least)
    over = np.where(skin.mixed, odd >= least, (without >= least) | (free & inverted))
    return np.where(over, -1, 1)


def _before(steps: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The sum of the steps before each one in its group; groups lie together."""
    sums = steps.cumsum() - steps
    fresh = np.append(True, group[1:] != group[:-1])[: len(group)]
    starts = np.flatnonzero(fresh)
    return sums - np.repeat(sums[starts], np.diff(np.append(starts, len(group))))


def _line_votes(
    crossings: _Crossings, mixed: Bool[np.ndarray, " p"], turned: Int[np.ndarray, " p"], resolution: int
) -> np.ndarray:
    """For each cell how many of the axis's two directions see it inside, int8 "n n n"."""
    votes = np.zeros((resolution,) * 3, dtype=np.int8)
    flips = turned[crossings.part]
    for from_end in (False, True):
        steps = np.zeros((resolution * resolution, resolution + 1), dtype=np.int32)
        np.add.at(steps, (crossings.line, crossings.cell), _steps(crossings, mixed, from_end) * flips)
        passed = steps.cumsum(axis=-1)
        if from_end:
            passed -= passed[:, -1:]
        votes += passed[:, :-1].reshape(votes.shape) > 0
    return votes
