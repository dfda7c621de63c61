"""From a position to features: integrated positional encoding, the multi-resolution hash, dense grids.

Grids cover [-1, 1]^3 with `cells` cells a side and `cells + 1` nodes, node 0 at -1 and node `cells` at 1. Dense grids are
tensors `c z y x`, as `grid_sample` wants them.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

HASH_PRIMES = (1, 2654435761, 805459861)
_PARTS = 2
_MANY = 1 << 13


# ------------------------------------------------------------------------------------- positional encodings


def positional_encoding(values: Float[Tensor, "*n d"], degrees: int) -> Float[Tensor, "*n 2*{degrees}*d"]:
    """sin and cos of 2^0 .. 2^(degrees-1) times each value (NeRF, arXiv 2003.08934, eq. 4, without the factor pi).

    Args:
        values: any real numbers.
        degrees: octaves.

    Returns:
        All the sines, octave by octave, then all the cosines.
    """
    return integrated_positional_encoding(values, torch.zeros_like(values), degrees)


def integrated_positional_encoding(
    means: Float[Tensor, "*n d"], variances: Float[Tensor, "*n #d"], degrees: int
) -> Float[Tensor, "*n 2*{degrees}*d"]:
    """The expectation of `positional_encoding` under a gaussian (mip-NeRF, arXiv 2103.13415, eq. 14).

    E[sin(2^l x)] = sin(2^l mean) exp(-4^l variance / 2), and the same for cos: octaves finer than the gaussian vanish.

    Args:
        means: of the gaussian.
        variances: the diagonal of its covariance, not negative; a gaussian that is the same along all axes broadcasts.
        degrees: octaves, from 2^0 to 2^(degrees-1).

    Returns:
        All the sines, octave by octave, then all the cosines.
    """
    scales = 2.0 ** torch.arange(degrees, dtype=means.dtype, device=means.device)
    angles = (scales[:, None] * means[..., None, :]).flatten(-2)
    damping = torch.exp(
        -0.5 * (scales.square()[:, None] * variances.expand_as(means)[..., None, :]).flatten(-2)
    )
    return torch.cat([torch.sin(angles) * damping, torch.cos(angles) * damping], -1)


# --------------------------------------------------------------------------------- trilinear interpolation


def cell_corners(
    unit_positions: Float[Tensor, "n 3"], cells: int
) -> tuple[Int[Tensor, "n 8 3"], Float[Tensor, "n 8"]]:
    """The eight nodes around each position and their trilinear weights, which sum to 1.

    Args:
        unit_positions: in [0, 1]; outside, the nearest cell is continued in a straight line.
        cells: of the grid, a side.

    Returns:
        Integer node coordinates (x, y, z) in 0 .. cells, and the weights, differentiable in the positions.
    """
    scaled = unit_positions * cells
    lowest = scaled.detach().floor().clamp(0, cells - 1)
    upper = scaled - lowest
    shares = torch.stack([1.0 - upper, upper], -1)
    weights = shares[:, 0, :, None, None] * shares[:, 1, None, :, None] * shares[:, 2, None, None, :]
    offsets = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=unit_positions.device)
    return lowest.long()[:, None, :] + offsets, weights.flatten(1)


class _GatherRows(torch.autograd.Function):
    """`table[indices]`, whose backward adds column by column.

    On a CPU torch adds single numbers by index several times faster than short rows; the backward is itself made of
    differentiable operations, so double backward works.
    """

    @staticmethod
    def forward(ctx, table: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.rows = table.shape[0]
        return F.embedding(indices, table)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (indices,) = ctx.saved_tensors
        flat = indices.reshape(-1)
        columns = grad.reshape(-1, grad.shape[-1]).unbind(-1)
        zeros = grad.new_zeros(ctx.rows)
        return torch.stack([zeros.index_add(0, flat, column) for column in columns], -1), None


def gather_rows(table: Float[Tensor, "rows f"], indices: Int[Tensor, "*n"]) -> Float[Tensor, "*n f"]:
    """`table[indices]`, with a fast and twice differentiable backward."""
    return _GatherRows.apply(table, indices)  # type: ignore[return-value]


# -------------------------------------------------------------------------------------------- hash encoding


def hash_indices(nodes: Int[Tensor, "*n 3"], cells: int, table_size: int) -> Int[Tensor, "*n"]:
    """Where a level's nodes are kept in its table (Instant-NGP, arXiv 2201.05989, eq. 4).

    A level whose nodes all fit is stored densely, x fastest. Otherwise the index is the exclusive or of the coordinates
    times `HASH_PRIMES`, modulo the table's size.

    Args:
        nodes: integer coordinates (x, y, z) in 0 .. cells.
        cells: of the level, a side.
        table_size: a power of two.
    """
    side = cells + 1
    x, y, z = nodes.unbind(-1)
    if side**3 <= table_size:
        return (z * side + y) * side + x
    # 64-bit products instead of the paper's 32-bit ones: the low bits, which alone are kept, are the same.
    hashed = (x * HASH_PRIMES[0]) ^ (y * HASH_PRIMES[1]) ^ (z * HASH_PRIMES[2])
    return hashed & (table_size - 1)


def level_cells(levels: int, base_resolution: int, max_resolution: int) -> list[int]:
    """Cells a side of each level, in a geometric progression (Instant-NGP, eq. 2 and 3).

    Each rounded down. The last one is `max_resolution` (one level alone has `base_resolution`).
    """
    # In whole numbers: in floats, a last level of 63.999999 becomes 63, and which levels do so depends on the sizes.
    last = max(levels - 1, 1)
    return [_root(base_resolution ** (last - level) * max_resolution**level, last) for level in range(levels)]


def _root(number: int, degree: int) -> int:
    """The largest whole number whose power of `degree` is not above `number` >= 1."""
    low, high = 1, 1 << (number.bit_length() // degree + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle)
    return low


# --------------------------------------------------------------------------------------------- dense grids


def sample_grid(grid: Float[Tensor, "c z y x"], unit_box: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
    """A dense grid's values by trilinear interpolation, differentiable in both.

    Args:
        grid: values at the nodes.
        unit_box: positions (x, y, z) in [-1, 1]; what is outside takes the value at the border.

    Returns:
        One row a position.
    """
    count = unit_box.shape[0]
    # On a CPU `grid_sample` uses one thread per picture of a batch, so a long list is read as a batch of pictures.
    # Their number is fixed: with one per thread the gradient's last bits would depend on the machine.
    parts = _PARTS if unit_box.device.type == "cpu" and count >= _MANY else 1
    even = F.pad(unit_box, (0, 0, 0, -count % parts)) if count % parts else unit_box
    read = F.grid_sample(
        grid.expand(parts, *grid.shape),
        even.view(parts, 1, 1, -1, 3),
        padding_mode="border",
        align_corners=True,
    )
    if parts == 1:
        return read[0, :, 0, 0].T
    return read[:, :, 0, 0].transpose(1, 2).flatten(0, 1)[:count]


def nodes_and_slopes(nodes: Float[Tensor, "1 z y x"], spacing: float) -> Float[Tensor, "4 z y x"]:
    """A grid's values and their central differences along x, y and z (one-sided at the border).

    Args:
        nodes: values at the nodes.
        spacing: between two nodes, world units.
    """
    return _NodesAndSlopes.apply(nodes, spacing)  # type: ignore[return-value]


def _shifted(grid: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Views of the inner nodes' upper and lower neighbours, and of the first two and the last two nodes."""
    last = grid.shape[axis]
    return (
        grid.narrow(axis, 2, last - 2),
        grid.narrow(axis, 0, last - 2),
        *(grid.narrow(axis, index, 1) for index in (0, 1, last - 2, last - 1)),
    )


