"""The same loop with the real classes: a tiny Stable Diffusion of random weights pulls, a cut run goes on bit for bit."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamfusion.config import ExperimentConfig
from dreamfusion.training.trainer import Trainer

_BUILDERS = Path(__file__).parents[1] / "guidance" / "conftest.py"


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., ExperimentConfig]
) -> ExperimentConfig:
    directory = tmp_path_factory.mktemp("tiny-sd")
    runpy.run_path(str(_BUILDERS))["save_tiny_stable_diffusion"](directory, "sd1")
    return make_config(
        guidance={"model": str(directory), "guidance_scale": 7.5, "dtype": "float32"},
        scene={"background": {"kind": "random"}},
        cameras={"resolution": 24, "position_jitter": 0.1},
        rendering={"shading": {"albedo_steps": 2}},
        losses={"opacity": 0.01},
    )


def test_twenty_steps_move_the_scene_and_only_the_scene(config: ExperimentConfig) -> None:
    trainer = Trainer(config)
    guidance: Any = trainer.guidance
    frozen = {name: value.clone() for name, value in guidance.unet.state_dict().items()}
    before = {name: value.clone() for name, value in trainer.scene.state_dict().items()}
    metrics = [trainer.train_step() for _ in range(20)]
    assert [m.step for m in metrics] == list(range(1, 21))
    assert all(math.isfinite(m.sds_gradient_norm) and m.sds_gradient_norm > 0 for m in metrics)
    assert not any(m.skipped for m in metrics)
    moved = [
        name for name, value in trainer.scene.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert set(moved) == set(before)
    assert all(torch.equal(value, frozen[name]) for name, value in guidance.unet.state_dict().items())
    for module in (guidance.unet, guidance.vae):
        assert all(parameter.grad is None for parameter in module.parameters())


def test_a_cut_run_goes_on_bit_for_bit(config: ExperimentConfig) -> None:
    unbroken = Trainer(config)
    for _ in range(3):
        unbroken.train_step()
    saved = unbroken.state_dict()
    resumed = Trainer(config)
    resumed.load_state_dict(*saved)
    for _ in range(3):
        unbroken.train_step()
        resumed.train_step()
    (expected, meta), (got, got_meta) = unbroken.state_dict(), resumed.state_dict()
    assert meta == got_meta
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
