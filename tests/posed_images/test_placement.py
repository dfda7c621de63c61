"""Where the ball lies and how large it is, from silhouettes that are given as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.dataset import _silhouette_sines
from dreamfusion.posed_images.frames import Capture, Frame, Lens
from dreamfusion.posed_images.placement import MARGIN, _Views, common_point, find_ball, place

Ring = Callable[..., list[np.ndarray]]
CENTRE = (5.0, 1.0, 2.0)
PINHOLE = Lens(20, 20, 30.0, 30.0, 10.0, 10.0)
# What a camera 4 away sees to its edge, with 10 of 30 pixels to it.
SEEN = 4 * np.sin(np.arctan(10 / 30))


def test_the_widest_silhouette_fits_and_the_margin_is_kept(ring: Callable[..., list[np.ndarray]]) -> None:
    lens = Lens(20, 20, 30.0, 30.0, 10.0, 10.0)
    poses = ring(3, distance=4.0) + ring(3, distance=6.0)
    capture = Capture("transforms", [Frame(Path(f"{i}.png"), pose, lens) for i, pose in enumerate(poses)], [])
    sines = np.array([0.1, 0.3, 0.1, 0.1, 0.1, 0.15])
    similarity = place(capture, sines, None)
    # Seen at the sine 0.3 from 4 away; from 6 away a sine of 0.15 is less.
    assert np.linalg.det(similarity[:3, :3]) ** (-1 / 3) == pytest.approx(MARGIN * 0.3 * 4.0)
    assert np.linalg.det(place(capture, sines, 2.5)[:3, :3]) ** (-1 / 3) == pytest.approx(2.5)


def test_up_is_across_all_lower_edges_though_the_cameras_stood_on_one_side(
    ring: Callable[..., list[np.ndarray]],
) -> None:
    lens = Lens(20, 20, 30.0, 30.0, 10.0, 10.0)
    # A quarter of the ring, all looking down: their own ups lean forwards together.
    poses = ring(16, centre=(1.0, 2.0, 3.0))[:5]
    frames = [Frame(Path(f"{i}.png"), pose, lens) for i, pose in enumerate(poses)]
    similarity = place(Capture("colmap", frames, []), None, 2.0)
    np.testing.assert_allclose(2.0 * similarity[1, :3], [0, 0, 1], atol=1e-6)
    # The first camera's side is the front: azimuth 0, at -y there.
    np.testing.assert_allclose(2.0 * similarity[2, :3], [0, -1, 0], atol=1e-6)


def test_a_silhouette_is_measured_from_the_middle_and_not_from_the_axis(
    ring: Callable[..., list[np.ndarray]],
) -> None:
    """Cameras raised and moved to a side above what is fixed as the middle, which they see below their axes."""
    lens = Lens(64, 48, 60.0, 50.0, 30.0, 27.0)
    poses = ring(3)
    for pose in poses:
        pose[:3, 3] += 0.5 * pose[:3, 1] + 0.7 * pose[:3, 0]
    frames = [Frame(Path(f"{i}.png"), pose, lens) for i, pose in enumerate(poses)]
    capture = Capture(
        "blender", frames, [], up=(0.0, 0.0, 1.0), front=(0.0, -1.0, 0.0), centre=(0.0, 0.0, 0.0)
    )
    rgba = np.zeros((48, 64, 4), np.uint8)
    # The origin is 4 ahead, 0.5 below and 0.7 to the left of the axis.
    column, row = 30.0 - 60 * 0.7 / 4, 27.0 + 50 * 0.5 / 4
    rgba[int(row), int(column), 3] = 255
    sines = _silhouette_sines(capture, [(rgba, np.ones((48, 64), bool))] * 3, 1)
    assert sines is not None
    assert sines.max() < 0.02  # one pixel is 1/60 wide


# ---------------------------------------------------------------------------------------------- outliers


def capture_of(poses: list[np.ndarray], lens: Lens = PINHOLE) -> Capture:
    return Capture("transforms", [Frame(Path(f"{i}.png"), pose, lens) for i, pose in enumerate(poses)], [])


def looking_at(eye: tuple[float, float, float], point: tuple[float, float, float]) -> np.ndarray:
    back = np.subtract(eye, point) / np.linalg.norm(np.subtract(eye, point))
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], axis=-1)
    return pose


def around(azimuth: float, distance: float) -> tuple[float, float, float]:
    return (
        CENTRE[0] + distance * np.cos(azimuth),
        CENTRE[1] + distance * np.sin(azimuth),
        CENTRE[2] + 0.3 * distance,
    )


OUTLIERS = {
    "close-ups of the middle": [looking_at(around(a, 1.2), CENTRE) for a in (0.3, 2.0)],
    "close-ups of two details": [looking_at(around(a, 1.6), around(a, 0.5)) for a in (0.3, 2.0)],
    "one far away": [looking_at(around(0.3, 500.0), CENTRE)],
    "one far away that looks past by half a degree": [looking_at(around(0.3, 500.0), around(1.8, 4.0))],
    "one very far away that looks past": [looking_at(around(0.3, 5000.0), around(1.8, 90.0))],
    "close-ups at six tenths": [looking_at(around(a, 2.2), CENTRE) for a in (0.3, 2.0)],
    "one that looks elsewhere": [looking_at(around(0.3, 4.0), around(1.5, 9.0))],
    "one that looks away": [looking_at(around(0.3, 4.0), around(0.3, 9.0))],
    "three that look elsewhere": [looking_at(around(a, 4.0), around(a + 1.2, 12.0)) for a in (0.3, 2.0, 4.0)],
}


@pytest.mark.parametrize("kind", OUTLIERS)
def test_a_few_odd_frames_move_the_ball_hardly_and_are_named(kind: str, ring: Ring) -> None:
    clean = ring(16, centre=CENTRE)
    odd = OUTLIERS[kind]
    ball = find_ball(capture_of([*clean, *odd]), None, None)
    np.testing.assert_allclose(ball.centre, CENTRE, atol=0.02)
    assert ball.radius == pytest.approx(SEEN, rel=0.01)
    harmless = kind == "one far away"  # it looks at the middle and sees all of the ball
    assert bool(ball.notes) != harmless
    if not harmless:
        assert ball.notes[0].startswith(f"{len(odd)} of {16 + len(odd)} frames (16.png")
    # The same with the odd ones first: the front is not theirs, nor is the up direction.
    turned = place(capture_of([*odd, *clean]), None, None)[:3, :3] * ball.radius
    if kind.startswith(("one that", "three")):
        np.testing.assert_allclose(turned, place(capture_of(clean), None, None)[:3, :3] * SEEN, atol=0.01)


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_without_odd_frames_nothing_is_left_out(spread: float, ring: Ring) -> None:
    """The centre is the least squares of all axes, the radius the smallest view; in a hand's captures too."""
    rng = np.random.default_rng(0)
    poses = ring(24, centre=CENTRE)
    for pose in poses:
        pose[:3, 3] += spread * rng.normal(size=3)
    capture = capture_of(poses)
    axes, origins = (np.stack([pose[:3, k] for pose in poses]) for k in (2, 3))
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    expected = np.linalg.solve(across.sum(0), (across @ origins[:, :, None]).sum(0)[:, 0])
    ball = find_ball(capture, None, None)
    assert ball.notes == () and ball.looking.all()
    np.testing.assert_allclose(ball.centre, expected, atol=1e-9)
    assert ball.radius == pytest.approx(min(np.linalg.norm(origins - expected, axis=-1)) * SEEN / 4)


