"""Animals and figures of the procedural world: each function sculpts one, standing on y = 0 and facing +Z."""

from __future__ import annotations

import math

from dreamfusion.miniature.nouns_builder import (
    BARK,
    BEAK,
    BLUSH,
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
from dreamfusion.miniature.solids import FRUSTUM, SPHERE, UNCUT


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
    lean = math.radians(b.vary(12.0, 0.3))
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


def dog(b: Builder) -> None:
    ear = accent(b.main, 0.45)
    long = b.vary(0.38)
    b.sphere((0, 0.42, -0.06), (0.19, 0.19, long), b.main)
    _legs(b, 0.115, long * 0.60, -long * 0.85, 0.38, 0.065, b.main)
    for side in (-1, 1):
        b.sphere((side * 0.115, 0.04, long * 0.6 + 0.03), (0.075, 0.04, 0.10), b.main)
    z = long * 0.95
    b.limb((0, 0.46, z - 0.15), (0, 0.66, z), 0.15, 0.12, b.main)
    b.cylinder((0, 0.575, z - 0.05), (0.148, 0.03, 0.148), (0.85, 0.10, 0.10), turn=(32, 0, 0))
    b.sphere((0, 0.74, z + 0.02), (0.19, 0.19, 0.19), b.main)
    b.sphere((0, 0.68, z + 0.22), (0.105, 0.09, 0.15), lighter(b.main, 0.35))
    b.sphere((0, 0.73, z + 0.355), (0.045, 0.038, 0.04), INK)
    b.eyes(0.085, 0.81, z + 0.165, 0.045)
    for side in (-1, 1):
        b.sphere((side * 0.205, 0.69, z - 0.01), (0.05, 0.17, 0.10), ear, turn=(0, 0, side * 12))
    b.path([(0, 0.50, -long), (0, 0.66, -long - 0.14), (0, 0.82, -long - 0.17)], [0.05, 0.045, 0.03], b.main)
    b.head = Head(0, 0.74 + 0.19, z + 0.02, 0.19)
    b.seat = Seat(0, -0.1, 0.17, 0.22)


def rabbit(b: Builder) -> None:
    light = lighter(b.main, 0.55)
    b.sphere((0, 0.32, -0.03), (b.vary(0.26), 0.30, 0.28), b.main)
    b.sphere((0, 0.30, 0.13), (0.17, 0.20, 0.14), light)
    b.sphere((0, 0.22, -0.32), 0.10, PAPER)
    b.sphere((0, 0.70, 0.10), (0.21, 0.20, 0.20), b.main)
    tall = b.vary(0.30)
    for side in (-1, 1):
        b.sphere((side * 0.10, 0.82 + tall, 0.04), (0.065, tall, 0.045), b.main, turn=(0, 0, -side * 9))
        b.sphere((side * 0.10, 0.82 + tall, 0.065), (0.038, tall * 0.8, 0.035), BLUSH, turn=(0, 0, -side * 9))
        b.sphere((side * 0.16, 0.06, 0.16), (0.09, 0.06, 0.20), b.main)
        b.sphere((side * 0.11, 0.36, 0.24), (0.055, 0.12, 0.06), b.main)
        b.sphere((side * 0.055, 0.645, 0.27), (0.07, 0.05, 0.05), light)
    b.sphere((0, 0.685, 0.31), (0.032, 0.026, 0.025), BLUSH)
    b.eyes(0.10, 0.745, 0.26, 0.045, white=False)
    b.head = Head(0, 0.90, 0.10, 0.17)
    b.seat = Seat(0, 0, 0.18, 0.18)


def fish(b: Builder) -> None:
    fin = b.or_main(darker(b.main, 0.2), darker(b.main, 0.22))
    long, tall = b.vary(0.50, 0.06), b.vary(0.27)
    y = 0.34
    b.sphere((0, y, 0), (0.15, tall, long), b.main)
    b.put(FRUSTUM, (0, y, -long - 0.10), (0.03, 0, 0), (0, 0, 0.18), (0, 0.30, 0), fin, 0.2, UNCUT)
    b.put(
        FRUSTUM, (0, y + tall * 0.95, -0.06), (0.025, 0, 0), (0, 0.13, -0.06), (0, 0, 0.24), fin, 0.5, UNCUT
    )
    b.put(
        FRUSTUM, (0, y - tall * 0.9, -0.08), (0.025, 0, 0), (0, -0.10, -0.05), (0, 0, 0.13), fin, 0.5, UNCUT
    )
    stripe = PAPER if min(b.main) < 0.6 else darker(b.main, 0.4)
    for z, share in ((0.22, 0.90), (-0.10, 0.985)):
        b.sphere((0, y, z), (0.155 * share, tall * share * 1.015, 0.05), stripe)
    for side in (-1, 1):
        b.sphere((side * 0.16, y - 0.05, 0.02), (0.02, 0.08, 0.13), fin, turn=(25, side * 25, 0))
        b.sphere((side * 0.095, y + 0.07, 0.36), 0.055, PAPER)
        b.sphere((side * 0.130, y + 0.07, 0.375), 0.034, INK)
    b.sphere((0, y - 0.05, long), (0.05, 0.03, 0.03), BLUSH)


def penguin(b: Builder) -> None:
    b.sphere((0, 0.45, 0), (b.vary(0.29, 0.07), 0.43, 0.27), b.main, cut=-0.97)
    b.sphere((0, 0.40, 0.075), (0.225, 0.345, 0.215), (0.96, 0.96, 0.96))
    b.sphere((0, 0.94, 0.02), (0.205, 0.20, 0.20), b.main)
    for side in (-1, 1):
        b.sphere((side * 0.085, 0.94, 0.12), (0.085, 0.10, 0.10), (0.96, 0.96, 0.96))
        b.sphere((side * 0.085, 0.965, 0.205), 0.034, INK)
        b.sphere((side * 0.305, 0.47, 0), (0.045, 0.26, 0.12), b.main, turn=(0, 0, side * 20))
        b.sphere((side * 0.13, 0.035, 0.13), (0.11, 0.035, 0.16), BEAK)
    b.limb((0, 0.90, 0.17), (0, 0.875, 0.37), 0.065, 0.006, BEAK)
    b.head = Head(0, 1.13, 0.02, 0.19)
    b.seat = Seat(0, 0, 0.18, 0.18)


def elephant(b: Builder) -> None:
    long = b.vary(0.42, 0.08)
    b.sphere((0, 0.60, -0.08), (0.32, 0.33, long), b.main)
    _legs(b, 0.19, long * 0.5, -long * 0.75, 0.52, 0.115, b.main)
    for side in (-1, 1):
        for z in (long * 0.5, -long * 0.75):
            b.sphere((side * 0.19, 0.03, z + 0.08), (0.09, 0.035, 0.055), lighter(b.main, 0.55))
    z = long * 0.95
    b.sphere((0, 0.80, z), (0.235, 0.25, 0.23), b.main)
    b.path(
        [
            (0, 0.74, z + 0.17),
            (0, 0.54, z + 0.33),
            (0, 0.32, z + 0.36),
            (0, 0.16, z + 0.42),
            (0, 0.15, z + 0.54),
        ],
        [0.10, 0.085, 0.07, 0.06, 0.055],
        b.main,
    )
    for side in (-1, 1):
        b.sphere((side * 0.36, 0.80, z - 0.09), (0.24, 0.28, 0.045), b.main, turn=(0, side * 22, 0))
        b.sphere(
            (side * 0.365, 0.79, z - 0.065),
            (0.175, 0.21, 0.04),
            mixed(b.main, BLUSH, 0.55),
            turn=(0, side * 22, 0),
        )
        b.path(
            [(side * 0.11, 0.66, z + 0.19), (side * 0.13, 0.56, z + 0.36), (side * 0.12, 0.60, z + 0.48)],
            [0.036, 0.03, 0.012],
            PAPER,
        )
    b.eyes(0.115, 0.88, z + 0.185, 0.042)
    b.path([(0, 0.70, -long - 0.04), (0, 0.42, -long - 0.13)], [0.025, 0.018], b.main)
    b.sphere((0, 0.39, -long - 0.14), 0.035, darker(b.main, 0.5))
    b.head = Head(0, 1.05, z, 0.21)
    b.seat = Seat(0, -0.12, 0.28, 0.30)


def giraffe(b: Builder) -> None:
    patch = b.or_main((0.50, 0.28, 0.10), accent(b.main, 0.45))
    tall = b.vary(1.42, 0.05)
    b.sphere((0, 0.66, -0.08), (0.19, 0.20, 0.33), b.main)
    _legs(b, 0.11, 0.13, -0.29, 0.62, 0.05, b.main)
    for side in (-1, 1):
        for z in (0.13, -0.29):
            b.cylinder((side * 0.11, 0.04, z), (0.058, 0.04, 0.058), darker(patch, 0.3))
    b.limb((0, 0.68, 0.14), (0, tall, 0.36), 0.14, 0.075, b.main)
    b.sphere((0, tall + 0.06, 0.40), (0.10, 0.105, 0.14), b.main)
    b.limb((0, tall + 0.05, 0.45), (0, tall - 0.01, 0.64), 0.085, 0.065, lighter(b.main, 0.3))
    for side in (-1, 1):
        b.limb((side * 0.05, tall + 0.12, 0.37), (side * 0.06, tall + 0.28, 0.35), 0.018, 0.016, b.main)
        b.sphere((side * 0.06, tall + 0.29, 0.35), 0.034, darker(patch, 0.3))
        b.sphere((side * 0.15, tall + 0.12, 0.34), (0.085, 0.035, 0.03), b.main, turn=(0, 0, side * 25))
        for y, z, r in ((0.70, 0.06, 0.075), (0.62, -0.10, 0.065), (0.74, -0.14, 0.07), (0.66, -0.29, 0.06)):
            b.sphere((side * 0.165, y, z), (0.04, r, r), patch)
        for k in range(4):
            s = 0.18 + 0.21 * k
            y, z = 0.68 + (tall - 0.68) * s, 0.14 + 0.22 * s
            b.sphere((side * (0.115 - 0.055 * s), y, z), (0.035, 0.062, 0.05), patch)
    for k in range(3):
        s = 0.28 + 0.22 * k
        y, z = 0.68 + (tall - 0.68) * s, 0.14 + 0.22 * s
        b.sphere((0, y, z + 0.115 - 0.05 * s), (0.05, 0.055, 0.03), patch)
        b.sphere((0, y + 0.08, z - 0.085 + 0.05 * s), (0.05, 0.055, 0.03), patch)
    b.sphere((0, 0.84, -0.10), (0.08, 0.03, 0.09), patch)
    b.eyes(0.075, tall + 0.09, 0.49, 0.03)
    b.path([(0, 0.72, -0.40), (0, 0.46, -0.48)], [0.022, 0.016], b.main)
    b.sphere((0, 0.43, -0.485), 0.036, darker(patch, 0.3))
    b.head = Head(0, tall + 0.16, 0.40, 0.12)
    b.seat = Seat(0, -0.14, 0.15, 0.2)


def turtle(b: Builder) -> None:
    skin = b.or_main((0.55, 0.68, 0.25), (0.58, 0.66, 0.32))
    shell = b.main if not b.natural else darker(b.main, 0.15)
    x, z, h = b.vary(0.40), b.vary(0.46), b.vary(0.36)
    b.sphere((0, 0.14, 0), (x, h, z), shell, cut=0.0)
    b.cylinder((0, 0.14, 0), (x * 1.06, 0.03, z * 1.06), lighter(shell, 0.35))
    b.cylinder((0, 0.10, 0), (x * 0.92, 0.05, z * 0.92), skin)
    patch = accent(shell, 0.3)
    b.sphere((0, 0.14 + h, 0), (0.13, 0.02, 0.14), patch)
    for k in range(6):
        a = math.radians(30 + 60 * k)
        e = math.radians(42)
        at = (x * math.cos(e) * math.sin(a), 0.14 + h * math.sin(e), z * math.cos(e) * math.cos(a))
        b.sphere(at, (0.085, 0.085, 0.085), patch)
    b.limb((0, 0.16, z * 0.85), (0, 0.27, z + 0.20), 0.10, 0.085, skin)
    b.sphere((0, 0.31, z + 0.24), (0.135, 0.125, 0.15), skin)
    b.eyes(0.08, 0.355, z + 0.335, 0.036, white=False)
    for side in (-1, 1):
        for end in (-1, 1):
            b.limb(
                (side * x * 0.72, 0.12, end * z * 0.62),
                (side * x * 0.98, 0.0, end * z * 0.80),
                0.105,
                0.09,
                skin,
            )
    b.limb((0, 0.12, -z * 0.9), (0, 0.08, -z - 0.18), 0.055, 0.006, skin)
    b.head = Head(0, 0.43, z + 0.24, 0.12)
    b.seat = Seat(0, 0, 0.26, 0.28)


def snail(b: Builder) -> None:
    skin: Rgb = (0.86, 0.74, 0.50)
    r = b.vary(0.36, 0.08)
    b.sphere((0, 0.07, 0.0), (0.14, 0.085, 0.58), skin, cut=-0.8)
    b.limb((0, 0.06, 0.36), (0, 0.36, 0.56), 0.12, 0.10, skin)
    b.sphere((0, 0.38, 0.57), (0.115, 0.12, 0.12), skin)
    for side in (-1, 1):
        b.limb((side * 0.055, 0.44, 0.58), (side * 0.12, 0.66, 0.66), 0.024, 0.02, skin)
        b.sphere((side * 0.12, 0.68, 0.665), 0.05, INK)
    y, z = 0.10 + r, -0.08
    tone = accent(b.main, 0.42)
    b.sphere((0, y, z), (0.19, r, r), b.main)
    for share, thick, rgb in (
        (0.74, 0.205, tone),
        (0.56, 0.222, b.main),
        (0.34, 0.235, tone),
        (0.17, 0.245, b.main),
    ):
        b.sphere((0, y + 0.02 * (1 - share), z), (thick, r * share, r * share), rgb)
    b.head = Head(0, 0.50, 0.57, 0.11)
    b.seat = Seat(0, -0.08, 0.15, 0.25)


def pig(b: Builder) -> None:
    snout = mixed(b.main, BLUSH if not b.natural else (0.90, 0.35, 0.50), 0.5)
    long = b.vary(0.40)
    b.sphere((0, 0.42, -0.04), (0.28, 0.28, long), b.main)
    _legs(b, 0.16, long * 0.5, -long * 0.65, 0.30, 0.075, b.main)
    for side in (-1, 1):
        for z in (long * 0.5, -long * 0.65):
            b.cylinder((side * 0.16, 0.03, z), (0.082, 0.03, 0.082), darker(b.main, 0.55))
    z = long * 0.92
    b.sphere((0, 0.52, z), (0.225, 0.215, 0.20), b.main)
    b.limb((0, 0.48, z + 0.12), (0, 0.48, z + 0.27), 0.115, 0.105, snout)
    for side in (-1, 1):
        b.sphere((side * 0.042, 0.48, z + 0.27), (0.022, 0.034, 0.012), darker(snout, 0.6))
        b.limb((side * 0.13, 0.66, z + 0.0), (side * 0.19, 0.82, z + 0.06), 0.085, 0.005, snout)
    b.eyes(0.10, 0.60, z + 0.165, 0.038, white=max(b.main) < 0.4)
    ring = [(0.0, 0.50, -long - 0.02)]
    for k in range(1, 6):
        a = k * 1.5
        ring.append((0.05 * math.sin(a), 0.52 + 0.05 * (1 - math.cos(a)), -long - 0.03 - 0.025 * k))
    b.path(ring, [0.026] * 6, snout)
    b.head = Head(0, 0.735, z, 0.18)
    b.seat = Seat(0, -0.05, 0.22, 0.25)


def bear(b: Builder) -> None:
    light = lighter(b.main, 0.5)
    b.sphere((0, 0.36, 0), (b.vary(0.28, 0.07), 0.34, 0.25), b.main)
    b.sphere((0, 0.34, 0.12), (0.19, 0.23, 0.16), light)
    b.sphere((0, 0.83, 0.03), (0.265, 0.245, 0.235), b.main)
    b.sphere((0, 0.775, 0.23), (0.12, 0.095, 0.095), light)
    b.sphere((0, 0.815, 0.325), (0.045, 0.034, 0.03), INK)
    b.eyes(0.105, 0.885, 0.235, 0.038, white=max(b.main) < 0.3)
    for side in (-1, 1):
        b.sphere((side * 0.205, 1.03, 0.0), (0.105, 0.105, 0.06), b.main)
        b.sphere((side * 0.205, 1.03, 0.035), (0.062, 0.062, 0.045), light)
        b.limb((side * 0.20, 0.56, 0.04), (side * 0.40, 0.34, 0.16), 0.095, 0.085, b.main)
        b.sphere((side * 0.41, 0.33, 0.165), 0.095, b.main)
        b.limb((side * 0.15, 0.14, 0.06), (side * 0.22, 0.12, 0.38), 0.125, 0.115, b.main)
        b.sphere((side * 0.22, 0.13, 0.40), (0.125, 0.13, 0.07), b.main)
        b.sphere((side * 0.22, 0.13, 0.445), (0.08, 0.085, 0.04), light)
    b.head = Head(0, 1.07, 0.03, 0.21)
    b.seat = Seat(0, 0, 0.2, 0.2)


def owl(b: Builder) -> None:
    light = lighter(b.main, 0.5)
    b.sphere((0, 0.42, 0), (b.vary(0.30, 0.07), 0.42, 0.26), b.main, cut=-0.95)
    b.sphere((0, 0.36, 0.085), (0.21, 0.30, 0.20), light)
    for row, count in ((0.26, 3), (0.38, 4), (0.50, 3)):
        for k in range(count):
            x = (k - (count - 1) / 2) * 0.095
            b.sphere((x, row, 0.275 - 1.2 * x * x - 0.35 * (row - 0.36) ** 2), (0.03, 0.035, 0.02), b.main)
    b.sphere((0, 0.80, 0.02), (0.285, 0.23, 0.235), b.main)
    for side in (-1, 1):
        b.sphere((side * 0.125, 0.83, 0.185), (0.125, 0.125, 0.055), PAPER)
        b.sphere((side * 0.125, 0.83, 0.215), (0.088, 0.088, 0.05), (0.98, 0.78, 0.10))
        b.sphere((side * 0.125, 0.83, 0.245), (0.052, 0.052, 0.04), INK)
        b.limb((side * 0.17, 0.94, 0.04), (side * 0.25, 1.16, 0.06), 0.09, 0.005, b.main)
        b.sphere((side * 0.30, 0.44, -0.02), (0.055, 0.30, 0.17), darker(b.main, 0.25), turn=(0, 0, side * 8))
        b.sphere((side * 0.10, 0.02, 0.18), (0.075, 0.03, 0.10), BEAK)
    b.limb((0, 0.78, 0.22), (0, 0.69, 0.30), 0.05, 0.005, BEAK)
    b.head = Head(0, 1.01, 0.02, 0.22)
    b.seat = Seat(0, 0, 0.2, 0.2)


def robot(b: Builder) -> None:
    tone = accent(b.main, 0.35)
    glow: Rgb = (0.25, 0.90, 0.95)
    x = b.vary(0.25)
    b.box((0, 0.52, 0), (x, 0.24, 0.17), b.main)
    b.box((0, 0.56, 0.17), (x * 0.62, 0.11, 0.015), tone)
    for k, rgb in enumerate(((0.9, 0.15, 0.1), (0.95, 0.8, 0.1), (0.15, 0.75, 0.2))):
        b.sphere(((k - 1) * 0.09, 0.57, 0.185), (0.03, 0.03, 0.015), rgb)
    b.cylinder((0, 0.79, 0), (0.07, 0.04, 0.07), tone)
    b.box((0, 0.97, 0), (0.22, 0.155, 0.17), b.main)
    b.limb((0, 1.12, 0), (0, 1.27, 0), 0.018, 0.018, tone)
    b.sphere((0, 1.29, 0), 0.045, (0.9, 0.15, 0.1))
    b.box((0, 0.90, 0.17), (0.12, 0.025, 0.012), INK)
    for side in (-1, 1):
        b.sphere((side * 0.095, 1.01, 0.165), (0.062, 0.062, 0.03), INK)
        b.sphere((side * 0.095, 1.01, 0.185), (0.042, 0.042, 0.025), glow)
        b.cylinder((side * 0.24, 0.97, 0), (0.05, 0.03, 0.05), tone, turn=(0, 0, 90))
        b.sphere((side * (x + 0.05), 0.70, 0), 0.075, tone)
        b.limb((side * (x + 0.07), 0.68, 0), (side * (x + 0.12), 0.40, 0.06), 0.05, 0.05, b.main)
        b.sphere((side * (x + 0.12), 0.35, 0.07), 0.075, tone)
        b.box((side * 0.12, 0.17, 0), (0.065, 0.13, 0.075), tone)
        b.box((side * 0.12, 0.045, 0.04), (0.095, 0.045, 0.135), b.main)
    b.head = Head(0, 1.13, 0, 0.19)
    b.seat = Seat(0, 0, 0.2, 0.15)
