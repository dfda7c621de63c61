"""Animals and figures of the procedural world: each function sculpts one, standing on y = 0 and facing +Z."""

from __future__ import annotations

import math

from dreamfusion.miniature.nouns_builder import (
    BARK,
    BEAK,
    BLUSH,
    COLORS,
    GOLD,
    INK,
    PAPER,
    Builder,
    Head,
    Rgb,
    Seat,
    accent,
    darker,
    lighter,
    mixed,
)
from dreamfusion.miniature.solids import SPHERE, UNCUT


def peacock(b: Builder) -> None:
    fan: Rgb = b.or_main((0.10, 0.50, 0.30), darker(b.main, 0.18))
    spot: Rgb = b.or_main((0.10, 0.20, 0.75), accent(b.main, 0.6))
    tall = b.vary(0.80, 0.06)
    b.sphere((0, 0.40, 0.0), (0.17, 0.18, b.vary(0.25)), b.main)
    b.path([(0, 0.46, 0.14), (0, 0.62, 0.25), (0, tall, 0.25)], [0.12, 0.075, 0.06], b.main)
    b.sphere((0, tall + 0.03, 0.27), (0.085, 0.085, 0.095), b.main)
    b.limb((0, tall + 0.03, 0.34), (0, tall, 0.46), 0.035, 0.004, GOLD)
    b.eyes(0.06, tall + 0.05, 0.325, 0.026)
    for lean in (-0.09, 0.0, 0.09):
        tip = (lean, tall + 0.24, 0.22)
        b.limb((lean * 0.2, tall + 0.10, 0.26), tip, 0.012, 0.009, b.main)
        b.sphere(tip, 0.032, spot if not b.natural else b.main)
    for side in (-1, 1):
        b.limb((side * 0.075, 0.28, 0.0), (side * 0.075, 0.02, 0.02), 0.024, 0.02, GOLD)
        b.sphere((side * 0.075, 0.018, 0.06), (0.045, 0.018, 0.075), GOLD)
        b.sphere((side * 0.155, 0.42, -0.03), (0.04, 0.10, 0.19), darker(b.main, 0.25), turn=(-8, 0, 0))
    # The fan: a thin upright disc that leans back, a ring of eye feathers around its edge.
    lean = math.radians(b.vary(12, 0.3))
    up, out = (0.0, math.cos(lean), -math.sin(lean)), (0.0, math.sin(lean), math.cos(lean))
    root = (0.0, 0.42, -0.15)
    size = b.vary(0.52, 0.08)

    def plate(
        at: tuple[float, float, float], across: float, along: float, thick: float, angle: float, rgb: Rgb
    ):
        s, c = math.sin(angle), math.cos(angle)
        radial = (s, c * up[1], c * up[2])
        tangent = (c, -s * up[1], -s * up[2])
        a = tuple(across * v for v in tangent)
        y = tuple(along * v for v in radial)
        z = tuple(thick * v for v in out)
        b.put(SPHERE, at, a, y, z, rgb, 1.0, UNCUT)

    def on_fan(angle: float, radius: float) -> tuple[float, float, float]:
        s, c = radius * math.sin(angle), radius * math.cos(angle)
        return (s, root[1] + c * up[1], root[2] + c * up[2])

    for index in range(11):
        angle = math.radians(-110 + 22 * index)
        plate(on_fan(angle, size * 0.98), 0.105, 0.17, 0.026, angle, lighter(fan, 0.12))
        plate(on_fan(angle, size * 1.03), 0.062, 0.082, 0.034, angle, b.or_main(GOLD, lighter(fan, 0.5)))
        plate(on_fan(angle, size * 1.03), 0.036, 0.048, 0.042, angle, spot)
    lower = -0.55
    radii = (
        (size, 0.030, fan),
        (size * 0.66, 0.038, mixed(fan, (0.05, 0.55, 0.60), 0.45 if b.natural else 0.0)),
    )
    for radius, thick, rgb in radii:
        a, y, z = (radius, 0, 0), tuple(radius * v for v in up), tuple(thick * v for v in out)
        b.put(SPHERE, root, a, y, z, rgb, 1.0, lower)
    b.head = Head(0, tall + 0.10, 0.27, 0.09)
    b.seat = Seat(0, -0.02, 0.16, 0.2)