def test_the_middle_of_the_view_is_where_the_lens_says(ring: Ring) -> None:
    """A crop: the axis leaves the picture at its corner, and what is beside the axis is seen all the same."""
    lens = Lens(20, 20, 30.0, 30.0, 1.0, 19.0)
    frames = capture_of(
        [looking_at(around(a, 4.0), CENTRE) for a in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)], lens
    ).train
    np.testing.assert_allclose(common_point(frames), CENTRE, atol=1e-9)
    behind = capture_of([looking_at(around(a, 4.0), around(a, 9.0)) for a in (0.0, 1.0, 2.0, 3.0)]).train
    with pytest.raises(DatasetError, match="is in 0 of 4 pictures"):
        common_point(behind)


def test_what_a_camera_sees_is_what_falls_on_its_pixels(ring: Ring) -> None:
    lens = Lens(40, 12, 30.0, 20.0, 25.0, 3.0)
    pose = ring(3, centre=CENTRE)[1]
    views = _Views.of(capture_of([pose], lens).train)
    for local in np.random.default_rng(0).uniform([-3, -3, -4], [3, 3, 4], (400, 3)):
        x, y, back = local
        column, row = lens.fx * x / -back + lens.cx, lens.fy * -y / -back + lens.cy
        expected = back < 0 and 0 < column < 40 and 0 < row < 12
        assert views.see(pose[:3, :3] @ local + pose[:3, 3])[0] == expected


