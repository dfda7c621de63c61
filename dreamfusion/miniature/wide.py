"""The wide world: the procedural nouns and those that people modelled, together in one scene.

The shipped weights were trained on it. Without the cache of meshes (`scripts/fetch_training_meshes.py`) it holds the procedural
nouns only. The core world is `world.py` and stays as it is.

`python -m dreamfusion.miniature.wide --sheet FILE` draws nouns or random scenes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamfusion.miniature import bodies
from dreamfusion.miniature.bodies import SINK, Body, Place, body_of_mesh, body_of_solids
from dreamfusion.miniature.meshes.bake import Mesh
from dreamfusion.miniature.meshes.catalogue import Catalogue, ObjectNoun, catalogue
from dreamfusion.miniature.meshes.store import MANIFEST, MeshStore
from dreamfusion.miniature.nouns import NOUNS, sculpt
from dreamfusion.miniature.nouns_builder import COLORS, Rgb, jittered
from dreamfusion.miniature.rasterize import Triangles, merge_triangles
from dreamfusion.miniature.solids import Solids, merge, surface_points
from dreamfusion.miniature.world import (
    ALWAYS_HELD_OUT_PAIR,
    COLOR_SHARE,
    PAIR_SHARE,
    SCENE_RADIUS,
    Relation,
    SceneSpec,
    Split,
    Thing,
    hashed_percent,
    pick_index,
)

WIDE_VERSION = 1
DEFAULT_MESHES = Path(".cache/meshes")
# `Thing.mesh` of a procedural thing.
SOLID = "solids"
RELATION_SHARES: dict[Relation, float] = {
    "on": 0.45,
    "next to": 0.2,
    "under": 0.07,
    "wearing": 0.14,
    "in": 0.14,
}
HELD_OUT_PERCENT = 10
NOUNS_WITH_HELD_OUT_MESHES = 20
HELD_OUT_MESH_SHARE = 0.25
# How often a noun that has both is shown by its solids, and a thing without a colour word in its own colours.
SOLID_SHARE = 0.3
OWN_COLORS_SHARE = 0.65
PROPORTIONS = 0.06
# The least size, beside its roof, of a thing that stands under it.
LEAST_BELOW = 0.25


@dataclass(frozen=True)
class WideNoun:
    """A noun of the wide world: what it can do, and the variants that can show it (mesh ids, and `SOLID`)."""

    name: str
    variants: tuple[str, ...]
    size: float | int
    support: float | int
    paint: bool
    natural: tuple[str, ...]
    flags: frozenset[str]


@dataclass(frozen=True)
class WideScene:
    """A built scene, its parts apart: solids (maybe none) and triangles (maybe none), and the main colour of each thing."""

    solids: Solids
    triangles: Triangles
    colors: tuple[Rgb, ...]
    bodies: tuple[Body, ...]


def no_solids() -> Solids:
    """A scene without solids."""
    nothing = torch.zeros(0)
    index = torch.zeros(0, dtype=torch.int64)
    return Solids(index, torch.zeros(0, 4, 4), nothing, nothing, torch.zeros(0, 3), index)


class WideWorld:
    """The nouns that can be shown with the meshes at hand, how scenes are drawn from them and how they are built."""

    def __init__(self, store: MeshStore | None, names: Catalogue | None = None) -> None:
        self.store = store
        self.catalogue = names or catalogue()
        self.nouns = self._nouns()

    @staticmethod
    def open(meshes: Path = DEFAULT_MESHES) -> WideWorld:
        """With the cache in `meshes`, or without one if there is none."""
        return WideWorld(MeshStore(meshes) if (meshes / MANIFEST).exists() else None)

    def _nouns(self) -> dict[str, WideNoun]:
        made = {}
        for noun in NOUNS.values():
            flags = {name for name in ("wears", "shelters") if getattr(noun, name)}
            flags |= {"hat"} if noun.name == "hat" else set()
            made[noun.name] = WideNoun(
                noun.name, (SOLID,), noun.size, noun.support, True, noun.natural, frozenset(flags)
            )
        for noun in self.catalogue.nouns.values():
            there = tuple(mesh for mesh in noun.meshes if self.store is not None and mesh in self.store)
            if there:
                made[noun.name] = _joined(noun, there, made.get(noun.name))
        return made

    # -- held out -----------------------------------------------------------------------------------------

    @cached_property
    def held_out_pairs(self) -> frozenset[frozenset[str]]:
        """Unordered pairs of nouns that no training scene shows together."""
        pairs = {
            frozenset(pair)
            for pair in itertools.combinations(sorted(self.nouns), 2)
            if hashed_percent("pair", *pair) < HELD_OUT_PERCENT
        }
        return frozenset(pairs | {ALWAYS_HELD_OUT_PAIR})

    @cached_property
    def held_out_colors(self) -> frozenset[tuple[str, str]]:
        """(noun, colour) that no training scene shows; a noun's natural colours are never held out."""
        return frozenset(
            (noun.name, color)
            for noun in self.nouns.values()
            for color in COLORS
            if color not in noun.natural and hashed_percent("color", noun.name, color) < HELD_OUT_PERCENT
        )

    @cached_property
    def held_out_meshes(self) -> frozenset[str]:
        """Some of the meshes of twenty nouns that have several: training never shows them."""
        several = [noun for noun in self.catalogue.nouns.values() if len(noun.meshes) >= 3]
        several.sort(key=lambda noun: (hashed_percent("mesh", noun.name), noun.name))
        held: set[str] = set()
        for noun in several[:NOUNS_WITH_HELD_OUT_MESHES]:
            order = sorted(noun.meshes, key=lambda mesh: (hashed_percent("mesh", mesh), mesh))
            held |= set(order[: max(1, round(HELD_OUT_MESH_SHARE * len(order)))])
        return frozenset(held)

    def is_held_out(self, spec: SceneSpec) -> bool:
        """Whether a scene is kept from training: by its pair of nouns, a colour, or a mesh."""
        if any((thing.noun, thing.color) in self.held_out_colors for thing in spec.things):
            return True
        if any(thing.mesh in self.held_out_meshes for thing in spec.things):
            return True
        return frozenset(thing.noun for thing in spec.things) in self.held_out_pairs

    # -- sampling -----------------------------------------------------------------------------------------

    def sample_spec(self, rng: np.random.Generator, split: Split = "train") -> SceneSpec:
        """A random scene; "train" never gives a held-out one, "held_out" gives nothing else.

        Raises:
            ValueError: for another split.
        """
        if split not in ("train", "held_out"):
            raise ValueError(f"split must be 'train' or 'held_out', got {split!r}")
        pair = bool(rng.random() < PAIR_SHARE)
        while True:
            spec = self._any_spec(rng, pair)
            if len(spec.things) == 2 and spec.things[0].noun == spec.things[1].noun:
                continue
            if self.is_held_out(spec) == (split == "held_out"):
                return spec

    def _any_spec(self, rng: np.random.Generator, pair: bool) -> SceneSpec:
        if not pair:
            return SceneSpec((self._thing(rng, self._pick(rng, "")),))
        relation = list(RELATION_SHARES)[pick_index(rng, list(RELATION_SHARES.values()))]
        needed = {"in": "holds", "wearing": "hat", "under": "shelters"}.get(relation, "")
        if needed and not self._with(needed):
            relation, needed = "on", ""
        first = self._pick(rng, "wears" if relation == "wearing" else "")
        second = self._supporting(rng) if relation == "on" else self._pick(rng, needed)
        return SceneSpec((self._thing(rng, first), self._thing(rng, second)), relation)

    def _with(self, flag: str) -> list[str]:
        return [noun.name for noun in self.nouns.values() if not flag or flag in noun.flags]

    def _pick(self, rng: np.random.Generator, flag: str) -> str:
        names = self._with(flag)
        return names[int(rng.integers(len(names)))]

    def _supporting(self, rng: np.random.Generator) -> str:
        return list(self.nouns)[pick_index(rng, [noun.support for noun in self.nouns.values()])]

    def _thing(self, rng: np.random.Generator, name: str) -> Thing:
        variant = self._variant(rng, self.nouns[name])
        color = list(COLORS)[int(rng.integers(len(COLORS)))] if rng.random() < COLOR_SHARE else None
        return Thing(name, color if self._paints(name, variant) else None, variant)

    def _variant(self, rng: np.random.Generator, noun: WideNoun) -> str:
        meshes = [mesh for mesh in noun.variants if mesh != SOLID]
        solid = len(meshes) < len(noun.variants)
        if solid and (not meshes or rng.random() < SOLID_SHARE):
            return SOLID
        return meshes[int(rng.integers(len(meshes)))]

    def _paints(self, name: str, variant: str) -> bool:
        if variant == SOLID or self.store is None:
            return variant == SOLID
        return self.nouns[name].paint and self.store.records[variant].recolourable

    # -- building -----------------------------------------------------------------------------------------

    def compose(self, spec: SceneSpec, rng: np.random.Generator) -> WideScene:
        """The scene `spec` with random proportions, centred in a ball of about `SCENE_RADIUS`.

        A thing that names no mesh gets any that can show it, in its colour.

        Raises:
            KeyError: for a noun or mesh that is not there.
        """
        made = [self.body(thing, rng) for thing in spec.things]
        things, colors = [body for body, _ in made], tuple(color for _, color in made)
        if spec.relation is not None:
            things = list(arranged(spec.relation, things[0], things[1], rng))
        things = normalised(things, rng.uniform(0.93, 1.0))
        solids = [body.geometry.moved(body.matrix) for body in things if isinstance(body.geometry, Solids)]
        meshes = [
            triangles_of(body.geometry).moved(body.matrix)
            for body in things
            if isinstance(body.geometry, Mesh)
        ]
        return WideScene(
            merge(solids) if solids else no_solids(), merge_triangles(meshes), colors, tuple(things)
        )

    def body(self, thing: Thing, rng: np.random.Generator) -> tuple[Body, Rgb]:
        """One thing on the floor, and its main colour."""
        noun, variant = self.nouns[thing.noun], thing.mesh
        if variant is None:
            able = [v for v in noun.variants if thing.color is None or self._paints(thing.noun, v)]
            able = able or list(noun.variants)
            variant = able[int(rng.integers(len(able)))]
        if variant == SOLID:
            return self._solid_body(thing, noun, rng)
        assert self.store is not None
        plain = _mesh_body(self.store, variant, noun.flags)
        color = self._mesh_color(thing, noun, variant, rng)
        mesh: Mesh = plain.geometry if color is None else plain.geometry.recoloured(color)
        x, y, z = (noun.size * rng.uniform(1 - PROPORTIONS, 1 + PROPORTIONS, 3)).tolist()
        return replace(plain, geometry=mesh).scaled(x, y, z), color or _main_color(mesh)

    def _mesh_color(self, thing: Thing, noun: WideNoun, variant: str, rng: np.random.Generator) -> Rgb | None:
        # None leaves the mesh as it is.
        if not self._paints(thing.noun, variant):
            return None
        if thing.color is not None:
            return jittered(rng, COLORS[thing.color])
        of_ldraw = variant.startswith("ld/")
        if not of_ldraw and rng.random() < OWN_COLORS_SHARE:
            return None
        allowed = [c for c in COLORS if (noun.name, c) not in self.held_out_colors]
        choices = list(noun.natural) if noun.natural else allowed
        return jittered(rng, COLORS[choices[int(rng.integers(len(choices)))]])

    def _solid_body(self, thing: Thing, noun: WideNoun, rng: np.random.Generator) -> tuple[Body, Rgb]:
        color = thing.color
        if color is None:
            natural = NOUNS[thing.noun].natural
            choices = natural or tuple(c for c in COLORS if (noun.name, c) not in self.held_out_colors)
            color = choices[int(rng.integers(len(choices)))]
        builder = sculpt(thing.noun, color, rng, natural=thing.color is None)
        body = body_of_solids(builder.solids())
        if builder.seat is not None:
            s = builder.seat
            level = float(body.top_at(np.array(s.x), np.array(s.z)))
            body = replace(
                body,
                seat=Place(
                    float(s.x),
                    float(s.z),
                    float(s.half_x),
                    float(s.half_z),
                    level if math.isfinite(level) else body.high[1],
                ),
            )
        if builder.head is not None:
            h = builder.head
            body = replace(
                body,
                head=Place(float(h.x), float(h.z), float(h.radius), float(h.radius), float(h.y + h.radius)),
            )
        if builder.shelter is not None:
            half_x, half_z, height, z = (float(v) for v in builder.shelter)
            body = replace(body, room=Place(0.0, z, half_x, half_z, height))
        body = body.moved(0.0, -float(body.low[1]), 0.0)
        return body.scaled(float(noun.size / body.extent.max())), builder.main


