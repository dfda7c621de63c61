from __future__ import annotations

import math

import pytest
import torch

from dreamfusion.scene.density import (
    EDGE_SHARE,
    EXP_LIMIT,
    edge_mask,
    edge_mask_gradient,
    gaussian_blob,
    linear_blob,
    linear_blob_gradient,
    softplus,
    truncated_exp,
)


def test_truncated_exp_is_exp_below_the_limit_and_its_tangent_above():
    below = torch.linspace(-40, EXP_LIMIT, 30, dtype=torch.float64)
    torch.testing.assert_close(truncated_exp(below), below.exp())
    above = torch.tensor([EXP_LIMIT + 2.0, 1000.0], dtype=torch.float64)
    torch.testing.assert_close(truncated_exp(above), math.exp(EXP_LIMIT) * (1 + above - EXP_LIMIT))


def test_truncated_exp_is_finite_with_a_gradient_where_exp_is_not():
    raw = torch.tensor([200.0], requires_grad=True)
    value = truncated_exp(raw)
    value.backward()
    assert value.isfinite() and torch.isinf(raw.exp())
    torch.testing.assert_close(raw.grad, torch.tensor([math.exp(EXP_LIMIT)]))


def test_activations_gradcheck():
    raw = torch.tensor(
        [-3.0, 0.0, 2.0, EXP_LIMIT - 1, EXP_LIMIT + 1], dtype=torch.float64, requires_grad=True
    )
    for activation in (truncated_exp, softplus):
        assert torch.autograd.gradcheck(activation, raw)
        assert torch.autograd.gradgradcheck(activation, raw)


def test_blobs_at_known_places():
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.2, 0.0], [0.3, 0.0, -0.4]], dtype=torch.float64)
    expected = torch.tensor([5.0, 5 * math.exp(-0.5), 5 * math.exp(-0.25 / 0.08)], dtype=torch.float64)
    torch.testing.assert_close(gaussian_blob(x, 5.0, 0.2), expected)
    expected = torch.tensor([10.0, 6.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(linear_blob(x, 10.0, 0.5), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("activation,blob", [(truncated_exp, "gaussian"), (softplus, "linear")])
def test_the_published_blobs_start_a_soft_ball(activation, blob):
    """Opacity along rays past the middle at growing distance: dense in the middle, falling, nothing at 0.9."""
    along = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)

    def opacity(offset: float) -> float:
        x = torch.stack([along, torch.full_like(along, offset), torch.zeros_like(along)], -1)
        raw = gaussian_blob(x, 5.0, 0.2) - 3.0 if blob == "gaussian" else linear_blob(x, 10.0, 0.5)
        return 1 - math.exp(-activation(raw).sum().item() * 1e-3)

    profile = [opacity(offset) for offset in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9)]
    assert profile == sorted(profile, reverse=True)
    assert 0.3 < profile[0] < 0.996
    assert profile[-1] < 0.15
    assert profile[0] - profile[5] > 0.5


def test_edge_mask_is_one_inside_zero_outside_and_falls_smoothly():
    radius = 1.4
    distances = torch.linspace(0, 2 * radius, 4001, dtype=torch.float64)
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    mask = edge_mask(distances[:, None] * direction, radius)
    assert (mask[distances >= radius] == 0).all()
    assert (mask[distances <= (1 - EDGE_SHARE) * radius - 1e-9] == 1).all()
    steps = mask.diff()
    assert (steps <= 1e-12).all()
    # No jump and no kink: neighbouring steps are alike.
    assert steps.diff().abs().max() < 1e-3


def test_closed_form_gradients_equal_autograd(generator):
    directions = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    x = directions / directions.norm(dim=-1, keepdim=True) * torch.linspace(0.1, 1.2, 30)[:, None].double()
    x.requires_grad_()
    (expected,) = torch.autograd.grad(edge_mask(x, 1.1).sum(), x)
    torch.testing.assert_close(edge_mask_gradient(x, 1.1), expected)
    assert expected.abs().max() > 10  # the shell is among the points
    (expected,) = torch.autograd.grad(linear_blob(x, 10.0, 0.5).sum(), x)
    torch.testing.assert_close(linear_blob_gradient(x, 10.0, 0.5), expected)


def test_gradients_in_the_origin_are_finite():
    x = torch.zeros(1, 3, requires_grad=True)
    (linear_blob(x, 10.0, 0.5) + edge_mask(x, 1.0) + gaussian_blob(x, 5.0, 0.2)).sum().backward()
    assert x.grad is not None and (x.grad == 0).all()
    assert (linear_blob_gradient(x.detach(), 10.0, 0.5) == 0).all()
