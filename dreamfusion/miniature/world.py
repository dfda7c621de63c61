"""The procedural world: which scenes there are, which are kept from training, and how they are put together.

`python -m dreamfusion.miniature.world --sheet FILE` draws every noun from four sides.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dreamfusion.miniature.nouns import NOUNS, Noun, sculpt
from dreamfusion.miniature.nouns_builder import COLORS, Builder, Rgb, Seat
from dreamfusion.miniature.solids import Solids, bounds, merge, ray_intervals, surface_points

WORLD_VERSION = 4

Relation = Literal["on", "next to", "under", "wearing", "in"]
Split = Literal["train", "held_out"]

# The scene's ball and the cameras around it; the miniature preset trains with the same numbers.
SCENE_RADIUS = 0.8
CAMERA_DISTANCE = (2.3, 2.7)
CAMERA_FOVY_DEG = (40.0, 47.0)
CAMERA_ELEVATION_DEG = (-10.0, 80.0)
UNIFORM_AREA_PROBABILITY = 0.5

PAIR_SHARE = 0.45
COLOR_SHARE = 0.5
RELATION_SHARES: dict[Relation, float] = {"on": 0.56, "next to": 0.22, "under": 0.08, "wearing": 0.14}
HELD_OUT_PERCENT = 12
ALWAYS_HELD_OUT_PAIR = frozenset({"peacock", "surfboard"})
EVEN_SHARES: Mapping[str, float] = {}
# The nouns of the first prompt that anybody tries are shown more often: no other has as many parts as the peacock, and
# the pair has to be put together from what each looks like elsewhere.
TRAINING_SHARES: Mapping[str, float] = {"peacock": 8.0, "surfboard": 3.0}
# The least and the largest size of a thing beside what it stands on: at 64 px a smaller one is a blot.
ON_SIZES = (0.65, 1.0)
# How deep a thing presses into what it rests on, so that no crack shows.
SINK = 0.008


@dataclass(frozen=True)
class Thing:
    """A noun with or without a colour word; in the wide world also which mesh shows it (None leaves that open)."""

    noun: str
    color: str | None = None
    mesh: str | None = None


@dataclass(frozen=True)
class SceneSpec:
    """What a scene holds: one thing, or two and their relation ("A on B": things = (A, B))."""

    things: tuple[Thing, ...]
    relation: Relation | None = None

    def uncoloured(self) -> SceneSpec:
        """The same things without a word for their colours."""
        return replace(self, things=tuple(replace(thing, color=None) for thing in self.things))

    def to_json(self) -> str:
        """One line of JSON."""
        things = [[thing.noun, thing.color, *([thing.mesh] if thing.mesh else [])] for thing in self.things]
        return json.dumps({"things": things, "relation": self.relation})

    @staticmethod
    def from_json(text: str) -> SceneSpec:
        """The inverse of `to_json`."""
        data = json.loads(text)
        return SceneSpec(tuple(Thing(*thing) for thing in data["things"]), data["relation"])


# --------------------------------------------------------------------------------------------- held out


def hashed_percent(*words: str) -> int:
    """A number in 0..99 that belongs to these words on every machine."""
    # Python's own hash changes from process to process.
    digest = hashlib.sha256("|".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100


@cache
def held_out_pairs() -> frozenset[frozenset[str]]:
    """Unordered pairs of nouns that no training scene shows together; a noun with itself is never held out."""
    pairs = {
        frozenset(pair)
        for pair in itertools.combinations(sorted(NOUNS), 2)
        if hashed_percent("pair", *pair) < HELD_OUT_PERCENT
    }
    return frozenset(pairs | {ALWAYS_HELD_OUT_PAIR})


@cache
def held_out_colors() -> frozenset[tuple[str, str]]:
    """(noun, colour) that no training scene shows; a noun's natural colours are never held out."""
    return frozenset(
        (noun.name, color)
        for noun in NOUNS.values()
        for color in COLORS
        if color not in noun.natural and hashed_percent("color", noun.name, color) < HELD_OUT_PERCENT
    )