def _joined(noun: ObjectNoun, meshes: tuple[str, ...], solid: WideNoun | None) -> WideNoun:
    if solid is None:
        return WideNoun(noun.name, meshes, noun.size, noun.support, noun.paint, noun.natural, noun.flags)
    # A procedural noun keeps what it says about itself.
    return replace(solid, variants=(SOLID, *meshes), flags=solid.flags | noun.flags, paint=noun.paint)


# All of them: with room for 256, a third of a scene's time went into putting meshes together that had just been dropped.
@cache
def _mesh_body(store: MeshStore, mesh: str, flags: frozenset[str]) -> Body:
    return body_of_mesh(store.load(mesh), "holds" in flags, "shelters" in flags, "wears" in flags)


def _main_color(mesh: Mesh) -> Rgb:
    which = mesh.free if mesh.free.any() else np.ones(len(mesh.free), bool)
    r, g, b = mesh.rgb[which].mean((0, 1)).tolist()
    return (r, g, b)


def triangles_of(mesh: Mesh) -> Triangles:
    """A mesh's triangles for the rasteriser."""
    corners = torch.from_numpy(mesh.vertices[mesh.faces])
    normals, rgb = torch.from_numpy(mesh.normals), torch.from_numpy(mesh.rgb)
    return Triangles(corners, normals, rgb, torch.zeros(len(corners), dtype=torch.int64))


