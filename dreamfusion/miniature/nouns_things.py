"""Household things, plants, buildings and toys of the procedural world, standing on y = 0 with the front to +Z."""

from __future__ import annotations

import math

from dreamfusion.miniature.nouns_builder import (
    BARK,
    GLASS,
    GOLD,
    LEAF,
    PAPER,
    STEEL,
    WOOD,
    Builder,
    Rgb,
    Seat,
    accent,
    darker,
    lighter,
    luminance,
)
from dreamfusion.miniature.solids import FRUSTUM, SPHERE, UNCUT


def cube(b: Builder) -> None:
    half = 0.5
    b.box((0, half, 0), (half, half, half), b.main)
    b.seat = Seat(0, 0, 0.5, 0.5)


def chair(b: Builder) -> None:
    w, seat, back = b.vary(0.33), b.vary(0.48), b.vary(0.62)
    leg = 0.045
    for x in (-1, 1):
        for z in (-1, 1):
            b.box((x * (w - leg), seat / 2, z * (w - leg)), (leg, seat / 2, leg), darker(b.main, 0.12))
    b.box((0, seat, 0), (w + 0.02, 0.05, w + 0.02), b.main)
    top = seat + back
    for x in (-1, 1):
        b.box((x * (w - leg), seat + back / 2, -w + leg), (leg, back / 2, leg), darker(b.main, 0.12))
    b.box((0, top - 0.13, -w + leg), (w, 0.15, 0.04), b.main)
    b.box((0, top - 0.40, -w + leg), (w, 0.06, 0.035), b.main)
    b.seat = Seat(0, 0.09, w - 0.02, w - 0.10, wall="back")


def table(b: Builder) -> None:
    x, z, h = b.vary(0.66), b.vary(0.45), b.vary(0.55)
    b.box((0, h, 0), (x, 0.055, z), b.main)
    for i in (-1, 1):
        for j in (-1, 1):
            b.box((i * (x - 0.09), h / 2, j * (z - 0.09)), (0.055, h / 2, 0.055), darker(b.main, 0.2))
    b.seat = Seat(0, 0, x, z)
    b.shelter = (x - 0.16, z - 0.05, h - 0.07, 0.0)


def mushroom(b: Builder) -> None:
    h, r = b.vary(0.5), b.vary(0.52)
    cream = (0.94, 0.90, 0.80)
    b.cylinder((0, h / 2, 0), (0.20, h / 2, 0.20), cream, 0.75)
    b.sphere((0, h * 0.92, 0), (r, r * 0.85, r), b.main, cut=0.0)
    spot = accent(b.main, 0.6) if sum(b.main) > 2.4 else PAPER
    for tilt, count in ((0, 1), (48, 5), (78, 7)):
        for k in range(count):
            a = 2 * math.pi * (k / count) + tilt
            e = math.radians(90 - tilt)
            at = (
                r * math.cos(e) * math.sin(a),
                h * 0.92 + 0.85 * r * math.sin(e),
                r * math.cos(e) * math.cos(a),
            )
            size = 0.085 if tilt != 78 else 0.065
            b.sphere(at, size, spot)
    b.seat = Seat(0, 0, 0.3, 0.3)


def tree(b: Builder) -> None:
    h, r = b.vary(0.62), b.vary(0.40, 0.08)
    b.cylinder((0, h / 2, 0), (0.12, h / 2, 0.12), BARK, 0.7)
    y = h + r * 0.55
    b.sphere((0, y + r * 0.42, 0), r * 0.85, b.main)
    turn = b.rng.uniform(0, 2 * math.pi)
    for k in range(5):
        a = turn + 2 * math.pi * k / 5
        tone = (b.main, lighter(b.main, 0.10), darker(b.main, 0.12))[k % 3]
        at = (0.30 * math.sin(a), y + 0.05 * (k % 2), 0.30 * math.cos(a))
        b.sphere(at, r * 0.72, tone)
    b.seat = Seat(0, 0, 0.3, 0.3)


