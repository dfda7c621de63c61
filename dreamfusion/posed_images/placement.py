"""Where the scene's ball lies among the cameras: the similarity from a dataset's world to this package's.

There +Y is up, the front faces +Z, and the ball of radius 1 around the origin holds the object.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.frames import Capture, Frame

# Of the squared sines between the axes and their mean: below, they are as good as parallel and meet nowhere.
_PARALLEL = 1e-3
# Of the cameras that must have the common point in their pictures.
_LOOK_AT_IT = 0.75
# Room around the silhouettes: the ball's outermost twentieth fades, see `dreamfusion.scene.density`.
MARGIN = 1.1


def common_point(frames: list[Frame]) -> Float[np.ndarray, "3"]:
    """The point nearest to all optical axes, by least squares, in the dataset's world.

    Raises:
        DatasetError: the axes are parallel, or the point is not in most of the pictures.
    """
    origins = np.stack([frame.c2w[:3, 3] for frame in frames])
    axes = -np.stack([frame.c2w[:3, 2] for frame in frames])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    system = across.sum(0)
    if np.linalg.eigvalsh(system / len(frames))[0] < _PARALLEL:
        raise _no_common_point("all cameras look the same way")
    point = np.linalg.solve(system, (across @ origins[:, :, None]).sum(0)[:, 0])
    if not _in_most(frames, point):
        seeing = sum(_sees(frame, point) for frame in frames)
        raise _no_common_point(f"the nearest point to their axes is in {seeing} of {len(frames)} pictures")
    return point


def _in_most(frames: list[Frame], point: Float[np.ndarray, "3"]) -> bool:
    return sum(_sees(frame, point) for frame in frames) >= _LOOK_AT_IT * len(frames)


def _sees(frame: Frame, point: Float[np.ndarray, "3"]) -> bool:
    right, up, back = frame.c2w[:3, :3].T @ (point - frame.c2w[:3, 3])
    lens = frame.lens
    return bool(
        back < 0
        and abs(right / -back) < lens.width / lens.fx / 2
        and abs(up / -back) < lens.height / lens.fy / 2
    )


def _no_common_point(got: str) -> DatasetError:
    return DatasetError(
        "the cameras do not look at a common point",
        expected="pictures taken around one object",
        got=got,
        hint="check that the poses are camera to world in OpenGL's axes (right, up, back)",
    )


def place(
    capture: Capture, silhouette_sines: Float[np.ndarray, " n"] | None, radius: float | None
) -> np.ndarray:
    """The 4x4 similarity from the dataset's world to this package's.

    Args:
        capture: at least three training frames.
        silhouette_sines: of each training frame, the sine of the largest angle between the direction to the centre and a
            pixel of the object; None where the pictures have no silhouettes or cut them off.
        radius: of the ball in the dataset's units. None: the smallest that holds all silhouettes, with a margin; or, without
            silhouettes, the largest that every camera sees to its edge.

    Raises:
        DatasetError: see `common_point`.
    """
    centre = scene_centre(capture)
    origins = np.stack([frame.c2w[:3, 3] for frame in capture.train])
    distances = np.linalg.norm(origins - centre, axis=-1)
    if radius is None and silhouette_sines is not None:
        # A point at distance R is seen at the sine R / distance at most, and by some camera nearly at that.
        radius = MARGIN * float((distances * silhouette_sines).max())
    if radius is None:
        radius = min(
            distance * math.sin(math.radians(_half_fov_deg(frame)))
            for distance, frame in zip(distances, capture.train, strict=True)
        )
    rotation = _rotation(capture, centre)
    similarity = np.eye(4)
    similarity[:3, :3] = rotation / radius
    similarity[:3, 3] = -rotation @ centre / radius
    return similarity


def scene_centre(capture: Capture) -> Float[np.ndarray, "3"]:
    """The middle of the ball in the dataset's world; the cameras must look at a common point either way."""
    point = common_point(capture.train)
    if capture.centre is None:
        return point
    fixed = np.asarray(capture.centre, dtype=np.float64)
    # Other programs write Blender's layout too, with the object anywhere.
    return fixed if _in_most(capture.train, fixed) else point


def placed(c2w: Float[np.ndarray, "4 4"], similarity: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """A camera in the world that `similarity` leads to: moved and turned, not scaled."""
    moved = similarity @ c2w
    moved[:3, :3] /= np.cbrt(np.linalg.det(similarity[:3, :3]))
    return moved


def _half_fov_deg(frame: Frame) -> float:
    lens = frame.lens
    return math.degrees(math.atan(min(lens.width / lens.fx, lens.height / lens.fy) / 2))


def _up(frames: list[Frame]) -> Float[np.ndarray, "3"]:
    """The direction that is nearest to a right angle with the lower edges of all pictures: people hold cameras level.

    The mean of the cameras' own ups leans to the side where most of them stood.
    """
    rights = np.stack([frame.c2w[:3, 0] for frame in frames])
    values, vectors = np.linalg.eigh(rights.T @ rights / len(frames))
    mean_up = np.mean([frame.c2w[:3, 1] for frame in frames], axis=0)
    # With cameras on one side only, the rights are nearly one line and leave the direction open.
    up = vectors[:, 0] if values[1] > 0.05 else mean_up
    up = up if up @ mean_up >= 0 else -up
    return up / np.linalg.norm(up)


def _rotation(capture: Capture, centre: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rows are this package's axes (right, up, front) in the dataset's world."""
    up = _up(capture.train) if capture.up is None else np.asarray(capture.up, float)
    front = (
        capture.train[0].c2w[:3, 3] - centre if capture.front is None else np.asarray(capture.front, float)
    )
    front = front - (front @ up) * up
    if (
        np.linalg.norm(front) < 1e-6
    ):  # the first camera looks straight down: its picture's lower edge is the front
        front = -capture.train[0].c2w[:3, 1]
        front = front - (front @ up) * up
    front = front / np.linalg.norm(front)
    return np.stack([np.cross(up, front), up, front])