def is_held_out(spec: SceneSpec) -> bool:
    """Whether a scene is kept from training: by its pair of nouns or by the colour of one of its things."""
    if any((thing.noun, thing.color) in held_out_colors() for thing in spec.things):
        return True
    return frozenset(thing.noun for thing in spec.things) in held_out_pairs()


# --------------------------------------------------------------------------------------------- sampling


def _pick(rng: np.random.Generator, names: list[str]) -> str:
    return names[int(rng.integers(len(names)))]


def pick_index(rng: np.random.Generator, weights: Sequence[float | int]) -> int:
    """A random index, in proportion to `weights`."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def _thing(rng: np.random.Generator, noun: str) -> Thing:
    return Thing(noun, _pick(rng, list(COLORS)) if rng.random() < COLOR_SHARE else None)


def _pick_noun(
    rng: np.random.Generator,
    shares: Mapping[str, float],
    names: list[str],
    weight: Callable[[Noun], float] = lambda noun: 1.0,
) -> str:
    weights = [shares.get(name, 1.0) * weight(NOUNS[name]) for name in names]
    if set(weights) == {1.0}:
        return _pick(rng, names)
    return names[pick_index(rng, weights)]


def _any_spec(rng: np.random.Generator, pair: bool, shares: Mapping[str, float]) -> SceneSpec:
    # Not a function in this one: tests check the types of every call, and would compile the check each time.
    pick = partial(_pick_noun, rng, shares)
    names = list(NOUNS)
    if not pair:
        return SceneSpec((_thing(rng, pick(names)),))
    relation = list(RELATION_SHARES)[pick_index(rng, list(RELATION_SHARES.values()))]
    if relation == "wearing":
        first, second = pick([name for name in names if NOUNS[name].wears]), "hat"
    elif relation == "next to":
        first, second = pick(names), pick(names)
    elif relation == "under":
        roofs = [name for name in names if NOUNS[name].shelters]
        if rng.random() < 0.7:
            first, second = pick(names), pick(roofs)
        else:
            first, second = pick(names, lambda noun: noun.support), pick(names)
    else:
        first, second = pick(names), pick(names, lambda noun: noun.support)
    return SceneSpec((_thing(rng, first), _thing(rng, second)), relation)


def sample_spec(
    rng: np.random.Generator, split: Split = "train", shares: Mapping[str, float] = EVEN_SHARES
) -> SceneSpec:
    """A random scene; "train" never gives a held-out one, "held_out" gives nothing else.

    A noun in `shares` is drawn so many times as often as one that is not.

    Raises:
        ValueError: for another split.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"split must be 'train' or 'held_out', got {split!r}")
    # Drawn once, so that rejection takes no more pairs than singles.
    pair = bool(rng.random() < PAIR_SHARE)
    while True:
        spec = _any_spec(rng, pair, shares)
        if len(spec.things) == 2 and spec.things[0].noun == spec.things[1].noun:
            # Twins are told apart by their colours only.
            colors = [thing.color for thing in spec.things]
            if spec.relation != "next to" or None in colors or colors[0] == colors[1]:
                continue
        if is_held_out(spec) == (split == "held_out"):
            return spec


# --------------------------------------------------------------------------------------------- building


@dataclass(frozen=True)
class Composition:
    """A built scene, the main colours of its things, and how many of its solids belong to each, in order."""

    solids: Solids
    colors: tuple[Rgb, ...]
    counts: tuple[int, ...]


@dataclass
class _Placed:
    solids: Solids
    seat: Seat
    head: tuple[float | int, ...] | None
    shelter: tuple[float | int, ...] | None
    low: np.ndarray
    high: np.ndarray

    @property
    def extent(self) -> np.ndarray:
        return self.high - self.low


def _affine(scale: float, shift: Sequence[float] | np.ndarray) -> Tensor:
    x, y, z = (float(v) for v in shift)
    return torch.tensor([[scale, 0, 0, x], [0, scale, 0, y], [0, 0, scale, z], [0, 0, 0, 1]])