# ------------------------------------------------------------------------------------------------- arranging


def arranged(relation: Relation, first: Body, second: Body, rng: np.random.Generator) -> tuple[Body, Body]:
    """Both bodies where the relation puts them, resting on each other or on the floor."""
    if relation == "next to":
        return _next_to(first, second, rng)
    if relation == "under":
        return _under(first, second)
    if relation == "wearing":
        return _wearing(first, second)
    if relation == "in" and second.inside is not None:
        return _in(first, second)
    return _on(first, second)


def _share(body: Body, of: Body) -> float:
    return float(body.extent.max() / of.extent.max())


def _centred(body: Body, x: float | int, z: float | int) -> Body:
    middle = (body.low + body.high) / 2
    return body.moved(x - float(middle[0]), 0.0, z - float(middle[2]))


def _dropped(upper: Body, lower: Body, x: float | int, z: float | int) -> tuple[Body, float]:
    # The upper body lowered onto the lower one around (x, z), and the height at which it touches.
    raised = _centred(upper, x, z).moved(0.0, float(lower.high[1] - upper.low[1]) + 1.0, 0.0)
    gap, height = bodies.gap_below(raised, lower)
    if not math.isfinite(gap):
        gap, height = 1.0, float(lower.high[1])
    return raised.moved(0.0, -gap - SINK * float(lower.extent.max()), 0.0), height


