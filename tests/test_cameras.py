"""The camera conventions of docs/conventions.md, each as a test."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamfusion.cameras import (
    Cameras,
    cameras_from_poses,
    look_at,
    orbit_cameras,
    random_cameras,
    turntable_cameras,
)
from dreamfusion.config import CameraConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def project(cameras: Cameras, point: tuple[float, float, float]) -> tuple[float, float]:
    """Row and column in pixels of a world point in the first camera, from the pinhole formula in plain numbers."""
    c2w = cameras.c2w[0].double()
    local = torch.linalg.inv(c2w) @ torch.tensor([*point, 1.0], dtype=torch.float64)
    x, y, z = local[:3].tolist()
    assert z < 0, "the point is behind the camera"
    focal = cameras.height / 2 / math.tan(math.radians(cameras.fovy_deg[0].item()) / 2)
    return cameras.height / 2 - focal * y / -z, cameras.width / 2 + focal * x / -z


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "expected"),
    [(0, 0, (0, 0, 2)), (90, 0, (2, 0, 0)), (180, 0, (0, 0, -2)), (-90, 0, (-2, 0, 0)), (0, 90, (0, 2, 0))],
)
def test_azimuth_and_elevation_are_where_the_conventions_say(azimuth_deg, elevation_deg, expected):
    cameras = orbit_cameras(azimuth_deg, elevation_deg, 2.0, 45.0, 8)
    torch.testing.assert_close(
        cameras.positions[0], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0
    )


@given(st.floats(-180, 179), st.floats(-90, 90), st.floats(0.5, 5))
@settings(max_examples=60, deadline=None)
def test_every_orbit_camera_is_a_proper_rotation_that_looks_at_the_origin(
    azimuth_deg, elevation_deg, distance
):
    cameras = orbit_cameras(azimuth_deg, elevation_deg, distance, 45.0, 8)
    rotation = cameras.c2w[0, :3, :3].double()
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(
        cameras.positions + distance * cameras.forward, torch.zeros(1, 3), atol=1e-4, rtol=0
    )


def test_from_the_front_x_is_right_and_y_is_up():
    cameras = orbit_cameras(0, 0, 3.0, 45.0, 64)
    middle_row, right_column = project(cameras, (0.5, 0.0, 0.0))
    top_row, middle_column = project(cameras, (0.0, 0.5, 0.0))
    assert right_column > 32 and middle_row == pytest.approx(32)
    assert top_row < 32 and middle_column == pytest.approx(32)


def test_a_growing_azimuth_brings_the_objects_right_side_to_the_front():
    """The camera moves towards +X, so a point on +X comes nearer to the middle of the picture."""
    columns = [project(orbit_cameras(a, 0, 3.0, 45.0, 64), (0.5, 0.0, 0.0))[1] for a in (0, 30, 60, 90)]
    assert columns == sorted(columns, reverse=True)
    assert columns[-1] == pytest.approx(32, abs=1e-3)


def test_straight_above_the_front_is_at_the_bottom():
    cameras = orbit_cameras(0, 90, 3.0, 45.0, 64)
    row, column = project(cameras, (0.0, 0.0, 0.5))
    assert row > 40 and column == pytest.approx(32, abs=1e-3)
    rotation = cameras.c2w[0, :3, :3]
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_elevation_is_continuous_up_to_the_poles(pole: float):
    near = orbit_cameras(37.0, 0.999 * pole, 2.0, 45.0, 8).c2w
    at = orbit_cameras(37.0, pole, 2.0, 45.0, 8).c2w
    torch.testing.assert_close(near, at, atol=1e-2, rtol=0)


def test_rays_pass_pixel_centres():
    cameras = orbit_cameras(20.0, 35.0, 2.5, 50.0, 6)
    rays_o, rays_d = cameras.rays()
    for row, column in [(0, 0), (2, 5), (5, 3)]:
        point = (rays_o + 1.7 * rays_d)[0, row, column].tolist()
        seen_row, seen_column = project(cameras, tuple(point))
        assert seen_row == pytest.approx(row + 0.5, abs=1e-3)
        assert seen_column == pytest.approx(column + 0.5, abs=1e-3)


def test_rays_are_unit_and_a_wide_picture_keeps_square_pixels():
    cameras = orbit_cameras(0.0, 0.0, 2.0, 60.0, 8).resized(height=10, width=20)
    _, rays_d = cameras.rays()
    assert rays_d.shape == (1, 10, 20, 3)
    torch.testing.assert_close(rays_d.norm(dim=-1), torch.ones(1, 10, 20))
    slopes = rays_d[0] / -rays_d[0, ..., 2:]
    across = slopes[5, 1, 0] - slopes[5, 0, 0]
    down = slopes[0, 5, 1] - slopes[1, 5, 1]
    assert across.item() == pytest.approx(down.item(), rel=1e-5)


CONFIG = CameraConfig(
    views_per_step=4,
    distance=(2.0, 3.0),
    elevation_deg=(-10.0, 80.0),
    fovy_deg=(40.0, 50.0),
    position_jitter=0.0,
    target_jitter=0.0,
    up_jitter=0.0,
)


def test_random_cameras_stay_in_their_ranges_and_fill_them():
    cameras = random_cameras(CONFIG, generator(), views=4000)
    for values, (low, high) in [
        (cameras.distance, CONFIG.distance),
        (cameras.elevation_deg, CONFIG.elevation_deg),
        (cameras.fovy_deg, CONFIG.fovy_deg),
        (cameras.azimuth_deg, CONFIG.azimuth_deg),
    ]:
        span = high - low
        assert low - 1e-3 <= values.min() < low + 0.02 * span
        assert high + 1e-3 >= values.max() > high - 0.02 * span


@pytest.mark.parametrize("by_area", [0.0, 1.0])
def test_elevation_is_uniform_in_angle_or_in_area(by_area):
    config = CONFIG.model_copy(update={"uniform_area_probability": by_area})
    elevation = random_cameras(config, generator(1), views=4000).elevation_deg
    values = torch.sin(torch.deg2rad(elevation)) if by_area else elevation
    low, high = (math.sin(math.radians(v)) if by_area else v for v in config.elevation_deg)
    uniform = ((values - low) / (high - low)).sort().values
    steps = (torch.arange(4000) + 0.5) / 4000
    # Kolmogorov-Smirnov at the 0.1 % level: 1.95 / sqrt(n); the other distribution misses it four times over.
    assert (uniform - steps).abs().max() < 1.95 / math.sqrt(4000)


def test_the_views_of_a_batch_are_spread_over_the_circle():
    for seed in range(20):
        azimuth = random_cameras(CONFIG, generator(seed)).azimuth_deg.sort().values
        gaps = torch.diff(torch.cat([azimuth, azimuth[:1] + 360]))
        assert gaps.max() < 180, "with four views no half of the circle may stay unseen"


def test_one_view_is_uniform_over_the_circle():
    stream = generator(3)
    azimuth = torch.cat([random_cameras(CONFIG, stream, views=1).azimuth_deg for _ in range(2000)])
    uniform = ((azimuth + 180) / 360).sort().values
    assert (uniform - (torch.arange(2000) + 0.5) / 2000).abs().max() < 1.95 / math.sqrt(2000)


def test_reported_angles_are_those_of_the_jittered_position():
    config = CONFIG.model_copy(update={"position_jitter": 0.3, "target_jitter": 0.1, "up_jitter": 0.05})
    cameras = random_cameras(config, generator(5), views=50)
    rebuilt = orbit_cameras(cameras.azimuth_deg, cameras.elevation_deg, cameras.distance, 45.0, 8)
    torch.testing.assert_close(rebuilt.positions, cameras.positions, atol=1e-4, rtol=0)
    determinants = torch.linalg.det(cameras.c2w[:, :3, :3])
    torch.testing.assert_close(determinants, torch.ones(50), atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_cameras_and_global_randomness_none():
    first = random_cameras(CONFIG, generator(7))
    torch.manual_seed(123)
    second = random_cameras(CONFIG, generator(7))
    assert torch.equal(first.c2w, second.c2w) and torch.equal(first.fovy_deg, second.fovy_deg)


def test_the_turntable_starts_at_the_front_and_does_not_repeat_its_first_frame():
    cameras = turntable_cameras(8, 15.0, 2.5, 45.0, 16)
    assert len(cameras) == 8
    assert cameras.azimuth_deg[0] == 0
    torch.testing.assert_close(cameras.azimuth_deg[1].item(), 45.0)
    assert cameras[7:].azimuth_deg.item() == pytest.approx(-45.0)


def test_look_at_handles_a_view_along_up():
    c2w = look_at(torch.tensor([[0.0, 2.0, 0.0]]), torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))
    assert torch.isfinite(c2w).all()
    assert torch.linalg.det(c2w[0, :3, :3]).item() == pytest.approx(1.0)


@pytest.mark.parametrize("views", [1, 2, 4])
def test_antithetic_views_stand_at_equal_angles(views: int):
    still = {"position_jitter": 0.0, "target_jitter": 0.0, "up_jitter": 0.0}
    config = CameraConfig.model_validate({"views_per_step": views, "view_spacing": "antithetic", **still})
    firsts = set()
    for seed in range(5):
        azimuth = random_cameras(config, torch.Generator().manual_seed(seed)).azimuth_deg
        turns = torch.remainder(azimuth - azimuth[0], 360.0)
        torch.testing.assert_close(turns, torch.arange(views) * (360.0 / views), atol=1e-3, rtol=0)
        firsts.add(round(azimuth[0].item()))
    assert len(firsts) > 1


def test_jitters_are_as_wide_as_stated_and_lean_to_no_side():
    count = 4000
    level = CONFIG.model_copy(update={"elevation_deg": (0.0, 0.0)})
    # The same draws whatever the widths, so what one of them adds can be seen apart.
    moved, aimed, rolled, still = (
        random_cameras(level.model_copy(update=changes), generator(9), views=count)
        for changes in ({"position_jitter": 0.3}, {"target_jitter": 0.1}, {"up_jitter": 0.05}, {})
    )
    uniform = ((moved.positions - still.positions) / 0.6 + 0.5).sort(dim=0).values
    assert (uniform - (torch.arange(count)[:, None] + 0.5) / count).abs().max() < 1.95 / math.sqrt(count)
    # How far the line of sight passes the origin: both components across it are the target's, with a std of 0.1.
    along = (aimed.positions * aimed.forward).sum(-1, keepdim=True)
    missed = aimed.positions - along * aimed.forward
    assert missed.square().sum(-1).mean().item() == pytest.approx(2 * 0.1**2, rel=0.08)
    assert missed.mean(0).abs().max() < 4 * 0.1 / math.sqrt(count)
    roll = rolled.c2w[:, 1, 0]
    assert roll.std().item() == pytest.approx(0.05, rel=0.08)
    assert abs(roll.mean().item()) < 4 * 0.05 / math.sqrt(count)


def test_a_photograph_in_another_size_sees_the_same():
    intrinsics = torch.tensor([[30.0, 20.0, 9.0, 4.0]])
    photograph = cameras_from_poses(torch.eye(4)[None], intrinsics, 10, 20)
    _, finer = photograph.resized(50, 60).rays()
    # Every third column and every fifth row of the finer picture has its middle where a pixel had it.
    torch.testing.assert_close(finer[:, 2::5, 1::3], photograph.rays()[1])


def test_the_vertical_field_of_view_is_of_the_vertical_focal_length():
    intrinsics = torch.tensor([[30.0, 20.0, 9.0, 4.0], [20.0, 30.0, 9.0, 4.0]])
    cameras = cameras_from_poses(torch.eye(4).expand(2, 4, 4), intrinsics, 10, 24)
    expected = [2 * math.degrees(math.atan(5 / focal)) for focal in (20.0, 30.0)]
    assert cameras.fovy_deg.tolist() == pytest.approx(expected, rel=1e-6)
    # Right and up by their own focal lengths, from their own principal points.
    rays = cameras.rays()[1][0]
    ray = rays[7, 2]
    torch.testing.assert_close(ray[:2] / -ray[2], torch.tensor([(2.5 - 9) / 30, (4 - 7.5) / 20]))