@pytest.mark.parametrize(("away", "accepted"), [(2, True), (3, False)])
def test_three_quarters_of_the_cameras_must_see_the_middle(ring: Ring, away: int, accepted: bool) -> None:
    poses = ring(10, centre=CENTRE)
    for pose in poses[:away]:
        pose[:3, :3] = pose[:3, :3] @ np.diag([-1.0, 1, -1])  # turned round
    frames = capture_of(poses).train
    if accepted:
        np.testing.assert_allclose(common_point(frames), CENTRE, atol=1e-9)
    else:
        with pytest.raises(DatasetError, match="is in 7 of 10 pictures"):
            common_point(frames)


def test_a_camera_at_seven_tenths_of_the_distance_is_no_close_up(ring: Ring) -> None:
    poses = [*ring(16, centre=CENTRE), looking_at(around(0.3, 2.8 / np.hypot(1, 0.3)), CENTRE)]
    ball = find_ball(capture_of(poses), None, None)
    assert ball.notes == () and ball.radius == pytest.approx(0.7 * SEEN)


def test_silhouettes_that_are_cut_off_leave_the_size_to_the_others(ring: Ring) -> None:
    """The kind of 2 close-ups among 18: before, they took a third of the ball away."""
    poses = [*ring(16, centre=CENTRE), *OUTLIERS["close-ups of the middle"]]
    sines = np.array([0.2] * 16 + [np.nan] * 2)
    assert find_ball(capture_of(poses), sines, None).radius == pytest.approx(MARGIN * 4 * 0.2)
    # Most are cut off, but four say how large the object is.
    sines[4:] = np.nan
    assert find_ball(capture_of(poses), sines, None).radius == pytest.approx(MARGIN * 4 * 0.2)
    sines[3:] = np.nan
    three = find_ball(capture_of(poses[:13] + poses[16:]), sines[:15], None)  # a fifth
    assert three.radius == pytest.approx(MARGIN * 4 * 0.2)
    sines[2:] = np.nan  # two are too few
    assert find_ball(capture_of(poses), sines, None).radius == pytest.approx(SEEN, rel=0.01)


def test_a_silhouette_from_a_wrong_place_has_no_say(ring: Ring) -> None:
    poses = [*ring(16, centre=CENTRE), looking_at(around(0.3, 40.0), CENTRE)]
    sines = np.array([0.2] * 17)  # as large in the picture as the others', though ten times as far
    ball = find_ball(capture_of(poses), sines, None)
    assert ball.radius == pytest.approx(MARGIN * 4 * 0.2)
    assert ball.notes == (
        "1 of 17 frames (16.png): a silhouette that does not fit the others', no help in sizing the ball",
    )


def test_a_long_object_is_no_outlier(ring: Ring) -> None:
    """A rod of length 2 and thickness 0.1 that most cameras see from its end: what few see of its length is right."""
    ends = [(CENTRE[0] + x, *CENTRE[1:]) for x in (-1.0, 1.0)]
    angles = [*np.linspace(-0.08, 0.08, 14), 0.9, 1.2, 1.6, 2.2]
    poses = [
        looking_at((CENTRE[0] + 6 * np.cos(a), CENTRE[1] + 6 * np.sin(a), CENTRE[2] + 0.1), CENTRE)
        for a in angles
    ]
    sines = []
    for pose in poses:
        eye = pose[:3, 3]
        middle = (np.array(CENTRE) - eye) / np.linalg.norm(np.array(CENTRE) - eye)
        angle = max(
            np.arccos(middle @ (np.array(end) - eye) / np.linalg.norm(np.array(end) - eye)) for end in ends
        )
        sines.append(max(np.sin(angle), 0.05 / 6))
    ball = find_ball(capture_of(poses, Lens(40, 40, 40.0, 40.0, 20.0, 20.0)), np.array(sines), None)
    # A rod's end is seen at right angles to it by no camera exactly.
    assert ball.notes == () and 0.9 * MARGIN < ball.radius <= MARGIN


def test_the_ball_of_many_frames_takes_no_square_of_time(ring: Ring) -> None:
    """5,000 frames, of which 50 are suspected."""
    poses = ring(200, centre=CENTRE) * 25
    sines = np.full(5_000, 0.2)
    sines[::100] = 0.9
    assert find_ball(capture_of(poses), sines, None).radius == pytest.approx(MARGIN * 4 * 0.2)