def _measured(solids: Solids) -> tuple[np.ndarray, np.ndarray]:
    low, high = bounds(solids)
    return low.numpy().astype(np.float64), high.numpy().astype(np.float64)


def _placed(builder: Builder, size: float) -> _Placed:
    solids = builder.solids()
    low, high = _measured(solids)
    scale = size / float((high - low).max())
    seat = builder.seat or Seat(0.0, 0.0, float(high[0] - low[0]) / 4, float(high[2] - low[2]) / 4)
    head = builder.head
    return _rescaled(
        _Placed(
            solids,
            seat,
            None if head is None else (head.x, head.y, head.z, head.radius),
            builder.shelter,
            low,
            high,
        ),
        scale,
    )


def _rescaled(p: _Placed, s: float) -> _Placed:
    # Scaled, and put on the floor.
    floor = float(p.low[1])
    head, shelter = p.head, p.shelter
    if head is not None:
        head = (head[0] * s, (head[1] - floor) * s, head[2] * s, head[3] * s)
    if shelter is not None:
        shelter = (shelter[0] * s, shelter[1] * s, (shelter[2] - floor) * s, shelter[3] * s)
    return _Placed(
        p.solids.moved(_affine(s, (0.0, -s * floor, 0.0))),
        Seat(p.seat.x * s, p.seat.z * s, p.seat.half_x * s, p.seat.half_z * s, p.seat.wall),
        head,
        shelter,
        (p.low - [0, floor, 0]) * s,
        (p.high - [0, floor, 0]) * s,
    )


def _color_of(thing: Thing, rng: np.random.Generator) -> str:
    if thing.color is not None:
        return thing.color
    natural = NOUNS[thing.noun].natural
    # Without a word a thing that comes in any colour still keeps away from the colours held out for it.
    choices = natural or tuple(c for c in COLORS if (thing.noun, c) not in held_out_colors())
    return choices[int(rng.integers(len(choices)))]


def _shifted(p: _Placed, x: float, y: float, z: float) -> Solids:
    return p.solids.moved(_affine(1.0, (x, y, z)))


def gap_below(upper: Solids, lower: Solids) -> tuple[float, float]:
    """How far `upper` can fall before it touches `lower`, exact over many columns, and the height of that contact.

    (inf, 0) when it would miss.

    Columns go through the lowest points of `upper` and through a grid over the common footprint.
    """
    points = surface_points(upper)
    centres = upper.to_world[:, None, :3, 3]
    # A column through a solid's very rim grazes it, a little inward it hits.
    points = (points + 0.03 * (centres - points)).reshape(-1, 3)
    low, high = bounds(upper)
    base_low, base_high = bounds(lower)
    feet = points[points[:, 1] < low[1] + 0.12 * (high[1] - low[1])][:, [0, 2]]
    first, last = torch.maximum(low, base_low), torch.minimum(high, base_high)
    grid = torch.cartesian_prod(
        torch.linspace(float(first[0]), float(last[0]), 14),
        torch.linspace(float(first[2]), float(last[2]), 14),
    )
    columns = torch.cat([feet, grid])
    rays_o = torch.stack([columns[:, 0], torch.zeros(len(columns)), columns[:, 1]], -1)
    up = torch.tensor([0.0, 1.0, 0.0]).expand_as(rays_o)
    bottoms = ray_intervals(upper, rays_o, up)[0].amin(0)
    tops = ray_intervals(lower, rays_o, up)[1].amax(0)
    gaps = bottoms - tops
    gaps = torch.where(torch.isfinite(gaps), gaps, math.inf)
    if not torch.isfinite(gaps).any():
        return math.inf, 0.0
    touch = int(gaps.argmin())
    return float(gaps[touch]), float(tops[touch])


