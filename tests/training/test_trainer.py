"""The whole loop, driven by an oracle: it finds the object, it can be cut and continued anywhere, and it defends itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamfusion.cameras import orbit_cameras
from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CheckpointCorruptError, CollapseError, ConfigError
from dreamfusion.training.trainer import Guidance, StepMetrics, Trainer, load_renderer

MakeConfig = Callable[..., ExperimentConfig]

# Everything that draws random numbers draws some, and everything that has a state has one.
LIVELY: dict[str, dict[str, Any]] = {
    "scene": {"background": {"kind": "environment", "width": 8}},
    "rendering": {
        "samples_per_ray": 16,
        # 7 does not divide the field's 16: else its nodes are the field's, and random points never see more than they do.
        "occupancy": {"resolution": 7, "update_every": 2, "warmup_steps": 1},
        "shading": {"albedo_steps": 2, "shaded_probability": 0.5},
    },
    "cameras": {
        "resolution": 16,
        "views_per_step": 2,
        "distance": [2.0, 3.0],
        "position_jitter": 0.1,
        "target_jitter": 0.1,
        "up_jitter": 0.1,
    },
    "optimizer": {"lr": {"kind": "linear", "start": 0.02, "end": 0.05, "steps": 10}},
    "losses": {"orientation": 0.01, "opacity": 0.01, "entropy": 0.01, "convexity": 0.01},
}
SCENE_OF_RANDOM_COLOUR = {"scene": {"background": {"kind": "random"}}}


def lively(make_config: MakeConfig, **more: Any) -> ExperimentConfig:
    return make_config(**(LIVELY | more))


def run(trainer: Trainer, steps: int) -> list[StepMetrics]:
    return [trainer.train_step() for _ in range(steps)]


def test_the_loop_finds_the_object_from_every_side(
    make_config: MakeConfig, oracle: Guidance, truth: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    trainer = Trainer(make_config(optimizer={"lr": 0.1}), guidance=oracle)
    run(trainer, 30)
    azimuth_deg = torch.tensor([10.0, 100.0, 190.0, 280.0, 45.0])
    elevation_deg = torch.tensor([0.0, 20.0, -10.0, 40.0, 50.0])
    rgb, mask = truth(azimuth_deg, elevation_deg, 48)
    seen = trainer.renderer.render_image(orbit_cameras(azimuth_deg, elevation_deg, 2.5, 45.0, 48))
    solid = seen.opacity > 0.5
    overlap = (solid & mask).flatten(1).sum(1) / (solid | mask).flatten(1).sum(1)
    assert overlap.min() > 0.9, overlap
    assert (seen.rgb - rgb).square().mean() < 0.01


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_pictures_grow_and_a_resumed_run_grows_with_them(
    make_config: MakeConfig, oracle: Guidance, cut: int
) -> None:
    growing = LIVELY["cameras"] | {"resolution": {"kind": "doubling", "start": 8, "end": 32, "steps": 6}}
    config = lively(make_config, cameras=growing)
    sides: list[int] = []

    def watched(images: Tensor, *arguments: Any, **more: Any) -> Any:
        sides.append(images.shape[1])
        return oracle(images, *arguments)

    unbroken = Trainer(config, guidance=watched)
    run(unbroken, 7)
    assert sides == [8, 8, 16, 16, 32, 32, 32]
    first, resumed = Trainer(config, guidance=oracle), Trainer(config, guidance=watched)
    run(first, cut)
    resumed.load_state_dict(*first.state_dict())
    del sides[:]
    run(resumed, 7 - cut)
    assert sides == [8, 8, 16, 16, 32, 32, 32][cut:]
    assert differing(unbroken, resumed) == []


def test_a_guidance_that_wants_copies_sees_the_views_over_other_backgrounds(make_config: MakeConfig) -> None:
    class Looking:
        copies = 3
        seen: tuple[Tensor, Tensor]

        def __call__(
            self,
            images: Tensor,
            azimuth_deg: Tensor,
            elevation_deg: Tensor,
            step: int,
            noise_generator: torch.Generator,
            timestep_generator: torch.Generator,
        ) -> Any:
            self.seen = images.detach(), azimuth_deg
            none = torch.empty(0, dtype=torch.int64)
            return SimpleNamespace(loss=images.mean(), gradient_norm=0.0, timesteps=none)

    looking = Looking()
    config = make_config(**SCENE_OF_RANDOM_COLOUR, cameras={"resolution": 16, "views_per_step": 2})
    trainer = Trainer(config, guidance=looking)
    metrics = trainer.train_step()
    images, azimuth_deg = looking.seen
    assert images.shape == (6, 16, 16, 3) and azimuth_deg.shape == (2,) and metrics.gradient_norm > 0
    # In a corner nothing is but the background; in the middle of a soft ball each shines through as much.
    assert len({tuple(corner.tolist()) for corner in images[:, 0, 0]}) == 6
    for view in range(2):
        shown = images[view::2]
        through = (shown[1] - shown[0]) / (shown[1, 0, 0] - shown[0, 0, 0])
        torch.testing.assert_close(
            through, (shown[2] - shown[0]) / (shown[2, 0, 0] - shown[0, 0, 0]), atol=1e-3, rtol=0
        )
        assert 0.0 <= through[8, 8].min() < 0.9


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    make_config: MakeConfig, oracle: Guidance, cut: int
) -> None:
    unbroken = Trainer(lively(make_config), guidance=oracle)
    metrics = run(unbroken, 7)
    first = Trainer(lively(make_config), guidance=oracle)
    run(first, cut)
    resumed = Trainer(lively(make_config), guidance=oracle)
    run(resumed, 2)  # whatever it did before, loading wipes it out
    resumed.load_state_dict(*first.state_dict())
    continued = run(resumed, 7 - cut)
    assert differing(unbroken, resumed) == []
    assert [without_cost(m) for m in continued] == [without_cost(m) for m in metrics[cut:]]


class Cut(NamedTuple):
    """A run cut at its third step, and how it ended after the seventh."""

    config: ExperimentConfig
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    end: Trainer


@pytest.fixture(scope="module")
def cut_run(make_config: MakeConfig, oracle: Guidance) -> Cut:
    config = lively(make_config, **SCENE_OF_RANDOM_COLOUR)
    trainer = Trainer(config, guidance=oracle)
    run(trainer, 3)
    tensors, meta = trainer.state_dict()
    run(trainer, 4)
    return Cut(config, tensors, meta, trainer)


@pytest.mark.parametrize(
    "left_out",
    [
        "nothing",
        "scene.",
        "renderer.",
        "optimizer.",
        *(
            f"generator.{purpose}"
            for purpose in ("cameras", "rays", "occupancy", "shading", "background", "noise", "timesteps")
        ),
    ],
)
def test_the_test_above_notices_whatever_is_left_out(cut_run: Cut, oracle: Guidance, left_out: str) -> None:
    resumed = Trainer(cut_run.config, guidance=oracle)
    fresh, _ = resumed.state_dict()
    kept = {name: value for name, value in cut_run.tensors.items() if not name.startswith(left_out)}
    put_back = {name: value for name, value in fresh.items() if name.startswith(left_out)}
    resumed.load_state_dict(kept | put_back, cut_run.meta)
    run(resumed, 4)
    # The grid's random points change it only where a field rises between its nodes, which this one does not.
    trace = left_out if left_out == "generator.occupancy" else "scene.field"
    changed = any(name.startswith(trace) for name in differing(cut_run.end, resumed))
    assert changed == (left_out != "nothing")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    make_config: MakeConfig, oracle: Guidance
) -> None:
    config = lively(make_config)
    first, second = Trainer(config, guidance=oracle), Trainer(config, guidance=oracle)
    torch.manual_seed(123)  # no code of ours looks at the global generator
    other = Trainer(config.model_copy(update={"seed": 2}), guidance=oracle)
    for trainer in (first, second, other):
        run(trainer, 3)
    assert differing(first, second) == []
    assert any(name.startswith("scene.field") for name in differing(first, other))


def test_a_checkpoints_renderer_shows_the_same_picture_without_a_guidance(
    make_config: MakeConfig, oracle: Guidance
) -> None:
    config = lively(make_config, scene={"field": {"kind": "mlp", "width": 16, "blocks": 1}})
    trainer = Trainer(config, guidance=oracle)
    run(trainer, 3)
    renderer = load_renderer(config, *trainer.state_dict())
    trainer.scene.set_step(3)
    camera = orbit_cameras(30, 20, 2.5, 45, 16)
    assert torch.equal(renderer.render_image(camera).rgb, trainer.renderer.render_image(camera).rgb)


def test_the_scene_is_brought_to_each_step(make_config: MakeConfig, oracle: Guidance) -> None:
    covariance = {"kind": "linear", "start": 0.1, "end": 0.0, "steps": 10}
    config = make_config(
        scene={"field": {"kind": "mlp", "width": 8, "blocks": 1, "covariance": covariance}},
        cameras={"resolution": 8},
    )
    trainer = Trainer(config, guidance=oracle)
    run(trainer, 3)
    field: Any = trainer.scene.field
    assert field.blur_std == pytest.approx(0.08)  # the third step is step 2
    trainer.preview_png()
    assert field.blur_std == pytest.approx(0.07)
    restored: Any = load_renderer(config, *trainer.state_dict()).scene.field
    assert restored.blur_std == pytest.approx(0.07)


def test_a_checkpoint_of_another_configuration_is_refused(make_config: MakeConfig, oracle: Guidance) -> None:
    trainer = Trainer(make_config(), guidance=oracle)
    trainer.train_step()
    tensors, meta = trainer.state_dict()
    finer = make_config(scene={"field": {"kind": "grids", "resolutions": [8, 20]}})
    with pytest.raises(CheckpointCorruptError, match="does not fit"):
        Trainer(finer, guidance=oracle).load_state_dict(tensors, meta)
    for missing in ("scene.field.density_grids.0", "generator.noise", "renderer.occupancy.densities"):
        fewer = {name: value for name, value in tensors.items() if name != missing}
        with pytest.raises(CheckpointCorruptError):
            Trainer(make_config(), guidance=oracle).load_state_dict(fewer, meta)
    with pytest.raises(CheckpointCorruptError):
        Trainer(make_config(), guidance=oracle).load_state_dict(tensors, {"step": 1})


def test_what_was_counted_before_a_resume_counts_on(make_config: MakeConfig, oracle: Guidance) -> None:
    trainer, resumed = (Trainer(make_config(), guidance=oracle) for _ in range(2))
    trainer.skipped_steps = 3
    trainer.watch.empty, trainer.watch.solid, trainer.watch.skipped = 5, 6, 7
    resumed.load_state_dict(*trainer.state_dict())
    assert resumed.skipped_steps == 3
    assert resumed.watch.state_dict() == {"empty": 5, "solid": 6, "skipped": 7}


def _lights_of_a_step(config: ExperimentConfig, oracle: Guidance, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    trainer, lights = Trainer(config, guidance=oracle), []
    render = trainer.renderer.render

    def watched(cameras: Any, shading: Any, **options: Any) -> Any:
        lights.append(shading.light_position)
        return render(cameras, shading, **options)

    monkeypatch.setattr(trainer.renderer, "render", watched)
    trainer.train_step()
    return lights[0].norm(dim=-1)


@pytest.mark.parametrize("blob_radius", [0.3, 1.6])
def test_lights_stay_outside_what_is_solid_and_nothing_else_moves_them(
    make_config: MakeConfig, oracle: Guidance, monkeypatch: pytest.MonkeyPatch, blob_radius: float
) -> None:
    shading = {"albedo_steps": 0, "shaded_probability": 1.0, "light_distance": [0.8, 0.9]}
    field = {"kind": "grids", "resolutions": [4], "blob_density": 60.0, "blob_radius": blob_radius}
    config = make_config(
        scene={"radius": 2.0, "field": field}, rendering={"shading": shading}, cameras={"views_per_step": 4}
    )
    distances = _lights_of_a_step(config, oracle, monkeypatch)
    low, high = (0.8, 0.9) if blob_radius == 0.3 else (1.4, 1.6)
    assert low <= distances.min() and distances.max() <= high and len(distances) == 4


class Spoiled:
    """A guidance whose gradient is not finite at the steps in `bad`."""

    def __init__(self, guidance: Guidance, bad: set[int]) -> None:
        self.guidance, self.bad = guidance, bad

    def __call__(
        self,
        images: Tensor,
        azimuth_deg: Tensor,
        elevation_deg: Tensor,
        step: int,
        noise_generator: torch.Generator,
        timestep_generator: torch.Generator,
    ) -> Any:
        answer: Any = self.guidance(
            images, azimuth_deg, elevation_deg, step, noise_generator, timestep_generator
        )
        if step in self.bad:
            answer.loss = answer.loss * float("nan")
        return answer


def test_a_gradient_that_is_not_finite_is_counted_and_the_step_left_out(
    make_config: MakeConfig, oracle: Guidance
) -> None:
    trainer = Trainer(make_config(), guidance=Spoiled(oracle, {1}))
    trainer.train_step()
    before = [parameter.detach().clone() for parameter in trainer.scene.parameters()]
    metrics = trainer.train_step()
    assert metrics.skipped and metrics.skipped_steps == 1 and metrics.step == 2
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.scene.parameters(), strict=True))
    metrics = trainer.train_step()
    assert not metrics.skipped and metrics.skipped_steps == 1
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.scene.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.scene.parameters(), strict=True))


def test_too_many_of_them_stop_the_run(make_config: MakeConfig, oracle: Guidance) -> None:
    config = make_config(training={"max_skipped_steps": 3})
    trainer = Trainer(config, guidance=Spoiled(oracle, set(range(100))))
    with pytest.raises(CollapseError, match="last 3 steps"):
        run(trainer, 5)
    assert trainer.step == 3


@pytest.mark.parametrize(("blob_density", "word"), [(-60.0, "empty"), (2000.0, "solid")])
def test_a_collapsed_scene_stops_the_run(
    make_config: MakeConfig, oracle: Guidance, blob_density: float, word: str
) -> None:
    field = {
        "kind": "grids",
        "resolutions": [8],
        "hidden_layers": 0,
        "blob_density": blob_density,
        "blob_radius": 10.0,
    }
    config = make_config(scene={"field": field}, training={"collapse_patience": 3})
    with pytest.raises(CollapseError, match=word):
        run(Trainer(config, guidance=oracle), 4)


def test_metrics_mean_something_and_fit_in_json(make_config: MakeConfig, oracle: Guidance) -> None:
    trainer = Trainer(lively(make_config), guidance=oracle)
    metrics = run(trainer, 2)[-1]
    told = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
    assert told["step"] == 2 and len(told["timesteps"]) == 2
    assert set(told["losses"]) == {"orientation", "opacity", "entropy", "convexity"}
    assert set(told["cost"]["seconds"]) == {"render", "guidance", "backward", "optimizer"}
    assert told["cost"]["peak_memory_mb"] > 10
    assert 0 < told["opacity"] < told["ball_opacity"] < 1
    assert told["learning_rate"] == pytest.approx(0.023)
    assert "loss" not in told and "sds_loss" not in told


def test_a_preview_changes_nothing_and_shows_front_side_back_and_overhead(
    make_config: MakeConfig, oracle: Guidance
) -> None:
    trainer = Trainer(lively(make_config), guidance=oracle)
    run(trainer, 3)
    before, _ = trainer.state_dict()
    strip = torch.from_numpy(np.array(Image.open(io.BytesIO(trainer.preview_png()))))
    after, _ = trainer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert strip.shape == (16, 64, 3)
    config = trainer.config.cameras
    for index, (azimuth, elevation) in enumerate([(0, 15), (90, 15), (180, 15), (0, 80)]):
        camera = orbit_cameras(azimuth, elevation, config.distance[1], sum(config.fovy_deg) / 2, 16)
        expected = trainer.renderer.render_image(camera).rgb[0]
        tile = strip[:, 16 * index : 16 * (index + 1)]
        assert (tile / 255 - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_normals_that_are_wanted_and_switched_off_are_said_at_once(
    make_config: MakeConfig, oracle: Guidance
) -> None:
    none = {"normals": {"kind": "none"}}
    for loss in ("orientation", "convexity"):
        with pytest.raises(ConfigError, match=rf"losses\.{loss} needs normals"):
            Trainer(make_config(scene=none, losses={loss: 0.1}), guidance=oracle)
        # 0 at the start, the middle and the end: it would stop the run at its second step.
        between = {"kind": "warmup_cosine", "start": 0, "peak": 1, "end": 0, "warmup_steps": 1, "steps": 3}
        with pytest.raises(ConfigError, match=rf"losses\.{loss} needs normals"):
            Trainer(make_config(scene=none, losses={loss: between}, training={"steps": 20}), guidance=oracle)
    with pytest.raises(ConfigError, match=r"shading needs normals"):
        Trainer(make_config(scene=none, rendering={"shading": {"albedo_steps": 5}}), guidance=oracle)
    Trainer(make_config(scene=none), guidance=oracle).train_step()


@pytest.mark.parametrize("loss", ["orientation", "convexity"])
def test_normals_are_there_when_a_loss_comes_to_want_them(
    make_config: MakeConfig, oracle: Guidance, loss: str
) -> None:
    rising = {"kind": "linear", "start": 0.0, "end": 1.0, "steps": 4}
    trainer = Trainer(
        make_config(losses={loss: rising}, rendering={"shading": {"shaded_probability": 0.0}}),
        guidance=oracle,
    )
    assert [sorted(trainer.train_step().losses) for _ in range(2)] == [[], [loss]]


def differing(a: Trainer, b: Trainer) -> list[str]:
    """Names of the tensors in which two trainers differ, and "meta" if the rest does."""
    (first, first_meta), (second, second_meta) = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    names = [name for name in first if not torch.equal(first[name], second[name])]
    return names + (["meta"] if first_meta != second_meta else [])


def without_cost(metrics: StepMetrics) -> dict[str, Any]:
    return {key: value for key, value in metrics.as_dict().items() if key != "cost"}
