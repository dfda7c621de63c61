"""Pictures of the procedural world in files: `python -m dreamfusion.miniature.dataset --out DIR --shards N`.

A shard is one `.npz` with `images` uint8 "n 64 64 3", `specs` (a JSON line each, see `SceneSpec`), `azimuth_deg` and
`elevation_deg` float32. Captions are not stored: they are drawn anew whenever a picture is shown to a model.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from dreamfusion.cameras import Cameras, orbit_cameras
from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature import rasterize
from dreamfusion.miniature.nouns_builder import COLORS, Rgb
from dreamfusion.miniature.pictures import Lights, Picture
from dreamfusion.miniature.rasterize import pack_triangles
from dreamfusion.miniature.raycast import render
from dreamfusion.miniature.solids import pack
from dreamfusion.miniature.wide import DEFAULT_MESHES, WIDE_VERSION, WideScene, WideWorld
from dreamfusion.miniature.world import (
    CAMERA_DISTANCE,
    CAMERA_ELEVATION_DEG,
    CAMERA_FOVY_DEG,
    EVEN_SHARES,
    TRAINING_SHARES,
    UNIFORM_AREA_PROBABILITY,
    WORLD_VERSION,
    Composition,
    SceneSpec,
    Split,
    compose,
    sample_spec,
)

RESOLUTION = 64
BATCH = 16
# Putting a scene together costs as much as its picture: each is seen twice, with other light and background.
VIEWS_PER_SCENE = 2
FLAT_SHARE = 0.25
AMBIENT = (0.35, 0.65)
LIGHT_JITTER = 1.0
LIGHT_DISTANCE = (0.8, 1.5)
SKY_AMBIENT, SKY_LEAST_ELEVATION_DEG = (0.45, 0.8), 15.0
PLASTER_AMBIENT = 0.1
BACKGROUND_SHARES = {"plain": 0.5, "gradient": 0.3, "gray": 0.2}
# Least difference, as the largest over the channels, between a background and a thing's main colour.
BACKGROUND_CONTRAST = 0.25
WIDE_SEED = 20_000


@dataclass(frozen=True)
class Shard:
    """What `load_shard` returns: n pictures with what they show and from where."""

    images: np.ndarray
    specs: list[SceneSpec]
    azimuth_deg: np.ndarray
    elevation_deg: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def random_views(rng: np.random.Generator, count: int, resolution: int = RESOLUTION) -> Cameras:
    """Cameras as the data has them: azimuth uniform, elevation half uniform in angle and half in area."""
    low, high = CAMERA_ELEVATION_DEG
    by_angle = rng.uniform(low, high, count)
    by_area = np.degrees(
        np.arcsin(rng.uniform(math.sin(math.radians(low)), math.sin(math.radians(high)), count))
    )
    elevation = np.where(rng.random(count) < UNIFORM_AREA_PROBABILITY, by_area, by_angle)
    drawn = (
        rng.uniform(-180.0, 180.0, count),
        elevation,
        rng.uniform(*CAMERA_DISTANCE, count),
        rng.uniform(*CAMERA_FOVY_DEG, count),
    )
    azimuth, elevation, distance, fovy = (torch.from_numpy(v.astype(np.float32)) for v in drawn)
    return orbit_cameras(azimuth, elevation, distance, fovy, resolution)


def random_lights(rng: np.random.Generator, cameras: Cameras) -> Lights:
    """A point light near each camera; a quarter of the pictures show the pure albedo."""
    count = len(cameras)
    near = cameras.positions.numpy() + LIGHT_JITTER * rng.standard_normal((count, 3))
    return _lights(rng, cameras, near, AMBIENT)


def sky_lights(rng: np.random.Generator, cameras: Cameras) -> Lights:
    """A light anywhere in the sky, wherever the camera is, and more light from all around; a quarter show the pure albedo."""
    azimuth = rng.uniform(-math.pi, math.pi, len(cameras))
    y = rng.uniform(math.sin(math.radians(SKY_LEAST_ELEVATION_DEG)), 1.0, len(cameras))
    across = np.sqrt(1.0 - y**2)
    above = np.stack([across * np.sin(azimuth), y, across * np.cos(azimuth)], 1)
    return _lights(rng, cameras, above, SKY_AMBIENT)


def _lights(
    rng: np.random.Generator, cameras: Cameras, position: np.ndarray, ambients: tuple[float, float]
) -> Lights:
    # The paper's N(camera, 1), brought back to about the camera's distance so that it never is inside a thing.
    count = len(cameras)
    position = position / np.linalg.norm(position, axis=1, keepdims=True)
    position *= rng.uniform(*LIGHT_DISTANCE, (count, 1)) * cameras.distance.numpy()[:, None]
    ambient = np.where(rng.random(count) < FLAT_SHARE, 1.0, rng.uniform(*ambients, count))
    ambient_tensor = torch.from_numpy(ambient.astype(np.float32))
    return Lights(torch.from_numpy(position.astype(np.float32)), ambient_tensor, 1.0 - ambient_tensor)


def random_background(
    rng: np.random.Generator, avoid: Sequence[Rgb], resolution: int = RESOLUTION
) -> np.ndarray:
    """A plain colour, a vertical gradient or a white to gray, away from the colours in `avoid`; float32 "h w 3"."""
    kinds, shares = list(BACKGROUND_SHARES), np.cumsum(list(BACKGROUND_SHARES.values()))
    kind = kinds[int(np.searchsorted(shares, rng.random(), side="right"))]

    def plain() -> np.ndarray:
        for _ in range(20):
            if kind == "gray":
                value = np.clip(rng.uniform(0.6, 1.0) + rng.uniform(-0.02, 0.02, 3), 0.0, 1.0)
            elif rng.random() < 0.5:
                value = rng.uniform(0.0, 1.0, 3)
            else:
                named = np.array(list(COLORS.values())[int(rng.integers(len(COLORS)))])
                value = np.clip(named + rng.uniform(-0.15, 0.15, 3), 0.0, 1.0)
            if all(np.abs(value - np.array(rgb)).max() > BACKGROUND_CONTRAST for rgb in avoid):
                return value
        return value

    top = plain()
    bottom = plain() if kind == "gradient" else top
    share = np.linspace(0.0, 1.0, resolution)[:, None, None]
    column = top * (1 - share) + bottom * share
    return np.broadcast_to(column, (resolution, resolution, 3)).astype(np.float32)


def render_specs(
    specs: Sequence[SceneSpec],
    rng: np.random.Generator,
    cameras: Cameras | None = None,
    device: torch.device | str = "cpu",
    views_per_scene: int = 1,
    world: WideWorld | None = None,
    plaster: Sequence[bool] | None = None,
    sky: bool = False,
) -> tuple[np.ndarray, Cameras]:
    """Pictures of each scene, with its own proportions, light and background, as the data has them.

    Returns uint8 images "n h w 3" and the n cameras (random ones unless given), n = scenes * views_per_scene with the
    views of a scene side by side. The scenes are those of the core world, or of the wide `world`. Those that `plaster` marks are
    white and lit from the camera, as the textureless renders that a judge is shown. `sky` says which of the two kinds of light
    falls on the others.
    """
    cameras = cameras or random_views(rng, len(specs) * views_per_scene)
    scenes, backgrounds = [], []
    for index, spec in enumerate(specs):
        scene = compose(spec, rng) if world is None else world.compose(spec, rng)
        if plaster is not None and plaster[index]:
            scene = whitened(scene)
        for _ in range(views_per_scene):
            scenes.append(scene)
            backgrounds.append(random_background(rng, scene.colors, cameras.height))
    lights = sky_lights(rng, cameras) if sky else random_lights(rng, cameras)
    if plaster is not None:
        lights = _from_the_camera(lights, cameras, np.repeat(plaster, views_per_scene))
    on_device = Lights(lights.position.to(device), lights.ambient.to(device), lights.diffuse.to(device))
    background = torch.from_numpy(np.stack(backgrounds)).to(device)
    picture = draw(scenes, cameras.to(device), background, on_device)
    return (picture.rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy(), cameras


def draw(
    scenes: Sequence[Composition | WideScene],
    cameras: Cameras,
    background: Float[torch.Tensor, "n h w 3"],
    lights: Lights | None = None,
    supersample: int = 2,
) -> Picture:
    """Scene i through camera i, on the cameras' device: all of the core world, or all of the wide one."""
    device = cameras.c2w.device
    solids = pack([scene.solids for scene in scenes]).to(device)
    meshes = [scene.triangles for scene in scenes if isinstance(scene, WideScene)]
    if not meshes:
        return render(solids, cameras, background, lights, supersample)
    return rasterize.render(
        solids, pack_triangles(meshes).to(device), cameras, background, lights, supersample
    )


