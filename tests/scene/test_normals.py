from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dreamfusion.config import GridsFieldConfig, HashGridFieldConfig, MLPFieldConfig, NormalsConfig
from dreamfusion.errors import ConfigError
from dreamfusion.scene.fields import Field, FieldOutput, make_field
from dreamfusion.scene.normals import (
    analytic_gradient,
    density_normals,
    finite_difference_gradient,
    normals_from_gradient,
)

ANALYTIC = NormalsConfig(kind="analytic")
DIFFERENCE = NormalsConfig(kind="finite_difference", epsilon=1e-3)


class Ball(Field):
    """exp(-|x - centre|^2 / 0.18) times a learned height: normals point away from the centre."""

    def __init__(self, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), height: float = 5.0) -> None:
        super().__init__(1.0)
        self.centre = torch.nn.Parameter(torch.tensor(centre, dtype=torch.float64))
        self.height = height

    def density(self, positions: Tensor) -> Tensor:
        return self.height * torch.exp(-(positions - self.centre).square().sum(-1) / 0.18)

    def forward(self, positions: Tensor) -> FieldOutput:
        return FieldOutput(self.density(positions), torch.full_like(positions, 0.5))

    def parameter_groups(self):
        return []


def _positions(count: int, generator: torch.Generator, scale: float = 0.5) -> Tensor:
    return torch.randn(count, 3, generator=generator, dtype=torch.float64) * scale


@pytest.mark.parametrize("config", [ANALYTIC, DIFFERENCE])
def test_normals_of_a_ball_are_radial_and_point_outwards(config, generator):
    centre = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    x = _positions(50, generator)
    expected = (x - centre) / (x - centre).norm(dim=-1, keepdim=True)
    normals = density_normals(Ball((0.1, -0.2, 0.3)), x, config)
    torch.testing.assert_close(normals, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(50, dtype=torch.float64))


def test_error_of_finite_differences_falls_with_slope_two(generator):
    x = _positions(50, generator)
    field = Ball()
    exact = analytic_gradient(field, x)
    epsilons = (4e-2, 2e-2, 1e-2, 5e-3)
    errors = [(finite_difference_gradient(field, x, e) - exact).norm().item() for e in epsilons]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([2.0] * 3, abs=0.05)


def test_tetrahedron_would_be_first_order(generator):
    """Why six queries and not four: the tetrahedron's error halves with epsilon and is larger from the start."""
    x = _positions(50, generator)
    field = Ball()
    exact = analytic_gradient(field, x)
    corners = torch.tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=torch.float64)

    def error(epsilon: float) -> float:
        h = epsilon / math.sqrt(3)  # the corners as far away as the axes' offsets
        densities = torch.stack([field.density(x + h * corner) for corner in corners])
        return ((densities[..., None] * corners[:, None]).sum(0) / (4 * h) - exact).norm().item()

    assert math.log2(error(2e-2) / error(1e-2)) == pytest.approx(1.0, abs=0.1)
    assert error(1e-2) > 5 * (finite_difference_gradient(field, x, 1e-2) - exact).norm().item()


@pytest.mark.parametrize("config", [ANALYTIC, DIFFERENCE])
def test_normals_carry_the_gradient_of_the_weights(config, generator):
    """d normal / d centre of a ball is -(I - n n^T) / distance."""
    field, x = Ball(), _positions(1, generator)
    normal = density_normals(field, x, config)[0]
    rows = [torch.autograd.grad(normal[axis], field.centre, retain_graph=True)[0] for axis in range(3)]
    n = x[0] / x[0].norm()
    expected = -(torch.eye(3, dtype=torch.float64) - torch.outer(n, n)) / x[0].norm()
    torch.testing.assert_close(torch.stack(rows), expected, rtol=0, atol=1e-3)


def test_analytic_normals_need_no_surrounding_gradients(generator):
    with torch.no_grad():
        normals = density_normals(Ball(), _positions(3, generator), ANALYTIC)
    assert not normals.requires_grad
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(3, dtype=torch.float64))


def test_normals_survive_tiny_and_zero_gradients():
    gradient = torch.tensor([[3e-25, 0.0, 4e-25], [0.0, 0.0, 0.0], [0.0, -7e30, 0.0]], requires_grad=True)
    normals = normals_from_gradient(gradient)
    expected = torch.tensor([[-0.6, 0.0, -0.8], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(normals, expected)
    normals[:, 0].sum().backward()
    assert gradient.grad is not None and gradient.grad.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        MLPFieldConfig(width=16, blocks=2, degrees=4),
        HashGridFieldConfig(levels=3, log2_table_size=12, base_resolution=4, max_resolution=16),
    ],
)
def test_finite_differences_agree_with_the_exact_normals_of_a_field(config, generator):
    field = make_field(config, 1.0, generator).double()
    field.set_step(10**6)
    x = _positions(100, generator, 0.3)
    x = x[x.norm(dim=-1) < 0.9]
    exact, approximate = (density_normals(field, x, c) for c in (ANALYTIC, DIFFERENCE))
    # A trilinear field has kinks: now and then epsilon straddles one.
    assert (exact * approximate).sum(-1).median() > 0.9999
    assert (exact * approximate).sum(-1).mean() > 0.99


def test_grids_use_their_closed_form_and_point_where_the_exact_ones_do(generator, monkeypatch):
    field = make_field(GridsFieldConfig(resolutions=(4, 8, 16)), 1.0, generator).double()
    x = _positions(100, generator, 0.3)
    x = x[x.norm(dim=-1) < 0.9]
    exact = density_normals(field, x, ANALYTIC)
    asked = []
    monkeypatch.setattr(field, "density", lambda positions: asked.append(positions))
    closed = density_normals(field, x, DIFFERENCE)
    assert not asked
    assert (exact * closed).sum(-1).min() > 0.97


def test_asking_for_normals_that_are_switched_off_is_an_error(generator):
    with pytest.raises(ConfigError, match="normals"):
        density_normals(Ball(), _positions(1, generator), NormalsConfig(kind="none"))
