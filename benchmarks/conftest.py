"""A finished-looking object to measure on: an untrained scene is one soft ball, and a ball flatters every part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dreamfusion.cameras import Cameras, orbit_cameras, random_cameras
from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import load_config
from dreamfusion.miniature.raycast import render as raycast
from dreamfusion.miniature.solids import pack
from dreamfusion.miniature.world import SceneSpec, Thing, build_scene
from dreamfusion.rendering.renderer import Renderer
from dreamfusion.scene.scene import make_scene
from dreamfusion.training.optimizer import SceneOptimizer

FIT_STEPS = 200


@dataclass
class Fitted:
    """A renderer whose scene was fitted to pictures of a peacock on a surfboard."""

    config: ExperimentConfig
    renderer: Renderer
    camera: Cameras


@pytest.fixture(scope="session")
def fitted() -> Fitted:
    """The miniature preset's scene after `FIT_STEPS` steps against true pictures: as empty and as opaque as a result is."""
    config = load_config("miniature")
    stream = torch.Generator().manual_seed(0)
    scene = make_scene(config.scene, stream)
    renderer = Renderer(scene, config.rendering)
    optimizer = SceneOptimizer(scene, config.optimizer)
    solids = build_scene(SceneSpec((Thing("peacock"), Thing("surfboard")), "on"), np.random.default_rng(0))
    for step in range(FIT_STEPS):
        cameras = random_cameras(config.cameras, stream)
        renderer.update_occupancy(step, stream)
        output = renderer.render(cameras, rays_generator=stream, background_generator=stream)
        truth = raycast(pack([solids] * len(cameras)), cameras, output.background).rgb
        optimizer.zero_grad()
        (output.rgb - truth).square().mean().backward()
        optimizer.apply(step)
    error = (output.rgb - truth).square().mean().item()
    assert error < 0.02, f"the object to measure on was not found: mean squared error {error:.3f}"
    side = config.cameras.resolution.largest
    return Fitted(config, renderer, orbit_cameras(30.0, 20.0, 2.5, 43.5, side))
