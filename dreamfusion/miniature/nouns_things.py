"""Household things, plants, buildings and toys of the procedural world, standing on y = 0 with the front to +Z."""

from __future__ import annotations

import math

from dreamfusion.miniature.nouns_builder import (
    BARK,
    GLASS,
    PAPER,
    Builder,
    Head,
    Seat,
    accent,
    darker,
    lighter,
)


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
    b.seat = Seat(0, 0.09, w - 0.02, w - 0.10, walled=True)


def table(b: Builder) -> None:
    x, z, h = b.vary(0.66), b.vary(0.45), b.vary(0.55)
    b.box((0, h, 0), (x, 0.055, z), b.main)
    for i in (-1, 1):
        for j in (-1, 1):
            b.box((i * (x - 0.09), h / 2, j * (z - 0.09)), (0.055, h / 2, 0.055), darker(b.main, 0.2))
    b.seat = Seat(0, 0, x, z)
    b.shelter = (x - 0.16, z - 0.05, h - 0.07)


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
    b.cylinder((0, 0.06 + h / 2, 0), (r, h / 2, r), b.main, 1.05)
    band = (0.75, 0.10, 0.12) if not (b.main[0] > 0.7 and b.main[1] < 0.3) else PAPER
    b.cylinder((0, 0.13, 0), (r * 1.03, 0.06, r * 1.03), band)
    b.seat = Seat(0, 0, r, r)


__all__ = ["Head"]