def duck(b: Builder) -> None:
    b.sphere((0, 0.34, 0), (0.27, 0.24, b.vary(0.38)), b.main)
    b.limb((0, 0.42, -0.28), (0, 0.62, -0.46), 0.14, 0.02, b.main)
    b.limb((0, 0.42, 0.20), (0, 0.70, 0.26), 0.17, 0.13, b.main)
    head = b.vary(0.20)
    b.sphere((0, 0.82, 0.27), head, b.main)
    b.sphere((0, 0.78, 0.27 + head + 0.05), (0.11, 0.035, 0.13), BEAK)
    b.eyes(0.11, 0.88, 0.27 + head * 0.72, 0.045)
    for side in (-1, 1):
        b.sphere((side * 0.25, 0.38, -0.06), (0.06, 0.13, 0.25), darker(b.main, 0.14), turn=(12, 0, 0))
        b.limb((side * 0.12, 0.16, 0.04), (side * 0.12, 0.02, 0.04), 0.035, 0.03, BEAK)
        b.sphere((side * 0.12, 0.02, 0.11), (0.09, 0.025, 0.14), BEAK)
    b.head = Head(0, 0.82 + head, 0.27, head)
    b.seat = Seat(0, -0.08, 0.2, 0.2)


def snowman(b: Builder) -> None:
    low, middle, top = b.vary(0.40, 0.06), b.vary(0.29, 0.06), b.vary(0.21, 0.06)
    y_middle = low * 1.86 + middle * 0.72
    y_top = y_middle + middle * 0.75 + top * 0.75
    b.sphere((0, low * 0.95, 0), low, b.main, cut=-0.95)
    b.sphere((0, y_middle, 0), middle, b.main)
    b.sphere((0, y_top, 0), top, b.main)
    b.limb((0, y_top, top * 0.9), (0, y_top - 0.02, top + 0.24), 0.055, 0.006, (0.96, 0.45, 0.05))
    for side in (-1, 1):
        b.sphere((side * 0.085, y_top + 0.07, top * 0.86), 0.034, accent(b.main, 0.92))
        b.path(
            [(side * middle * 0.85, y_middle + 0.06, 0), (side * (middle + 0.34), y_middle + 0.26, 0.04)],
            [0.028, 0.018],
            BARK,
        )
        hand = (side * (middle + 0.28), y_middle + 0.22, 0.035)
        b.limb(hand, (hand[0] + side * 0.02, hand[1] + 0.16, hand[2]), 0.015, 0.01, BARK)
    for dy in (-0.10, 0.04):
        b.sphere((0, y_middle + dy, middle * math.sqrt(1 - (dy / middle) ** 2)), 0.034, accent(b.main, 0.92))
    b.head = Head(0, y_top + top, 0, top)
    b.seat = Seat(0, 0, 0.15, 0.15)


def _legs(b: Builder, x: float, z_front: float, z_back: float, top: float, radius: float, rgb: Rgb) -> None:
    for side in (-1, 1):
        for z in (z_front, z_back):
            b.limb((side * x, top, z), (side * x, 0.0, z), radius * 1.1, radius, rgb)


def cat(b: Builder) -> None:
    light = lighter(b.main, 0.55)
    long = b.vary(0.34)
    b.sphere((0, 0.38, -0.05), (0.18, 0.18, long), b.main)
    _legs(b, 0.105, long * 0.55, -long * 0.8, 0.34, 0.055, b.main)
    for side in (-1, 1):
        b.sphere((side * 0.105, 0.035, long * 0.55 + 0.03), (0.062, 0.035, 0.08), light)
    z = long * 0.85
    head = b.vary(0.215, 0.06)
    b.sphere((0, 0.63, z), (head * 1.08, head, head * 0.95), b.main)
    for side in (-1, 1):
        b.limb(
            (side * 0.13, 0.63 + head * 0.6, z), (side * 0.175, 0.63 + head + 0.17, z), 0.085, 0.004, b.main
        )
        b.limb(
            (side * 0.135, 0.64 + head * 0.66, z + 0.035),
            (side * 0.172, 0.63 + head + 0.12, z + 0.035),
            0.05,
            0.004,
            BLUSH,
        )
        b.sphere((side * 0.05, 0.565, z + head * 0.85), (0.065, 0.05, 0.05), light)
    b.sphere((0, 0.60, z + head * 1.02), (0.032, 0.024, 0.024), BLUSH)
    b.eyes(0.088, 0.675, z + head * 0.80, 0.047)
    b.path(
        [(0, 0.44, -long), (0, 0.56, -long - 0.14), (0, 0.76, -long - 0.15), (0, 0.88, -long - 0.06)],
        [0.05, 0.048, 0.045, 0.04],
        b.main,
    )
    b.head = Head(0, 0.63 + head, z, head)
    b.seat = Seat(0, -0.1, 0.16, 0.2)


__all__ = ["COLORS", "INK", "PAPER", "cat", "duck", "peacock", "snowman"]
