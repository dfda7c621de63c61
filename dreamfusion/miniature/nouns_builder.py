"""The sculptor's bench: puts solids together into one thing, in plain Python floats because things are small.

A thing stands on y = 0, its front faces +Z. `Builder` also notes where others may rest on it (`seat`), where a hat goes
(`head`) and what room is underneath (`shelter`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from dreamfusion.miniature.solids import BOX, FRUSTUM, SPHERE, UNCUT, Solids

Vector = Sequence[float | int]
Rgb = tuple[float | int, float | int, float | int]

COLORS: dict[str, Rgb] = {
    "red": (0.84, 0.09, 0.09),
    "orange": (0.97, 0.50, 0.06),
    "yellow": (0.97, 0.86, 0.14),
    "green": (0.13, 0.58, 0.17),
    "blue": (0.10, 0.25, 0.82),
    "purple": (0.48, 0.16, 0.66),
    "pink": (0.97, 0.55, 0.72),
    "brown": (0.44, 0.26, 0.12),
    "black": (0.11, 0.11, 0.12),
    "white": (0.95, 0.95, 0.94),
    "gray": (0.50, 0.50, 0.52),
    "turquoise": (0.13, 0.78, 0.76),
}

INK: Rgb = (0.06, 0.06, 0.07)
PAPER: Rgb = (0.95, 0.95, 0.95)
STEEL: Rgb = (0.66, 0.67, 0.70)
RUBBER: Rgb = (0.13, 0.13, 0.14)
GLASS: Rgb = (0.55, 0.74, 0.86)
WOOD: Rgb = (0.55, 0.35, 0.18)
BARK: Rgb = (0.40, 0.26, 0.14)
LEAF: Rgb = (0.20, 0.55, 0.20)
BEAK: Rgb = (0.97, 0.58, 0.10)
GOLD: Rgb = (0.90, 0.72, 0.20)
BLUSH: Rgb = (0.95, 0.55, 0.60)


def mixed(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`a` with `share` of `b` in it."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def darker(rgb: Rgb, share: float = 0.3) -> Rgb:
    """`rgb` mixed with black."""
    return mixed(rgb, (0.0, 0.0, 0.0), share)


def lighter(rgb: Rgb, share: float = 0.4) -> Rgb:
    """`rgb` mixed with white."""
    return mixed(rgb, (1.0, 1.0, 1.0), share)


def luminance(rgb: Rgb) -> float:
    """Rec. 709 weights on the stored values; only for choosing contrasts."""
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def accent(rgb: Rgb, share: float = 0.45) -> Rgb:
    """A tone that shows on `rgb`: darker on a light colour, lighter on a dark one."""
    return darker(rgb, share) if luminance(rgb) > 0.3 else lighter(rgb, share)


def jittered(rng: np.random.Generator, rgb: Rgb, amount: float = 0.05) -> Rgb:
    """`rgb` with a small random change, in [0, 1]."""
    shift = rng.uniform(-amount, amount, 4)
    low, high = 0.0, 1.0
    r, g, b = (min(max(c + 0.5 * s + 0.6 * shift[3], low), high) for c, s in zip(rgb, shift[:3], strict=True))
    return (float(r), float(g), float(b))


@dataclass(frozen=True)
class Seat:
    """Where another thing may rest: centre (x, z) and half sizes.

    A `wall` at the "back" or "front" (a chair's back, a mast) is kept clear of; what rests there may stick out a
    little on the other side.
    """

    x: float | int = 0.0
    z: float | int = 0.0
    half_x: float | int = 0.3
    half_z: float | int = 0.3
    wall: str | None = None


@dataclass(frozen=True)
class Head:
    """Where a hat goes: the crown's centre and the head's radius."""

    x: float | int
    y: float | int
    z: float | int
    radius: float | int


@dataclass
class Builder:
    """Collects the solids of one thing. `main` is the colour of its main part; `natural` is true without a colour word."""

    rng: np.random.Generator
    main: Rgb
    natural: bool = False
    seat: Seat | None = None
    head: Head | None = None
    shelter: tuple[float | int, ...] | None = None  # half x, half z, height, centre z of the room
    _kinds: list[int] = field(default_factory=list)
    _columns: list[tuple[float, ...]] = field(default_factory=list)
    _extras: list[tuple[float, ...]] = field(default_factory=list)

    def vary(self, value: float, spread: float = 0.1) -> float:
        """`value` times a random factor in 1 +- spread."""
        return value * (1.0 + spread * (2.0 * self.rng.random() - 1.0))

    def or_main(self, natural_rgb: Rgb, otherwise: Rgb | None = None) -> Rgb:
        """A part's own colour, or one that follows the colour word where one was said."""
        return natural_rgb if self.natural else (otherwise or self.main)

    # -- solids -------------------------------------------------------------------------------------------

    def put(
        self, kind: int, centre: Vector, a: Vector, b: Vector, c: Vector, rgb: Rgb, ratio: float, cut: float
    ) -> None:
        """A solid whose unit axes map to the vectors a, b, c."""
        self._kinds.append(kind)
        self._columns.append((*a, *b, *c, *centre))
        self._extras.append((ratio, cut, *rgb))

    def sphere(
        self,
        centre: Vector,
        radii: Vector | float | int,
        rgb: Rgb,
        turn: Vector = (0, 0, 0),
        cut: float = UNCUT,
    ) -> None:
        """An ellipsoid; `turn` is pitch (x), yaw (y), roll (z) in degrees; `cut` keeps y >= cut of the unit frame."""
        rx, ry, rz = (radii, radii, radii) if isinstance(radii, int | float) else radii
        a, b, c = _turned(turn, rx, ry, rz)
        self.put(SPHERE, centre, a, b, c, rgb, 1.0, cut)

    def box(self, centre: Vector, half: Vector, rgb: Rgb, turn: Vector = (0, 0, 0)) -> None:
        """A box with half sizes."""
        a, b, c = _turned(turn, *half)
        self.put(BOX, centre, a, b, c, rgb, 1.0, UNCUT)

    def roof(self, centre: Vector, half_x: float, height: float, half_z: float, rgb: Rgb) -> None:
        """A gable over `centre`, ridge along z; the mirrored half below is meant to hide in the walls."""
        a, b = (half_x / 2, height / 2, 0.0), (-half_x / 2, height / 2, 0.0)
        self.put(BOX, centre, a, b, (0.0, 0.0, half_z), rgb, 1.0, UNCUT)

    def cylinder(
        self, centre: Vector, half: Vector, rgb: Rgb, ratio: float = 1.0, turn: Vector = (0, 0, 0)
    ) -> None:
        """A frustum about y: half = (radius in x, half height, radius in z) at the bottom, `ratio` of it at the top."""
        a, b, c = _turned(turn, *half)
        if ratio > 1.0:
            a, c = tuple(ratio * v for v in a), tuple(ratio * v for v in c)
            b, ratio = tuple(-v for v in b), 1.0 / ratio
        self.put(FRUSTUM, centre, a, b, c, rgb, ratio, UNCUT)

    def cone(self, base: Vector, radius: float, height: float, rgb: Rgb) -> None:
        """An upright cone on `base`."""
        self.cylinder((base[0], base[1] + height / 2, base[2]), (radius, height / 2, radius), rgb, 0.0)

    def limb(self, start: Vector, end: Vector, r_start: float, r_end: float, rgb: Rgb) -> None:
        """A straight tapering limb between two points, with flat ends."""
        if r_end > r_start:
            start, end, r_start, r_end = end, start, r_end, r_start
        axis = [(e - s) / 2 for s, e in zip(start, end, strict=True)]
        a, c = _across(axis)
        centre = [(s + e) / 2 for s, e in zip(start, end, strict=True)]
        wide_a, wide_c = [r_start * v for v in a], [r_start * v for v in c]
        self.put(FRUSTUM, centre, wide_a, axis, wide_c, rgb, r_end / r_start, UNCUT)

    def path(self, points: Sequence[Vector], radii: Sequence[float], rgb: Rgb) -> None:
        """Limbs through `points` with round joints: necks, tails, handles."""
        for (p, q), (r, s) in zip(pairwise(points), pairwise(radii), strict=True):
            self.limb(p, q, r, s, rgb)
        for p, r in zip(points[1:], radii[1:], strict=True):
            if r > 0.01:
                self.sphere(p, r, rgb)

    def wheel(self, centre: Vector, radius: float, half_width: float, hub: Rgb = STEEL) -> None:
        """A wheel on an axle along x."""
        self.cylinder(centre, (radius, half_width, radius), RUBBER, turn=(0, 0, 90))
        self.cylinder(centre, (radius * 0.5, half_width + 0.012, radius * 0.5), hub, turn=(0, 0, 90))

    def eyes(self, x: float, y: float, z: float, radius: float, white: bool = True) -> None:
        """A pair of eyes that look to +Z: white balls with a pupil, or black beads."""
        for side in (-1, 1):
            if white:
                self.sphere((side * x, y, z), radius, PAPER)
                self.sphere((side * x * 1.03, y, z + radius * 0.55), radius * 0.62, INK)
            else:
                self.sphere((side * x, y, z), radius, INK)

    def solids(self) -> Solids:
        """All that was put, packed."""
        columns = np.asarray(self._columns, dtype=np.float64).reshape(-1, 4, 3)
        matrix = np.zeros((len(columns), 4, 4))
        matrix[:, :3, :] = columns.transpose(0, 2, 1)
        matrix[:, 3, 3] = 1.0
        extras = torch.from_numpy(np.asarray(self._extras, dtype=np.float32).reshape(-1, 5))
        return Solids(
            torch.tensor(self._kinds, dtype=torch.int64),
            torch.from_numpy(matrix.astype(np.float32)),
            extras[:, 0].contiguous(),
            extras[:, 1].contiguous(),
            extras[:, 2:].contiguous(),
            torch.zeros(len(columns), dtype=torch.int64),
        )


def _turned(turn: Vector, rx: float, ry: float, rz: float) -> tuple[Vector, Vector, Vector]:
    # Columns of R_yaw R_pitch R_roll diag(rx, ry, rz).
    if turn[0] == 0 and turn[1] == 0 and turn[2] == 0:
        return (rx, 0.0, 0.0), (0.0, ry, 0.0), (0.0, 0.0, rz)
    p, w, r = (math.radians(v) for v in turn)
    cp, sp, cw, sw, cr, sr = math.cos(p), math.sin(p), math.cos(w), math.sin(w), math.cos(r), math.sin(r)
    x = (cw * cr + sw * sp * sr, cp * sr, -sw * cr + cw * sp * sr)
    y = (-cw * sr + sw * sp * cr, cp * cr, sw * sr + cw * sp * cr)
    z = (sw * cp, -sp, cw * cp)
    return tuple(rx * v for v in x), tuple(ry * v for v in y), tuple(rz * v for v in z)


def _across(axis: Vector) -> tuple[Vector, Vector]:
    # Two unit vectors across `axis` and each other.
    x, y, z = axis
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    if abs(y) < 0.9:
        n = math.hypot(x, z)
        a = (z / n, 0.0, -x / n)
    else:
        n = math.hypot(y, z)
        a = (0.0, z / n, -y / n)
    c = (a[1] * z - a[2] * y, a[2] * x - a[0] * z, a[0] * y - a[1] * x)
    return a, c
