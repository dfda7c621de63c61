from __future__ import annotations

import torch

from dreamfusion.rendering.rays import intersect_ball


def _random_rays(generator, count=500, distance=2.0):
    rays_o = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * distance
    rays_d = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator) - rays_o, dim=-1)
    return rays_o, rays_d


def test_ends_lie_on_the_ball_and_the_middle_inside(generator):
    rays_o, rays_d = _random_rays(generator)
    near, far = intersect_ball(rays_o, rays_d, 0.8)
    hit = near < far
    assert 100 < hit.sum() < 500
    for t in (near, far):
        points = (rays_o + t[:, None] * rays_d)[hit]
        torch.testing.assert_close(points.norm(dim=-1), torch.full((int(hit.sum()),), 0.8), atol=1e-5, rtol=0)
    middle = rays_o + 0.5 * (near + far)[:, None] * rays_d
    assert (middle[hit].norm(dim=-1) < 0.8).all()


def test_a_miss_has_no_length_and_never_touches(generator):
    rays_o, rays_d = _random_rays(generator)
    near, far = intersect_ball(rays_o, rays_d, 0.5)
    missed = near == far
    assert missed.any()
    t = torch.linspace(0, 5, 2000)
    points = rays_o[missed][:, None] + t[:, None] * rays_d[missed][:, None]
    assert points.norm(dim=-1).min() > 0.5 - 1e-3


def test_an_origin_inside_starts_at_zero_and_looking_away_misses():
    rays_o = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.0, 2.0]])
    rays_d = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    near, far = intersect_ball(rays_o, rays_d, 1.0)
    torch.testing.assert_close(near, torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(far, torch.tensor([0.7, 0.0]))


def test_a_camera_far_away_loses_no_digits():
    # b^2 - c of the school formula is off by 6e-2 here in float32.
    rays_o = torch.tensor([[0.6, 0.0, 1000.0]])
    rays_d = torch.tensor([[0.0, 0.0, -1.0]])
    near, far = intersect_ball(rays_o, rays_d, 1.0)
    torch.testing.assert_close(far - near, torch.tensor([1.6]), atol=2e-4, rtol=0)
