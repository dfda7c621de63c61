"""The loop with photographs in the guidance's place: it finds the object, and can be cut and continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamfusion.cameras import Cameras, orbit_cameras, pencil_cameras
from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CollapseError
from dreamfusion.evaluation.held_out import look_at_held_out
from dreamfusion.posed_images.dataset import PosedDataset, PosedImages
from dreamfusion.rendering.shading import ALBEDO
from dreamfusion.training import trainer as trainer_module
from dreamfusion.training.photographs import Photographs
from dreamfusion.training.trainer import Trainer

MakeConfig = Callable[..., ExperimentConfig]
Truth = Callable[..., tuple[Tensor, Tensor]]
SIZE = 32


@pytest.fixture(scope="module")
def dataset(truth: Truth) -> PosedDataset:
    """The oracle's balls from all sides, as RGBA photographs."""

    def images(azimuth_deg: Tensor, elevation_deg: Tensor) -> PosedImages:
        rgb, silhouette = truth(azimuth_deg, elevation_deg, SIZE)
        alpha = silhouette[..., None].float()
        rgba = (torch.cat([rgb * alpha, alpha], dim=-1) * 255).round().to(torch.uint8)
        cameras = orbit_cameras(azimuth_deg, elevation_deg, 2.5, 45.0, SIZE)
        names = [f"{index}.png" for index in range(len(rgba))]
        return PosedImages(names, rgba, torch.ones(rgba.shape[:3], dtype=torch.bool), cameras)

    train = images(torch.arange(0.0, 360.0, 20.0), torch.tensor([-15.0, 15.0, 45.0]).repeat(6))
    held_out = images(torch.tensor([10.0, 130.0, 250.0]), torch.tensor([0.0, 20.0, 40.0]))
    return PosedDataset("blender", train, held_out, with_alpha=True, from_dataset=np.eye(4))


def fitted(config: ExperimentConfig, dataset: PosedDataset, steps: int) -> Trainer:
    trainer = Trainer(config, photographs=Photographs(dataset, 512))
    for _ in range(steps):
        trainer.train_step()
    return trainer


def held_out_psnr(trainer: Trainer, dataset: PosedDataset) -> float:
    assert dataset.held_out is not None
    views = list(look_at_held_out(trainer.renderer, dataset.held_out))
    return sum(view.psnr for view in views) / len(views)


RANDOM_BACKGROUND: dict[str, Any] = {
    "field": {"kind": "grids", "resolutions": [8, 16, 32]},
    "background": {"kind": "random"},
}


def test_new_views_are_like_their_photographs(make_config: MakeConfig, dataset: PosedDataset) -> None:
    config = make_config(scene=RANDOM_BACKGROUND, optimizer={"lr": 0.03})
    trainer = fitted(config, dataset, 0)
    before = held_out_psnr(trainer, dataset)
    told = [trainer.train_step() for _ in range(60)]
    after = held_out_psnr(trainer, dataset)
    assert after > 20.0 and after > before + 5.0
    first, last = told[0].losses, told[-1].losses
    assert last["psnr"] > first["psnr"] + 5.0
    assert last["psnr"] == pytest.approx(-10 * np.log10(last["photometric"]), abs=1e-6)
    assert told[0].timesteps == []


