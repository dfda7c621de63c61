"""Cameras follow what is seen, from one run to the resumed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dreamfusion.config import ExperimentConfig
from dreamfusion.training.trainer import Guidance, Trainer


def test_cameras_turn_around_what_they_see(
    make_config: Callable[..., ExperimentConfig], oracle: Guidance
) -> None:
    moving: dict[str, Any] = {"track_centre": 0.5}
    trainer = Trainer(make_config(cameras=moving), guidance=oracle)
    trainer.train_step()
    # At the start the scene is a ball in the middle.
    assert max(map(abs, trainer.centre)) < 0.1
    trainer.centre = [0.3, 0.0, -0.2]
    cameras, _ = trainer._views()
    # The oracle's cameras look at their own middle from 2.5 away.
    middle = cameras.positions + 2.5 * cameras.forward
    torch.testing.assert_close(middle, torch.tensor([[0.3, 0.0, -0.2]]).expand_as(middle), atol=1e-5, rtol=0)
    trainer.train_step()
    assert trainer.centre[0] == pytest.approx(0.15, abs=0.06)
    resumed = Trainer(make_config(cameras=moving), guidance=oracle)
    resumed.load_state_dict(*trainer.state_dict())
    assert resumed.centre == trainer.centre
    still = Trainer(make_config(), guidance=oracle)
    still.train_step()
    assert still.centre == [0.0, 0.0, 0.0]
