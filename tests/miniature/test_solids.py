"""Solids: intervals of rays against closed forms and against marching through the definition."""

from __future__ import annotations

import math

import pytest
import torch

from dreamfusion.miniature import solids as S


def one(kind: int, matrix=None, ratio: float = 1.0, cut: float = S.UNCUT) -> S.Solids:
    matrix = torch.eye(4, dtype=torch.float64) if matrix is None else matrix
    f64 = torch.float64
    return S.Solids(
        torch.tensor([kind]),
        matrix[None],
        torch.tensor([ratio], dtype=f64),
        torch.tensor([cut], dtype=f64),
        torch.ones(1, 3, dtype=f64),
        torch.zeros(1, dtype=torch.int64),
    )


def rays(*pairs):
    o = torch.tensor([p[0] for p in pairs], dtype=torch.float64)
    d = torch.tensor([p[1] for p in pairs], dtype=torch.float64)
    return o, d


def random_solids(count: int, generator: torch.Generator) -> S.Solids:
    f64 = torch.float64
    matrix = torch.eye(4, dtype=f64).repeat(count, 1, 1)
    matrix[:, :3, :3] = torch.randn(count, 3, 3, generator=generator, dtype=f64) * 0.4 + 0.3 * torch.eye(
        3, dtype=f64
    )
    matrix[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=f64) * 0.3
    cut = torch.rand(count, generator=generator, dtype=f64) * 1.6 - 0.8
    cut[::2] = S.UNCUT
    return S.Solids(
        torch.arange(count) % 3,
        matrix,
        torch.rand(count, generator=generator, dtype=f64),
        cut,
        torch.rand(count, 3, generator=generator, dtype=f64),
        torch.zeros(count, dtype=torch.int64),
    )


def test_a_sphere_is_met_where_pythagoras_says():
    o, d = rays(((0, 0.6, 3), (0, 0, -1)), ((0, 1.01, 3), (0, 0, -1)))
    t_in, t_out = S.ray_intervals(one(S.SPHERE), o, d)
    assert t_in[0, 0].item() == pytest.approx(3 - 0.8, abs=1e-12)
    assert t_out[0, 0].item() == pytest.approx(3 + 0.8, abs=1e-12)
    assert math.isinf(t_in[0, 1]) and t_out[0, 1] == -math.inf


def test_a_box_is_met_in_its_slabs():
    o, d = rays(((-4, 0, 0), (2, 1, 0)), ((-4, 0, 0), (1, 1, 0)), ((0.5, -5, 0.2), (0, 1, 0)))
    t_in, t_out = S.ray_intervals(one(S.BOX), o, d)
    assert not torch.isfinite(t_in[0, :2]).any()  # they pass over it
    assert (t_in[0, 2].item(), t_out[0, 2].item()) == (pytest.approx(4.0), pytest.approx(6.0))


def test_a_cone_narrows_to_its_apex():
    cone = one(S.FRUSTUM, ratio=0.0)
    for y in (-0.9, 0.0, 0.7):
        o, d = rays(((-3, y, 0), (1, 0, 0)))
        t_in, t_out = S.ray_intervals(cone, o, d)
        radius = (1 - y) / 2
        assert t_in.item() == pytest.approx(3 - radius, abs=1e-9)
        assert t_out.item() == pytest.approx(3 + radius, abs=1e-9)


def test_along_a_cone_s_axis_only_the_nappe_with_a_positive_radius_counts():
    # The other nappe begins at the apex y = 3 of this frustum; a steep ray beside the axis meets it too.
    o, d = rays(((0.6, 8, 0), (0, -1, 0)), ((0.6, -8, 0), (0, 1, 0)))
    t_in, t_out = S.ray_intervals(one(S.FRUSTUM, ratio=0.5), o, d)
    side = -1 + 2 * (1 - 0.6) / 0.5  # where the radius is 0.6
    assert t_in[0, 0].item() == pytest.approx(8 - side)
    assert t_out[0, 0].item() == pytest.approx(9.0)
    assert t_in[0, 1].item() == pytest.approx(7.0)
    assert t_out[0, 1].item() == pytest.approx(8 + side)


