"""The world: what is held out stays out, things rest on each other, scenes fill the ball that cameras look at."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from dreamfusion.cameras import orbit_cameras
from dreamfusion.miniature import world
from dreamfusion.miniature.nouns import NOUNS, sculpt
from dreamfusion.miniature.nouns_builder import COLORS
from dreamfusion.miniature.raycast import render
from dreamfusion.miniature.solids import Solids, bounds, inside, surface_points
from dreamfusion.miniature.world import SceneSpec, Thing


def parts(spec: SceneSpec, seed: int = 0) -> tuple[Solids, Solids]:
    scene = world.compose(spec, np.random.default_rng(seed))
    first = torch.arange(len(scene.solids)) < scene.counts[0]
    return scene.solids[first], scene.solids[~first]


def test_the_world_is_as_wide_as_promised():
    assert len(NOUNS) >= 44 and len(COLORS) == 12
    assert {
        "peacock",
        "surfboard",
        "duck",
        "car",
        "chair",
        "table",
        "mushroom",
        "snowman",
        "tree",
        "house",
    } <= set(NOUNS)


def test_what_is_held_out():
    pairs, colors = world.held_out_pairs(), world.held_out_colors()
    assert frozenset({"peacock", "surfboard"}) in pairs
    every = len(NOUNS) * (len(NOUNS) - 1) / 2
    assert 0.10 <= len(pairs) / every <= 0.16
    assert 0.08 <= len(colors) / (len(NOUNS) * len(COLORS)) <= 0.16
    assert all(color not in NOUNS[noun].natural for noun, color in colors)
    assert world.is_held_out(SceneSpec((Thing("surfboard"), Thing("peacock", "red")), "next to"))
    noun, color = next(iter(sorted(colors)))
    assert world.is_held_out(SceneSpec((Thing(noun, color),)))
    assert not world.is_held_out(SceneSpec((Thing(noun),)))
    assert world.is_held_out(SceneSpec((Thing("cube"), Thing(noun, color)), "on"))


def test_what_the_core_world_holds_back_stays_what_it_was():
    # Independent of the process's hash seed; another value means that models were trained on what is held out now.
    split = f"{sorted(map(sorted, world.held_out_pairs()))} {sorted(world.held_out_colors())}"
    assert hashlib.sha256(split.encode()).hexdigest()[:16] == "bcd89bfd3680fff2"


def test_training_never_sees_what_is_held_out():
    rng = np.random.default_rng(0)
    specs = [world.sample_spec(rng) for _ in range(2000)]
    for spec in specs:
        assert frozenset(t.noun for t in spec.things) not in world.held_out_pairs()
        assert all((t.noun, t.color) not in world.held_out_colors() for t in spec.things)
    assert all(world.is_held_out(world.sample_spec(rng, "held_out")) for _ in range(60))


def test_a_thing_without_a_colour_word_does_not_show_a_held_out_colour():
    free = next(noun for noun, _ in sorted(world.held_out_colors()) if not NOUNS[noun].natural)
    rng = np.random.default_rng(0)
    shown = {world._color_of(Thing(free), rng) for _ in range(500)}
    assert shown == {color for color in COLORS if (free, color) not in world.held_out_colors()}


def test_the_mix_of_scenes():
    rng = np.random.default_rng(1)
    specs = [world.sample_spec(rng) for _ in range(1500)]
    assert np.mean([len(spec.things) == 2 for spec in specs]) == pytest.approx(world.PAIR_SHARE, abs=0.04)
    colored = np.mean([thing.color is not None for spec in specs for thing in spec.things])
    assert colored == pytest.approx(world.COLOR_SHARE, abs=0.05)
    assert {spec.relation for spec in specs} == {None, *world.RELATION_SHARES}
    assert {thing.noun for spec in specs for thing in spec.things} == set(NOUNS)


def test_a_share_makes_a_noun_as_many_times_as_frequent():
    rng = np.random.default_rng(1)
    shares = {"peacock": 8.0, "surfboard": 3.0}
    specs = [world.sample_spec(rng, "train", shares) for _ in range(1500)]
    # As what is shown or stands on something: no other noun is chosen there by anything but chance.
    firsts = [spec.things[0].noun for spec in specs if spec.relation in (None, "on")]
    others = len(NOUNS) - len(shares)
    for noun, share in shares.items():
        assert firsts.count(noun) / len(firsts) == pytest.approx(share / (others + 11.0), rel=0.25)
    beneath = [spec.things[1].noun for spec in specs if spec.relation == "on"]
    even = [spec.things[1].noun for _ in range(1500) if (spec := world.sample_spec(rng)).relation == "on"]
    ratio = (beneath.count("surfboard") / len(beneath)) / (even.count("surfboard") / len(even))
    assert 1.8 < ratio < 3.5
    assert not any(map(world.is_held_out, specs))


def test_specs_survive_json():
    rng = np.random.default_rng(2)
    for _ in range(200):
        spec = world.sample_spec(rng)
        assert SceneSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_noun_stands_on_the_ground_in_its_colour(noun):
    rng = np.random.default_rng(0)
    builder = sculpt(noun, "purple", rng, natural=False)
    solids = builder.solids()
    low, high = bounds(solids)
    assert abs(float(low[1])) < 0.12 * float(high[1] - low[1])
    off_centre = (low + high)[[0, 2]].abs().max() / (high - low).max()
    assert off_centre < 0.6
    # The main colour is on the thing, as said.
    assert torch.isclose(solids.rgb, torch.tensor(builder.main), atol=1e-6).all(-1).any()
    assert (builder.head is not None) >= NOUNS[noun].wears
    assert (builder.shelter is not None) == NOUNS[noun].shelters
    assert solids.rgb.min() >= 0 and solids.rgb.max() <= 1
    assert torch.linalg.det(solids.to_world[:, :3, :3].double()).abs().min() > 0


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_the_colour_word_shows(noun):
    spec = SceneSpec((Thing(noun, "purple"),))
    scene = world.compose(spec, np.random.default_rng(0))
    camera = orbit_cameras(30.0, 25.0, 2.5, 43.0, 32)
    picture = render(scene.solids, camera, torch.zeros(1, 32, 32, 3))
    r, g, b = (picture.rgb / picture.opacity[..., None].clamp_min(1e-6))[picture.opacity > 0.9].unbind(-1)
    purple = (b > 1.4 * g) & (r > 1.2 * g) & (b > 0.8 * r)
    assert purple.float().mean() > 0.11


def test_scenes_fill_the_ball_and_are_centred():
    rng = np.random.default_rng(3)
    for _ in range(60):
        solids = world.build_scene(world.sample_spec(rng), rng)
        radius = surface_points(solids).norm(dim=-1).max().item()
        assert 0.9 * world.SCENE_RADIUS < radius < 1.02 * world.SCENE_RADIUS
        low, high = bounds(solids)
        assert (low + high).abs().max() < 0.06


def test_the_ball_nearly_fills_the_frame():
    half = np.tan(np.radians(np.mean(world.CAMERA_FOVY_DEG)) / 2)
    share = np.tan(np.arcsin(world.SCENE_RADIUS / np.mean(world.CAMERA_DISTANCE))) / half
    assert 0.8 < share < 0.95


SUPPORTS = [
    "table",
    "surfboard",
    "cube",
    "chair",
    "sofa",
    "bed",
    "elephant",
    "mushroom",
    "car",
    "boat",
    "turtle",
]


@pytest.mark.parametrize("lower", SUPPORTS)
@pytest.mark.parametrize("upper", ["cat", "peacock", "apple", "chair"])
def test_what_is_on_something_touches_it_and_does_not_sink_in(upper, lower):
    top, base = parts(SceneSpec((Thing(upper), Thing(lower)), "on"))
    # The oracle, not the columns that placed it: a dense cloud in the upper thing.
    low, high = bounds(top)
    points = low + (high - low) * torch.rand(25000, 3, generator=torch.Generator().manual_seed(0))
    within = points[inside(top, points).any(0)]
    overlap = inside(base, within).any(0).float().mean().item()
    assert overlap < 0.03
    # Pressed down by three hundredths it would sink in somewhere: there is no gap.
    pressed = within - torch.tensor([0.0, 0.03, 0.0])
    assert inside(base, pressed).any()
    assert float(low[1]) > float(bounds(base)[0][1])


def test_things_side_by_side_do_not_touch_and_stand_on_one_floor():
    for seed, noun in enumerate(("dog", "turtle", "peacock", "umbrella", "boat", "mushroom")):
        a, b = parts(SceneSpec((Thing(noun), Thing("tree")), "next to"), seed)
        (a_low, a_high), (b_low, b_high) = bounds(a), bounds(b)
        assert max(float(a_low[0] - b_high[0]), float(b_low[0] - a_high[0])) > 0.01
        assert float(a_low[1]) == pytest.approx(float(b_low[1]), abs=1e-4)


def test_under_is_the_room_below_or_else_the_inverse_of_on():
    pig, table = parts(SceneSpec((Thing("pig"), Thing("table")), "under"))
    assert float(bounds(pig)[1][1]) < float(bounds(table)[1][1])
    assert not inside(table, surface_points(pig).reshape(-1, 3)).any()
    turtle, car = parts(SceneSpec((Thing("turtle"), Thing("car")), "under"))
    assert float(bounds(car)[0][1]) > float(bounds(turtle)[0][1]) + 0.1


@pytest.mark.parametrize("noun", [name for name in sorted(NOUNS) if NOUNS[name].wears])
def test_a_hat_is_worn_on_the_head(noun):
    wearer, hat = parts(SceneSpec((Thing(noun), Thing("hat", "red")), "wearing"))
    low, high = bounds(hat)
    middle = (low + high) / 2
    # The hat's lower part is in contact with the head, its crown above.
    below = torch.stack([middle[0], low[1] - 0.02, middle[2]])[None]
    assert inside(wearer, below).any()
    assert high[1] > bounds(wearer)[0][1] + 0.5 * (bounds(wearer)[1][1] - bounds(wearer)[0][1])


def test_the_same_seed_builds_the_same_scene():
    spec = SceneSpec((Thing("peacock"), Thing("surfboard")), "on")
    a, b = (world.build_scene(spec, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(a.to_world, b.to_world) and torch.equal(a.rgb, b.rgb)
    c = world.build_scene(spec, np.random.default_rng(6))
    assert not torch.equal(a.to_world, c.to_world)


def test_the_board_is_longer_than_the_peacock_that_stands_on_it():
    for seed in range(5):
        bird, board = parts(SceneSpec((Thing("peacock"), Thing("surfboard")), "on"), seed)
        bird_size, board_size = (high - low for low, high in (bounds(bird), bounds(board)))
        assert float(board_size[0]) > 1.15 * float(bird_size.max())
        assert float(bird_size.max()) > 0.5 * float(board_size[0])


def test_the_front_of_a_car_is_its_lamps():
    scene = world.build_scene(SceneSpec((Thing("car", "blue"),)), np.random.default_rng(0))
    cameras = orbit_cameras(torch.tensor([0.0, 180.0]), 5.0, 2.5, 43.0, 64)
    from dreamfusion.miniature.solids import pack

    front, back = render(pack([scene, scene]), cameras, torch.zeros(2, 64, 64, 3)).rgb
    yellow = lambda rgb: ((rgb[..., 0] > 0.8) & (rgb[..., 1] > 0.8) & (rgb[..., 2] < 0.75)).sum()  # noqa: E731
    red = lambda rgb: ((rgb[..., 0] > 0.6) & (rgb[..., 1] < 0.2)).sum()  # noqa: E731
    assert yellow(front) > 4 and yellow(back) == 0
    assert red(back) > 4 and red(front) == 0


def test_the_sheet_has_a_row_for_every_scene():
    sheet = world.draw_sheet([SceneSpec((Thing("duck"),))] * 3, [(0.0, 10.0), (90.0, 10.0)], size=16, zoom=1)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3 and sheet.std() > 5
