"""The whole way with a tiny, randomly initialised checkpoint of the real classes: train, stop, resume, export, render."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamfusion.runs import checkpoint, metrics
from dreamfusion.runs.directory import RunDirectory

pytestmark = pytest.mark.slow


def options(texts: list[str]) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def test_three_commands(dreamfusion: Callable[..., Any], tiny_model: Path, small: list[str]) -> None:
    words = ["--config", "miniature", "--model", tiny_model, "--device", "cpu", "--steps", 3, "--seed", 5]
    answer = dreamfusion("train", "a red duck", *words, *options(small))
    assert answer.code == 0, answer.err
    kinds = [line["event"] for line in answer.events]
    assert kinds[0] == "started" and kinds[-1] == "finished" and "preview" in kinds
    run = RunDirectory(Path(answer.events[-1]["run"]))
    assert run.path.name == "0001-a-red-duck"
    assert [line["step"] for line in metrics.read(run.metrics_path)] == [1, 2, 3]
    assert run.config().guidance.model == str(tiny_model)
    assert not [line for line in metrics.read(run.metrics_path) if "loss" in line]

    mesh = dreamfusion("export", "--mesh", "--resolution", "24")
    assert mesh.code == 0, mesh.err
    video = dreamfusion("render", "--video", "--frames", "4", "--size", "32")
    assert video.code == 0, video.err
    assert (run.path / "mesh.glb").exists() and (run.path / "turntable.mp4").exists()

    again = dreamfusion("resume")
    assert again.code == 0 and again.events[-1]["event"] == "finished"

    sheet = dreamfusion(
        "sample", "a red duck", "--model", tiny_model, "--count", 2, "--steps", 2, "--view", "back"
    )
    assert sheet.code == 0, sheet.err
    assert sheet.events[0]["texts"] == {"back": "a red duck, back view"}
    assert Path(sheet.events[0]["path"]).read_bytes()[1:4] == b"PNG"


def test_an_interrupted_run_is_resumed_to_the_bytes_of_an_unbroken_one(
    dreamfusion: Callable[..., Any], tiny_model: Path, tmp_path: Path, small: list[str]
) -> None:
    steps = 40
    words = ["train", "a duck", "--config", "miniature", "--model", str(tiny_model), "--device", "cpu"]
    words += ["--steps", str(steps), *options([*small, "training.checkpoint_every=1000"])]
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamfusion", *words, "--name", "broken"], stdout=subprocess.PIPE, text=True
    )
    run = tmp_path / "outputs" / "0001-broken"
    while metrics.last_step(run / "metrics.jsonl") < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "stopped" and 3 <= last["step"] < steps
    assert last["resume"] == "dreamfusion resume outputs/0001-broken"

    resumed = dreamfusion("resume", "broken")
    assert resumed.code == 0, resumed.err
    unbroken = dreamfusion(*words, "--name", "unbroken")
    assert unbroken.code == 0, unbroken.err
    tensors = [
        (RunDirectory(tmp_path / "outputs" / name).latest_checkpoint() / checkpoint.TENSORS).read_bytes()
        for name in ("0001-broken", "0002-unbroken")
    ]
    assert tensors[0] == tensors[1]