def _on(upper: _Placed, lower: _Placed) -> tuple[Solids, Solids]:
    seat, extent = lower.seat, upper.extent
    largest = float(lower.extent.max())
    room_x, room_z = 2 * seat.half_x / float(extent[0]), 2 * seat.half_z / float(extent[2])
    least, most = (share * largest / float(extent.max()) for share in ON_SIZES)
    if seat.wall is None:
        scale = min(float(np.clip(1.0, least, most)), max(1.9 * min(room_x, room_z), least))
    else:
        scale = min(1.25 * room_x, 1.35 * room_z, most)
    upper, raised, drop, straddles = _dropped(_rescaled(upper, scale), lower)
    if straddles:
        # Its feet would hang past both sides: small enough to stand, it looks meant.
        fitting = max(0.95 * min(room_x, room_z) / scale, 0.35 * largest / float(upper.extent.max()))
        if fitting < 1.0:
            upper, raised, drop, _ = _dropped(_rescaled(upper, fitting), lower)
    return raised.moved(_affine(1.0, (0.0, -drop, 0.0))), lower.solids


def _dropped(upper: _Placed, lower: _Placed) -> tuple[_Placed, Solids, float, bool]:
    # The thing above its seat, how far it falls, and whether it then hangs over the seat's sides.
    seat, largest = lower.seat, float(lower.extent.max())
    z = seat.z
    if seat.wall == "back":
        z = max(z, seat.z - seat.half_z - float(upper.low[2]))
    elif seat.wall == "front":
        z = min(z, seat.z + seat.half_z - float(upper.high[2]))
    base = float(lower.high[1]) + 1.0
    raised = _shifted(upper, seat.x, base, z)
    gap, height = gap_below(raised, lower.solids)
    if not math.isfinite(gap):
        # Past the seat altogether: at the height of the highest point.
        return upper, raised, 1.0 + SINK * largest, False
    straddles = height - (base - gap) > 0.15 * float(upper.extent[1])
    return upper, raised, gap + SINK * largest, straddles


def _next_to(first: _Placed, second: _Placed, rng: np.random.Generator) -> tuple[Solids, Solids]:
    a, b = float(first.extent.max()), float(second.extent.max())
    first = _rescaled(first, float(np.clip(1.0, 0.55 * b / a, b / a / 0.55)))
    gap = rng.uniform(0.05, 0.14) * max(a, b)
    side = 1.0 if rng.random() < 0.5 else -1.0
    if side > 0:
        x = float(second.high[0] - first.low[0]) + gap
    else:
        x = float(second.low[0] - first.high[0]) - gap
    z = rng.uniform(-0.08, 0.08) * max(a, b)
    return _shifted(first, x, 0.0, z), second.solids


def _under(lower: _Placed, upper: _Placed) -> tuple[Solids, Solids]:
    if upper.shelter is None:
        above, below = _on(upper, lower)
        return below, above
    half_x, half_z, height, z = upper.shelter
    extent = lower.extent
    scale = min(2 * half_x / extent[0], 2.1 * half_z / extent[2], height * 0.94 / extent[1])
    lower = _rescaled(lower, float(scale))
    centre = (lower.low + lower.high) / 2
    return _shifted(lower, -float(centre[0]), 0.0, z - float(centre[2])), upper.solids


def _wearing(wearer: _Placed, hat: _Placed) -> tuple[Solids, Solids]:
    if wearer.head is None:
        above, below = _on(hat, wearer)
        return below, above
    x, y, z, radius = wearer.head
    hat = _rescaled(hat, 3.1 * radius / float(hat.extent[0]))
    return wearer.solids, _shifted(hat, x, y - 0.42 * radius, z)


def compose(spec: SceneSpec, rng: np.random.Generator) -> Composition:
    """The scene `spec` with random proportions, centred in a ball of about `SCENE_RADIUS`, and its main colours."""
    things, colors = [], []
    for thing in spec.things:
        builder = sculpt(thing.noun, _color_of(thing, rng), rng, natural=thing.color is None)
        colors.append(builder.main)
        things.append(_placed(builder, NOUNS[thing.noun].size))
    parts: tuple[Solids, ...]
    if spec.relation is None:
        parts = (things[0].solids,)
    elif spec.relation == "on":
        parts = _on(things[0], things[1])
    elif spec.relation == "under":
        parts = _under(things[0], things[1])
    elif spec.relation == "wearing":
        parts = _wearing(things[0], things[1])
    else:
        parts = _next_to(things[0], things[1], rng)
    solids = _normalised(merge(parts), rng.uniform(0.93, 1.0))
    return Composition(solids, tuple(colors), tuple(len(part) for part in parts))