def house(b: Builder) -> None:
    x, z, h = b.vary(0.48, 0.08), b.vary(0.52, 0.08), b.vary(0.52, 0.08)
    red = (0.62, 0.20, 0.14)
    roof = red if abs(b.main[0] - red[0]) + abs(b.main[1] - red[1]) > 0.4 else (0.30, 0.30, 0.34)
    b.box((0, h / 2, 0), (x, h / 2, z), b.main)
    b.roof((0, h - 0.02, 0), x, 0.42, z - 0.002, b.main)
    for side in (-1, 1):
        b.box(
            (side * (x / 2 + 0.04), h + 0.20, 0),
            (math.hypot(x, 0.42) / 2 + 0.09, 0.035, z + 0.08),
            roof,
            turn=(0, 0, -side * math.degrees(math.atan2(0.42, x))),
        )
    b.box((0, 0.17, z), (0.105, 0.17, 0.015), (0.36, 0.20, 0.10))
    for side in (-1, 1):
        b.box((side * x * 0.62, h * 0.58, z), (0.095, 0.095, 0.014), GLASS)
        b.box((side * x * 0.62, h * 0.58, z), (0.115, 0.115, 0.008), PAPER)
        b.box((side * x * 0.5, h * 0.58, -z), (0.10, 0.10, 0.014), GLASS)
        for dz in (-0.5, 0.5):
            b.box((side * x, h * 0.58, dz * z), (0.014, 0.10, 0.10), GLASS)
    b.box((x * 0.5, h + 0.36, -z * 0.4), (0.075, 0.20, 0.075), (0.50, 0.25, 0.20))
    b.seat = Seat(0, 0, 0.3, 0.4)


def mug(b: Builder) -> None:
    r, h = b.vary(0.34), b.vary(0.74)
    b.cylinder((0, h / 2, 0), (r, h / 2, r), b.main)
    b.cylinder((0, h - 0.03, 0), (r * 0.87, 0.034, r * 0.87), (0.25, 0.13, 0.06))
    points, radii = [], []
    for k in range(8):
        a = math.radians(-82 + 164 * k / 7)
        points.append((r * 0.96 + 0.25 * math.cos(a), h * 0.5 + 0.25 * math.sin(a), 0))
        radii.append(0.058)
    b.path(points, radii, b.main)
    b.seat = Seat(0, 0, r, r)


def hat(b: Builder) -> None:
    r, h = b.vary(0.30, 0.08), b.vary(0.42)
    b.cylinder((0, 0.03, 0), (r * 1.85, 0.03, r * 1.85), b.main)
    b.cylinder((0, 0.06 + h / 2, 0), (r, h / 2, r), b.main, 0.88)
    band = (0.75, 0.10, 0.12) if not (b.main[0] > 0.7 and b.main[1] < 0.3) else PAPER
    b.cylinder((0, 0.13, 0), (r * 1.04, 0.06, r * 1.04), band, 0.96)
    b.seat = Seat(0, 0, r, r)


def ball(b: Builder) -> None:
    r = 0.5
    stripe = PAPER if luminance(b.main) < 0.8 else (0.85, 0.15, 0.12)
    b.sphere((0, r, 0), r, b.main)
    for k in range(3):
        b.cylinder((0, r, 0), (r * 1.003, 0.075, r * 1.003), stripe, turn=(0, 30 + 60 * k, 90))
    for y in (-1, 1):
        b.sphere((0, r + y * r * 0.93, 0), (0.15, 0.05, 0.15), stripe)


def sofa(b: Builder) -> None:
    x, z = b.vary(0.66, 0.08), b.vary(0.32)
    tone = accent(b.main, 0.14)
    b.box((0, 0.20, 0), (x, 0.13, z), b.main)
    b.box((0, 0.50, -z + 0.06), (x, 0.30, 0.10), b.main)
    b.sphere((0, 0.80, -z + 0.06), (x, 0.05, 0.10), b.main)
    for side in (-1, 1):
        b.box((side * (x + 0.02), 0.30, 0.02), (0.10, 0.23, z + 0.02), b.main)
        b.limb((side * (x + 0.02), 0.53, -z), (side * (x + 0.02), 0.53, z + 0.05), 0.115, 0.115, b.main)
        b.box((side * x * 0.45, 0.36, 0.06), (x * 0.41, 0.06, z * 0.88), tone)
        b.box((side * x * 0.45, 0.58, -z + 0.18), (x * 0.41, 0.16, 0.06), tone, turn=(-8, 0, 0))
        for end in (-1, 1):
            b.cylinder((side * x * 0.9, 0.035, end * z * 0.8), (0.04, 0.04, 0.04), darker(WOOD, 0.5))
    b.seat = Seat(0, 0.10, x * 0.85, z * 0.72, wall="back")


