"""Where the scene's ball lies among the cameras: the similarity from a dataset's world to this package's.

There +Y is up, the front faces +Z, and the ball of radius 1 around the origin holds the object.

A few frames may be wrong or unusual: a pose that went astray, a close-up, a camera that looks elsewhere. They are recognised by
medians, have no say in where the ball lies and how large it is, and are named. Without such frames nothing is left out: least
squares, the largest silhouette and the narrowest view decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from dreamfusion.errors import DatasetError
from dreamfusion.posed_images.frames import Capture, Frame

# Of the squared sines between the axes and their mean: below, they are as good as parallel and meet nowhere.
_PARALLEL = 1e-3
# Of the cameras that must have the common point in their pictures.
_LOOK_AT_IT = 0.75
# An axis that misses the common point by so many times the median, and by more than this part of the median distance, is no
# help in finding it.
_MISSES, _MISSES_LEAST = 5.0, 0.1
_REWEIGHTINGS = 30
# Room around the silhouettes: the ball's outermost twentieth fades, see `dreamfusion.scene.density`.
MARGIN = 1.1
# Of the median: a view that shows less of the surroundings is a close-up.
_CLOSE_UP = 2 / 3
# Of the median: a silhouette that reaches further must fit those of most others.
_SUSPECT = 2.25
_MOST, _JUDGES, _DIRECTIONS = 0.75, 64, 256
# Of the frames that look at the object, and at least: so many must show it whole for silhouettes to decide.
_WHOLE, _WHOLE_LEAST = 0.2, 3
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Ball:
    """The scene's ball in the dataset's world.

    Attributes:
        centre, radius: in the dataset's units.
        looking: which training frames look at it.
        notes: which frames had no say, one line each.
    """

    centre: Float[np.ndarray, "3"]
    radius: float
    looking: Bool[np.ndarray, " n"]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Views:
    """n frames as arrays.

    Attributes:
        origins: where each camera is.
        rotations: its axes (right, up, back), as columns.
        middles, halves: of its view on the plane at unit depth, to the right and up: the middle, and half the size.
    """

    origins: Float[np.ndarray, "n 3"]
    rotations: Float[np.ndarray, "n 3 3"]
    middles: Float[np.ndarray, "n 2"]
    halves: Float[np.ndarray, "n 2"]

    @classmethod
    def of(cls, frames: list[Frame]) -> _Views:
        poses = np.stack([frame.c2w for frame in frames])
        lenses = [frame.lens for frame in frames]
        halves = [(lens.width / lens.fx / 2, lens.height / lens.fy / 2) for lens in lenses]
        middles = [
            ((lens.width / 2 - lens.cx) / lens.fx, (lens.cy - lens.height / 2) / lens.fy) for lens in lenses
        ]
        return cls(poses[:, :3, 3], poses[:, :3, :3], np.array(middles), np.array(halves))

    @property
    def axes(self) -> Float[np.ndarray, "n 3"]:
        return -self.rotations[:, :, 2]

    def see(self, point: Float[np.ndarray, "3"]) -> Bool[np.ndarray, " n"]:
        """Which have the point in their pictures."""
        right, up, back = np.einsum("nij,ni->jn", self.rotations, point - self.origins)
        ahead = np.where(back < 0, -back, 1.0)
        off_middle = np.abs(np.stack([right, up], -1) / ahead[:, None] - self.middles)
        return (back < 0) & (off_middle < self.halves).all(axis=-1)

    def look_at(self, point: Float[np.ndarray, "3"]) -> Bool[np.ndarray, " n"]:
        """Which see the point and do not miss it by far more than the others do."""
        misses = np.linalg.norm(np.cross(self.axes, point - self.origins), axis=-1)
        distance = np.median(np.linalg.norm(point - self.origins, axis=-1))
        limit = max(_MISSES * float(np.median(misses)), _MISSES_LEAST * float(distance))
        return self.see(point) & (misses <= limit)

    def nearest_point(
        self, weights: Float[np.ndarray, " n"], chosen: Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, "3"]:
        """The point nearest to the chosen optical axes, by weighted least squares.

        Raises:
            DatasetError: the axes are parallel.
        """
        axes = self.axes[chosen]
        across = weights[chosen, None, None] * (np.eye(3) - axes[:, :, None] * axes[:, None, :])
        system = across.sum(0) / weights[chosen].sum()
        if np.linalg.eigvalsh(system)[0] < _PARALLEL:
            raise _no_common_point("all cameras look the same way")
        moments = (across @ self.origins[chosen, :, None]).sum(0)[:, 0] / weights[chosen].sum()
        return np.linalg.solve(system, moments)


def common_point(frames: list[Frame]) -> Float[np.ndarray, "3"]:
    """The point nearest to the optical axes, by least squares, in the dataset's world; without the axes that miss it widely.

    Raises:
        DatasetError: the axes are parallel, or the point is not in most of the pictures.
    """
    views, equal = _Views.of(frames), np.ones(len(frames))
    squares = views.nearest_point(equal, equal > 0)
    points = (_least_sum(views, squares), squares)
    seeing = [int(views.see(point).sum()) for point in points]
    if max(seeing) < _LOOK_AT_IT * len(frames):
        raise _no_common_point(
            f"the nearest point to their axes is in {max(seeing)} of {len(frames)} pictures"
        )
    return views.nearest_point(equal, views.look_at(points[int(seeing[1] > seeing[0])]))


def _least_sum(views: _Views, point: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """The point whose sum of distances to all axes is least: a few axes do not move it far, as they do with squares.

    Iteratively reweighted least squares, from `point`.
    """
    everyone = np.ones(len(views.origins), bool)
    for _ in range(_REWEIGHTINGS):
        misses = np.linalg.norm(np.cross(views.axes, point - views.origins), axis=-1)
        scale = np.linalg.norm(point - views.origins, axis=-1).max()
        weights = 1 / np.maximum(misses, 1e-6 * scale + 1e-300)
        try:
            point = views.nearest_point(weights / weights.max(), everyone)
        except DatasetError:  # axes on nearly one line have all the weight
            break
    return point


def _no_common_point(got: str) -> DatasetError:
    return DatasetError(
        "the cameras do not look at a common point",
        expected="pictures taken around one object",
        got=got,
        hint="check that the poses are camera to world in OpenGL's axes (right, up, back)",
    )


def scene_centre(capture: Capture) -> Float[np.ndarray, "3"]:
    """The middle of the ball in the dataset's world; the cameras must look at a common point either way."""
    point = common_point(capture.train)
    if capture.centre is None:
        return point
    fixed = np.asarray(capture.centre, dtype=np.float64)
    # Other programs write Blender's layout too, with the object anywhere.
    return fixed if _Views.of(capture.train).see(fixed).mean() >= _LOOK_AT_IT else point


