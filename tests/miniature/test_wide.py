"""The wide world, on a small cache of meshes made here: what rests, what is held out, what is said, what comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.cameras import turntable_cameras
from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature import wide
from dreamfusion.miniature import world as core_world
from dreamfusion.miniature.bodies import Body, body_of_mesh, body_of_solids, gap_below
from dreamfusion.miniature.dataset import draw, load_shard, make_shard, random_views, render_specs, whitened
from dreamfusion.miniature.ground_truth import of_wide, scene_mesh
from dreamfusion.miniature.meshes.bake import Mesh, bake, turned, turned_mesh
from dreamfusion.miniature.meshes.catalogue import catalogue, parse_catalogue
from dreamfusion.miniature.meshes.store import MANIFEST, MeshStore, Record, attribution, write_store
from dreamfusion.miniature.nouns import NOUNS
from dreamfusion.miniature.nouns_builder import COLORS, Builder
from dreamfusion.miniature.training.plan import Plan
from dreamfusion.miniature.training.shards import run_world
from dreamfusion.miniature.wide import SOLID, WideWorld
from dreamfusion.miniature.world import SceneSpec, Thing
from dreamfusion.posed_images.mesh_renderer import render_mesh

CONTENT = {
    "categories": {"things": {"size": 1.0, "paint": True, "support": 0.5}},
    "nouns": {
        "things": {
            "slab": {"meshes": "t/slab", "is": "round", "support": 1.0},
            "block": {"meshes": "t/block t/block2 t/block3 t/block4", "also": "lump"},
            "bucket": {"meshes": "t/bucket", "is": "holds", "paint": False},
            "desk": {"meshes": "t/desk", "is": "shelters"},
            "doll": {"meshes": "t/doll", "is": "wears"},
            "cap": {"meshes": "t/cap", "is": "hat"},
            "car": {"meshes": "t/car"},
        }
    },
}


def baked(mesh: trimesh.Trimesh, rgb: tuple[float, float, float] = (0.5, 0.5, 0.5)) -> Mesh:
    corners = np.asarray(mesh.vertices[mesh.faces])
    return bake(corners, np.broadcast_to(np.array(rgb), corners.shape).copy(), np.ones(len(corners), bool))


def boxes(*parts: tuple[tuple[float, float, float], tuple[float, float, float]]) -> trimesh.Trimesh:
    made = []
    for extents, centre in parts:
        box = trimesh.creation.box(extents).subdivide().subdivide().subdivide()
        made.append(box.apply_translation(centre))
    return trimesh.util.concatenate(made)  # pyright: ignore[reportReturnType]


def shapes() -> dict[str, Mesh]:
    walls = [((1, 1, 0.06), (0, 0.5, z)) for z in (-0.47, 0.47)] + [
        ((0.06, 1, 1), (x, 0.5, 0)) for x in (-0.47, 0.47)
    ]
    legs = [((0.06, 0.7, 0.06), (x, 0.35, z)) for x in (-0.5, 0.5) for z in (-0.3, 0.3)]
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.2).apply_translation((0, 1.2, 0))
    return {
        "t/slab": baked(boxes(((1, 0.1, 1), (0, 0.05, 0)))),
        **{f"t/block{k}": baked(boxes(((0.5, 0.5, 0.5), (0, 0.25, 0)))) for k in ("", "2", "3", "4")},
        "t/bucket": baked(boxes(((1, 0.06, 1), (0, 0.03, 0)), *walls), (0.2, 0.3, 0.9)),
        "t/desk": baked(boxes(((1.1, 0.06, 0.7), (0, 0.73, 0)), *legs)),
        "t/doll": baked(boxes(((0.4, 1.05, 0.3), (0, 0.525, 0))) + ball),
        "t/cap": baked(boxes(((0.4, 0.25, 0.4), (0, 0.15, 0)), ((0.6, 0.05, 0.6), (0, 0.025, 0)))),
        "t/car": baked(boxes(((0.5, 0.4, 1), (0, 0.2, 0)))),
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    names = parse_catalogue(CONTENT)
    pairs = []
    for key, mesh in shapes().items():
        noun = names.noun_of(key)
        assert noun is not None
        pairs.append(
            (
                Record(
                    key, key, noun.name, noun.synonyms, noun.category, "tests", ("Ada Example",), "CC0-1.0",
                    "+y", "+z", (1.0, 1.0, 1.0), "round" in noun.flags, noun.paint, len(mesh.faces),
                ),
                mesh,
            )
        )  # fmt: skip
    write_store(folder, pairs)
    return folder


@pytest.fixture(scope="module")
def world(cache: Path) -> Iterator[WideWorld]:
    yield WideWorld(MeshStore(cache), parse_catalogue(CONTENT))


def scene(world: WideWorld, first: str, relation, second: str, seed: int = 0) -> tuple[Body, Body]:
    spec = SceneSpec((Thing(first), Thing(second)), relation)
    a, b = world.compose(spec, np.random.default_rng(seed)).bodies
    return a, b


# ------------------------------------------------------------------------------------------------- cache


def test_the_cache_gives_back_what_was_put_in(cache: Path) -> None:
    store, mesh = MeshStore(cache), shapes()["t/bucket"]
    read = store.load("t/bucket")
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(read.normals, mesh.normals, atol=0.005)
    np.testing.assert_allclose(read.rgb, mesh.rgb, atol=0.003)
    assert store.records["t/block"].synonyms == ("lump",)
    assert "- Ada Example: block, bucket" in attribution(store.records.values())


def test_a_missing_cache_leaves_the_procedural_nouns(tmp_path: Path) -> None:
    bare = WideWorld.open(tmp_path)
    assert set(bare.nouns) == set(NOUNS)
    rng = np.random.default_rng(0)
    specs = [bare.sample_spec(rng) for _ in range(40)]
    assert {spec.relation for spec in specs} >= {"on", "next to"}
    assert all(thing.mesh == SOLID for spec in specs for thing in spec.things)
    images, _ = render_specs(specs[:2], rng, world=bare)
    assert images.shape == (2, 64, 64, 3)
    with pytest.raises(DreamfusionError, match="fetch_training_meshes"):
        MeshStore(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(DreamfusionError, match="no meshes can be read"):
        WideWorld.open(tmp_path)


@pytest.mark.parametrize(
    ("turn", "front"), [("y90", (-1, 0, 0)), ("x90", (0, 1, 0)), ("x-90 y180", (0, 1, 0))]
)
def test_turns_bring_the_named_side_to_the_front(turn: str, front: tuple[int, int, int]) -> None:
    side = np.array(front, float) if turn != "x-90 y180" else np.array([0, 1.0, 0])
    np.testing.assert_allclose(turned(side[None], turn)[0], [0, 0, 1], atol=1e-12)
    mesh = turned_mesh(shapes()["t/car"], turn)
    assert mesh.vertices.min(0)[1] == pytest.approx(0, abs=1e-6)
    assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="a turn is like"):
        turned(side[None], "w90")


def test_the_shipped_catalogue_is_as_wide_as_promised() -> None:
    names = catalogue()
    assert len(set(names.nouns) | set(NOUNS)) >= 400
    meshes = [mesh for noun in names.nouns.values() for mesh in noun.meshes]
    assert len(meshes) == len(set(meshes)) > 900
    assert set(names.turns) <= set(meshes)
    assert all(set(noun.natural) <= set(COLORS) for noun in names.nouns.values())
    assert all(name == name.lower() and name.replace(" ", "").isalpha() for name in names.nouns)
    with pytest.raises(ValueError, match="is a car and a block"):
        parse_catalogue(
            {**CONTENT, "nouns": {"things": {"car": {"meshes": "t/a"}, "block": {"meshes": "t/a"}}}}
        )


# ------------------------------------------------------------------------------------------------- resting


def test_a_body_of_a_box_knows_its_columns() -> None:
    body = body_of_mesh(shapes()["t/desk"], shelters=True)
    assert body.room is not None
    # Under the desk's top there is room for all but the legs.
    assert body.room.y == pytest.approx(0.70 / 1.1, abs=0.02)
    assert body.room.half_x > 0.35
    assert body.seat.y == pytest.approx(float(body.high[1]), abs=0.01)
    bucket = body_of_mesh(shapes()["t/bucket"], holds=True)
    assert bucket.inside is not None and bucket.inside.y == pytest.approx(0.06, abs=0.02)
    solid = body_of_mesh(shapes()["t/block"], holds=True, shelters=True)
    assert solid.inside is None and solid.room is None


def test_solids_and_meshes_fall_on_each_other() -> None:
    builder = Builder(np.random.default_rng(0), (0.5, 0.5, 0.5))
    builder.box((0, 0.25, 0), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5))
    box, slab = body_of_solids(builder.solids()), body_of_mesh(shapes()["t/slab"])
    gap, height = gap_below(box.moved(0, 3.0, 0), slab)
    assert gap == pytest.approx(3.0 - 0.1, abs=1e-3) and height == pytest.approx(0.1, abs=1e-3)
    gap, _ = gap_below(slab.moved(0, 3.0, 0), box)
    assert gap == pytest.approx(3.0 - 0.5, abs=1e-3)
    assert gap_below(box.moved(5, 3, 0), slab)[0] == np.inf


@pytest.mark.parametrize("first", ["block", "duck", "bucket"])
@pytest.mark.parametrize("second", ["slab", "desk", "table"])
def test_on_means_touching_from_above(world: WideWorld, first: str, second: str) -> None:
    upper, lower = scene(world, first, "on", second)
    gap, _ = gap_below(upper, lower)
    # A little sunk in, never floating.
    assert -0.03 < gap < 0.005
    assert upper.low[1] > lower.low[1] + 0.3 * lower.extent[1]


def test_in_means_below_the_rim(world: WideWorld) -> None:
    for content in ("block", "duck", "car"):
        inner, holder = scene(world, content, "in", "bucket")
        assert inner.low[1] < holder.low[1] + 0.4 * holder.extent[1]
        middle = (inner.low + inner.high) / 2
        assert (middle > holder.low)[[0, 2]].all() and (middle < holder.high)[[0, 2]].all()
        assert abs(gap_below(inner, holder)[0]) < 0.03
        # The walls are not broken through.
        assert (inner.extent < holder.extent)[[0, 2]].all()


def test_under_means_within_the_room(world: WideWorld) -> None:
    lower, roof = scene(world, "block", "under", "desk")
    assert lower.high[1] < roof.high[1] - 0.03
    assert lower.low[1] == pytest.approx(roof.low[1], abs=1e-6)


def test_under_a_thing_without_room_carries_it(world: WideWorld) -> None:
    # A long thing would have to be tiny to stand below the desk.
    below, above = wide.arranged(
        "under",
        world.body(Thing("doll"), np.random.default_rng(0))[0].scaled(1.0, 4.0, 1.0),
        world.body(Thing("desk"), np.random.default_rng(0))[0].scaled(1.0, 0.3, 1.0),
        np.random.default_rng(0),
    )
    assert above.low[1] > below.low[1] + 0.5 * below.extent[1]
    assert abs(gap_below(above, below)[0]) < 0.05


def test_next_to_stand_on_one_floor_without_touching(world: WideWorld) -> None:
    a, b = scene(world, "doll", "next to", "car")
    assert a.low[1] == pytest.approx(b.low[1], abs=1e-6)
    assert a.low[0] > b.high[0] or a.high[0] < b.low[0]


def test_a_hat_is_on_the_head(world: WideWorld) -> None:
    for wearer in ("doll", "duck"):
        body, hat = scene(world, wearer, "wearing", "cap")
        assert body.head is not None
        assert hat.high[1] > body.high[1]
        assert abs((hat.low + hat.high)[0] / 2 - body.head.x) < 0.05
        assert hat.low[1] > body.low[1] + 0.5 * body.extent[1]
        assert hat.extent[0] < 6 * body.head.half_x


def test_scenes_fill_the_ball(world: WideWorld) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        made = world.compose(world.sample_spec(rng), rng)
        reach = max(float(np.linalg.norm(wide._points(body), axis=1).max()) for body in made.bodies)
        assert 0.9 * 0.8 < reach <= 0.8 + 1e-6


# ------------------------------------------------------------------------------------------------- drawing


def test_what_is_held_out_never_trains_and_everything_else_does(world: WideWorld) -> None:
    assert frozenset({"peacock", "surfboard"}) in world.held_out_pairs
    names = len(world.nouns)
    assert 0.07 < len(world.held_out_pairs) / (names * (names - 1) / 2) < 0.13
    assert 0.05 < len(world.held_out_colors) / (names * len(COLORS)) < 0.13
    # One of the four meshes of the only noun that has several.
    assert len(world.held_out_meshes) == 1 and next(iter(world.held_out_meshes)).startswith("t/block")
    rng = np.random.default_rng(0)
    train = [world.sample_spec(rng) for _ in range(400)]
    held = [world.sample_spec(rng, "held_out") for _ in range(100)]
    assert not any(world.is_held_out(spec) for spec in train)
    assert all(world.is_held_out(spec) for spec in held)
    assert {spec.relation for spec in train} == {None, "on", "next to", "under", "wearing", "in"}
    assert {thing.mesh for spec in train for thing in spec.things} >= {SOLID, "t/slab", "t/car"}
    # What cannot be painted is never given a colour word.
    assert not any(thing.color for spec in train for thing in spec.things if thing.noun == "bucket")


def test_a_colour_word_is_the_colour_that_is_seen(world: WideWorld) -> None:
    rng = np.random.default_rng(0)
    for name in ("red", "green", "blue"):
        made = world.compose(SceneSpec((Thing("block", name, "t/block"),)), rng)
        mean = made.triangles.rgb.mean((0, 1))
        assert (mean - torch.tensor(COLORS[name])).abs().max() < 0.1


def test_shards_of_the_wide_world_repeat_and_keep_their_meshes(world: WideWorld, tmp_path: Path) -> None:
    a, b = (make_shard(tmp_path / f"{k}.npz", 3, 16, world=world) for k in "ab")
    assert a.read_bytes() == b.read_bytes()
    shard = load_shard(a)
    assert len(shard) == 16 and all(thing.mesh for spec in shard.specs for thing in spec.things)
    other = load_shard(make_shard(tmp_path / "c.npz", 4, 16, world=world))
    assert not np.array_equal(other.images, shard.images)
    assert shard.images.std() > 20


def test_ground_truth_of_a_caption_can_be_built(world: WideWorld) -> None:
    # A spec without meshes, as a caption gives it, is a scene of both kinds of geometry.
    made = world.compose(SceneSpec((Thing("duck"), Thing("slab", "red")), "on"), np.random.default_rng(0))
    assert len(made.solids) > 3 and len(made.triangles) > 10
    rng = np.random.default_rng(0)
    images, cameras = render_specs(
        [SceneSpec((Thing("slab", "red"),))], rng, random_views(rng, 1), world=world
    )
    assert images.shape == (1, 64, 64, 3) and len(cameras) == 1


def test_a_mixed_scenes_mesh_looks_as_the_renderer_draws_it(world: WideWorld) -> None:
    spec = SceneSpec((Thing("duck", "green", SOLID), Thing("block", "red", "t/block")), "on")
    (scene,) = of_wide(world).scenes(spec, 1, seed=2)
    assert isinstance(scene, wide.WideScene)
    mesh, cameras = scene_mesh(scene), turntable_cameras(2, 20.0, 2.5, 43.5, 64)
    drawn = draw([scene] * 2, cameras, torch.zeros(2, 64, 64, 3))
    for view in range(2):
        seen = render_mesh(mesh, cameras.c2w[view].double().numpy(), 43.5, 64, supersample=2)
        mask, truth = seen[..., 3] > 0.5, drawn.opacity[view].numpy() > 0.5
        assert (mask & truth).sum() / (mask | truth).sum() > 0.97
        whole = (seen[..., 3] == 1) & (drawn.opacity[view].numpy() == 1)
        assert np.quantile(np.abs(seen[..., :3] - drawn.rgb[view].numpy()).max(-1)[whole], 0.9) < 0.03
    # The block's normals say which side is out: its corners, put together again, have its volume.
    block = trimesh.Trimesh(
        mesh.vertices[-3 * len(scene.triangles) :], np.arange(3 * len(scene.triangles)).reshape(-1, 3)
    )
    assert block.is_watertight and block.volume == pytest.approx(float(np.prod(block.extents)), rel=1e-3)
    white = whitened(scene)
    assert (
        isinstance(white, wide.WideScene)
        and (white.triangles.rgb == 1).all()
        and (white.solids.rgb == 1).all()
    )


def test_a_sheet_shows_each_scene_twice(world: WideWorld) -> None:
    specs = [SceneSpec((Thing("block", "red", "t/block"),)), SceneSpec((Thing("duck"), Thing("slab")), "on")]
    sheet = wide.draw_scenes(world, specs, size=32, across=2)
    assert sheet.shape == (32 + 26, 2 * (2 * 32 + 20), 3)
    red = (sheet[24:56, :64, 0] > 120) & (sheet[24:56, :64, 1] < 60)
    assert red[:, :32].sum() > 100 and red[:, 32:].sum() > 100


def test_what_the_core_world_trains_on_is_not_held_out_of_the_wide_one(world: WideWorld) -> None:
    core = set(core_world.held_out_pairs())
    assert {pair for pair in world.held_out_pairs if all(noun in NOUNS for noun in pair)} <= core
    colors = {(noun, color) for noun, color in world.held_out_colors if noun in NOUNS}
    assert colors and colors <= set(core_world.held_out_colors())


def test_what_the_wide_world_holds_back_is_what_the_shipped_model_was_kept_from() -> None:
    # Of its procedural nouns; another value means that the weights must be trained anew.
    bare = WideWorld(None)
    split = f"{sorted(map(sorted, bare.held_out_pairs))} {sorted(bare.held_out_colors)}"
    assert hashlib.sha256(split.encode()).hexdigest()[:16] == "8f8ce188934fded9"


@pytest.mark.parametrize(("shards", "of_core"), [(1, 1), (8, 2)])
def test_a_wide_training_sees_a_quarter_as_many_pictures_of_the_core_world(
    tmp_path: Path, shards: int, of_core: int
) -> None:
    plan = Plan(work=tmp_path / "wide", world="wide", meshes=tmp_path, shards=shards, shard_size=4)
    run_world(plan)
    names = [path.name for path in plan.shard_paths("train")]
    assert names == [f"train_{n:05d}.npz" for n in (*range(shards), *range(1000, 1000 + of_core))]
    own, core = (load_shard(plan.shard_paths("train")[index]) for index in (0, shards))
    assert all(thing.mesh for spec in own.specs for thing in spec.things)
    assert not any(thing.mesh for spec in core.specs for thing in spec.things)
