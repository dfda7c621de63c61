"""Runs of older versions: each folder `version-N` holds one as its code left it, and today's code still does all with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from typer.testing import CliRunner

from dreamfusion.cli import app
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory

OLD = sorted(path for path in Path(__file__).parent.glob("version-*/*") if path.is_dir())


def command(*words: object) -> list[dict[str, Any]]:
    """The results of a command that has to succeed."""
    answer = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert answer.exit_code == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(float)


@pytest.fixture(params=OLD, ids=lambda path: f"{path.parent.name}/{path.name}")
def old_run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A copy that may be written."""
    monkeypatch.chdir(tmp_path)
    return RunDirectory(shutil.copytree(request.param, tmp_path / "outputs" / request.param.name))


def test_there_is_a_run_of_each_older_version() -> None:
    assert OLD


def test_it_is_listed(old_run: RunDirectory) -> None:
    (told,) = command("runs")
    config = old_run.config()
    assert (told["status"], told["step"]) == ("finished", config.training.steps)
    assert told["prompt"] == config.prompt and told["has_checkpoint"] is True


def test_it_is_rendered_as_its_last_preview_shows_it(old_run: RunDirectory) -> None:
    config = old_run.config()
    front = Image.open(old_run.previews / f"{config.training.steps:06d}.png")
    size = config.training.preview_size
    command("render", "--image", "--size", size, "--elevation-deg", 15, "--output", "front.png")
    # The preview's first view is the front.
    shown = np.asarray(front.convert("RGB")).astype(float)[:size, :size]
    assert np.abs(pixels(Path("front.png")) - shown).mean() < 12


def test_it_is_exported_and_checked(old_run: RunDirectory) -> None:
    mesh, check = command("export", "--resolution", 24, "--texture-size", 64, "--unwrap-limit", 0, "--check")
    assert isinstance(trimesh.load_scene(mesh["path"]).to_mesh(), trimesh.Trimesh) and check["iou"] > 0.5


def test_it_is_resumed_from_an_earlier_checkpoint(old_run: RunDirectory) -> None:
    steps = old_run.config().training.steps
    shutil.rmtree(old_run.latest_checkpoint())
    before = checkpoint.step_of(old_run.latest_checkpoint())
    assert 0 < before < steps
    events: list[dict[str, Any]] = command("resume")
    assert events[-1]["event"] == "finished" and events[-1]["step"] == steps
    (info,) = directory.listing(Path("outputs"))
    assert (info.status, info.step) == ("finished", steps)
    rows = [json.loads(line) for line in old_run.metrics_path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