def find_ball(
    capture: Capture, silhouette_sines: Float[np.ndarray, " n"] | None, radius: float | None
) -> Ball:
    """Where the ball lies.

    Args:
        capture: at least three training frames.
        silhouette_sines: of each training frame, the sine of the largest angle between the direction to the centre and a
            pixel of the object, nan where the picture cuts it off; None where the pictures have no silhouettes.
        radius: of the ball in the dataset's units. None: the smallest that holds all silhouettes, with a margin; or, without
            silhouettes, the largest that every camera sees to its edge.

    Raises:
        DatasetError: see `common_point`.
    """
    centre = scene_centre(capture)
    views = _Views.of(capture.train)
    looking = views.look_at(centre)
    notes = _named(capture, ~looking, "not looking at the middle of the scene, no help in finding it")
    if radius is None and silhouette_sines is not None:
        radius, odd = _around_silhouettes(views, centre, looking, silhouette_sines)
        notes += _named(
            capture, odd, "a silhouette that does not fit the others', no help in sizing the ball"
        )
    if radius is None:
        radius, close = _seen_to_the_edge(views, centre, looking)
        notes += _named(capture, close, "a close-up, no help in sizing the ball")
    return Ball(centre, radius, looking, notes)


def _named(capture: Capture, chosen: Bool[np.ndarray, " n"], what: str) -> tuple[str, ...]:
    names = [frame.image.name for frame, is_it in zip(capture.train, chosen, strict=True) if is_it]
    if not names:
        return ()
    listed = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    return (f"{len(names)} of {len(capture.train)} frames ({listed}): {what}",)


