"""Vehicles and boards of the procedural world, standing on y = 0 with the front to +Z."""

from __future__ import annotations

import math

from dreamfusion.miniature.nouns_builder import (
    GLASS,
    GOLD,
    PAPER,
    STEEL,
    WOOD,
    Builder,
    Seat,
    accent,
    darker,
    lighter,
    luminance,
)

LAMP = (1.0, 0.93, 0.60)
TAIL_LAMP = (0.80, 0.05, 0.05)


def surfboard(b: Builder) -> None:
    long, wide = b.vary(0.92, 0.06), b.vary(0.35, 0.08)
    y = 0.21
    b.sphere((0, y, 0), (long, 0.07, wide), b.main)
    stripe = PAPER if b.rng.random() < 0.7 and sum(b.main) < 2.3 else accent(b.main, 0.75)
    b.sphere((0, y, 0), (long * 0.985, 0.077, wide * 0.22), stripe)
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


def boat(b: Builder) -> None:
    x, z = b.vary(0.30, 0.08), b.vary(0.72, 0.06)
    deck = 0.36
    b.sphere((0, deck, 0), (x, 0.36, z), b.main, turn=(0, 0, 180), cut=0.0)
    b.cylinder((0, deck + 0.012, 0), (x * 1.02, 0.02, z * 1.02), lighter(b.main, 0.55))
    b.cylinder((0, deck + 0.03, 0), (x * 0.86, 0.02, z * 0.90), WOOD)
    mast = 0.30 * z
    b.limb((0, deck, mast), (0, 1.55, mast), 0.028, 0.02, darker(WOOD, 0.3))
    # Two sails: triangles along the hull, flat cones.
    sail = PAPER if min(b.main) < 0.8 else (0.92, 0.87, 0.76)
    b.put(2, (0, 1.02, mast - 0.20), (0.02, 0, 0), (0, 0.46, 0.16), (0, 0, 0.19), sail, 0.02, -2.0)
    b.put(2, (0, 0.92, mast + 0.20), (0.02, 0, 0), (0, 0.36, -0.16), (0, 0, 0.18), sail, 0.02, -2.0)
    b.limb((0, 1.55, mast), (0, 1.66, mast), 0.012, 0.012, b.main)
    b.box((0, 1.63, mast - 0.08), (0.012, 0.04, 0.08), (0.85, 0.1, 0.1))
    b.seat = Seat(0, -0.45 * z, 0.30, 0.26 * z, wall="front")


def airplane(b: Builder) -> None:
    long = b.vary(0.80, 0.06)
    y = 0.36
    trim = accent(b.main, 0.35) if min(b.main) > 0.6 else lighter(b.main, 0.35)
    b.limb((0, y, -long * 0.35), (0, y, long * 0.62), 0.145, 0.145, b.main)
    b.sphere((0, y, long * 0.62), (0.145, 0.145, 0.26), b.main)
    b.limb((0, y, -long * 0.35), (0, y + 0.07, -long), 0.145, 0.045, b.main)
    b.sphere((0, y + 0.085, long * 0.78), (0.085, 0.055, 0.10), GLASS)
    wing = b.vary(0.78, 0.06)
    for side in (-1, 1):
        # Swept wings: sheared boxes.
        b.put(
            1,
            (side * wing / 2, y - 0.03, -0.03),
            (side * wing / 2, 0.02, -0.13),
            (0, 0.022, 0),
            (0, 0, 0.15),
            trim,
            1.0,
            -2.0,
        )
        b.put(
            1,
            (side * 0.16, y + 0.08, -long * 0.90),
            (side * 0.16, 0.01, -0.05),
            (0, 0.018, 0),
            (0, 0, 0.075),
            trim,
            1.0,
            -2.0,
        )
        b.limb(
            (side * wing * 0.45, y - 0.11, 0.20), (side * wing * 0.45, y - 0.11, -0.08), 0.065, 0.055, STEEL
        )
        for k in range(5):
            b.sphere(
                (side * 0.137, y + 0.045, long * (0.45 - 0.17 * k)), (0.02, 0.03, 0.03), (0.15, 0.25, 0.40)
            )
        b.wheel((side * 0.14, 0.075, -0.08), 0.075, 0.03)
        b.limb((side * 0.14, 0.075, -0.08), (side * 0.10, y - 0.08, -0.05), 0.02, 0.02, STEEL)
    b.put(1, (0, y + 0.24, -long * 0.90), (0.018, 0, 0), (0, 0.17, -0.08), (0, 0, 0.09), trim, 1.0, -2.0)
    b.wheel((0, 0.075, long * 0.55), 0.075, 0.03)
    b.limb((0, 0.075, long * 0.55), (0, y - 0.08, long * 0.55), 0.02, 0.02, STEEL)
    b.seat = Seat(0, 0, 0.3, 0.3)


