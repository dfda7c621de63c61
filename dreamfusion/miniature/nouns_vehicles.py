"""Vehicles and boards of the procedural world, standing on y = 0 with the front to +Z."""

from __future__ import annotations

import math

from dreamfusion.miniature.nouns_builder import (
    GLASS,
    PAPER,
    STEEL,
    Builder,
    Seat,
    accent,
    darker,
)

LAMP = (1.0, 0.93, 0.60)
TAIL_LAMP = (0.80, 0.05, 0.05)


def surfboard(b: Builder) -> None:
    long, wide = b.vary(1.15, 0.06), b.vary(0.30, 0.08)
    y = 0.21
    b.sphere((0, y, 0), (long, 0.055, wide), b.main)
    stripe = PAPER if b.rng.random() < 0.7 and sum(b.main) < 2.3 else accent(b.main, 0.75)
    b.sphere((0, y, 0), (long * 0.985, 0.062, wide * 0.22), stripe)
    # The fin under the tail: a flat cone that leans back.
    tail = -long * 0.68
    b.put(2, (tail, 0.10, 0), (0.16, 0, 0), (0.05, -0.10, 0), (0, 0, 0.028), darker(b.main, 0.35), 0.35, -2.0)
    b.seat = Seat(0, 0, long * 0.75, wide * 0.9)


def car(b: Builder) -> None:
    x, z = b.vary(0.34, 0.06), b.vary(0.74, 0.08)
    r = b.vary(0.155, 0.06)
    y = r + 0.15
    b.box((0, y, 0), (x, 0.13, z), b.main)
    b.sphere((0, y + 0.06, z * 0.62), (x * 0.98, 0.13, z * 0.40), b.main)
    cabin = -0.06 * z
    b.box((0, y + 0.24, cabin), (x * 0.84, 0.13, z * 0.46), GLASS)
    b.box((0, y + 0.37, cabin), (x * 0.86, 0.035, z * 0.44), b.main)
    b.box((0, y + 0.24, cabin), (x * 0.87, 0.14, 0.04), b.main)
    for side in (-1, 1):
        for end in (-1, 1):
            b.box((side * x * 0.78, y + 0.24, cabin + end * z * 0.44), (0.04, 0.13, 0.035), b.main)
            b.wheel((side * (x - 0.01), r, end * z * 0.60), r, 0.075)
        b.sphere((side * x * 0.68, y + 0.02, z), (0.065, 0.06, 0.03), LAMP)
        b.box((side * x * 0.72, y + 0.03, -z), (0.06, 0.04, 0.02), TAIL_LAMP)
    for end in (-1, 1):
        b.box((0, y - 0.10, end * z), (x * 0.92, 0.035, 0.035), STEEL)
    b.seat = Seat(0, cabin, x * 0.85, z * 0.42)


def rocket(b: Builder) -> None:
    r, h = b.vary(0.22), b.vary(0.80, 0.08)
    fin = (0.82, 0.10, 0.10) if not (b.main[0] > 0.7 and b.main[1] < 0.3) else (0.93, 0.93, 0.93)
    y0 = 0.20
    b.cylinder((0, y0 + h / 2, 0), (r, h / 2, r), b.main)
    b.cone((0, y0 + h, 0), r, 0.42, fin)
    b.cylinder((0, 0.11, 0), (r * 0.85, 0.09, r * 0.85), darker(STEEL, 0.4), 0.7)
    for k in range(4):
        a = math.radians(45 + 90 * k)
        s, c = math.sin(a), math.cos(a)
        at = (s * (r + 0.10), 0.24, c * (r + 0.10))
        b.put(1, at, (0.13 * s, -0.13, 0.13 * c), (0, 0.15, 0), (0.025 * c, 0, -0.025 * s), fin, 1.0, -2.0)
    b.sphere((0, y0 + h * 0.68, r * 0.92), (0.115, 0.115, 0.05), STEEL)
    b.sphere((0, y0 + h * 0.68, r * 0.97), (0.08, 0.08, 0.05), (0.25, 0.55, 0.85))
    b.cylinder((0, y0 + h * 0.25, 0), (r * 1.02, 0.05, r * 1.02), fin)
