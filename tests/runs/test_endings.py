"""What may be called finished, and what happens when the ground is taken away: folders that go, steps that were not taken."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CheckpointCorruptError, CollapseError, DreamfusionError, OutputError
from dreamfusion.runs import checkpoint, directory, manifest, metrics
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.session import Observer, run_training
from dreamfusion.training import devices
from dreamfusion.training.trainer import StepMetrics, Trainer

MakeConfig = Callable[..., ExperimentConfig]
MakeTrainer = Callable[[ExperimentConfig, str], Trainer]


class After(Observer):
    """Does something once, after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action
        self.notices: list[str] = []

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        if metrics.step == self.step:
            self.action()

    def on_notice(self, text: str) -> None:
        self.notices.append(text)


# ------------------------------------------------------------------------------------------ folders that go

GONE: dict[str, Callable[[RunDirectory], object]] = {
    "deleted": lambda run: shutil.rmtree(run.path),
    "renamed": lambda run: run.path.rename(run.path.with_name("elsewhere")),
    "replaced": lambda run: (run.path.rename(run.path.with_name("elsewhere")), run.path.mkdir()),
    "metrics deleted": lambda run: run.metrics_path.unlink(),
    "metrics renamed": lambda run: run.metrics_path.rename(run.path / "old.jsonl"),
    "checkpoints deleted": lambda run: shutil.rmtree(run.checkpoints),
    "previews deleted": lambda run: shutil.rmtree(run.previews),
    "config deleted": lambda run: run.config_path.unlink(),
    "manifest renamed": lambda run: run.manifest_path.rename(run.path / "old.json"),
}


@pytest.mark.skipif(os.name == "nt", reason="folders in use cannot be renamed there")
@pytest.mark.parametrize(
    ("how", "after"),
    # After the last step neither numbers nor previews are written.
    [
        (how, after)
        for how in GONE
        for after in (2, 12)
        if after == 2 or not how.startswith(("metrics", "prev"))
    ],
)
def test_a_run_whose_folder_goes_ends_with_an_error_and_nothing_is_made_in_its_place(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, how: str, after: int
) -> None:
    run = directory.create(tmp_path, make_config())
    part = how.partition(" ")[0]
    named = {
        "metrics": run.metrics_path, "checkpoints": run.checkpoints, "previews": run.previews,
        "config": run.config_path, "manifest": run.manifest_path,
    }  # fmt: skip
    below = r"\S*" if part in named else ""
    told = (
        rf"^{re.escape(str(named.get(part, run.path)))}{below} .*(was deleted or renamed|must not be deleted)"
    )
    with pytest.raises(OutputError, match=told):
        run_training(
            run, run.config(), observer=After(after, lambda: GONE[how](run)), make_trainer=make_trainer
        )
    match how:
        case "deleted" | "renamed":
            assert not run.path.exists()
        case "replaced":
            assert list(run.path.iterdir()) == []
        case _:
            assert run.noted_status() == "failed"


@pytest.mark.parametrize("folder", ["checkpoints", "previews"])
def test_a_folder_that_is_absent_when_a_run_is_resumed_is_made(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, folder: str
) -> None:
    run = directory.create(tmp_path, make_config())
    run_training(
        run, run.config(), stop=lambda: metrics.last_step(run.metrics_path) == 3, make_trainer=make_trainer
    )
    shutil.rmtree(run.path / folder)
    assert run_training(run, run.config(), resume=True, make_trainer=make_trainer).status == "finished"


# ---------------------------------------------------------------------------------------- steps not taken


class Weighted:
    """A guidance whose gradients are multiplied by a number that depends on the step; its draws stay what they are."""

    def __init__(self, trainer: Trainer, factor: Callable[[int], float]) -> None:
        self.guidance: Any = trainer.guidance
        self.factor = factor

    def __call__(
        self,
        images: torch.Tensor,
        azimuth_deg: torch.Tensor,
        elevation_deg: torch.Tensor,
        step: int,
        noise_generator: torch.Generator,
        timestep_generator: torch.Generator,
    ) -> Any:
        result = self.guidance(images, azimuth_deg, elevation_deg, step, noise_generator, timestep_generator)
        return replace(result, loss=result.loss * self.factor(step))