def _around_silhouettes(
    views: _Views,
    centre: Float[np.ndarray, "3"],
    looking: Bool[np.ndarray, " n"],
    sines: Float[np.ndarray, " n"],
) -> tuple[float | None, Bool[np.ndarray, " n"]]:
    """The radius of the ball around all silhouettes, and which do not fit the others; None if too few show the object whole."""
    nobody = np.zeros(len(sines), bool)
    usable = looking & np.isfinite(sines) & (sines > 0)
    if usable.sum() < max(_WHOLE_LEAST, _WHOLE * looking.sum()):
        return None, nobody
    # A point at distance R is seen at the sine R / distance at most, and by some camera nearly at that.
    extents = np.where(usable, np.linalg.norm(views.origins - centre, axis=-1) * sines, 0.0)
    suspect = usable & (extents > _SUSPECT * np.median(extents[usable]))
    judges = np.flatnonzero(usable)[:: -(-int(usable.sum()) // _JUDGES)]
    odd = nobody.copy()
    for index in np.flatnonzero(suspect):
        odd[index] = not _can_reach(float(extents[index]), centre, views.origins[judges], sines[judges])
    return MARGIN * float(extents[~odd].max()), odd


def _can_reach(
    extent: float,
    centre: Float[np.ndarray, "3"],
    origins: Float[np.ndarray, "m 3"],
    sines: Float[np.ndarray, " m"],
) -> bool:
    """Whether some point `extent` away from the centre is inside the silhouettes of most cameras, each taken for a disc."""
    # A spiral of points on the sphere (Fibonacci); every direction is within 0.15 of one.
    height = 1 - (2 * np.arange(_DIRECTIONS) + 1) / _DIRECTIONS
    turn, across = np.arange(_DIRECTIONS) * math.pi * (3 - math.sqrt(5)), np.sqrt(1 - height**2)
    points = centre + extent * np.stack([across * np.cos(turn), across * np.sin(turn), height], -1)
    towards, middle = points - origins[:, None], centre - origins
    far, near = np.linalg.norm(towards, axis=-1), np.linalg.norm(middle, axis=-1)[:, None]
    cosines = np.einsum("mki,mi->mk", towards, middle) / np.maximum(far * near, 1e-300)
    room = np.arcsin(sines)[:, None] + 0.15 * extent / np.maximum(far, 1e-300)
    inside = np.arccos(np.clip(cosines, -1, 1)) <= room
    return bool((inside.mean(axis=0) >= _MOST).any())


def _seen_to_the_edge(
    views: _Views, centre: Float[np.ndarray, "3"], looking: Bool[np.ndarray, " n"]
) -> tuple[float, Bool[np.ndarray, " n"]]:
    """The radius of the largest ball that every camera sees to its edge but those that are close-ups; and which those are."""
    distances = np.linalg.norm(views.origins - centre, axis=-1)
    seen = distances * np.sin(np.arctan(views.halves.min(axis=-1)))
    close = looking & (seen < _CLOSE_UP * np.median(seen[looking]))
    return float(seen[looking & ~close].min()), close


def place(
    capture: Capture, silhouette_sines: Float[np.ndarray, " n"] | None, radius: float | None
) -> np.ndarray:
    """The 4x4 similarity from the dataset's world to this package's; arguments and errors are those of `find_ball`."""
    return similarity_to(capture, find_ball(capture, silhouette_sines, radius))


def similarity_to(capture: Capture, ball: Ball) -> Float[np.ndarray, "4 4"]:
    """The 4x4 similarity from the dataset's world to the one in which `ball` is the unit ball, upright, its front at +Z."""
    frames = [frame for frame, looks in zip(capture.train, ball.looking, strict=True) if looks]
    rotation = _rotation(capture, frames, ball.centre)
    similarity = np.eye(4)
    similarity[:3, :3] = rotation / ball.radius
    similarity[:3, 3] = -rotation @ ball.centre / ball.radius
    return similarity


def placed(c2w: Float[np.ndarray, "4 4"], similarity: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """A camera in the world that `similarity` leads to: moved and turned, not scaled."""
    moved = similarity @ c2w
    moved[:3, :3] /= np.cbrt(np.linalg.det(similarity[:3, :3]))
    return moved


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


def _rotation(
    capture: Capture, frames: list[Frame], centre: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """Rows are this package's axes (right, up, front) in the dataset's world; `frames` are those that look at the centre."""
    up = _up(frames) if capture.up is None else np.asarray(capture.up, float)
    front = frames[0].c2w[:3, 3] - centre if capture.front is None else np.asarray(capture.front, float)
    front = front - (front @ up) * up
    if (
        np.linalg.norm(front) < 1e-6
    ):  # the first camera looks straight down: its picture's lower edge is the front
        front = -frames[0].c2w[:3, 1]
        front = front - (front @ up) * up
    front = front / np.linalg.norm(front)
    return np.stack([np.cross(up, front), up, front])
