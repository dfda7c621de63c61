from __future__ import annotations

import pytest
import torch

from dreamfusion.cameras import orbit_cameras
from dreamfusion.rendering.compositing import accumulate, composite
from dreamfusion.rendering.marching import march
from dreamfusion.rendering.visibility import find_visible

Rays = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def rays():
    rays_o, rays_d = orbit_cameras(30.0, 20.0, 1.8, 70.0, 24).rays()
    return rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)


@pytest.mark.parametrize("termination", [0.3, 1e-2, 1e-3])
@pytest.mark.parametrize("min_weight", [0.0, 0.05])
def test_exactly_what_is_hidden_or_faint_is_left_out(
    make_renderer, shapes, rays: Rays, termination, min_weight
):
    field = make_renderer(shapes.soft_blob(sigma=20.0)).scene.field
    samples = march(*rays, 1.0, 64)
    whole = composite(field.density(samples.positions(*rays)), samples)
    visible, weights = find_visible(field, samples, *rays, termination, min_weight)
    keep = (whole.transmittance >= termination) & (whole.weights >= min_weight)
    assert 0.01 < keep.float().mean() < 0.95
    assert torch.equal(visible.ray_indices, samples.ray_indices[keep])
    assert torch.equal(visible.t_starts, samples.t_starts[keep])
    assert torch.equal(visible.t_ends, samples.t_ends[keep])
    torch.testing.assert_close(weights, whole.weights[keep])
    assert not weights.requires_grad


@pytest.mark.parametrize("termination", [0.3, 1e-2, 1e-3])
def test_the_opacity_changes_by_no_more_than_the_termination(make_renderer, shapes, rays: Rays, termination):
    field = make_renderer(shapes.soft_blob(sigma=20.0)).scene.field
    samples = march(*rays, 1.0, 64)

    def opacity(termination):
        visible, weights = find_visible(field, samples, *rays, termination, 0.0)
        return accumulate(weights, None, visible.ray_indices, visible.n_rays)[:, 0]

    lost = opacity(0.0) - opacity(termination)
    assert lost.min() > -1e-6
    assert 0 < lost.max() <= termination + 1e-6


def test_nothing_visible_weighs_nothing(make_renderer, shapes, rays: Rays):
    field = make_renderer(shapes.constant(0.0)).scene.field
    visible, weights = find_visible(field, march(*rays, 1.0, 8), *rays, 1e-3, 1e-4)
    assert len(visible) == 1 and weights.tolist() == [0.0]
