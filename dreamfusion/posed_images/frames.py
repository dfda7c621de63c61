"""What every layout is read into: frames with a lens and a pose, as the dataset's own world has them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dreamfusion.errors import DatasetError

DISTORTION = ("k1", "k2", "k3", "p1", "p2")
# Of a pose: squares must stay finite, and no unit is so small.
_LARGEST = 1e15
# Of a lens, in sides of the image: a view of 179.9 degrees to one of 0.0006.
_FOCALS, _MIDDLES, _DISTORTIONS = (1e-3, 1e5), 100.0, 1e6


@dataclass(frozen=True)
class Lens:
    """A pinhole with OpenCV's distortion (its `calib3d` documentation; Brown 1966).

    With x, y on the plane at unit depth and r^2 = x^2 + y^2:

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
        y' = y (1 + k1 r^2 + k2 r^4 + k3 r^6) + p1 (r^2 + 2 y^2) + 2 p2 x y
        column = fx x' + cx, row = fy y' + cy

    Attributes:
        width, height: in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels from the picture's top left corner, so the middle is (width / 2, height / 2).
        k1, k2, k3, p1, p2: radial and tangential distortion; all 0 for a pinhole.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def is_distorted(self) -> bool:
        return any(getattr(self, name) != 0.0 for name in DISTORTION)

    @property
    def fovy_deg(self) -> float:
        return math.degrees(2 * math.atan(self.height / (2 * self.fy)))

    def pinhole(self) -> Lens:
        """The same lens without its distortion."""
        return replace(self, **dict.fromkeys(DISTORTION, 0.0))

    def shrunk(self, factor: int) -> Lens:
        """The lens of the picture that is `factor` times smaller; what does not fill a whole pixel is cut off."""
        return replace(
            self,
            width=self.width // factor,
            height=self.height // factor,
            fx=self.fx / factor,
            fy=self.fy / factor,
            cx=self.cx / factor,
            cy=self.cy / factor,
        )

    def distort(
        self, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the point (x, y) of the plane at unit depth is seen, on the same plane; the formulas above."""
        square = x * x + y * y
        radial = 1 + square * (self.k1 + square * (self.k2 + square * self.k3))
        return (
            x * radial + 2 * self.p1 * x * y + self.p2 * (square + 2 * x * x),
            y * radial + self.p1 * (square + 2 * y * y) + 2 * self.p2 * x * y,
        )


def checked_lens(lens: Lens, where: str) -> Lens:
    """`lens`, its numbers of a size that a camera can have and arithmetic can hold.

    Raises:
        DatasetError: a focal length that sees all of a half-space or a single point, a principal point far outside, distortion
            beyond all lenses.
    """
    for axis, size in (("x", lens.width), ("y", lens.height)):
        focal, middle = (lens.fx, lens.cx) if axis == "x" else (lens.fy, lens.cy)
        low, high = _FOCALS[0] * size, _FOCALS[1] * size
        if not low <= focal <= high:
            raise DatasetError(
                f"{where}: the focal length along {axis}",
                expected=f"{low:g} to {high:g} pixels",
                got=f"{focal:g}",
            )
        if not abs(middle) <= _MIDDLES * size:
            raise DatasetError(
                f"{where}: the principal point's {axis}",
                expected=f"up to {_MIDDLES * size:g} pixels",
                got=f"{middle:g}",
            )
    for name in DISTORTION:
        if not abs(value := getattr(lens, name)) <= _DISTORTIONS:
            raise DatasetError(
                f"{where}: the distortion {name}", expected=f"up to {_DISTORTIONS:g}", got=f"{value:g}"
            )
    return lens


@dataclass(frozen=True)
class Frame:
    """One picture and where it was taken from.

    Attributes:
        image: its file.
        c2w: 4x4 camera to world; OpenGL's camera (right, up, back), the dataset's own world and units.
        lens: how it was taken.
        mask: a file whose black pixels are not to be looked at.
    """

    image: Path
    c2w: Float[np.ndarray, "4 4"]
    lens: Lens
    mask: Path | None = None


@dataclass(frozen=True)
class Capture:
    """All frames of a dataset, nothing of them loaded.

    Attributes:
        layout: `blender`, `transforms` or `colmap`.
        train, held_out: frames to learn from, and to be measured on.
        up: the world's up axis where the layout fixes it (Blender's is z); None: the cameras' mean says.
        front: direction from the object's middle to its front where the layout fixes it; None: the first camera's side.
        centre: of the scene where the layout fixes it; None: where the cameras look.
        notes: what was left out or ignored while reading, one line each.
    """

    layout: str
    train: list[Frame]
    held_out: list[Frame]
    up: tuple[float, float, float] | None = None
    front: tuple[float, float, float] | None = None
    centre: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()


def checked_pose(matrix: object, where: str) -> Float[np.ndarray, "4 4"]:
    """A camera-to-world matrix of 3x4 or 4x4 numbers as float64 4x4.

    Raises:
        DatasetError: none, another shape, numbers that are not finite, or no rotation (mirrored, sheared or scaled).
    """
    if matrix is None:
        raise DatasetError(f"{where} has no pose", expected='"transform_matrix", 4x4 numbers')
    try:
        pose = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape not in ((3, 4), (4, 4)) or not np.isfinite(pose).all():
        got = "inf or nan" if pose.shape in ((3, 4), (4, 4)) else f"shape {pose.shape}"
        raise DatasetError(f"the pose of {where}", expected="4x4 finite numbers", got=got)
    if np.abs(pose).max() > _LARGEST:
        raise DatasetError(
            f"the pose of {where}", expected=f"numbers up to {_LARGEST:g}", got=f"{np.abs(pose).max():g}"
        )
    if len(pose) == 4 and not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-3):
        raise DatasetError(
            f"the last row of the pose of {where}",
            expected="0 0 0 1",
            got=" ".join(f"{value:g}" for value in pose[3]),
            hint="transpose the matrices, if the positions are in their last rows",
        )
    full = np.eye(4)
    full[:3] = pose[:3]
    rotation = full[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) or np.linalg.det(rotation) < 0:
        raise DatasetError(
            f"the pose of {where} is no rotation and position",
            got=f"a matrix of determinant {np.linalg.det(rotation):.3g}",
            hint="camera-to-world matrices must have unit columns right, up, back",
        )
    # Files are written with few digits: the nearest rotation, so that errors do not add up.
    u, _, vt = np.linalg.svd(rotation)
    full[:3, :3] = u @ vt
    return full