def _on(upper: Body, lower: Body) -> tuple[Body, Body]:
    seat = lower.seat
    room = min(2 * seat.half_x / float(upper.extent[0]), 2 * seat.half_z / float(upper.extent[2]))
    least, most = 0.42 / _share(upper, lower), 0.9 / _share(upper, lower)
    scale = min(float(np.clip(1.0, least, most)), max(1.6 * room, least))
    made = upper.scaled(scale)
    for _ in range(4):
        placed, height = _dropped(made, lower, seat.x, seat.z)
        # Touching far above the seat means hanging on a back or a rail: smaller, it sits.
        if height - seat.y < 0.15 * float(made.extent[1]) or _share(made, lower) < 0.3:
            break
        made = made.scaled(0.8)
    return placed, lower


def _in(content: Body, holder: Body) -> tuple[Body, Body]:
    inside = holder.inside
    assert inside is not None
    fit = min(2 * inside.half_x / float(content.extent[0]), 2 * inside.half_z / float(content.extent[2]))
    scale = min(0.8 * fit, 1.0 / _share(content, holder))
    scale = max(scale, 0.3 / _share(content, holder))
    made = content.scaled(scale)
    for _ in range(4):
        placed, height = _dropped(made, holder, inside.x, inside.z)
        if height < float(holder.high[1]) - 0.12 * float(holder.extent[1]):
            break
        made = made.scaled(0.8)
    return placed, holder


