"""Shards: the same seed gives the same bytes, files are whole or absent, pictures are as the data promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch.nn.functional as F

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature import dataset, world
from dreamfusion.miniature.dataset import (
    load_shard,
    main,
    make_shard,
    random_background,
    random_lights,
    random_views,
)
from dreamfusion.miniature.world import SceneSpec, Thing, is_held_out


@pytest.fixture(scope="module")
def shard_path(tmp_path_factory):
    return make_shard(tmp_path_factory.mktemp("shards") / "train_00003.npz", 3, 24)


def test_a_shard_holds_what_it_promises(shard_path):
    shard = load_shard(shard_path)
    assert shard.images.shape == (24, 64, 64, 3) and shard.images.dtype == np.uint8 and len(shard) == 24
    assert len(shard.specs) == 24 and all(isinstance(spec, SceneSpec) for spec in shard.specs)
    assert shard.azimuth_deg.dtype == shard.elevation_deg.dtype == np.float32
    assert np.abs(shard.azimuth_deg).max() <= 180 and shard.elevation_deg.min() >= -10.01
    # Each picture shows something: its middle differs from its corner.
    spread = shard.images.reshape(24, -1, 3).astype(float).std(1).max(-1)
    assert (spread > 4).all()


def test_the_same_seed_gives_the_same_bytes(shard_path, tmp_path):
    again = make_shard(tmp_path / "again.npz", 3, 24)
    a, b = load_shard(shard_path), load_shard(again)
    assert np.array_equal(a.images, b.images) and a.specs == b.specs
    assert np.array_equal(a.azimuth_deg, b.azimuth_deg)
    other = load_shard(make_shard(tmp_path / "other.npz", 4, 16))
    assert other.specs != a.specs[:16]


def test_any_count_is_kept(tmp_path):
    shard = load_shard(make_shard(tmp_path / "odd.npz", 0, 5))
    assert len(shard) == len(shard.specs) == len(shard.azimuth_deg) == 5


def test_held_out_shards_hold_nothing_else(tmp_path):
    assert all(
        is_held_out(spec) for spec in load_shard(make_shard(tmp_path / "h.npz", 0, 16, "held_out")).specs
    )


def test_nothing_half_written_is_left(shard_path, tmp_path):
    make_shard(tmp_path / "a.npz", 0, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("content", [None, b"no shard", b""])
def test_a_broken_shard_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DreamfusionError, match=r"broken\.npz"):
        load_shard(path)


def test_the_command_makes_only_what_is_missing(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--shards", "1", "--count", "2"]
    main(arguments)
    path = tmp_path / "train_00000.npz"
    before = path.stat().st_mtime_ns
    main(arguments)
    assert path.stat().st_mtime_ns == before
    assert "train_00000.npz  1/1" in capsys.readouterr().err


def test_views_are_drawn_as_stated():
    cameras = random_views(np.random.default_rng(0), 4000)
    low, high = world.CAMERA_ELEVATION_DEG
    elevation = cameras.elevation_deg.numpy()
    assert elevation.min() >= low - 1e-3 and elevation.max() <= high + 1e-3
    # Half uniform in angle, half in area: the mean of the two means.
    first, last = (float(np.sin(np.radians(v))) for v in (low, high))
    by_area = np.degrees(np.arcsin(np.linspace(first, last, 10001))).mean()
    assert elevation.mean() == pytest.approx(((low + high) / 2 + by_area) / 2, abs=1.0)
    assert np.histogram(cameras.azimuth_deg.numpy(), 8, (-180, 180))[0].min() > 400
    assert (
        world.CAMERA_DISTANCE[0] <= cameras.distance.min()
        and cameras.distance.max() <= world.CAMERA_DISTANCE[1]
    )


def test_lights_stay_outside_and_strengths_sum_to_one():
    rng = np.random.default_rng(0)
    cameras = random_views(rng, 2000)
    lights = random_lights(rng, cameras)
    assert lights.position.norm(dim=-1).min() > 2 * world.SCENE_RADIUS
    assert np.allclose((lights.ambient + lights.diffuse).numpy(), 1.0)
    assert (lights.ambient == 1).float().mean().item() == pytest.approx(dataset.FLAT_SHARE, abs=0.04)
    towards = (lights.position * cameras.positions).sum(-1) / lights.position.norm(dim=-1) / cameras.distance
    assert towards.mean() > 0.7


def test_backgrounds_differ_from_what_stands_before_them():
    rng = np.random.default_rng(0)
    for rgb in ((0.8, 0.1, 0.1), (0.95, 0.95, 0.95)):
        for _ in range(60):
            background = random_background(rng, [rgb])
            ends = background[[0, -1], 0]
            assert (np.abs(ends - np.array(rgb)).max(-1) > dataset.BACKGROUND_CONTRAST).mean() >= 0.5
            assert background.min() >= 0 and background.max() <= 1
            assert np.array_equal(background[:, 0], background[:, 31])
    # Of two things, neither may vanish.
    both = ((0.9, 0.9, 0.9), (0.1, 0.1, 0.1))
    drawn = np.stack([random_background(rng, both)[[0, -1], 0] for _ in range(100)])
    apart = np.abs(drawn[:, :, None] - np.array(both)).max(-1).min(-1)
    assert (apart > dataset.BACKGROUND_CONTRAST).mean() > 0.75


def test_views_of_a_scene_lie_side_by_side():
    rng = np.random.default_rng(0)
    specs = [SceneSpec((Thing("duck"),)), SceneSpec((Thing("bus", "red"),))]
    images, cameras = dataset.render_specs(specs, rng, views_per_scene=2)
    assert images.shape == (4, 64, 64, 3) and len(cameras) == 4
    assert not np.array_equal(images[0], images[1])


def test_plaster_is_white_lit_from_the_camera_and_said_without_colours(tmp_path):
    plain = load_shard(make_shard(tmp_path / "a.npz", 5, 32))
    half = load_shard(make_shard(tmp_path / "b.npz", 5, 32, plaster=0.5))
    assert any(thing.color for spec in plain.specs for thing in spec.things)
    all_white = load_shard(make_shard(tmp_path / "c.npz", 5, 32, plaster=1.0))
    assert not any(thing.color for spec in all_white.specs for thing in spec.things)
    # The first scenes are drawn before anything is marked.
    assert [spec.uncoloured() for spec in plain.specs[:16]] == all_white.specs[:16]
    assert half.specs[:16] != plain.specs[:16] and half.specs[:16] != all_white.specs[:16]

    spec = SceneSpec((Thing("ball", "red"),))
    cameras = random_views(np.random.default_rng(0), 4)
    images, _ = dataset.render_specs(
        [spec] * 2, np.random.default_rng(1), cameras, "cpu", 2, None, [True, False]
    )
    middle = images[:, 30:34, 30:34].astype(float)
    assert middle[:2].min() > 245  # facing the light
    assert (middle[2:, ..., 0] > middle[2:, ..., 2] + 40).mean() > 0.5


def test_the_sky_lights_the_same_scenes_from_above_wherever_the_camera_is(tmp_path):
    near, sky = (
        load_shard(make_shard(tmp_path / f"{k}.npz", 5, 16, sky=k == "sky")) for k in ("near", "sky")
    )
    assert near.specs == sky.specs and not np.array_equal(near.images, sky.images)
    cameras = random_views(np.random.default_rng(0), 2000)
    towards = F.normalize(cameras.positions, dim=-1)
    along = {}
    for name, lights in (("near", dataset.random_lights), ("sky", dataset.sky_lights)):
        made = lights(np.random.default_rng(1), cameras)
        direction = F.normalize(made.position, dim=-1)
        along[name] = float((direction * towards).sum(-1).mean())
        share = made.position.norm(dim=-1) / cameras.distance
        assert share.min() > 0.79 and share.max() < 1.51
        assert abs(float((made.ambient == 1.0).float().mean()) - dataset.FLAT_SHARE) < 0.04
        if name == "sky":
            assert float(direction[:, 1].min()) > np.sin(np.radians(dataset.SKY_LEAST_ELEVATION_DEG)) - 1e-6
            assert direction[:, [0, 2]].mean(0).abs().max() < 0.06
    assert along["near"] > 0.8 and along["sky"] < 0.5


def test_whitened_shapes_are_the_same():
    scene = world.compose(SceneSpec((Thing("duck", "green"),)), np.random.default_rng(0))
    white = dataset.whitened(scene)
    assert white.solids.to_world is scene.solids.to_world and (white.solids.rgb == 1).all()
    assert white.colors == ((1.0, 1.0, 1.0),) and not (scene.solids.rgb == 1).all()