def bed(b: Builder) -> None:
    x, z = b.vary(0.42, 0.08), b.vary(0.72, 0.06)
    b.box((0, 0.20, 0), (x, 0.08, z), WOOD)
    for i in (-1, 1):
        for j in (-1, 1):
            b.box((i * (x - 0.05), 0.08, j * (z - 0.05)), (0.05, 0.08, 0.05), darker(WOOD, 0.3))
    b.box((0, 0.42, -z), (x + 0.02, 0.40, 0.05), WOOD)
    b.box((0, 0.24, z), (x + 0.02, 0.20, 0.04), WOOD)
    b.box((0, 0.33, -0.01), (x * 0.96, 0.08, z * 0.95), (0.95, 0.95, 0.93))
    b.box((0, 0.35, z * 0.22), (x * 0.99, 0.10, z * 0.74), b.main)
    b.box((0, 0.355, -z * 0.46), (x * 0.985, 0.105, z * 0.07), lighter(b.main, 0.6))
    for side in (-1, 1):
        b.sphere((side * x * 0.48, 0.46, -z * 0.76), (x * 0.40, 0.085, 0.13), PAPER)
    b.seat = Seat(0, 0.12, x * 0.95, z * 0.70)


def lamp(b: Builder) -> None:
    h, r = b.vary(0.62), b.vary(0.34)
    metal = (0.72, 0.58, 0.25)
    b.cylinder((0, 0.03, 0), (0.22, 0.03, 0.22), metal)
    b.sphere((0, 0.10, 0), (0.10, 0.10, 0.10), metal)
    b.limb((0, 0.06, 0), (0, h + 0.1, 0), 0.035, 0.03, metal)
    b.sphere((0, h + 0.08, 0), (0.11, 0.13, 0.11), (1.0, 0.95, 0.60))
    b.cylinder((0, h + 0.22, 0), (r, 0.22, r), b.main, 0.55)
    b.cylinder((0, h + 0.005, 0), (r * 0.93, 0.012, r * 0.93), (1.0, 0.93, 0.62))
    b.cylinder((0, h + 0.435, 0), (r * 0.5, 0.012, r * 0.5), (1.0, 0.93, 0.62))
    b.sphere((0, h + 0.47, 0), 0.03, metal)


def umbrella(b: Builder) -> None:
    r, h = b.vary(0.62, 0.08), b.vary(0.86)
    b.limb((0, 0.12, 0), (0, h + 0.30, 0), 0.022, 0.022, STEEL)
    hook = [(0.0, 0.16, 0.0)]
    for k in range(1, 6):
        a = math.radians(180 + 36 * k)
        hook.append((0.10 + 0.10 * math.cos(a), 0.13 + 0.10 * math.sin(a), 0.0))
    b.path(hook, [0.036] * 6, WOOD)
    b.sphere((0, h, 0), (r, 0.34, r), b.main, cut=0.0)
    tone = accent(b.main, 0.25)
    for k in range(4):
        b.sphere((0, h, 0), (r * 1.012, 0.345, 0.02), tone, turn=(0, 45 * k, 0), cut=0.0)
    for k in range(8):
        a = math.radians(45 * k)
        b.sphere((r * math.sin(a), h, r * math.cos(a)), 0.028, tone)
    b.cone((0, h + 0.33, 0), 0.03, 0.14, STEEL)
    # In front of the pole.
    b.shelter = (r * 0.75, r * 0.42, h - 0.02, r * 0.42 + 0.05)
    b.seat = Seat(0, 0, 0.25, 0.25)


def bottle(b: Builder) -> None:
    r, h = b.vary(0.21), b.vary(0.58)
    b.cylinder((0, h / 2, 0), (r, h / 2, r), b.main)
    b.sphere((0, h, 0), (r, 0.17, r), b.main)
    b.limb((0, h + 0.10, 0), (0, h + 0.42, 0), 0.085, 0.07, b.main)
    b.cylinder((0, h + 0.33, 0), (0.085, 0.018, 0.085), darker(b.main, 0.2))
    b.cylinder((0, h + 0.45, 0), (0.062, 0.06, 0.062), (0.70, 0.50, 0.30))
    label = (0.95, 0.92, 0.82) if luminance(b.main) < 0.7 else (0.75, 0.2, 0.2)
    b.cylinder((0, h * 0.50, 0), (r * 1.012, h * 0.22, r * 1.012), label)


