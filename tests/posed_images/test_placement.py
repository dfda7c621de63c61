"""Where the ball lies and how large it is, from silhouettes that are given as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
