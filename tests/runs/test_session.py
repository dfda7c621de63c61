"""A run explains itself, stops when asked, survives being killed, and ends as if nothing had happened."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CheckpointCorruptError, CollapseError, OutputError
from dreamfusion.runs import checkpoint, directory, lock, metrics
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.session import Observer, Outcome, _LogFile, run_training
from dreamfusion.training.trainer import StepMetrics, Trainer

MakeConfig = Callable[..., ExperimentConfig]
MakeTrainer = Callable[[ExperimentConfig, str], Trainer]


class Watcher(Observer):
    """Remembers what it was told, and asks for a stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[int] = []
        self.previews: list[str] = []
        self.checkpoints: list[str] = []
        self.notices: list[str] = []
        self.stop_after = stop_after

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        assert steps == 12
        self.steps.append(metrics.step)

    def on_preview(self, path: Path) -> None:
        self.previews.append(path.name)

    def on_checkpoint(self, path: Path) -> None:
        self.checkpoints.append(path.name)

    def on_notice(self, text: str) -> None:
        self.notices.append(text)

    def stop(self) -> bool:
        return self.stop_after is not None and self.stop_after in self.steps


def train(
    run: RunDirectory, make_trainer: MakeTrainer, watcher: Watcher | None = None, resume: bool = False
) -> Outcome:
    watcher = watcher or Watcher()
    return run_training(
        run,
        run.config(),
        resume=resume,
        command=["dreamfusion", "train", "a grey ball"],
        observer=watcher,
        stop=watcher.stop,
        make_trainer=make_trainer,
    )


def remains(run: RunDirectory) -> dict[str, Any]:
    """All that a run leaves behind and that does not depend on the clock."""
    lines = list(metrics.read(run.metrics_path))
    newest = run.latest_checkpoint()
    return {
        "metrics": [{key: value for key, value in line.items() if key != "cost"} for line in lines],
        "newest": newest.name,
        "tensors": (newest / checkpoint.TENSORS).read_bytes(),
        "meta": (newest / checkpoint.META).read_bytes(),
        "previews": {path.name: path.read_bytes() for path in sorted(run.previews.iterdir())},
    }


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, make_trainer: MakeTrainer
) -> dict[str, Any]:
    run = directory.create(tmp_path_factory.mktemp("unbroken"), make_config())
    train(run, make_trainer)
    return remains(run)