def vase(b: Builder) -> None:
    r, h = b.vary(0.30), b.vary(0.86, 0.06)
    tone = accent(b.main, 0.5)
    b.cylinder((0, 0.03, 0), (r * 0.66, 0.03, r * 0.66), tone)
    b.cylinder((0, h * 0.20, 0), (r * 0.56, h * 0.20, r * 0.56), b.main, 1.7)
    b.sphere((0, h * 0.46, 0), (r, h * 0.28, r), b.main)
    b.cylinder((0, h * 0.72, 0), (r * 0.62, h * 0.14, r * 0.62), b.main, 0.7)
    b.cylinder((0, h * 0.90, 0), (r * 0.42, h * 0.085, r * 0.42), b.main, 1.75)
    b.cylinder((0, h * 0.978, 0), (r * 0.66, 0.008, r * 0.66), (0.12, 0.10, 0.10))
    b.cylinder((0, h * 0.46, 0), (r * 1.02, 0.045, r * 1.02), tone)
    b.cylinder((0, h * 0.79, 0), (r * 0.50, 0.02, r * 0.50), tone)


def teapot(b: Builder) -> None:
    r = b.vary(0.36, 0.08)
    tone = accent(b.main, 0.35)
    b.cylinder((0, 0.025, 0), (r * 0.62, 0.025, r * 0.62), tone)
    b.sphere((0, 0.33, 0), (r, 0.30, r), b.main)
    b.sphere((0, 0.56, 0), (r * 0.58, 0.11, r * 0.58), tone, cut=0.0)
    b.sphere((0, 0.69, 0), 0.055, tone)
    b.path([(r * 0.75, 0.24, 0), (r + 0.16, 0.34, 0), (r + 0.28, 0.56, 0)], [0.12, 0.07, 0.045], b.main)
    points = []
    for k in range(8):
        a = math.radians(95 + 170 * k / 7)
        points.append((-r * 0.90 + 0.27 * math.cos(a), 0.35 + 0.21 * math.sin(a), 0))
    b.path(points, [0.045] * 8, b.main)


def cake(b: Builder) -> None:
    r = b.vary(0.46, 0.08)
    tone = PAPER if luminance(b.main) < 0.75 else (0.95, 0.55, 0.68)
    b.cylinder((0, 0.02, 0), (r * 1.22, 0.02, r * 1.22), (0.80, 0.82, 0.86))
    b.cylinder((0, 0.19, 0), (r, 0.15, r), b.main)
    b.cylinder((0, 0.44, 0), (r * 0.66, 0.11, r * 0.66), b.main)
    for k in range(12):
        a = 2 * math.pi * k / 12
        b.sphere((r * 0.98 * math.sin(a), 0.34, r * 0.98 * math.cos(a)), 0.075, tone)
        if k % 2 == 0:
            b.sphere((r * 0.64 * math.sin(a), 0.55, r * 0.64 * math.cos(a)), 0.065, tone)
    for k in range(4):
        a = math.radians(45 + 90 * k)
        x, z = 0.16 * math.sin(a), 0.16 * math.cos(a)
        b.limb((x, 0.54, z), (x, 0.76, z), 0.026, 0.026, (0.30, 0.60, 0.90) if k % 2 else (0.95, 0.85, 0.3))
        b.sphere((x, 0.81, z), (0.032, 0.055, 0.032), (1.0, 0.70, 0.15))
    b.sphere((0, 0.60, 0), 0.075, (0.80, 0.05, 0.10))


def apple(b: Builder) -> None:
    r = b.vary(0.42, 0.06)
    for k in range(5):
        a = 2 * math.pi * k / 5
        x, z = 0.12 * math.sin(a), 0.12 * math.cos(a)
        b.sphere((x, 0.44, z), (r * 0.86, r, r * 0.86), b.main)
        b.sphere((x * 0.9, 0.22, z * 0.9), (r * 0.62, r * 0.56, r * 0.62), b.main)
    b.limb((0, 0.76, 0), (0.05, 1.02, 0), 0.035, 0.028, BARK)
    b.sphere((0.20, 0.96, 0.02), (0.17, 0.03, 0.085), LEAF, turn=(0, 0, 22))


def carrot(b: Builder) -> None:
    long, r = b.vary(1.05, 0.06), b.vary(0.19)
    left = -long * 0.42
    b.sphere((left, r, 0), (0.12, r, r), b.main)
    b.limb((left, r, 0), (left + long, r * 0.32, 0), r, 0.03, b.main)
    for k, share in enumerate((0.12, 0.30, 0.50, 0.68)):
        ring = r + (0.03 - r) * share
        x, y = left + long * share, r + (r * 0.32 - r) * share
        b.limb(
            (x - 0.01, y, 0),
            (x + 0.012, y, 0),
            ring * 1.03,
            ring * 1.03,
            darker(b.main, 0.18 + 0.02 * (k % 2)),
        )
    for dy, dz, reach in (
        (0.16, 0, 0.44),
        (0.30, 0.10, 0.36),
        (0.28, -0.12, 0.36),
        (0.05, 0.16, 0.36),
        (0.05, -0.16, 0.36),
    ):
        start = (left - 0.05, r, 0.0)
        tip = (left - reach, r + dy, dz)
        b.limb(start, tip, 0.03, 0.025, LEAF)
        b.sphere(tip, (0.12, 0.065, 0.065), lighter(LEAF, 0.1), turn=(0, 0, -25))