def test_a_cut_keeps_the_upper_part():
    o, d = rays(((0, -5, 0), (0, 1, 0)))
    t_in, t_out = S.ray_intervals(one(S.SPHERE, cut=0.25), o, d)
    assert t_in.item() == pytest.approx(5.25)
    assert t_out.item() == pytest.approx(6.0)


def test_intervals_agree_with_marching_through_the_definition(generator):
    solids = random_solids(15, generator)
    o = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    o = 4.0 * o / o.norm(dim=-1, keepdim=True)
    target = 0.5 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    d = target - o
    d = d / d.norm(dim=-1, keepdim=True)
    t_in, t_out = S.ray_intervals(solids, o, d)

    step = 0.02
    t = torch.arange(0.0, 9.0, step, dtype=torch.float64)
    points = (o[:, None] + t[:, None] * d[:, None]).reshape(-1, 3)
    marched = S.inside(solids, points).reshape(len(solids), 40, len(t))
    expected = (t >= t_in[..., None]) & (t <= t_out[..., None])
    # Equal everywhere but within rounding of the ends.
    near_end = ((t - t_in[..., None]).abs() < 1e-6) | ((t - t_out[..., None]).abs() < 1e-6)
    assert torch.equal(marched | near_end, expected | near_end)
    assert torch.isfinite(t_in).sum() > 80


def test_bounds_hold_everything_and_are_tight(generator):
    solids = random_solids(12, generator)
    for index in range(len(solids)):
        single = solids[torch.tensor([index])]
        low, high = S.bounds(single)
        points = (
            low - 0.1 + (high - low + 0.2) * torch.rand(6000, 3, generator=generator, dtype=torch.float64)
        )
        within = points[S.occupancy(single, points)]
        assert (within >= low - 1e-9).all() and (within <= high + 1e-9).all()
        slack = (high - low) * 0.15
        assert (within.amin(0) <= low + slack).all() and (within.amax(0) >= high - slack).all()


@pytest.mark.parametrize(("kind", "ratio"), [(S.SPHERE, 1.0), (S.BOX, 1.0), (S.FRUSTUM, 0.3)])
def test_bounds_know_the_cut(kind, ratio):
    low, high = S.bounds(one(kind, ratio=ratio, cut=0.5))
    radius = {S.SPHERE: math.sqrt(0.75), S.BOX: 1.0, S.FRUSTUM: 1 - 0.7 * 0.75}[kind]
    assert torch.allclose(low, torch.tensor([-radius, 0.5, -radius], dtype=torch.float64))
    assert torch.allclose(high, torch.tensor([radius, 1.0, radius], dtype=torch.float64))


def test_surface_points_lie_on_the_surface(generator):
    solids = random_solids(9, generator)
    solids = solids[solids.keep_above == S.UNCUT]
    for index in range(len(solids)):
        single = solids[torch.tensor([index])]
        points, centre = S.surface_points(single)[0], single.to_world[0, :3, 3]
        assert S.occupancy(single, centre + 0.999 * (points - centre)).all()
        assert not S.occupancy(single, centre + 1.001 * (points - centre)).any()


def test_moving_moves_the_inside(generator):
    solids = random_solids(6, generator)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    points = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    assert torch.equal(S.inside(solids.moved(matrix), moved), S.inside(solids, points))


def test_packing_numbers_the_scenes(generator):
    a, b = random_solids(3, generator), random_solids(5, generator)
    packed = S.pack([a, b])
    assert packed.scene.tolist() == [0] * 3 + [1] * 5 and packed.n_scenes == 2
    assert S.merge([a, b]).n_scenes == 1 and not S.merge([a, b]).scene.any()
    assert torch.equal(packed[packed.scene == 1].to_world, b.to_world)