def test_a_finished_run_explains_itself(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    run = directory.create(tmp_path, make_config())
    watcher = Watcher()
    outcome = train(run, make_trainer, watcher)
    assert (outcome.status, outcome.step, outcome.steps) == ("finished", 12, 12)
    assert outcome.resume_command == f"dreamfusion resume {run.path}"
    assert watcher.steps == list(range(1, 13))
    assert watcher.previews == ["000005.png", "000010.png", "000012.png"]
    assert watcher.checkpoints == ["000004", "000008", "000012"]
    assert [path.name for path in checkpoint.listing(run.checkpoints)] == ["000008", "000012"]
    assert outcome.checkpoint == run.checkpoints / "000012"
    assert [line["step"] for line in metrics.read(run.metrics_path)] == list(range(1, 13))
    assert Image.open(io.BytesIO((run.previews / "000012.png").read_bytes())).size == (64, 16)
    info = run.info()
    assert (info.status, info.step, info.steps, info.has_checkpoint) == ("finished", 12, 12, True)
    [session] = run.manifest()["sessions"]
    assert session["command"] == "dreamfusion train 'a grey ball'"
    assert session["from_step"] == 0 and session["device"].startswith("cpu")
    log = run.log_path.read_text()
    assert "checkpoint 000008" in log and "finished at step 12" in log
    assert sorted(entry.name for entry in run.path.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "log.txt",
        "manifest.json",
        "metrics.jsonl",
        "previews",
        "state.json",
    ]


@pytest.mark.parametrize("stop_after", [4, 7])
def test_stopped_and_resumed_equals_unbroken(
    tmp_path: Path,
    make_config: MakeConfig,
    make_trainer: MakeTrainer,
    unbroken: dict[str, Any],
    stop_after: int,
) -> None:
    run = directory.create(tmp_path, make_config())
    outcome = train(run, make_trainer, Watcher(stop_after))
    assert (outcome.status, outcome.step) == ("stopped", stop_after)
    assert outcome.checkpoint.name == f"{stop_after:06d}"
    assert run.info().status == "stopped"
    watcher = Watcher()
    train(run, make_trainer, watcher, resume=True)
    assert watcher.steps[0] == stop_after + 1
    assert remains(run) == unbroken
    assert [session["from_step"] for session in run.manifest()["sessions"]] == [0, stop_after]


def test_stopped_before_the_first_step_can_be_resumed(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, unbroken: dict[str, Any]
) -> None:
    run = directory.create(tmp_path, make_config())
    outcome = run_training(run, run.config(), stop=lambda: True, make_trainer=make_trainer)
    assert (outcome.status, outcome.step, outcome.checkpoint.name) == ("stopped", 0, "000000")
    train(run, make_trainer, resume=True)
    assert remains(run) == unbroken


def test_a_finished_run_resumed_stays_as_it_is(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, unbroken: dict[str, Any]
) -> None:
    run = directory.create(tmp_path, make_config())
    train(run, make_trainer)
    watcher = Watcher()
    assert train(run, make_trainer, watcher, resume=True).status == "finished"
    assert watcher.steps == watcher.checkpoints == []
    assert remains(run) == unbroken


class KilledError(BaseException):
    """Stands for a kill: nothing of ours runs after it, but for what a dying process could not do either."""


@pytest.mark.parametrize("at", [2, 9])
def test_killed_between_checkpoints_goes_back_to_the_last_one(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, unbroken: dict[str, Any], at: int
) -> None:
    class Killer(Watcher):
        def on_step(self, metrics: StepMetrics, steps: int) -> None:
            super().on_step(metrics, steps)
            if metrics.step == at:
                raise KilledError

    run = directory.create(tmp_path, make_config())
    with pytest.raises(KilledError):
        train(run, make_trainer, Killer())
    with run.metrics_path.open("a") as file:
        file.write('{"step": 99, "half')
    watcher = Watcher()
    train(run, make_trainer, watcher, resume=True)
    assert watcher.steps[0] == at // 4 * 4 + 1
    assert any("no checkpoint yet" in notice for notice in watcher.notices) == (at < 4)
    assert remains(run) == unbroken


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_killed_for_real_is_seen_as_killed_and_resumes(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, unbroken: dict[str, Any]
) -> None:
    run = directory.create(tmp_path, make_config())
    script = """
import runpy, sys, time
from pathlib import Path
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.session import Observer, run_training
helpers = runpy.run_path(sys.argv[1])
class Hanging(Observer):
    def on_step(self, metrics, steps):
        if metrics.step == 7:
            time.sleep(600)
run = RunDirectory(Path(sys.argv[2]))
run_training(run, run.config(), observer=Hanging(), make_trainer=helpers["tiny_trainer"])
"""
    helpers = Path(__file__).with_name("conftest.py")
    with subprocess.Popen([sys.executable, "-c", script, str(helpers), str(run.path)]) as victim:
        while metrics.last_step(run.metrics_path) < 7:
            assert victim.poll() is None
            time.sleep(0.01)
        assert run.info().status == "running"
        with pytest.raises(OutputError, match=f"process {victim.pid}"):
            train(run, make_trainer, resume=True)
        os.kill(victim.pid, signal.SIGKILL)
    info = run.info()
    assert (info.status, info.step) == ("killed", 7)
    train(run, make_trainer, resume=True)
    assert remains(run) == unbroken


def test_a_corrupt_checkpoint_is_never_passed_over_in_silence(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, unbroken: dict[str, Any]
) -> None:
    run = directory.create(tmp_path, make_config())
    train(run, make_trainer, Watcher(stop_after=9))
    broken = run.checkpoints / "000009"
    data = (broken / checkpoint.TENSORS).read_bytes()
    (broken / checkpoint.TENSORS).write_bytes(data[:-1])

    def no_weights_are_read(config: ExperimentConfig, device: str) -> Trainer:
        raise AssertionError("the checkpoint must be looked at first")

    with pytest.raises(CheckpointCorruptError, match=r"000009.*Delete that folder.*step 8"):
        train(run, no_weights_are_read, resume=True)
    assert run.info().status == "failed"
    for file in broken.iterdir():  # the advice is good
        file.unlink()
    broken.rmdir()
    train(run, make_trainer, resume=True)
    assert remains(run) == unbroken


def test_a_checkpoint_of_another_configuration_is_named(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    run = directory.create(tmp_path, make_config())
    train(run, make_trainer, Watcher(stop_after=2))
    finer = make_config().model_dump(mode="json")
    finer["scene"]["field"]["resolutions"] = [9]
    with pytest.raises(CheckpointCorruptError, match=r"000002: the checkpoint does not fit"):
        run_training(run, ExperimentConfig.model_validate(finer), resume=True, make_trainer=make_trainer)


def test_a_collapse_is_written_down_and_the_last_good_checkpoint_stays(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    run = directory.create(tmp_path, make_config())

    class Emptier(Watcher):
        def on_checkpoint(self, path: Path) -> None:
            raise CollapseError("the scene has been empty for 100 steps", hint="try another --seed")

    with pytest.raises(CollapseError):
        train(run, make_trainer, Emptier())
    info = run.info()
    assert info.status == "collapsed" and "try another --seed" in info.message.lower()
    assert "collapsed: the scene has been empty" in run.log_path.read_text()
    assert run.latest_checkpoint().name == "000004"


def test_our_own_mistakes_keep_their_traceback_in_the_log(tmp_path: Path, make_config: MakeConfig) -> None:
    run = directory.create(tmp_path, make_config())

    def broken(config: ExperimentConfig, device: str) -> Trainer:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError):
        train(run, broken)
    assert run.info().status == "failed"
    assert "Traceback" in run.log_path.read_text() and "ZeroDivisionError: ours" in run.log_path.read_text()


def test_a_fresh_start_never_overwrites_a_run(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer
) -> None:
    run = directory.create(tmp_path, make_config())
    train(run, make_trainer, Watcher(stop_after=2))
    with pytest.raises(ValueError, match="has checkpoints"):
        train(run, make_trainer)
    with lock.held(run.lock_path), pytest.raises(OutputError, match="another process"):
        train(run, make_trainer, resume=True)
    assert json.loads(run.state_path.read_text())["status"] == "stopped"


def test_a_full_disk_while_saving_leaves_the_older_checkpoint(
    tmp_path: Path,
    make_config: MakeConfig,
    make_trainer: MakeTrainer,
    unbroken: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = directory.create(tmp_path, make_config())

    def full(folder: Path, *_: object) -> None:
        (folder / checkpoint.TENSORS).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    class Filler(Watcher):
        def on_checkpoint(self, path: Path) -> None:
            monkeypatch.setattr(checkpoint, "_write_pair", full)

    told = rf"no space left on device.*Free some space, then go on with `dreamfusion resume {run.path}`"
    with pytest.raises(OutputError, match=told):
        train(run, make_trainer, Filler())
    assert f"dreamfusion resume {run.path}" in json.loads(run.state_path.read_text())["message"]
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["000004"]
    monkeypatch.undo()
    train(run, make_trainer, resume=True)
    assert remains(run) == unbroken


def test_a_full_disk_before_anything_is_saved_is_no_reason_to_resume(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_pair", full)
    with pytest.raises(OutputError, match=r"Free some space, then try again$"):
        train(directory.create(tmp_path, make_config()), make_trainer)


def test_metrics_reach_the_disk_before_the_checkpoint_and_an_older_one_goes_after_it(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(owner: Any, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (done.append(name), real(*args))[1])

    noted(metrics.MetricsWriter, "sync")
    noted(checkpoint, "save")
    noted(checkpoint, "prune")
    train(directory.create(tmp_path, make_config()), make_trainer, Watcher(stop_after=1))
    assert done == ["sync", "save", "prune"]


class FullDisk:
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        self.write("")

    close = flush


def test_a_log_on_a_full_disk_ends_nothing_and_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _LogFile(tmp_path / "log.txt")
    full: Any = FullDisk()
    before = handler.setStream(full)
    assert before is not None
    before.close()
    handler.emit(logging.makeLogRecord({"msg": "step %d", "args": (3,)}))
    assert capsys.readouterr().err == ""
    # A mistake of ours is still told.
    handler.emit(logging.makeLogRecord({"msg": "step %d", "args": ("three",)}))
    assert "Logging error" in capsys.readouterr().err
    handler.close()