def pumpkin(b: Builder) -> None:
    r, h = b.vary(0.42, 0.06), b.vary(0.33)
    for k in range(8):
        a = 2 * math.pi * k / 8
        tone = b.main if k % 2 else darker(b.main, 0.10)
        b.sphere((r * 0.52 * math.sin(a), h, r * 0.52 * math.cos(a)), (r * 0.58, h, r * 0.58), tone)
    b.path(
        [(0, h * 1.75, 0), (0.02, h * 2.1, 0), (0.10, h * 2.35, 0)], [0.075, 0.055, 0.045], (0.28, 0.42, 0.12)
    )
    b.sphere((-0.16, h * 1.98, 0.05), (0.16, 0.025, 0.10), LEAF, turn=(0, 20, 12))


def pineapple(b: Builder) -> None:
    r, h = b.vary(0.29, 0.06), b.vary(0.42, 0.06)
    b.sphere((0, h, 0), (r, h, r), b.main, cut=-0.93)
    tone = accent(b.main, 0.38)
    for row in range(6):
        e = math.radians(-58 + 22.5 * row)
        count = max(5, round(9 * math.cos(e)))
        for k in range(count):
            a = 2 * math.pi * (k + 0.5 * (row % 2)) / count
            at = (r * math.cos(e) * math.sin(a), h + h * math.sin(e), r * math.cos(e) * math.cos(a))
            b.sphere(at, (0.045, 0.05, 0.045), tone)
    top = 2 * h - 0.06
    for ring, count, reach, rise in ((0, 6, 0.30, 0.20), (1, 6, 0.20, 0.34), (2, 3, 0.06, 0.46)):
        for k in range(count):
            a = 2 * math.pi * (k + 0.5 * ring) / count
            b.limb(
                (0.05 * math.sin(a), top, 0.05 * math.cos(a)),
                (reach * math.sin(a), top + rise, reach * math.cos(a)),
                0.07,
                0.004,
                LEAF if ring != 1 else lighter(LEAF, 0.15),
            )


def cactus(b: Builder) -> None:
    h, r = b.vary(0.90, 0.08), b.vary(0.155)
    pot = (0.72, 0.36, 0.20) if abs(b.main[0] - 0.72) + abs(b.main[1] - 0.36) > 0.3 else (0.9, 0.88, 0.82)
    _pot(b, pot)
    base = 0.26
    b.limb((0, base, 0), (0, base + h, 0), r, r, b.main)
    b.sphere((0, base + h, 0), r, b.main)
    for side, low, reach in ((1, 0.30, 0.34), (-1, 0.46, 0.26)):
        y = base + h * low
        b.path(
            [(side * r * 0.5, y, 0), (side * 0.34, y, 0), (side * 0.34, y + reach, 0)],
            [0.09, 0.09, 0.09],
            b.main,
        )
    tone = lighter(b.main, 0.65)
    for k in range(8):
        a = 2 * math.pi * k / 8
        for y in (0.22, 0.50, 0.78, 1.0):
            b.sphere((r * math.sin(a), base + h * y, r * math.cos(a)), 0.02, tone)
    b.sphere((0, base + h + r, 0), (0.075, 0.05, 0.075), (0.95, 0.35, 0.60))


def _pot(b: Builder, rgb: Rgb) -> None:
    b.cylinder((0, 0.12, 0), (0.19, 0.12, 0.19), rgb, 1.35)
    b.cylinder((0, 0.25, 0), (0.29, 0.04, 0.29), lighter(rgb, 0.12))
    b.cylinder((0, 0.285, 0), (0.24, 0.01, 0.24), (0.25, 0.16, 0.10))