def truck(b: Builder) -> None:
    x, z = b.vary(0.33, 0.06), b.vary(0.88, 0.06)
    r = 0.15
    cargo = lighter(b.main, 0.82) if luminance(b.main) < 0.75 else (0.60, 0.62, 0.66)
    b.box((0, r + 0.07, 0), (x * 0.9, 0.05, z), darker(STEEL, 0.5))
    front = z - 0.24
    b.box((0, r + 0.29, front), (x, 0.20, 0.24), b.main)
    b.box((0, r + 0.60, front - 0.03), (x * 0.96, 0.14, 0.20), b.main)
    b.box((0, r + 0.58, front + 0.10), (x * 0.84, 0.10, 0.08), GLASS)
    for side in (-1, 1):
        b.box((side * x * 0.93, r + 0.58, front - 0.01), (0.03, 0.09, 0.12), GLASS)
        b.sphere((side * x * 0.68, r + 0.18, z), (0.06, 0.06, 0.025), LAMP)
        b.box((side * x * 0.7, r + 0.13, -z), (0.06, 0.04, 0.03), TAIL_LAMP)
        for place in (front, -z * 0.35, -z * 0.75):
            b.wheel((side * (x - 0.02), r, place), r, 0.075)
    b.box((0, r + 0.23, z), (x * 0.4, 0.07, 0.02), STEEL)
    b.box((0, r + 0.52, -0.27), (x * 1.06, 0.42, z - 0.28), b.main)
    b.box((0, r + 0.52, -0.27), (x * 1.075, 0.10, z - 0.30), cargo)
    b.box((0, r + 0.06, z - 0.02), (x * 0.95, 0.035, 0.04), STEEL)
    b.seat = Seat(0, -0.27, x, z - 0.3)


def bus(b: Builder) -> None:
    x, z, h = b.vary(0.31, 0.06), b.vary(0.92, 0.06), b.vary(0.33, 0.06)
    r = 0.14
    y = r + 0.05 + h
    b.box((0, y, 0), (x, h, z), b.main)
    b.box(
        (0, y + h + 0.015, 0),
        (x * 0.93, 0.03, z * 0.97),
        PAPER if luminance(b.main) < 0.8 else (0.7, 0.72, 0.75),
    )
    for side in (-1, 1):
        for k in range(5):
            b.box((side * x, y + h * 0.38, z * (0.72 - 0.36 * k)), (0.012, h * 0.36, z * 0.14), GLASS)
        b.box((side * x, y - h * 0.35, 0), (0.012, 0.03, z), accent(b.main, 0.5))
        for place in (-0.58, 0.60):
            b.wheel((side * (x - 0.02), r, place * z), r, 0.07)
        b.sphere((side * x * 0.70, y - h * 0.62, z), (0.055, 0.055, 0.025), LAMP)
        b.box((side * x * 0.75, y - h * 0.6, -z), (0.05, 0.05, 0.015), TAIL_LAMP)
    b.box((0, y + h * 0.32, z), (x * 0.86, h * 0.42, 0.014), GLASS)
    b.box((0, y + h * 0.38, -z), (x * 0.7, h * 0.32, 0.012), GLASS)
    b.box((0, y - h * 0.9, z), (x * 0.96, 0.035, 0.035), darker(STEEL, 0.5))
    b.seat = Seat(0, 0, x, z * 0.8)


def train(b: Builder) -> None:
    z = b.vary(0.74, 0.06)
    r = b.vary(0.225, 0.06)
    y = 0.52
    tone = (0.80, 0.12, 0.10) if not (b.main[0] > 0.6 and b.main[1] < 0.3) else GOLD
    b.box((0, 0.25, 0), (0.27, 0.06, z), darker(STEEL, 0.55))
    b.limb((0, y, -z * 0.45), (0, y, z * 0.80), r, r, b.main)
    b.limb((0, y, z * 0.80), (0, y, z * 0.86), r * 1.06, r * 1.06, GOLD)
    b.limb((0, y, z * 0.86), (0, y, z * 0.90), r * 0.80, r * 0.80, darker(b.main, 0.35))
    b.limb((0, y, -0.05), (0, y, 0.0), r * 1.03, r * 1.03, GOLD)
    b.cylinder((0, y + r + 0.14, z * 0.58), (0.075, 0.16, 0.075), darker(b.main, 0.35))
    b.cylinder((0, y + r + 0.35, z * 0.58), (0.085, 0.07, 0.085), tone, 1.5)
    b.sphere((0, y + r, z * 0.12), (0.10, 0.12, 0.10), GOLD)
    b.box((0, 0.62, -z * 0.68), (0.29, 0.34, z * 0.30), b.main)
    b.box((0, 0.985, -z * 0.68), (0.35, 0.035, z * 0.37), tone)
    b.box((0, 0.76, -z * 0.68), (0.297, 0.11, z * 0.18), GLASS)
    b.box((0, 0.78, -z * 0.68), (0.20, 0.10, z * 0.306), GLASS)
    for side in (-1, 1):
        b.wheel((side * 0.27, 0.19, -z * 0.62), 0.19, 0.04, tone)
        b.wheel((side * 0.27, 0.15, -z * 0.10), 0.15, 0.04, tone)
        b.wheel((side * 0.27, 0.15, z * 0.28), 0.15, 0.04, tone)
        b.wheel((side * 0.27, 0.15, z * 0.66), 0.15, 0.04, tone)
        b.box((side * 0.325, 0.17, 0), (0.015, 0.02, z * 0.66), STEEL)
    b.put(2, (0, 0.14, z + 0.02), (0.27, 0, 0), (0, 0.13, 0), (0, 0, 0.20), tone, 0.5, -2.0)
    b.sphere((0, y + r * 0.55, z * 0.90), (0.06, 0.06, 0.04), LAMP)
    b.seat = Seat(0, -z * 0.68, 0.3, 0.25)