class _NodesAndSlopes(torch.autograd.Function):
    """`torch.gradient` writing into one tensor, which saves two copies of every channel each way."""

    @staticmethod
    def forward(ctx, nodes: Tensor, spacing: float) -> Tensor:
        ctx.spacing = spacing
        out = nodes.new_empty(4, *nodes.shape[1:])
        out[0] = nodes[0]
        for axis, slope in zip((2, 1, 0), out[1:], strict=True):
            above, below, first, second, before_last, last = _shifted(nodes[0], axis)
            inner = slope.narrow(axis, 1, slope.shape[axis] - 2)
            torch.sub(above, below, out=inner).mul_(0.5 / spacing)
            torch.sub(second, first, out=slope.narrow(axis, 0, 1)).div_(spacing)
            torch.sub(last, before_last, out=slope.narrow(axis, -1, 1)).div_(spacing)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        total = grad[0].clone()
        for axis, slope in zip((2, 1, 0), grad[1:], strict=True):
            above, below, first, second, before_last, last = _shifted(total, axis)
            inner = slope.narrow(axis, 1, slope.shape[axis] - 2)
            above.add_(inner, alpha=0.5 / ctx.spacing)
            below.sub_(inner, alpha=0.5 / ctx.spacing)
            for lower, upper, end in ((first, second, 0), (before_last, last, -1)):
                upper.add_(slope.narrow(axis, end, 1), alpha=1.0 / ctx.spacing)
                lower.sub_(slope.narrow(axis, end, 1), alpha=1.0 / ctx.spacing)
        return total[None], None