def flower(b: Builder) -> None:
    h = b.vary(0.80, 0.08)
    _pot(b, (0.72, 0.36, 0.20))
    b.limb((0, 0.26, 0), (0, h, 0), 0.035, 0.03, LEAF)
    for side in (-1, 1):
        b.sphere((side * 0.18, 0.48, 0.0), (0.20, 0.03, 0.085), LEAF, turn=(0, 0, side * 32))
    tilt = math.radians(-20)
    up, out = (math.cos(tilt), math.sin(tilt)), (-math.sin(tilt), math.cos(tilt))
    r = b.vary(0.19)
    for k in range(7):
        a = 2 * math.pi * k / 7
        s, c = math.sin(a), math.cos(a)
        at = (0.235 * s, h + 0.10 + 0.235 * c * up[0], 0.235 * c * up[1] + 0.03)
        b.put(
            SPHERE,
            at,
            (r * s, r * c * up[0], r * c * up[1]),
            (0.10 * c, -0.10 * s * up[0], -0.10 * s * up[1]),
            (0, 0.035 * out[0], 0.035 * out[1]),
            b.main,
            1.0,
            UNCUT,
        )
    heart = (
        (0.98, 0.80, 0.12)
        if not (b.main[0] > 0.85 and b.main[1] > 0.7 and b.main[2] < 0.4)
        else (0.42, 0.24, 0.10)
    )
    b.sphere((0, h + 0.11, 0.05), (0.125, 0.125, 0.07), heart, turn=(-20, 0, 0))


def castle(b: Builder) -> None:
    x, h = b.vary(0.46, 0.06), b.vary(0.42)
    stone = b.main
    roof = (0.72, 0.16, 0.14) if not (b.main[0] > 0.6 and b.main[1] < 0.35) else (0.20, 0.28, 0.60)
    b.box((0, h / 2, 0), (x, h / 2, x), stone)
    for side in (-1, 1):
        for k in range(4):
            at = -0.30 + 0.20 * k
            b.box((at * x / 0.46, h + 0.04, side * (x - 0.03)), (0.055, 0.05, 0.035), stone)
            b.box((side * (x - 0.03), h + 0.04, at * x / 0.46), (0.035, 0.05, 0.055), stone)
        for end in (-1, 1):
            tower = h * 1.55
            b.cylinder((side * x, tower / 2, end * x), (0.145, tower / 2, 0.145), darker(stone, 0.10))
            b.cone((side * x, tower, end * x), 0.195, 0.34, roof)
            b.box((side * x, tower * 0.78, end * (x + 0.14)), (0.028, 0.055, 0.012), (0.15, 0.12, 0.12))
    keep = h * 1.75
    b.cylinder((0, keep / 2, -0.05), (0.20, keep / 2, 0.20), lighter(stone, 0.08))
    b.cone((0, keep, -0.05), 0.27, 0.42, roof)
    b.limb((0, keep + 0.40, -0.05), (0, keep + 0.62, -0.05), 0.012, 0.012, WOOD)
    b.box((0.085, keep + 0.57, -0.05), (0.08, 0.045, 0.01), GOLD)
    b.box((0, 0.12, x), (0.11, 0.12, 0.02), (0.30, 0.18, 0.09))
    b.cylinder((0, 0.24, x), (0.11, 0.02, 0.11), (0.30, 0.18, 0.09), turn=(90, 0, 0))


def lighthouse(b: Builder) -> None:
    h, r = b.vary(1.05, 0.06), b.vary(0.26, 0.08)
    band = (0.82, 0.10, 0.10) if luminance(b.main) > 0.6 else PAPER
    b.cylinder((0, 0.05, 0), (r * 1.5, 0.05, r * 1.5), (0.48, 0.46, 0.44), 0.85)
    y, steps = 0.08, 5
    for k in range(steps):
        low, high = r * (1 - 0.42 * k / steps), r * (1 - 0.42 * (k + 1) / steps)
        b.limb(
            (0, y + h * k / steps, 0),
            (0, y + h * (k + 1) / steps, 0),
            low,
            high,
            b.main if k % 2 == 0 else band,
        )
    top = y + h
    b.cylinder((0, top + 0.02, 0), (r * 0.82, 0.025, r * 0.82), (0.20, 0.20, 0.22))
    b.cylinder((0, top + 0.13, 0), (r * 0.46, 0.10, r * 0.46), (1.0, 0.90, 0.45))
    b.cone((0, top + 0.22, 0), r * 0.66, 0.20, band if band != PAPER else (0.82, 0.10, 0.10))
    b.box((0, 0.20, r * 0.98), (0.06, 0.11, 0.02), (0.30, 0.18, 0.10))
    b.box((0, top - h * 0.32, r * 0.74), (0.04, 0.05, 0.02), (0.15, 0.20, 0.30))


