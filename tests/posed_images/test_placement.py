"""Where the ball lies and how large it is, from silhouettes that are given as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dreamfusion.posed_images.dataset import _silhouette_sines
from dreamfusion.posed_images.frames import Capture, Frame, Lens
from dreamfusion.posed_images.placement import MARGIN, place


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