def _next_to(first: Body, second: Body, rng: np.random.Generator) -> tuple[Body, Body]:
    a, b = float(first.extent.max()), float(second.extent.max())
    first = first.scaled(float(np.clip(1.0, 0.55 * b / a, b / a / 0.55)))
    gap = rng.uniform(0.05, 0.14) * max(a, b)
    if rng.random() < 0.5:
        x = float(second.high[0] - first.low[0]) + gap
    else:
        x = float(second.low[0] - first.high[0]) - gap
    return first.moved(x, float(second.low[1] - first.low[1]), rng.uniform(-0.08, 0.08) * max(a, b)), second


def _under(lower: Body, upper: Body) -> tuple[Body, Body]:
    room = upper.room
    if room is None:
        above, below = _on(upper, lower)
        return below, above
    extent = lower.extent
    scale = min(2 * room.half_x / extent[0], 2.1 * room.half_z / extent[2], 0.94 * room.y / extent[1])
    if scale * _share(lower, upper) < LEAST_BELOW:
        # No room to speak of (a folded umbrella, a table on crossed legs): what is above lies on what is below.
        above, below = _on(upper, lower)
        return below, above
    made = _centred(lower.scaled(float(scale)), room.x, room.z)
    return made.moved(0.0, float(upper.low[1] - made.low[1]), 0.0), upper


def _wearing(wearer: Body, hat: Body) -> tuple[Body, Body]:
    head = wearer.head
    if head is None:
        above, below = _on(hat, wearer)
        return below, above
    width = math.sqrt(float(hat.extent[0] * hat.extent[2]))
    made = hat.scaled(2.9 * head.half_x / width)
    placed, _ = _dropped(made, wearer, head.x, head.z)
    # A hat's crown goes over the head; its lining is not always modelled.
    sunk = min(0.45 * head.half_x, 0.45 * float(made.extent[1]))
    if isinstance(hat.geometry, Mesh) and float(placed.low[1]) < head.y - sunk:
        sunk = 0.1 * sunk
    return wearer, placed.moved(0.0, -sunk, 0.0)


