"""`dreamfusion eval`: a file of prompts becomes runs, an interrupted batch goes on, and the table holds what was seen."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreamfusion.commands import train as train_command
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]


@pytest.fixture
def trained(
    monkeypatch: pytest.MonkeyPatch, untrained_state: tuple[dict[str, Any], dict[str, Any]]
) -> list[str]:
    """Training is replaced by its result: a checkpoint of the soft ball; says which prompts were trained."""
    done: list[str] = []

    def finish(run: RunDirectory, config: Any, device: str, **_: Any) -> None:
        tensors, meta = untrained_state
        checkpoint.save(checkpoint.path_for(run.checkpoints, 0), tensors, meta)
        run.write_state("finished", config.training.steps)
        done.append(config.prompt)

    monkeypatch.setattr(train_command, "train_run", finish)
    return done


def test_a_batch_is_made_once_and_judged(
    dreamfusion: Call, husk: Path, small: list[str], trained: list[str], tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("# animals\na red duck\n\na  blue cow\na red duck\n")
    (tmp_path / "more.txt").write_text("a green house\na blue cow\n")
    words = ["eval", "--prompts", "prompts.txt", "--captions", "more.txt", "--config", "miniature",
             "--set", f"guidance.model={husk}", "--device", "cpu"]  # fmt: skip
    words += [word for text in small for word in ("--set", text)]
    answer = dreamfusion(*words)
    assert answer.code == 0, answer.err
    assert trained == ["a red duck", "a blue cow"]
    told = answer.events[-1]
    assert told["event"] == "eval" and told["runs"] == 2 and 0 <= told["r_precision"] <= 1
    rows = list(csv.DictReader(Path("outputs/scores.csv").read_text().splitlines()))
    assert [row["prompt"] for row in rows] == ["a red duck", "a blue cow"]
    # The same ball for both: at most one can be first, and both are taken for the same thing.
    assert rows[0]["taken_for"] == rows[1]["taken_for"]
    assert sum(row["rank"] == "1" for row in rows) <= 1 and all(1 <= int(row["rank"]) <= 3 for row in rows)
    assert rows[0]["rank_geometry"] and float(rows[0]["consistency"]) > 0.5
    with Image.open("outputs/scores.png") as sheet:
        assert sheet.size == (8 * 132 + 4, 4 * 132 + 4)
    dreamfusion(*words)
    assert trained == ["a red duck", "a blue cow"]
    runs = directory.listing(Path("outputs"))
    runs[1].run.write_state("stopped", 0)
    dreamfusion(*words)
    assert (
        trained == ["a red duck", "a blue cow", "a blue cow"] and len(directory.listing(Path("outputs"))) == 2
    )


def test_what_would_stop_a_batch_is_told_before_it_trains(
    dreamfusion: Call, trained: list[str], tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("a red duck\na blue cow\n")
    (tmp_path / "one.txt").write_text("a red duck\n")
    for words, code, what in (
        (["--prompts", "two.txt", "--clip", "nowhere"], 15, "no CLIP in nowhere"),
        (["--prompts", "one.txt"], 11, "R-Precision ranks captions"),
        (["3", "--prompts", "two.txt"], 11, "runs and --prompts"),
    ):
        answer = dreamfusion("eval", *words)
        assert (answer.code, trained) == (code, []) and answer.err.startswith(f"error: {what}")


def test_the_judge_is_the_second_clip_where_it_was_trained(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion.guidance import clip, side_models

    own = clip.package_directory()
    for name in ("clip", "judge"):
        shutil.copytree(own / "miniature" / "clip", tmp_path / "package" / "miniature" / name)
    (tmp_path / "captions.txt").write_text("a green house\n")
    for module in (clip, side_models):
        monkeypatch.setattr(module, "package_directory", lambda: tmp_path / "package")
    looked: list[Path] = []
    monkeypatch.setattr(
        clip, "clip_directory", lambda name, find=clip.clip_directory: looked.append(find(name)) or find(name)
    )
    words = ("eval", "1", "--captions", "captions.txt")
    answer = dreamfusion(*words)
    assert answer.code == 0 and "flatters" not in answer.err, answer.err
    assert {path.name for path in looked} == {"judge"}
    shutil.rmtree(tmp_path / "package" / "miniature" / "judge")
    answer = dreamfusion(*words)
    assert answer.code == 0 and "flatters what it guided" in answer.err
    assert looked[-1].name == "clip"
    answer = dreamfusion(*words, "--clip", "judge")
    assert answer.code == 15 and "scripts/train_miniature.py --stage judge" in answer.err


def test_single_runs_need_something_to_be_ranked_among(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tmp_path: Path
) -> None:
    answer = dreamfusion("eval", "1")
    assert (
        answer.code == 11 and "ranks captions against each other: expected two or more, got 1" in answer.err
    )
    (tmp_path / "captions.txt").write_text("a green house\n")
    (run_with_checkpoint.path / "evaluation.json").write_text('{"psnr": 31.5, "ssim": 0.9}')
    answer = dreamfusion("eval", "1", "--captions", "captions.txt")
    assert answer.code == 0, answer.err
    (row,) = csv.DictReader(Path("outputs/scores.csv").read_text().splitlines())
    assert (row["run"], row["psnr"], row["ssim"]) == (run_with_checkpoint.path.name, "31.5", "0.9")


def test_mistakes_in_files_are_told(dreamfusion: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    assert "there is no prompt in empty.txt" in dreamfusion("eval", "--prompts", "empty.txt").err
    assert "absent.txt cannot be read" in dreamfusion("eval", "--prompts", "absent.txt").err
    assert dreamfusion("eval", "--clip", "/no/such", "--captions", "empty.txt").code == 11