@pytest.mark.parametrize("field", [
    {"kind": "mlp", "width": 16, "blocks": 1, "degrees": 4},
    {"kind": "hashgrid", "levels": 4, "log2_table_size": 12, "base_resolution": 4, "max_resolution": 32,
     "start_level": 4, "hidden_width": 16},
])  # fmt: skip
def test_every_field_learns(make_config: MakeConfig, dataset: PosedDataset, field: dict[str, Any]) -> None:
    config = make_config(scene={"field": field, "background": {"kind": "random"}}, optimizer={"lr": 0.01})
    trainer = Trainer(config, photographs=Photographs(dataset, 512))
    losses = [trainer.train_step().losses["photometric"] for _ in range(25)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_resumed_fit_is_the_unbroken_one(make_config: MakeConfig, dataset: PosedDataset) -> None:
    config = make_config(scene=RANDOM_BACKGROUND)
    unbroken = fitted(config, dataset, 4)
    tensors, meta = fitted(config, dataset, 2).state_dict()
    resumed = fitted(config, dataset, 0)
    resumed.load_state_dict(tensors, meta)
    for _ in range(2):
        resumed.train_step()
    for name, value in unbroken.state_dict()[0].items():
        assert torch.equal(value, resumed.state_dict()[0][name]), name


def test_photographs_may_fill_the_ball_and_not_leave_it_empty(
    make_config: MakeConfig, dataset: PosedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(scene=RANDOM_BACKGROUND, training={"collapse_patience": 2, "steps": 9})
    monkeypatch.setattr(trainer_module, "_mean_opacities", lambda *_: (1.0, 1.0))
    trainer = fitted(config, dataset, 3)  # a room, with the cameras inside
    monkeypatch.setattr(trainer_module, "_mean_opacities", lambda *_: (0.0, 0.0))
    trainer.train_step()
    with pytest.raises(CollapseError, match="empty"):
        trainer.train_step()


def test_pixels_are_drawn_with_the_rays_that_took_them(dataset: PosedDataset) -> None:
    cameras, pixels = dataset.train.draw(200, torch.Generator().manual_seed(3))
    origins, directions = cameras.rays()
    # The silhouette's ray hits one of the balls, and no other does.
    centres = torch.tensor([[0.0, -0.1, 0.0], [0.45, 0.1, 0.0], [0.0, 0.35, 0.25]])
    radii = torch.tensor([0.4, 0.22, 0.2])
    offset = origins.view(-1, 1, 3) - centres
    along = (offset * directions.view(-1, 1, 3)).sum(-1)
    hits = (offset.square().sum(-1) - along.square() < radii.square()).any(dim=1)
    assert torch.equal(hits, pixels.view(-1, 4)[:, 3] == 1)
    assert 20 < hits.sum() < 100


def test_a_pencil_is_one_ray_of_its_camera(dataset: PosedDataset) -> None:
    cameras: Cameras = dataset.train.cameras
    _, whole = cameras.rays()
    view, row, column = (torch.tensor(values) for values in ([3, 0, 3], [5, 31, 0], [30, 2, 0]))
    pencils = pencil_cameras(cameras, view, row, column)
    _, single = pencils.rays()
    torch.testing.assert_close(single[:, 0, 0], whole[view, row, column], atol=1e-6, rtol=0)
    assert torch.equal(pencils.forward, cameras.forward[view])


def test_a_learnt_background_does_not_pull_on_its_own_target(
    make_config: MakeConfig, dataset: PosedDataset
) -> None:
    """loss = mean (F + (1 - o) B - C - (1 - a) sg(B))^2, by hand: its slope in B has no part from the target."""
    environment: dict[str, Any] = RANDOM_BACKGROUND | {"background": {"kind": "environment", "width": 4}}
    trainer = Trainer(make_config(scene=environment), photographs=Photographs(dataset, 64))
    cameras, pixels = trainer._views()
    assert pixels is not None
    output = trainer._render(cameras, ALBEDO)
    background = output.background.detach().requires_grad_(True)
    opacity, foreground = output.opacity.detach(), output.foreground_rgb.detach()
    seen = replace(output, background=background, rgb=foreground + (1 - opacity)[..., None] * background)
    pull = Photographs(dataset, 64).pull(seen, pixels)
    (slope,) = torch.autograd.grad(pull.loss, background)
    difference = seen.rgb - pixels[..., :3] - (1 - pixels[..., 3:]) * background
    wanted = 2 * difference * (1 - opacity)[..., None] / difference.numel()
    torch.testing.assert_close(slope, wanted.detach())
    assert slope.abs().max() > 0


def test_pixels_that_are_not_real_do_not_count(make_config: MakeConfig, dataset: PosedDataset) -> None:
    assert dataset.held_out is not None
    trainer = Trainer(make_config(scene=RANDOM_BACKGROUND), photographs=Photographs(dataset, 64))
    clean = dataset.held_out
    real = clean.real.clone()
    real[:, :8] = False
    spoilt = clean.rgba.clone()
    spoilt[:, :8] = 255 - spoilt[:, :8]
    masked = [
        next(iter(look_at_held_out(trainer.renderer, replace(clean, rgba=rgba, real=real))))
        for rgba in (clean.rgba, spoilt)
    ]
    assert masked[0].psnr == masked[1].psnr