def skipping(make_trainer: MakeTrainer, is_skipped: Callable[[int], bool]) -> MakeTrainer:
    """Trainers whose gradients are infinite at some steps, counted from 0."""

    def make(config: ExperimentConfig, device: str) -> Trainer:
        trainer = make_trainer(config, device)
        trainer.guidance = Weighted(trainer, lambda step: float("inf") if is_skipped(step) else 1.0)
        return trainer

    return make


@pytest.mark.parametrize("skipped", [0, 1, 6, 7, 12])
def test_skipped_steps_are_counted_and_most_of_them_are_a_failure(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, skipped: int
) -> None:
    run = directory.create(tmp_path, make_config())
    watcher = After(99, lambda: None)
    make = skipping(make_trainer, lambda step: step < skipped)
    if skipped > 6:
        with pytest.raises(CollapseError, match=f"{skipped} of 12 steps were skipped"):
            run_training(run, run.config(), observer=watcher, make_trainer=make)
        assert run.info().status == "collapsed"
        return
    outcome = run_training(run, run.config(), observer=watcher, make_trainer=make)
    assert (outcome.status, outcome.skipped, run.info().status) == ("finished", skipped, "finished")
    told = [f"{skipped} of 12 steps were skipped: their gradients were not finite"] if skipped else []
    assert watcher.notices == told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_a_scene_of_no_usable_numbers_is_neither_saved_nor_finished_nor_loaded(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, value: float
) -> None:
    trainers: list[Trainer] = []

    def keeping(config: ExperimentConfig, device: str) -> Trainer:
        trainers.append(make_trainer(config, device))
        return trainers[-1]

    def spoil() -> None:
        with torch.no_grad():
            next(trainers[-1].scene.parameters()).view(-1)[0] = value

    run = directory.create(tmp_path, make_config(checkpoint_every=4))
    spoiler = After(7, spoil)
    with pytest.raises(CollapseError, match="no usable numbers"):
        run_training(run, run.config(), observer=spoiler, make_trainer=keeping)
    # The checkpoint of step 4 was not pushed out by one that is worth nothing.
    assert run.info().status == "collapsed" and run.latest_checkpoint().name == "000004"

    # One that an older version has written is refused, and the good one is named.
    tensors, meta = trainers[-1].state_dict()
    checkpoint.save(checkpoint.path_for(run.checkpoints, 8), tensors, meta)
    with pytest.raises(
        CheckpointCorruptError, match=r"000008.*no usable numbers.*[Dd]elete that folder.*step 4"
    ):
        run_training(run, run.config(), resume=True, make_trainer=make_trainer)
    from dreamfusion.commands.finished import load_view

    with pytest.raises(
        CheckpointCorruptError, match=r"000008.*no usable numbers.*[Dd]elete that folder.*step 4"
    ):
        load_view(run, "cpu")


@pytest.mark.parametrize("rate", [1e30, 1e4])
def test_a_rate_that_ruins_the_scene_is_no_success_however_short_the_run(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, rate: float
) -> None:
    config = make_config(steps=6).model_dump(mode="json")
    config["optimizer"]["lr"] = rate
    run = directory.create(tmp_path, ExperimentConfig.model_validate(config))
    with pytest.raises(CollapseError):
        run_training(run, run.config(), make_trainer=make_trainer)
    assert run.info().status == "collapsed"


# ------------------------------------------------------------------------------------- longer than planned


def with_schedule(config: ExperimentConfig, steps: int) -> ExperimentConfig:
    """The config with a rate that falls over 8 steps, however long the run is."""
    data = config.model_dump(mode="json")
    data["optimizer"]["lr"] = {"kind": "linear", "start": 1e-2, "end": 1e-3, "steps": 8}
    data["training"] |= {"steps": steps, "checkpoint_every": 100}
    return ExperimentConfig.model_validate(data)


