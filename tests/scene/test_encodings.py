"""Encodings against slow twins that are written straight from the formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from dreamfusion.scene.encodings import (
    cell_corners,
    gather_rows,
    hash_indices,
    integrated_positional_encoding,
    level_cells,
    nodes_and_slopes,
    positional_encoding,
    sample_grid,
    upsample_grid,
)


def test_positional_encoding_is_sines_then_cosines_octave_by_octave():
    x = [0.3, -1.2]
    expected = [math.sin(2**level * v) for level in range(3) for v in x]
    expected += [math.cos(2**level * v) for level in range(3) for v in x]
    got = positional_encoding(torch.tensor([x], dtype=torch.float64), 3)
    torch.testing.assert_close(got[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_integrated_encoding_is_the_mean_under_the_gaussian(generator):
    mean = torch.tensor([[0.4, -0.9, 1.1]], dtype=torch.float64)
    variance = torch.tensor([[0.01, 0.05, 0.2]], dtype=torch.float64)
    draws = 200_000
    noise = torch.randn(draws, 3, generator=generator, dtype=torch.float64)
    mean_of_encodings = positional_encoding(mean + variance.sqrt() * noise, 4).mean(0)
    got = integrated_positional_encoding(mean, variance, 4)[0]
    # A sine's standard deviation is at most 1; five standard errors.
    torch.testing.assert_close(got, mean_of_encodings, rtol=0, atol=5 / math.sqrt(draws))
    # And it is not simply the encoding of the mean.
    assert (positional_encoding(mean, 4)[0] - mean_of_encodings).abs().max() > 0.1


def test_isotropic_covariance_broadcasts_and_fine_octaves_vanish():
    x = torch.tensor([[0.3, 0.5, -0.7]], dtype=torch.float64)
    one, three = (
        integrated_positional_encoding(x, torch.full((1, d), 0.05, dtype=torch.float64), 8) for d in (1, 3)
    )
    torch.testing.assert_close(one.expand_as(three), three)
    assert three.reshape(2, 8, 3)[:, -1].abs().max() < 1e-12


def test_encoding_gradcheck(generator):
    x = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    variances = (torch.rand(3, 3, generator=generator, dtype=torch.float64) * 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: integrated_positional_encoding(a, b, 3), (x, variances))
    assert torch.autograd.gradgradcheck(lambda a, b: integrated_positional_encoding(a, b, 3), (x, variances))


def _trilinear_twin(grid: torch.Tensor, unit: list[float]) -> torch.Tensor:
    """Eight corners, one at a time; `grid` is c z y x and `unit` is x, y, z in [0, 1]."""
    cells = grid.shape[-1] - 1
    total = torch.zeros(grid.shape[0], dtype=torch.float64)
    lowest = [min(int(u * cells), cells - 1) for u in unit]
    for corner in itertools.product((0, 1), repeat=3):
        weight = 1.0
        for axis in range(3):
            share = unit[axis] * cells - lowest[axis]
            weight *= share if corner[axis] else 1.0 - share
        x, y, z = (lowest[axis] + corner[axis] for axis in range(3))
        total += weight * grid[:, z, y, x].double()
    return total


def test_sample_grid_is_the_sum_over_eight_corners(generator):
    grid = torch.randn(2, 6, 6, 6, generator=generator, dtype=torch.float64)
    unit = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    unit[:2] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    expected = torch.stack([_trilinear_twin(grid, u.tolist()) for u in unit])
    torch.testing.assert_close(sample_grid(grid, unit * 2 - 1), expected)


def test_cell_corners_read_the_same_as_the_twin(generator):
    grid = torch.randn(2, 6, 6, 6, generator=generator, dtype=torch.float64)
    unit = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    unit[0] = 1.0
    nodes, weights = cell_corners(unit, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(40, dtype=torch.float64))
    x, y, z = nodes.unbind(-1)
    got = (grid[:, z, y, x] * weights).sum(-1).T
    torch.testing.assert_close(got, torch.stack([_trilinear_twin(grid, u.tolist()) for u in unit]))


def test_gather_rows_gradcheck_to_second_order(generator):
    table = torch.randn(7, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    indices = torch.randint(0, 7, (5, 3), generator=generator)

    def cubed(t):
        return gather_rows(t, indices) ** 3

    assert torch.autograd.gradcheck(cubed, table)
    assert torch.autograd.gradgradcheck(cubed, table)


def _hash_twin(x: int, y: int, z: int, table_size: int) -> int:
    """Instant-NGP's eq. 4 in 32-bit unsigned integers, as its public code computes it."""
    mask = 0xFFFFFFFF
    mixed = ((x * 1) & mask) ^ ((y * 2654435761) & mask) ^ ((z * 805459861) & mask)
    return mixed % table_size


def test_hash_equals_the_32_bit_integer_hash(generator):
    cells, table_size = 4096, 2**19
    nodes = torch.randint(0, cells + 1, (500, 3), generator=generator)
    nodes[0] = cells
    expected = [_hash_twin(x, y, z, table_size) for x, y, z in nodes.tolist()]
    assert hash_indices(nodes, cells, table_size).tolist() == expected