def normalised(things: Sequence[Body], fill: float | int) -> list[Body]:
    """The bodies moved and scaled together into a ball of `fill` times `SCENE_RADIUS` around the origin."""
    points = np.concatenate([_points(body) for body in things])
    centre = (points.min(0) + points.max(0)) / 2
    radius = float(np.linalg.norm(points - centre, axis=1).max())
    scale = fill * SCENE_RADIUS / radius
    x, y, z = (-centre).tolist()
    return [body.moved(x, y, z).scaled(scale) for body in things]


def _points(body: Body) -> np.ndarray:
    if isinstance(body.geometry, Solids):
        raw: Tensor = surface_points(body.geometry).reshape(-1, 3)
        return raw.numpy().astype(float) * body.scale + body.shift
    return body.geometry.vertices.astype(float) * body.scale + body.shift


# ------------------------------------------------------------------------------------------------- looking


def draw_scenes(
    world: WideWorld, specs: Sequence[SceneSpec], seed: int = 0, size: int = 64, across: int = 10
) -> np.ndarray:
    """A contact sheet: each scene from the front and from the right above, with its caption. uint8 "height width 3"."""
    from PIL import Image, ImageDraw

    from dreamfusion.cameras import orbit_cameras
    from dreamfusion.miniature.captions import plain_caption
    from dreamfusion.miniature.pictures import Lights
    from dreamfusion.miniature.rasterize import pack_triangles, render
    from dreamfusion.miniature.solids import pack

    cameras = orbit_cameras(torch.tensor([15.0, 50.0]), torch.tensor([10.0, 35.0]), 2.5, 43.5, size)
    lights = Lights(
        cameras.positions + torch.tensor([0.6, 0.9, 0.3]), torch.full((2,), 0.45), torch.full((2,), 0.55)
    )
    cell_w, cell_h = 2 * size + 20, size + 26
    sheet = Image.new("RGB", (across * cell_w, math.ceil(len(specs) / across) * cell_h), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, spec in enumerate(specs):
        scene = world.compose(spec, np.random.default_rng([seed, index]))
        solids, triangles = pack([scene.solids] * 2), pack_triangles([scene.triangles] * 2)
        picture = render(solids, triangles, cameras, torch.full((2, size, size, 3), 0.9), lights)
        row = (picture.rgb.permute(1, 0, 2, 3).reshape(size, 2 * size, 3) * 255 + 0.5).to(torch.uint8).numpy()
        x, y = (index % across) * cell_w, (index // across) * cell_h
        sheet.paste(Image.fromarray(row), (x, y + 24))
        words = plain_caption(spec).split()
        half = len(words) if len(words) < 4 else (len(words) + 1) // 2
        draw.text((x + 2, y), " ".join(words[:half]), fill=(0, 0, 0))
        draw.text((x + 2, y + 12), " ".join(words[half:]), fill=(0, 0, 0))
    return np.asarray(sheet)


def main() -> None:
    """Draws random scenes, or nouns by their meshes."""
    import argparse

    from PIL import Image

    parser = argparse.ArgumentParser(description="Draw the wide world.")
    parser.add_argument("--sheet", required=True, help="PNG file to write")
    parser.add_argument("--meshes", type=Path, default=DEFAULT_MESHES)
    parser.add_argument("--scenes", type=int, default=100, help="that many random scenes")
    parser.add_argument("--split", default="train", choices=["train", "held_out"])
    parser.add_argument("--nouns", nargs="*", help="instead of scenes every variant of these nouns")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = WideWorld.open(options.meshes)
    rng = np.random.default_rng(options.seed)
    if options.nouns:
        specs = [
            SceneSpec((Thing(name, None, variant),))
            for name in options.nouns
            for variant in world.nouns[name].variants
        ]
    else:
        specs = [world.sample_spec(rng, options.split) for _ in range(options.scenes)]
    Image.fromarray(draw_scenes(world, specs, options.seed)).save(options.sheet)


if __name__ == "__main__":
    main()