def results(run: RunDirectory) -> tuple[Any, ...]:
    lines = [{k: v for k, v in line.items() if k != "cost"} for line in metrics.read(run.metrics_path)]
    newest = run.latest_checkpoint()
    return (
        lines,
        newest.name,
        *((newest / name).read_bytes() for name in (checkpoint.TENSORS, checkpoint.META)),
    )


@pytest.mark.parametrize("before", [8, 5])
def test_a_run_trained_further_equals_one_that_was_planned_so_long(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, before: int
) -> None:
    planned = directory.create(tmp_path, with_schedule(make_config(), 12))
    run_training(planned, planned.config(), make_trainer=make_trainer)

    run = directory.create(tmp_path, with_schedule(make_config(), before))
    run_training(run, run.config(), make_trainer=make_trainer)
    longer = with_schedule(make_config(), 12)
    assert run_training(run, longer, resume=True, make_trainer=make_trainer).status == "finished"
    assert results(run) == results(planned)
    assert run.config() == planned.config() and run.info().steps == 12


# ------------------------------------------------------------------------------------------------ threads


def test_threads_are_noted_and_set_when_a_run_is_resumed(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    run = directory.create(tmp_path, make_config())
    here = devices.threads()
    seen: list[int] = []
    watcher = After(6, lambda: seen.append(devices.threads()))
    with devices.as_many_threads(here + 2):
        run_training(
            run,
            run.config(),
            stop=lambda: metrics.last_step(run.metrics_path) == 3,
            make_trainer=make_trainer,
        )
    run_training(run, run.config(), resume=True, observer=watcher, make_trainer=make_trainer)
    assert seen == [here + 2] and devices.threads() == here
    assert [session["threads"] for session in run.manifest()["sessions"]] == [here + 2, here + 2]
    assert any(f"computing with {here + 2} threads" in text for text in watcher.notices)


@pytest.mark.parametrize("noted", [None, 0, -3, True, "4", 10**9, [2]])
def test_a_number_of_threads_that_is_none_is_left_out(
    tmp_path: Path, make_config: MakeConfig, noted: Any
) -> None:
    run = directory.create(tmp_path, make_config())
    sessions = [{"threads": noted, "device": "cpu"}, "nonsense", {}, {"threads": 4, "device": "cuda: a GPU"}]
    run.manifest_path.write_text(json.dumps({"sessions": sessions}))
    assert manifest.threads(run.manifest_path) is None
    # The first that says a number counts: what came later may have been started elsewhere.
    told = [{"threads": count, "device": f"cpu, {count} threads"} for count in (4, 8)]
    run.manifest_path.write_text(json.dumps({"sessions": [*sessions, *told]}))
    assert manifest.threads(run.manifest_path) == 4


# ------------------------------------------------------------------------------------ the newest good one


def test_the_advice_after_a_damaged_checkpoint_can_be_followed_to_the_newest_good_one(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    run = directory.create(tmp_path, make_config(checkpoint_every=2, keep_checkpoints=9))
    run_training(run, run.config(), make_trainer=make_trainer)
    tensors, meta = checkpoint.load(run.checkpoints / "000006")
    # Of the newest the file is cut, the next has a scene of another size, the next lacks a number: all can be found out.
    file = run.checkpoints / "000012" / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-1])
    other = {
        name: value[..., :1].clone() if name.startswith("scene.") else value
        for name, value in tensors.items()
    }
    checkpoint.save(run.checkpoints / "000010", other, meta)
    checkpoint.save(run.checkpoints / "000008", tensors, {k: v for k, v in meta.items() if k != "watch"})
    gone = []
    for _ in range(4):
        try:
            run_training(run, run.config(), resume=True, make_trainer=make_trainer)
            break
        except DreamfusionError as error:
            assert isinstance(error, CheckpointCorruptError), error
            assert f"of step 6 ({run.checkpoints / '000006'})" in str(error)
            newest = run.latest_checkpoint()
            gone.append(newest.name)
            shutil.rmtree(newest)
    assert gone == ["000012", "000010", "000008"]
    assert run.info().status == "finished"