def test_small_levels_are_stored_without_collisions():
    cells = 7
    nodes = torch.tensor(list(itertools.product(range(cells + 1), repeat=3)))
    indices = hash_indices(nodes, cells, 512)
    assert sorted(indices.tolist()) == list(range(512))
    # x runs fastest, so that a table is a dense grid `z y x`.
    assert indices[1] - indices[0] == 64
    # One node more than fits, and the level is hashed.
    assert hash_indices(nodes, cells, 256).max() < 256


@pytest.mark.parametrize("levels", range(1, 25))
def test_level_cells_grow_geometrically_and_end_at_the_finest(levels):
    """For all sizes in use and odd ones beside them: in floats without care, 16 levels to 2048 end at 2047."""
    for base in (2, 3, 8, 16, 17, 32, 100):
        for finest in (base, base + 1, 125, 128, 255, 256, 512, 1000, 2048, 4096, 5000, 2**19, 10**9, 3**30):
            if finest < base:
                continue
            cells = level_cells(levels, base, finest)
            assert len(cells) == levels and cells[0] == base
            assert cells[-1] == (finest if levels > 1 else base)
            assert cells == sorted(cells)
            # The definition, in whole numbers: cells^last <= base^(last - level) finest^level < (cells + 1)^last.
            last = max(levels - 1, 1)
            for level, count in enumerate(cells):
                power = base ** (last - level) * finest**level
                assert count**last <= power < (count + 1) ** last


@pytest.mark.parametrize(
    ("levels", "base", "finest", "expected"),
    [
        (5, 16, 256, [16, 32, 64, 128, 256]),
        (16, 16, 2048, [16, 22, 30, 42, 58, 80, 111, 153, 212, 294, 406, 561, 776, 1072, 1482, 2048]),
        (8, 16, 2048, [16, 32, 64, 128, 256, 512, 1024, 2048]),
    ],
)
def test_the_levels_of_existing_runs_stay_as_they_are(levels, base, finest, expected):
    assert level_cells(levels, base, finest) == expected
    growth = (finest / base) ** (1 / (levels - 1))
    assert [int(base * growth**level + 1e-6) for level in range(levels)] == expected


@pytest.mark.parametrize("coarse,fine", [(5, 9), (4, 7), (5, 13), (5, 8), (5, 5)])
def test_upsampling_is_trilinear_interpolation(coarse, fine, generator):
    grid = torch.randn(2, coarse, coarse, coarse, generator=generator, dtype=torch.float64)
    expected = F.interpolate(grid[None], size=(fine,) * 3, mode="trilinear", align_corners=True)[0]
    torch.testing.assert_close(upsample_grid(grid, fine), expected)


@pytest.mark.parametrize("fine", [5, 7])
def test_upsampling_gradcheck_to_second_order(fine, generator):
    grid = torch.randn(1, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    def squared(g):
        return upsample_grid(g, fine) ** 2

    assert torch.autograd.gradcheck(squared, grid)
    assert torch.autograd.gradgradcheck(squared, grid)


def test_a_nested_finer_grid_interpolates_to_the_same_function(generator):
    grid = torch.randn(3, 5, 5, 5, generator=generator, dtype=torch.float64)
    positions = torch.rand(50, 3, generator=generator, dtype=torch.float64) * 2 - 1
    expected = sample_grid(grid, positions)
    for nodes in (9, 13, 17):
        torch.testing.assert_close(sample_grid(upsample_grid(grid, nodes), positions), expected)


def test_grid_sample_double_backward_works_in_three_dimensions(generator):
    """Analytic normals of the grids field stand on it; it is not obvious, so it is written down."""
    grid = torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    positions = (torch.rand(5, 3, generator=generator, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    assert torch.autograd.gradgradcheck(sample_grid, (grid, positions))


@pytest.mark.parametrize("count", [8192, 8193, 10001])
def test_a_long_list_is_read_like_a_short_one(count, generator):
    """Long lists are cut in parts for the threads; an odd number of positions is not lost."""
    grid = torch.randn(2, 5, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    positions = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1
    weights = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    long = sample_grid(grid, positions)
    short = torch.cat([sample_grid(grid, part) for part in positions.split(1000)])
    torch.testing.assert_close(long, short)
    (long_gradient,) = torch.autograd.grad((long * weights).sum(), grid)
    (short_gradient,) = torch.autograd.grad((short * weights).sum(), grid)
    torch.testing.assert_close(long_gradient, short_gradient)


def test_slopes_are_torch_s_gradient_and_differentiable(generator):
    nodes = torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    slopes = torch.stack(torch.gradient(nodes[0], spacing=0.3, dim=(2, 1, 0)))
    torch.testing.assert_close(nodes_and_slopes(nodes, 0.3), torch.cat([nodes, slopes]))
    assert torch.autograd.gradcheck(lambda n: nodes_and_slopes(n, 0.3), nodes)
