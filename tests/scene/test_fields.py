from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dreamfusion.config import GridsFieldConfig, HashGridFieldConfig, LinearSchedule, MLPFieldConfig
from dreamfusion.scene.density import edge_mask, linear_blob, softplus
from dreamfusion.scene.encodings import integrated_positional_encoding, sample_grid
from dreamfusion.scene.fields import GridsField, HashGridField, MLPField, make_field

SMALL_HASH = HashGridFieldConfig(
    levels=4, log2_table_size=10, base_resolution=4, max_resolution=32, start_level=2, hidden_width=16
)
SMALL_MLP = MLPFieldConfig(width=16, blocks=2, degrees=4)
SMALL_GRIDS = GridsFieldConfig(resolutions=(4, 8, 16))
SMALL_GRIDS_MLP = GridsFieldConfig(resolutions=(4, 6, 16), hidden_layers=1, hidden_width=8)
ALL = [SMALL_HASH, SMALL_MLP, SMALL_GRIDS, SMALL_GRIDS_MLP]
# The least and the most of each number, and what is no power of two.
EDGES = [
    MLPFieldConfig(degrees=1, width=8, blocks=1),
    MLPFieldConfig(degrees=16, width=9, blocks=1),
    HashGridFieldConfig(levels=1, features_per_level=1, log2_table_size=8, base_resolution=2, max_resolution=2,
                        start_level=1, hidden_width=8),
    HashGridFieldConfig(levels=24, features_per_level=8, log2_table_size=8, base_resolution=2, max_resolution=2,
                        start_level=24, hidden_width=8),
    HashGridFieldConfig(levels=3, features_per_level=3, log2_table_size=9, base_resolution=5, max_resolution=257,
                        start_level=99, hidden_width=9, hidden_layers=3),
    GridsFieldConfig(resolutions=(4,)),
    GridsFieldConfig(resolutions=(7, 5, 5), hidden_layers=2, hidden_width=8, features=1),
    GridsFieldConfig(resolutions=(4, 31), hidden_layers=1, features=32),
]  # fmt: skip


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _in_ball(count: int, radius: float, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(count, 3, generator=generator)
    return x / x.norm(dim=-1, keepdim=True) * torch.rand(count, 1, generator=generator) ** (1 / 3) * radius


@pytest.mark.parametrize("config", [*ALL, *EDGES])
def test_ranges_and_the_parts_agree(config, generator):
    radius = 1.3
    field = make_field(config, radius, generator)
    x = _in_ball(200, 1.5 * radius, generator)
    seen = field(x)
    assert seen.sigmas.shape == (200,) and seen.albedo.shape == (200, 3)
    assert (seen.sigmas >= 0).all() and seen.sigmas.isfinite().all()
    assert (seen.albedo > 0).all() and (seen.albedo < 1).all()
    outside = x.norm(dim=-1) >= radius
    assert outside.any() and (seen.sigmas[outside] == 0).all() and (seen.sigmas[~outside] > 0).any()
    torch.testing.assert_close(field.density(x), seen.sigmas)
    torch.testing.assert_close(field.albedo(x), seen.albedo)
    assert field(x[:0]).albedo.shape == (0, 3)


@pytest.mark.parametrize("config", ALL)
def test_weights_come_from_the_generator_alone(config):
    before = torch.random.get_rng_state()
    first, second = make_field(config, 1.0, _seeded(3)), make_field(config, 1.0, _seeded(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = make_field(config, 1.0, _seeded(4))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert any(not torch.equal(v, other.state_dict()[n]) for n, v in first.state_dict().items())


@pytest.mark.parametrize("config", [*ALL, *EDGES])
def test_parameter_groups_hold_each_parameter_once_and_all_get_gradients(config, generator):
    field = make_field(config, 1.0, generator)
    field.set_step(10**6)
    grouped = [p for group in field.parameter_groups() for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(map(id, grouped)) == sorted(map(id, field.parameters()))
    assert all(group["lr_scale_key"] in ("field", "decoder") for group in field.parameter_groups())
    seen = field(_in_ball(50, 1.0, generator))
    (seen.sigmas.sum() + seen.albedo.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())


@pytest.mark.parametrize("config", ALL)
def test_field_starts_as_a_soft_ball(config, generator):
    field = make_field(config, 1.0, generator)
    along = torch.linspace(-1, 1, 1001)
    opacities = []
    for offset in (0.0, 0.2, 0.4, 0.6, 0.8):
        x = torch.stack([torch.full_like(along, offset), torch.zeros_like(along), along], -1)
        opacities.append(1 - math.exp(-field.density(x).sum().item() * 2e-3))
    assert 0.3 < opacities[0] < 0.996
    assert opacities == sorted(opacities, reverse=True)
    assert opacities[-1] < 0.15


# ---------------------------------------------------------------------------------------------------- MLP


def test_mlp_covariance_is_annealed_by_the_step_alone(generator):
    schedule = LinearSchedule(start=0.05, end=0.002, steps=100)
    field = MLPField(SMALL_MLP.model_copy(update={"covariance": schedule}), 1.0, generator)
    x = _in_ball(20, 1.0, generator)
    start, std = field(x).albedo, []
    for step in (0, 50, 100, 500):
        field.set_step(step)
        std.append(field.blur_std)
    assert std == pytest.approx([0.05, 0.026, 0.002, 0.002])
    assert not torch.equal(field(x).albedo, start)
    field.set_step(0)
    assert torch.equal(field(x).albedo, start)


def test_mlp_sees_positions_blurred_by_a_variance_of_its_std_squared(generator):
    field = MLPField(SMALL_MLP, 1.0, generator)
    x, seen = _in_ball(20, 1.0, generator), []
    field.input.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    field.set_step(0)
    field(x)
    variance = torch.full_like(x, SMALL_MLP.covariance.at(0) ** 2)
    torch.testing.assert_close(seen[0], integrated_positional_encoding(x, variance, SMALL_MLP.degrees))


def test_mlp_is_the_paper_s_size(generator):
    field = MLPField(MLPFieldConfig(), 1.4, generator)
    residual = [block.first.weight.shape for block in field.blocks]  # type: ignore[union-attr]
    assert residual == [(128, 128)] * 5
    assert field.input.in_features == 2 * 3 * 8


# --------------------------------------------------------------------------------------------------- hash


@pytest.mark.parametrize(
    "step,levels", [(0, 8), (1999, 8), (2000, 9), (2499, 9), (2500, 10), (5499, 15), (5500, 16), (10**6, 16)]
)
def test_levels_come_in_only_when_they_should(step, levels):
    config = HashGridFieldConfig(log2_table_size=8)
    field = HashGridField(config, 1.0, _seeded())
    assert field.levels_in_use == 8
    field.set_step(step)
    assert field.levels_in_use == levels
    encoded = field.encode(torch.full((1, 3), 0.123))
    assert encoded.shape == (1, 32)
    assert ((encoded != 0).sum() == 2 * levels).item()


def test_hash_grid_with_a_large_table_is_dense_grids(generator):
    config = SMALL_HASH.model_copy(update={"log2_table_size": 16, "start_level": 4})
    radius = 1.4
    field = HashGridField(config, radius, generator)
    x = _in_ball(100, radius, generator)
    expected = []
    for cells, table in zip(field.cells, field.tables, strict=True):
        side = cells + 1
        assert table.shape == (side**3, 2)
        expected.append(sample_grid(table.T.reshape(2, side, side, side), x / radius))
    torch.testing.assert_close(field.encode(x), torch.cat(expected, -1), rtol=1e-4, atol=1e-8)


def test_hash_grid_gradcheck(generator):
    field = HashGridField(SMALL_HASH.model_copy(update={"levels": 2}), 1.0, generator).double()
    x = _in_ball(4, 0.9, generator).double().requires_grad_()
    assert torch.autograd.gradcheck(field.encode, x)
    tables = [p.detach().clone().requires_grad_() for p in field.tables]

    def sigmas(*values):
        names = {f"tables.{index}": value for index, value in enumerate(values)}
        return torch.func.functional_call(field, names, (x.detach(),)).sigmas

    assert torch.autograd.gradcheck(sigmas, tuple(tables), fast_mode=True)


# -------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("resolutions", [(4, 8, 16), (16, 4, 8), (4, 12), (8,)])
def test_grids_equal_the_sum_of_separate_reads(resolutions, generator):
    """When each coarse node is also a fine one, adding first and reading once changes nothing."""
    config = GridsFieldConfig(resolutions=resolutions, density_gain=2.5, colour_gain=1.5)
    radius = 1.2
    field = GridsField(config, radius, generator).double()
    x = _in_ball(100, radius, generator).double()
    raw = sum(sample_grid(grid, x / radius)[:, 0] for grid in field.density_grids)
    raw = 2.5 * raw + linear_blob(x, config.blob_density, config.blob_radius)
    torch.testing.assert_close(field(x).sigmas, softplus(raw) * edge_mask(x, radius))
    colour = sum(sample_grid(grid, x / radius) for grid in field.colour_grids)
    torch.testing.assert_close(field(x).albedo, torch.sigmoid(1.5 * colour))  # type: ignore[operator]


def test_grids_gradcheck(generator):
    config = GridsFieldConfig(resolutions=(4, 8), hidden_layers=1, hidden_width=8, features=2)
    field = GridsField(config, 1.0, generator).double()
    x = _in_ball(4, 0.99, generator).double()
    values = {name: p.detach().clone().requires_grad_() for name, p in field.named_parameters()}

    def out(*given):
        seen = torch.func.functional_call(field, dict(zip(values, given, strict=True)), (x,))
        return seen.sigmas, seen.albedo

    assert torch.autograd.gradcheck(out, tuple(values.values()), fast_mode=True)


def test_grids_gradient_is_the_central_difference_over_one_cell(generator):
    """Of the raw density without the blob: the difference of the interpolant, read at shifted positions."""
    config = GridsFieldConfig(resolutions=(4, 8), blob_density=0.0)
    field = GridsField(config, 1.0, generator).double()
    # Far enough from the border that one cell further is still inside, and from the edge mask.
    x = (torch.rand(50, 3, generator=generator, dtype=torch.float64) - 0.5) * 1.0
    grid, h = config.density_gain * field.merged_density(), field.cell_size
    raw = sample_grid(grid, x)[:, 0]
    expected = []
    for axis in range(3):
        shift = h * F.one_hot(torch.tensor(axis), 3).double()
        expected.append((sample_grid(grid, x + shift) - sample_grid(grid, x - shift))[:, 0] / (2 * h))
    sigmas, gradient = field.density_and_gradient(x)
    torch.testing.assert_close(sigmas, softplus(raw))
    torch.testing.assert_close(gradient, torch.sigmoid(raw)[:, None] * torch.stack(expected, -1))


def test_grids_gradient_is_exact_for_the_blob_and_the_edge(generator):
    field = GridsField(SMALL_GRIDS, 1.0, generator).double()
    for grid in field.density_grids:
        torch.nn.init.zeros_(grid)
    x = _in_ball(200, 1.1, generator).double().requires_grad_()
    sigmas, gradient = field.density_and_gradient(x)
    expected_sigmas = field.density(x)
    (expected,) = torch.autograd.grad(expected_sigmas.sum(), x)
    torch.testing.assert_close(sigmas, expected_sigmas)
    torch.testing.assert_close(gradient, expected)


def test_grids_gradient_is_exact_for_a_linear_density(generator):
    config = GridsFieldConfig(resolutions=(4, 8), blob_density=0.0, density_gain=1.0)
    field = GridsField(config, 2.0, generator).double()
    axis = torch.linspace(-2, 2, 9, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        field.density_grids[0].zero_()
        field.density_grids[1].copy_(1.0 * x - 2.0 * y + 3.0 * z)
    positions = _in_ball(60, 1.8, generator).double()
    sigmas, gradient = field.density_and_gradient(positions)
    slope = 1 - torch.exp(-sigmas)  # softplus' derivative in terms of its value
    expected = slope[:, None] * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)