def tent(b: Builder) -> None:
    x, h, z = b.vary(0.58, 0.08), b.vary(0.72, 0.08), b.vary(0.56, 0.08)
    tone = darker(b.main, 0.2)
    steep = math.degrees(math.atan2(h, x))
    slope = math.hypot(h, x) / 2
    for side in (-1, 1):
        b.box((side * x / 2, h / 2, 0), (slope, 0.022, z), b.main, turn=(0, 0, -side * steep))
    # The triangular ends: flat cones; the front one is dark with two flaps drawn aside.
    b.put(
        FRUSTUM, (0, h / 2 - 0.01, -z + 0.04), (x - 0.02, 0, 0), (0, h / 2, 0), (0, 0, 0.02), tone, 0.0, UNCUT
    )
    b.put(
        FRUSTUM, (0, h / 2 - 0.01, z - 0.10), (x - 0.02, 0, 0), (0, h / 2, 0), (0, 0, 0.02), tone, 0.0, UNCUT
    )
    b.put(
        FRUSTUM,
        (0, h * 0.40, z - 0.085),
        (x * 0.42, 0, 0),
        (0, h * 0.40, 0),
        (0, 0, 0.02),
        (0.10, 0.09, 0.09),
        0.0,
        UNCUT,
    )
    b.limb((0, h, -z), (0, h, z), 0.03, 0.03, lighter(b.main, 0.5))
    for side in (-1, 1):
        b.limb((0, 0.0, side * z), (0, h + 0.10, side * z), 0.02, 0.02, WOOD) if side < 0 else None
        b.box((side * x, 0.012, 0), (0.04, 0.012, z), lighter(b.main, 0.5))


def drum(b: Builder) -> None:
    r, h = b.vary(0.44, 0.08), b.vary(0.52)
    b.cylinder((0, h / 2, 0), (r, h / 2, r), b.main)
    for y in (0.045, h - 0.045):
        b.cylinder((0, y, 0), (r * 1.05, 0.045, r * 1.05), GOLD)
    b.cylinder((0, h + 0.008, 0), (r * 0.96, 0.01, r * 0.96), (0.96, 0.93, 0.86))
    cord = PAPER if luminance(b.main) < 0.75 else (0.3, 0.2, 0.2)
    for k in range(10):
        a, c = 2 * math.pi * k / 10, 2 * math.pi * (k + 0.5) / 10
        d = 2 * math.pi * (k + 1) / 10
        low = (r * 1.02 * math.sin(c), 0.09, r * 1.02 * math.cos(c))
        b.limb((r * 1.02 * math.sin(a), h - 0.09, r * 1.02 * math.cos(a)), low, 0.014, 0.014, cord)
        b.limb(low, (r * 1.02 * math.sin(d), h - 0.09, r * 1.02 * math.cos(d)), 0.014, 0.014, cord)
    for side in (-1, 1):
        b.limb((side * 0.06, h + 0.04, 0.10), (side * 0.46, h + 0.22, 0.30), 0.022, 0.026, WOOD)
        b.sphere((side * 0.06, h + 0.045, 0.10), 0.045, lighter(WOOD, 0.4))


def barrel(b: Builder) -> None:
    r, h = b.vary(0.30, 0.07), b.vary(0.84, 0.07)
    hoop = darker(STEEL, 0.35)
    radii = (1.0, 1.16, 1.22, 1.16, 1.0)
    for k in range(4):
        b.limb((0, h * k / 4, 0), (0, h * (k + 1) / 4, 0), r * radii[k], r * radii[k + 1], b.main)
    for share, wide in ((0.05, 1.04), (0.27, 1.175), (0.73, 1.175), (0.95, 1.04)):
        b.cylinder((0, h * share, 0), (r * wide * 1.01, 0.032, r * wide * 1.01), hoop)
    b.cylinder((0, h, 0), (r * 0.88, 0.006, r * 0.88), darker(b.main, 0.3))
    for k in range(10):
        a = 2 * math.pi * k / 10
        s, c = math.sin(a), math.cos(a)
        for low, high in ((0.08, 0.5), (0.5, 0.92)):
            lo, hi = (1.06, 1.225) if low < 0.3 else (1.225, 1.06)
            b.limb(
                (r * lo * s, h * low, r * lo * c),
                (r * hi * s, h * high, r * hi * c),
                0.011,
                0.011,
                darker(b.main, 0.45),
            )