def _normalised(solids: Solids, fill: float) -> Solids:
    points = surface_points(solids).reshape(-1, 3)
    centre = (points.amin(0) + points.amax(0)) / 2
    radius = (points - centre).norm(dim=-1).max()
    scale = float(fill * SCENE_RADIUS / radius)
    return solids.moved(_affine(scale, (-scale * centre).numpy()))


def build_scene(spec: SceneSpec, rng: np.random.Generator) -> Solids:
    """The solids of `spec` with random proportions, centred in a ball of about `SCENE_RADIUS`."""
    return compose(spec, rng).solids


# --------------------------------------------------------------------------------------------- looking


def draw_sheet(
    specs: list[SceneSpec], views: list[tuple[float, float]], size: int = 64, seed: int = 0, zoom: int = 2
) -> np.ndarray:
    """A contact sheet: one row of `views` (azimuth_deg, elevation_deg) per spec, several specs a line, with names.

    Returns uint8 "height width 3".
    """
    from PIL import Image, ImageDraw

    from dreamfusion.cameras import orbit_cameras
    from dreamfusion.miniature.captions import plain_caption
    from dreamfusion.miniature.raycast import Lights, render
    from dreamfusion.miniature.solids import pack

    n = len(views)
    across = max(1, 1600 // (n * size * zoom))
    cell_h, cell_w = size * zoom + 14, n * size * zoom + 6
    lines = math.ceil(len(specs) / across)
    sheet = Image.new("RGB", (across * cell_w, lines * cell_h), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    cameras = orbit_cameras(
        torch.tensor([v[0] for v in views]), torch.tensor([v[1] for v in views]), 2.5, 43.5, size
    )
    lights = Lights(
        cameras.positions + torch.tensor([0.6, 0.9, 0.3]), torch.full((n,), 0.45), torch.full((n,), 0.55)
    )
    for index, spec in enumerate(specs):
        solids = build_scene(spec, np.random.default_rng([seed, index]))
        picture = render(pack([solids] * n), cameras, torch.full((n, size, size, 3), 0.80), lights)
        row = (picture.rgb.permute(1, 0, 2, 3).reshape(size, n * size, 3) * 255 + 0.5).to(torch.uint8).numpy()
        image = Image.fromarray(row).resize((n * size * zoom, size * zoom), Image.Resampling.NEAREST)
        x, y = (index % across) * cell_w, (index // across) * cell_h
        sheet.paste(image, (x, y + 13))
        draw.text((x + 2, y), plain_caption(spec), fill=(0, 0, 0))
    return np.asarray(sheet)


def main() -> None:
    """Draws the contact sheet of nouns, or of random scenes."""
    import argparse

    from PIL import Image

    parser = argparse.ArgumentParser(description="Draw the procedural world.")
    parser.add_argument("--sheet", required=True, help="PNG file to write")
    parser.add_argument("--scenes", type=int, default=0, help="that many random scenes instead of every noun")
    parser.add_argument("--split", default="train", choices=["train", "held_out"])
    parser.add_argument("--nouns", nargs="*", help="only these nouns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--zoom", type=int, default=2)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    if options.scenes:
        specs = [sample_spec(rng, options.split) for _ in range(options.scenes)]
    else:
        specs = [SceneSpec((Thing(name),)) for name in (options.nouns or NOUNS)]
    views = [(15.0, 15.0), (90.0, 15.0), (180.0, 15.0), (40.0, 70.0)]
    sheet = draw_sheet(specs, views, options.size, options.seed, options.zoom)
    Image.fromarray(sheet).save(options.sheet)


if __name__ == "__main__":
    main()
