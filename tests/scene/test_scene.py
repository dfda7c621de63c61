from __future__ import annotations

import pytest
import torch

from dreamfusion.config import (
    EnvironmentBackgroundConfig,
    GridsFieldConfig,
    HashGridFieldConfig,
    LinearSchedule,
    MLPFieldConfig,
    SceneConfig,
)
from dreamfusion.scene.scene import make_scene

FIELDS = [
    GridsFieldConfig(resolutions=(4, 8)),
    HashGridFieldConfig(levels=3, log2_table_size=10, base_resolution=4, max_resolution=16, start_level=1),
    MLPFieldConfig(width=16, blocks=1, degrees=3, covariance=LinearSchedule(start=0.05, end=0.01, steps=9)),
]


def _scene(field):
    config = SceneConfig(field=field, radius=1.2, background=EnvironmentBackgroundConfig(width=8))
    return make_scene(config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("field", FIELDS)
def test_state_is_the_weights_and_the_step(field, generator):
    """A scene rebuilt from its weights and its step answers bit for bit the same."""
    scene = _scene(field)
    scene.set_step(7777)
    for parameter in scene.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    rebuilt = make_scene(
        SceneConfig(field=field, radius=1.2, background=EnvironmentBackgroundConfig(width=8)),
        torch.Generator().manual_seed(9),
    )
    rebuilt.load_state_dict(scene.state_dict())
    rebuilt.set_step(7777)
    x = torch.randn(40, 3, generator=generator) * 0.4
    assert torch.equal(rebuilt.field(x).sigmas, scene.field(x).sigmas)
    assert torch.equal(rebuilt.field(x).albedo, scene.field(x).albedo)


def test_parameter_groups_hold_every_parameter_once():
    scene = _scene(FIELDS[1])
    groups = scene.parameter_groups()
    grouped = [id(p) for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(grouped) == sorted(map(id, scene.parameters()))
    assert [group["name"] for group in groups] == ["field", "decoder", "background"]