def whitened(scene: Composition | WideScene) -> Composition | WideScene:
    """The same shapes, white all over."""
    solids = replace(scene.solids, rgb=torch.ones_like(scene.solids.rgb))
    white: tuple[Rgb, ...] = ((1.0, 1.0, 1.0),) * len(scene.colors)
    if isinstance(scene, WideScene):
        triangles = replace(scene.triangles, rgb=torch.ones_like(scene.triangles.rgb))
        return replace(scene, solids=solids, triangles=triangles, colors=white)
    return replace(scene, solids=solids, colors=white)


def _from_the_camera(lights: Lights, cameras: Cameras, which: np.ndarray) -> Lights:
    marked = torch.from_numpy(which)
    return Lights(
        torch.where(marked[:, None], cameras.positions, lights.position),
        torch.where(marked, PLASTER_AMBIENT, lights.ambient),
        torch.where(marked, 1.0 - PLASTER_AMBIENT, lights.diffuse),
    )


def make_shard(
    path: str | Path,
    seed: int,
    count: int,
    split: Split = "train",
    device: torch.device | str = "cpu",
    world: WideWorld | None = None,
    plaster: float = 0.0,
    sky: bool = False,
) -> Path:
    """Renders `count` pictures and writes them under a temporary name, then renames; the same seed, the same bytes.

    The scenes are those of the core world, or of the wide `world`. A share `plaster` of them is shown in white plaster, and
    said without colours: for a judge that is to tell shapes. `sky` lights all others as `sky_lights` does: for a judge
    that has learnt from another light than what it judges.
    """
    path = Path(path)
    # Two words of entropy more for the wide world: no seed of one is a seed of the other.
    which = [WORLD_VERSION] if world is None else [WIDE_VERSION, WIDE_SEED]
    rng = np.random.default_rng([*which, seed, 0 if split == "train" else 1])
    images, specs, azimuths, elevations = [], [], [], []
    for _ in range(0, count, BATCH):
        batch = [_sample(rng, split, world) for _ in range(BATCH // VIEWS_PER_SCENE)]
        # Nothing is drawn without plaster: the pictures of such a seed stay what they were.
        marked = [bool(v) for v in rng.random(len(batch)) < plaster] if plaster else None
        if marked is not None:
            batch = [spec.uncoloured() if white else spec for spec, white in zip(batch, marked, strict=True)]
        rendered, cameras = render_specs(batch, rng, None, device, VIEWS_PER_SCENE, world, marked, sky)
        images.append(rendered)
        specs += [spec.to_json() for spec in batch for _ in range(VIEWS_PER_SCENE)]
        azimuths.append(cameras.azimuth_deg.numpy())
        elevations.append(cameras.elevation_deg.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(
            file,
            images=np.concatenate(images)[:count],
            specs=np.array(specs[:count]),
            azimuth_deg=np.concatenate(azimuths)[:count],
            elevation_deg=np.concatenate(elevations)[:count],
        )
    temporary.replace(path)
    return path


def _sample(rng: np.random.Generator, split: Split, world: WideWorld | None) -> SceneSpec:
    if world is not None:
        return world.sample_spec(rng, split)
    return sample_spec(rng, split, TRAINING_SHARES if split == "train" else EVEN_SHARES)


def load_shard(path: str | Path) -> Shard:
    """Reads a shard that `make_shard` wrote.

    Raises:
        DreamfusionError: if the file is missing or is no shard.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            specs = [SceneSpec.from_json(str(line)) for line in data["specs"]]
            return Shard(data["images"], specs, data["azimuth_deg"], data["elevation_deg"])
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise DreamfusionError(
            f"cannot read the pictures in {path}: {error}",
            expected="a shard written by python -m dreamfusion.miniature.dataset",
            hint="delete the file and make it again",
        ) from error


def _job(arguments: tuple[Path, int, argparse.Namespace]) -> Path:
    torch.set_num_threads(1)
    path, seed, options = arguments
    world = _opened(options.meshes) if options.world == "wide" else None
    return make_shard(
        path, seed, options.count, options.split, options.device, world, options.plaster, options.sky
    )


@cache
def _opened(meshes: Path) -> WideWorld:
    # Once a process: its shards share what has been read.
    return WideWorld.open(meshes)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: makes the shards that are not there yet."""
    parser = argparse.ArgumentParser(description="Render pictures of the procedural world into shards.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first shard, which is its seed too"
    )
    parser.add_argument("--count", type=int, default=4096, help="pictures a shard")
    parser.add_argument("--split", choices=["train", "held_out"], default="train")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--world", choices=["core", "wide"], default="core")
    parser.add_argument(
        "--meshes", type=Path, default=DEFAULT_MESHES, help="the wide world's cache of meshes"
    )
    parser.add_argument("--plaster", type=float, default=0.0, help="share of scenes in white plaster")
    parser.add_argument(
        "--sky", action="store_true", help="light from anywhere above, not from near the camera"
    )
    options = parser.parse_args(argv)
    jobs = []
    for index in range(options.first, options.first + options.shards):
        path = options.out / f"{options.split}_{index:05d}.npz"
        if not path.exists():
            jobs.append((path, index, options))
    started = time.perf_counter()
    with ProcessPoolExecutor(max_workers=options.workers) as pool:
        for done, path in enumerate(pool.map(_job, jobs), 1):
            seconds = time.perf_counter() - started
            line = f"{path}  {done}/{len(jobs)}  {done * options.count / seconds:.0f} pictures/s\n"
            sys.stderr.write(line)


if __name__ == "__main__":
    main()
