"""Runs that are continued from elsewhere or beyond their end, runs of no use, and folders that go while a command works."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamfusion.commands import diffuse, export, render, train
from dreamfusion.commands.fit import EVALUATION
from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import ConfigError
from dreamfusion.runs import checkpoint
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]


def settings(texts: list[str]) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def test_a_run_is_resumed_from_another_folder_and_beyond_its_end(
    dreamfusion: Call, tmp_path: Path, tiny_model: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(tiny_model.parent)
    words = ["train", "a red duck", "--config", "miniature", "--device", "cpu", *settings(small)]
    answer = dreamfusion(*words, "--model", f"models/{tiny_model.name}", "--steps", 2)
    assert (answer.code, answer.events[-1]["event"]) == (0, "finished")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    [run] = (tmp_path / "outputs").iterdir()

    answer = dreamfusion("resume", run, "--steps", 1)
    assert answer.code == 11 and "--steps: expected 2 or more" in answer.err
    for same in ([], ["--steps", 2]):
        assert dreamfusion("resume", run, *same).events[-1]["event"] == "finished"
    assert len(RunDirectory(run).manifest()["sessions"]) == 1

    answer = dreamfusion("resume", run, "--steps", 4)
    assert answer.code == 0, answer.err
    assert "training.steps 2 -> 4; schedules stay as they are" in answer.err
    assert (answer.events[-1]["step"], answer.events[-1]["skipped"]) == (4, 0)
    assert RunDirectory(run).config().training.steps == 4
    assert RunDirectory(run).latest_checkpoint().name == "000004"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_further_steps_that_cannot_be_taken_leave_the_run_as_it_is(
    dreamfusion: Call, run_with_checkpoint: RunDirectory
) -> None:
    run = run_with_checkpoint
    text = run.config_path.read_text().replace("kind: finite_difference", "kind: none")
    text = text.replace("  orientation: 0.0", "  orientation: {kind: linear, start: 0, end: 1, steps: 9}")
    run.config_path.write_text(text.replace("  steps: 600", "  steps: 1").replace("    epsilon: 0.01\n", ""))
    run.write_state("finished", 1)
    before = {path: path.read_bytes() for path in (run.config_path, run.state_path)}
    answer = dreamfusion("resume", "1", "--steps", 4)
    assert answer.code == 11 and "losses.orientation needs normals" in answer.err
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("steps", [1, 2, 3, 600])
def test_a_run_may_end_where_it_stands_and_no_earlier(steps: int) -> None:
    config = ExperimentConfig()
    if steps < 2:
        with pytest.raises(ConfigError, match="--steps: expected 2 or more, for 2 are done, got 1"):
            train._with_steps(config, steps, done=2)
    else:
        changed = train._with_steps(config, steps, done=2)
        assert changed.training.steps == steps
        assert changed.training.model_copy(update={"steps": 600}) == config.training


@pytest.mark.parametrize(
    "wrong", [["guidance.guidance_scale=1e38"], ["clip.weight=1e38", "clip.copies=1"], ["optimizer.lr=1e30"]]
)
def test_a_run_whose_steps_came_to_nothing_is_no_success(
    dreamfusion: Call, tiny_model: Path, small: list[str], wrong: list[str]
) -> None:
    words = [
        "train",
        "a red duck",
        "--config",
        "miniature",
        "--device",
        "cpu",
        "--model",
        tiny_model,
        "--steps",
        3,
    ]
    answer = dreamfusion(*words, *settings([*small, *wrong]))
    assert answer.code == 20 and answer.err.splitlines()[-1].startswith("error: ")
    assert not any(event["event"] == "finished" for event in answer.events)
    [listed] = dreamfusion("runs").events
    assert listed["status"] == "collapsed" and listed["step"] > 0


@pytest.mark.parametrize("parts", [["export", "--page"], ["export", "--output", "sent/duck.glb"],
    ["render"], ["render", "--image"], ["render", "--sheet", "2"], ["render", "--format", "png"], ["diffuse"]])  # fmt: skip
def test_no_command_makes_a_folder_anew_that_goes_while_it_works(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    module: Any = {"export": export, "render": render, "diffuse": diffuse}[parts[0]]
    last_read = "_render" if module is diffuse else "load_view"
    folder = Path("sent") if "--output" in parts else run_with_checkpoint.path
    real = getattr(module, last_read)

    def and_then_it_goes(*arguments: Any) -> Any:
        loaded = real(*arguments)
        shutil.rmtree(folder)
        return loaded

    monkeypatch.setattr(module, last_read, and_then_it_goes)
    monkeypatch.setattr(diffuse, "_explain", lambda *_: (None, {}))
    small = {"export": ["--resolution", 16, "--texture-size", 64], "render": ["--size", 16]}.get(parts[0], [])
    model = ["--model", "miniature"] if module is diffuse else []
    frames = ["--frames", 2] if parts == ["render"] or "--format" in parts else []
    answer = dreamfusion(
        parts[0], run_with_checkpoint.path, *parts[1:], *small, *model, *frames, "--device", "cpu"
    )
    assert (answer.code, answer.out) == (18, ""), answer.err
    assert answer.err.splitlines()[-1].count("was deleted or renamed") == 1
    assert not folder.exists()


def test_scores_of_a_fit_that_is_trained_further_are_no_longer_its_own(
    run_with_checkpoint: RunDirectory,
) -> None:
    from dreamfusion.commands.fit import forget_measurement, is_measured

    (run_with_checkpoint.path / EVALUATION).write_text("{}")
    assert is_measured(run_with_checkpoint)
    forget_measurement(run_with_checkpoint)
    forget_measurement(run_with_checkpoint)
    assert not is_measured(run_with_checkpoint)


def test_a_command_puts_a_killed_run_in_order_first(
    dreamfusion: Call, run_with_checkpoint: RunDirectory
) -> None:
    run = run_with_checkpoint
    steps = run.config().training.steps
    shutil.copytree(run.latest_checkpoint(), checkpoint.path_for(run.checkpoints, steps))
    run.write_state("running", 0)
    (run.path / ".state.json.4194399.tmp").touch()
    [listed] = dreamfusion("runs").events
    assert listed["status"] == "finished"
    assert run.noted_status() == "finished" and not list(run.path.glob(".*.tmp"))
    assert dreamfusion("resume", run.path).events[-1]["event"] == "finished"