def upsample_grid(grid: Float[Tensor, "c z y x"], nodes: int) -> Float[Tensor, "c {nodes} {nodes} {nodes}"]:
    """A cubic grid's trilinear interpolation at the nodes of a finer one, with differentiable values.

    The same function as `F.interpolate(mode="trilinear", align_corners=True)`, which is three to five times slower on a
    CPU. Exact, in that both grids interpolate to the same function, when each coarse node is also a fine one.

    Args:
        grid: nodes a side >= 2, the same along all three.
        nodes: of the finer grid, a side.
    """
    coarse = grid.shape[-1]
    if nodes == coarse:
        return grid
    if nodes == 2 * coarse - 1:
        return _DoubleGrid.apply(grid)  # type: ignore[return-value]
    matrix = _interpolation_matrix(coarse, nodes).to(grid)
    along_x = (grid.flatten(0, 2) @ matrix.T).reshape(-1, coarse, nodes)
    along_y = torch.matmul(matrix, along_x).reshape(-1, coarse, nodes * nodes)
    return torch.matmul(matrix, along_y).reshape(-1, nodes, nodes, nodes)


def _interpolation_matrix(coarse: int, fine: int) -> Float[Tensor, "fine coarse"]:
    places = torch.linspace(0, coarse - 1, fine, dtype=torch.float64)
    lowest = places.floor().clamp(max=coarse - 2).long()
    matrix = torch.zeros(fine, coarse, dtype=torch.float64)
    rows = torch.arange(fine)
    matrix[rows, lowest] = 1.0 - (places - lowest)
    matrix[rows, lowest + 1] = places - lowest
    return matrix


def _double_axis(grid: Tensor, axis: int) -> Tensor:
    """Every node, and between two nodes their mean."""
    count = grid.shape[axis]
    shape = list(grid.shape)
    shape[axis] = 2 * count - 1
    doubled = grid.new_empty(shape)
    _every_second(doubled, axis, 0).copy_(grid)
    between = torch.lerp(grid.narrow(axis, 0, count - 1), grid.narrow(axis, 1, count - 1), 0.5)
    _every_second(doubled, axis, 1).copy_(between)
    return doubled


def _double_axis_adjoint(grad: Tensor, axis: int) -> Tensor:
    count = (grad.shape[axis] + 1) // 2
    between = _every_second(grad, axis, 1)
    folded = _every_second(grad, axis, 0).clone()
    folded.narrow(axis, 0, count - 1).add_(between, alpha=0.5)
    folded.narrow(axis, 1, count - 1).add_(between, alpha=0.5)
    return folded


def _every_second(grid: Tensor, axis: int, start: int) -> Tensor:
    index = [slice(None)] * grid.dim()
    index[axis] = slice(start, None, 2)
    return grid[tuple(index)]


class _DoubleGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grid: Tensor) -> Tensor:
        for axis in (3, 2, 1):
            grid = _double_axis(grid, axis)
        return grid

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _DoubleGridAdjoint.apply(grad)  # type: ignore[return-value]


class _DoubleGridAdjoint(torch.autograd.Function):
    # Apart, so that a second backward finds its way: the adjoint's adjoint is the doubling.
    @staticmethod
    def forward(ctx, grad: Tensor) -> Tensor:
        for axis in (1, 2, 3):
            grad = _double_axis_adjoint(grad, axis)
        return grad

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _DoubleGrid.apply(grad)  # type: ignore[return-value]