def windmill(b: Builder) -> None:
    h, r = b.vary(0.86, 0.06), b.vary(0.30, 0.08)
    roof = (0.60, 0.25, 0.16) if not (b.main[0] > 0.5 and b.main[1] < 0.4) else (0.25, 0.26, 0.32)
    b.limb((0, 0, 0), (0, h, 0), r, r * 0.62, b.main)
    b.cone((0, h, 0), r * 0.78, 0.30, roof)
    b.box((0, 0.15, r * 0.93), (0.075, 0.15, 0.03), (0.36, 0.20, 0.10))
    for side in (-1, 1):
        b.box((side * 0.0 + side * r * 0.78, h * 0.5, 0), (0.02, 0.065, 0.055), GLASS)
    hub = (0.0, h * 0.96, r * 0.62 + 0.14)
    b.limb((0, hub[1], 0.1), hub, 0.045, 0.045, darker(WOOD, 0.4))
    b.sphere(hub, 0.06, darker(WOOD, 0.4))
    start = b.rng.uniform(20, 70)
    for k in range(4):
        turn = start + 90 * k
        a = math.radians(turn)
        s, c = math.sin(a), math.cos(a)
        b.box(
            (hub[0] - 0.29 * s, hub[1] + 0.29 * c, hub[2]),
            (0.018, 0.30, 0.018),
            darker(WOOD, 0.4),
            turn=(0, 0, turn),
        )
        side = (0.075 * c, 0.075 * s)
        b.box(
            (hub[0] - 0.36 * s + side[0], hub[1] + 0.36 * c + side[1], hub[2]),
            (0.07, 0.21, 0.010),
            (0.93, 0.88, 0.76),
            turn=(0, 0, turn),
        )


def ice_cream(b: Builder) -> None:
    h, r = b.vary(0.72, 0.06), b.vary(0.26, 0.06)
    waffle = (0.84, 0.60, 0.30)
    b.limb((0, 0, 0), (0, h, 0), 0.03, r * 0.94, waffle)
    for k in range(4):
        share = 0.3 + 0.2 * k
        radius = 0.03 + (r * 0.94 - 0.03) * share
        b.cylinder((0, h * share, 0), (radius * 1.03, 0.012, radius * 1.03), darker(waffle, 0.28))
    b.cylinder((0, h, 0), (r * 1.05, 0.035, r * 1.05), darker(waffle, 0.08))
    for k in range(7):
        a = 2 * math.pi * k / 7
        b.sphere((r * 0.82 * math.sin(a), h + 0.06, r * 0.82 * math.cos(a)), 0.09, b.main)
    b.sphere((0, h + 0.20, 0), (r * 1.08, 0.24, r * 1.08), b.main)
    b.sphere((0, h + 0.44, 0), (r * 0.80, 0.20, r * 0.80), lighter(b.main, 0.25))
    b.sphere((0, h + 0.67, 0), 0.075, (0.82, 0.06, 0.10))
    b.limb((0, h + 0.71, 0), (0.05, h + 0.84, 0), 0.012, 0.012, (0.25, 0.40, 0.12))


def candle(b: Builder) -> None:
    r, h = b.vary(0.15), b.vary(0.72)
    b.cylinder((0, 0.02, 0), (0.36, 0.02, 0.36), GOLD, 1.12)
    b.cylinder((0, 0.09, 0), (r * 1.25, 0.06, r * 1.25), GOLD)
    points = []
    for k in range(6):
        a = math.radians(-80 + 160 * k / 5)
        points.append((0.38 + 0.09 * math.cos(a), 0.09 + 0.075 * math.sin(a), 0))
    b.path(points, [0.028] * 6, GOLD)
    b.cylinder((0, 0.06 + h / 2, 0), (r, h / 2, r), b.main)
    top = 0.06 + h
    b.sphere((0.8 * r, top - 0.06, 0.3 * r), (0.05, 0.11, 0.05), lighter(b.main, 0.2))
    b.sphere((-0.5 * r, top - 0.09, 0.75 * r), (0.045, 0.13, 0.045), lighter(b.main, 0.2))
    b.limb((0, top, 0), (0, top + 0.07, 0), 0.012, 0.012, (0.1, 0.1, 0.1))
    b.sphere((0, top + 0.17, 0), (0.075, 0.12, 0.075), (1.0, 0.62, 0.10))
    b.limb((0, top + 0.22, 0), (0, top + 0.38, 0), 0.06, 0.003, (1.0, 0.62, 0.10))
    b.sphere((0, top + 0.14, 0), (0.078, 0.07, 0.078), (1.0, 0.92, 0.50))
