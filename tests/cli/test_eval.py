"""`dreamfusion eval`: a file of prompts becomes runs, an interrupted batch goes on, and the table holds what was seen."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamfusion.commands import evaluate
from dreamfusion.commands import train as train_command
from dreamfusion.commands.finished import load_view
from dreamfusion.config_files import dump_config, load_config
from dreamfusion.errors import CollapseError
from dreamfusion.evaluation import text_scores
from dreamfusion.evaluation.r_precision import Retrieval
from dreamfusion.evaluation.text_scores import TextScores, renders
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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge looks at smaller pictures."""
    _look_at_small_pictures(monkeypatch)


def _look_at_small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        text_scores, "renders", lambda renderer, distance, fovy_deg: renders(renderer, distance, fovy_deg, 16)
    )


def test_a_batch_is_made_once_and_judged(
    dreamfusion: Call,
    husk: Path,
    small: list[str],
    trained: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    _look_at_small_pictures(monkeypatch)
    dreamfusion(*words)
    assert trained == ["a red duck", "a blue cow"]
    runs = directory.listing(Path("outputs"))
    runs[1].run.write_state("stopped", 0)
    dreamfusion(*words)
    assert (
        trained == ["a red duck", "a blue cow", "a blue cow"] and len(directory.listing(Path("outputs"))) == 2
    )


def test_a_batch_knows_its_runs_by_their_prompts(
    dreamfusion: Call, husk: Path, small: list[str], trained: list[str], tmp_path: Path, quick: None
) -> None:
    words = ["eval", "--prompts", "prompts.txt", "--config", "miniature", "--device", "cpu"]
    words += [word for text in (f"guidance.model={husk}", *small) for word in ("--set", text)]
    (tmp_path / "prompts.txt").write_text("a red duck\na blue cow\n")
    assert dreamfusion(*words).code == 0
    # A line more at the top moves all others; they stay what they are.
    (tmp_path / "prompts.txt").write_text("a green house\na red duck\na blue cow\n")
    answer = dreamfusion(*words, "--set", "guidance.guidance_scale=3")
    assert answer.code == 0 and trained == ["a red duck", "a blue cow", "a green house"]
    rows = list(csv.DictReader(Path("outputs/scores.csv").read_text().splitlines()))
    assert [row["run"][:4] for row in rows] == ["0003", "0001", "0002"]
    # What was made under other settings is told, once for each and without what holds.
    told = [line for line in answer.err.splitlines() if "is kept as it is" in line]
    assert ["a-red-duck" in told[0], "a-blue-cow" in told[1], len(told)] == [True, True, 2]
    assert all("without guidance.guidance_scale=3, and" in line for line in told)


def test_a_batch_takes_the_newest_of_its_own_runs_of_a_prompt(tmp_path: Path) -> None:
    assert evaluate._newest(tmp_path, "a red duck") is None
    duck, cow = (load_config(None, (), {"prompt": prompt}) for prompt in ("a red duck", "a blue cow"))
    made = [("001 a red duck", duck), ("012 a red duck", duck), ("001 a blue cow", cow), ("a red duck", duck)]
    for name, config in made:
        directory.create(tmp_path, config, name)
    # The last was made by `train`, with settings of which a batch knows nothing.
    for prompt, number in (("a red duck", 2), ("a blue cow", 3)):
        newest = evaluate._newest(tmp_path, prompt)
        assert newest is not None and (newest.number, newest.prompt) == (number, prompt)


def test_a_start_by_number_and_a_key_set_twice_are_what_the_runs_were_made_with(
    fresh_run: RunDirectory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh = trimesh.creation.box((0.5, 0.5, 0.5))
    for name in ("box.ply", "other.ply"):
        mesh.export(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    config = fresh_run.config().model_copy(update={"init": str(tmp_path / "box.ply"), "seed": 7})
    fresh_run.config_path.write_text(dump_config(config))

    def told(*overrides: str) -> str:
        request = evaluate.EvalRequest((), None, None, None, None, overrides, tmp_path / "outputs")
        evaluate._tell_other_settings(request, fresh_run)
        return capsys.readouterr().err

    assert told("init=box.ply") == "" and told("init=box.ply", "seed=3", "seed=7") == ""
    assert "without init=other.ply, and" in told("init=other.ply", "seed=7")
    assert "without init=nothing, and" in told("init=nothing")
    assert "without seed=8, and" in told("init=box.ply", "seed=8")


def test_a_run_that_collapses_does_not_stop_the_batch_and_counts_as_a_miss(
    dreamfusion: Call, small: list[str], trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = train_command.train_run

    def collapse(run: RunDirectory, config: Any, device: str, **options: Any) -> None:
        if config.prompt != "a red duck":
            return finish(run, config, device, **options)
        (run.path / "metrics.jsonl").write_text('{"step": 3}\n')
        run.write_state("collapsed", 3)
        trained.append("collapsed")
        raise CollapseError("the scene has been empty for 3 steps")

    monkeypatch.setattr(train_command, "train_run", collapse)
    (tmp_path / "prompts.txt").write_text("a red duck\na blue cow\n")
    words = ["eval", "--prompts", "prompts.txt", "--config", "miniature", "--device", "cpu"]
    words += [word for text in small for word in ("--set", text)]
    for _ in range(2):  # and it is not tried again
        answer = dreamfusion(*words)
        assert answer.code == 0, answer.err
        assert trained == ["collapsed", "a blue cow"]
    rows = list(csv.DictReader(Path("outputs/scores.csv").read_text().splitlines()))
    assert [(rows[0][key]) for key in ("rank", "rank_geometry", "views_first", "similarity")] == [
        "2",
        "2",
        "0.0",
        "",
    ]
    assert rows[1]["similarity"] and answer.events[-1]["r_precision"] in (0.0, 0.5)
    with Image.open("outputs/scores.png") as sheet:
        assert sheet.size == (8 * 132 + 4, 3 * 132 + 4)


def test_fits_need_no_captions_and_no_judge(
    dreamfusion: Call, untrained_state: tuple[dict[str, Any], dict[str, Any]], small: list[str], quick: None
) -> None:
    for number, psnr in enumerate((30.0, 33.0)):
        config = load_config(
            "fit", (*small[2:], "rendering.occupancy.resolution=32"), {"data.path": "/chair"}
        )
        config = config.model_copy(update={"scene": load_config("miniature", small, {"prompt": "a"}).scene})
        run = directory.create(Path("outputs"), config, "chair")
        checkpoint.save(checkpoint.path_for(run.checkpoints, 0), *untrained_state)
        (run.path / "evaluation.json").write_text(f'{{"psnr": {psnr}, "ssim": 0.9{number}}}')
    answer = dreamfusion("eval", "--clip", "/no/such")
    assert answer.code == 0, answer.err
    told = answer.events[-1]
    assert (told["psnr"], told["ssim"], told["r_precision"]) == (31.5, 0.905, None)
    rows = list(csv.DictReader(Path("outputs/scores.csv").read_text().splitlines()))
    assert [(row["psnr"], row["rank"]) for row in rows] == [("30.0", ""), ("33.0", "")]


def test_every_number_has_its_own_column_and_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colour = Retrieval(rank=1, hits=0.625, similarity=0.31, margin=0.02, best=1)
    geometry = Retrieval(rank=3, hits=0.25, similarity=0.22, margin=-0.1, best=0)
    first = evaluate._numbers(TextScores(colour, geometry, janus=0.4, consistency=0.9), ["a", "b"])
    assert first == {
        "rank": 1, "views_first": 0.625, "rank_geometry": 3, "views_first_geometry": 0.25, "similarity": 0.31,
        "taken_for": "b", "janus": 0.4, "consistency": 0.9,
    }  # fmt: skip
    second = first | {"rank": 2, "rank_geometry": None, "views_first": 0.125, "views_first_geometry": None,
                      "similarity": 0.11, "janus": 0.0, "consistency": 0.5}  # fmt: skip
    third = first | {"rank": 4, "rank_geometry": 1, "views_first_geometry": 0.75}
    evaluate._write(tmp_path, [first, second, third], np.zeros((4, 4, 3), np.uint8))
    told = json.loads(capsys.readouterr().out)
    assert {key: value for key, value in told.items() if key not in ("event", "path")} == {
        "runs": 3, "r_precision": 0.3333, "r_precision_geometry": 0.5, "r_precision_views": 0.4583,
        "r_precision_views_geometry": 0.5, "similarity": 0.2433, "janus": 0.2667, "consistency": 0.7667,
        "psnr": None, "ssim": None,
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["rank_geometry"] for row in rows] == ["3", "", "1"]


def test_the_judge_looks_from_where_the_papers_look(
    run_with_checkpoint: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer, _ = load_view(run_with_checkpoint, "cpu")
    looks: list[tuple[Any, ...]] = []
    see = renderer.render_image
    monkeypatch.setattr(renderer, "render_image", lambda *args: looks.append(args) or see(*args))
    found = renders(renderer, 2.5, 40.0, 16)
    assert found.geometry is not None and found.colour.shape == found.geometry.shape == (8, 16, 16, 3)
    (cameras,), (same, light) = looks
    torch.testing.assert_close(cameras.elevation_deg, torch.full((8,), 30.0))
    torch.testing.assert_close(
        torch.remainder(cameras.azimuth_deg + 1e-3, 360), 45.0 * torch.arange(8) + 1e-3
    )
    torch.testing.assert_close(cameras.distance, torch.full((8,), 2.5))
    torch.testing.assert_close(cameras.fovy_deg, torch.full((8,), 40.0))
    # White, and lit from where the camera is, so that no side is in the dark.
    assert same is cameras and torch.equal(light.light_position, cameras.positions)
    assert (light.kind, light.ambient, light.diffuse) == ("textureless", 0.1, 0.9)


def test_a_run_is_judged_from_the_middle_of_its_own_cameras(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []

    def small(renderer: Any, distance: float, fovy_deg: float) -> Any:
        asked.append((distance, fovy_deg))
        return renders(renderer, distance, fovy_deg, 16)

    monkeypatch.setattr(text_scores, "renders", small)
    (tmp_path / "captions.txt").write_text("a green house\n")
    assert dreamfusion("eval", "1", "--captions", "captions.txt").code == 0
    assert asked == [(2.5, 43.5)]  # of 2.3 to 2.7 and 40 to 47 degrees


def test_what_would_stop_a_batch_is_told_before_it_trains(
    dreamfusion: Call, trained: list[str], tmp_path: Path
) -> None:
    (tmp_path / "two.txt").write_text("a red duck\na blue cow\n")
    (tmp_path / "one.txt").write_text("a red duck\n")
    for words, code, what in (
        (["--prompts", "two.txt", "--clip", "nowhere"], 15, "no CLIP in nowhere"),
        (["--prompts", "one.txt"], 11, "R-Precision ranks captions"),
        (["3", "--prompts", "two.txt"], 11, "runs and --prompts"),
        (["3", "--config", "fast"], 11, "--config is for the runs that --prompts makes: got fast"),
        (["--set", "seed=1"], 11, "--set is for the runs that --prompts makes: got seed=1"),
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
