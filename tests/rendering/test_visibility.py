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
@pytest.mark.parametrize("faint", [0.0, 0.5])
def test_exactly_what_is_hidden_or_faint_is_left_out(make_renderer, shapes, rays: Rays, termination, faint):
    field = make_renderer(shapes.soft_blob(sigma=20.0)).scene.field
    samples = march(*rays, 1.0, 64)
    whole = composite(field.density(samples.positions(*rays)), samples)
    visible, weights = find_visible(field, samples, *rays, termination, faint)
    of_rays = torch.zeros(samples.n_rays).index_add(0, samples.ray_indices, whole.weights)
    least = (
        faint
        * of_rays.clamp(min=0.1)
        / torch.bincount(samples.ray_indices, minlength=samples.n_rays).clamp(min=1)
    )
    keep = (whole.transmittance >= termination) & (whole.weights >= least[samples.ray_indices])
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


@pytest.mark.parametrize("samples_per_ray", [16, 256, 4096])
@pytest.mark.parametrize("sigma", [1e-4, 0.3, 40.0])
def test_what_is_left_out_is_a_share_of_each_ray_whatever_the_number_of_samples(
    make_renderer, shapes, sigma, samples_per_ray
):
    field = make_renderer(shapes.soft_blob(sigma)).scene.field
    rays = [part.reshape(-1, 3) for part in orbit_cameras(30.0, 20.0, 1.8, 70.0, 6).rays()]
    samples = march(rays[0], rays[1], 1.0, samples_per_ray)

    def opacity(faint):
        visible, weights = find_visible(field, samples, rays[0], rays[1], 0.0, faint)
        return accumulate(weights, None, visible.ray_indices, visible.n_rays)[:, 0], len(visible)

    (whole, _), (without, count) = opacity(0.0), opacity(0.2)
    assert count < 0.95 * len(samples)
    assert (whole - without < 0.2 * whole.clamp(min=0.1)).all() and (without < whole)[whole > 0].any()


def test_nothing_visible_weighs_nothing(make_renderer, shapes, rays: Rays):
    field = make_renderer(shapes.constant(0.0)).scene.field
    visible, weights = find_visible(field, march(*rays, 1.0, 8), *rays, 1e-3, 1e-4)
    assert len(visible) == 1 and weights.tolist() == [0.0]
