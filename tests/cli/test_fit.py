# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""`dreamfusion fit` from a mesh's pictures to the numbers, as it is typed; and what it says when it cannot."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.assets import mesh
from dreamfusion.commands import fit as fit_command
from dreamfusion.config_files import load_config
from dreamfusion.evaluation import geometry

Call = Callable[..., Any]
FAST = [
    "scene.field.resolutions=[8,16]",
    "rendering.samples_per_ray=24",
    "rendering.occupancy.resolution=16",
    "data.rays_per_step=256",
    "training.preview_size=16",
    "training.preview_every=20",
    "training.checkpoint_every=5",
    "optimizer.lr=0.03",
]


@pytest.fixture(scope="module")
def script(module_at: Call) -> Any:
    return module_at("scripts/make_posed_images.py")


@pytest.fixture(scope="module")
def made(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red box with a green ball on its +X side, 12 + 4 views of 24 pixels."""
    folder = tmp_path_factory.mktemp("made")
    box = trimesh.creation.box((1.0, 0.8, 0.8))
    box.visual.vertex_colors = [220, 40, 40, 255]
    ball = trimesh.creation.icosphere(3, radius=0.35).apply_translation([0.8, 0, 0])
    ball.visual.vertex_colors = [40, 200, 60, 255]
    trimesh.util.concatenate([box, ball]).export(folder / "object.ply")
    words = [
        folder / "object.ply",
        folder / "set",
        "--size",
        24,
        "--views",
        12,
        "--test-views",
        4,
        "--supersample",
        2,
    ]
    assert script.main([str(word) for word in words]) == 0
    return folder / "set"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The geometry's score is replaced by a number; says which truths were to be compared with."""
    truths: list[Path] = []

    def score(_renderer: Any, _dataset: Any, truth: Path) -> dict[str, Any]:
        truths.append(truth)
        return {"chamfer": 0.25, "normal_consistency": 0.5}

    monkeypatch.setattr(fit_command, "_measure_geometry", score)
    return truths


def fast() -> list[str]:
    return [word for text in FAST for word in ("--set", text)]


def test_the_data_set_has_the_front_in_front(made: Path) -> None:
    content = json.loads((made / "transforms_train.json").read_text())
    assert len(content["frames"]) == 12
    from dreamfusion.config import PosedImagesConfig
    from dreamfusion.posed_images.dataset import read_dataset

    dataset = read_dataset(PosedImagesConfig(path=str(made)))
    cameras = dataset.train.cameras
    seen = dataset.train.rgba[..., 1].float().mean(dim=(1, 2))
    # The green ball is on +X: best seen from azimuth 90.
    nearest = int(seen.argmax())
    assert 15 < float(cameras.azimuth_deg[nearest]) < 165
    truth = trimesh.load(made / "truth.ply")
    assert isinstance(truth, trimesh.Trimesh)
    inside = truth.vertices @ dataset.from_dataset[:3, :3].T + dataset.from_dataset[:3, 3]
    assert 0.8 < np.linalg.norm(inside, axis=-1).max() < 1.0


def test_a_file_whose_z_is_up_can_be_rendered_upright(script: Any, tmp_path: Path) -> None:
    rod = trimesh.creation.box((0.5, 1.0, 4.0)).apply_translation([7, 8, 9])
    # A vertex of no face counts for nothing.
    loose = trimesh.Trimesh(np.concatenate([rod.vertices, [[99, 0, 0]]]), rod.faces, process=False)
    loose.export(tmp_path / "rod.stl")
    loose.export(tmp_path / "rod.ply")
    for name in ("rod.stl", "rod.ply"):
        for up, wanted in (("y", (0.5, 1, 4)), ("z", (0.5, 4, 1)), ("x", (1, 0.5, 4))):
            mesh = script.load_mesh(tmp_path / name, up)
            np.testing.assert_allclose(mesh.extents, np.array(wanted) * 2 / np.linalg.norm(wanted), atol=1e-6)
            np.testing.assert_allclose(mesh.bounds.mean(axis=0), 0, atol=1e-6)


def test_what_makes_no_data_set_is_told(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path / "absent.glb"), str(tmp_path / "set")]) == 23
    assert capsys.readouterr().err == f"error: there is no mesh {tmp_path / 'absent.glb'}\n"
    with pytest.raises(SystemExit):
        script.main(["a.glb", str(tmp_path / "set"), "--views", "2"])
    assert "--views: expected 3 or more, got 2" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_fit_measures_and_leaves_a_run_like_every_other(
    dreamfusion: Call, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "extract_mesh", functools.partial(mesh.extract_mesh, resolution=32))
    monkeypatch.setattr(geometry, "SIDE", 48)
    monkeypatch.setattr(geometry, "SAMPLES", 10_000)
    answer = dreamfusion("fit", made, "--steps", 40, "--truth", made / "truth.ply", *fast())
    assert answer.code == 0, answer.err
    (told,) = [line for line in answer.events if line["event"] == "evaluation"]
    assert told["views"] == 4 and told["psnr"] > 15 and 0.3 < told["ssim"] <= 1
    assert told["chamfer"] < 0.2 and told["normal_consistency"] > 0.5
    run = Path("outputs/0001-set")
    rows = list(csv.DictReader((run / "held_out" / "views.csv").read_text().splitlines()))
    assert [row["picture"] for row in rows] == [f"r_{index:03d}.png" for index in range(4)]
    mean = sum(float(row["psnr_db"]) for row in rows) / 4
    assert mean == pytest.approx(told["psnr"], abs=1e-3)
    with Image.open(run / "held_out" / "000.png") as sheet:
        assert sheet.size == (3 * 28 + 4, 32)
        photograph, render, away = (
            np.asarray(sheet).astype(int)[4:28, left : left + 24] for left in (4, 32, 60)
        )
    assert np.abs(away - np.abs(photograph - render)).max() <= 1 and away.max() > 20
    assert len(json.loads((run / "dataset.json").read_text())["from_dataset"]) == 4
    assert dreamfusion("export", "--mesh", "--resolution", "16").code == 0
    assert dreamfusion("render", "--image", "--size", "16").code == 0
    assert dreamfusion("runs").events[0]["status"] == "finished"


def test_a_stopped_fit_goes_on(dreamfusion: Call, made: Path, scored: list[Path]) -> None:
    from dreamfusion.runs import checkpoint, directory

    words = ("--steps", 6, "--truth", made / "truth.ply", *fast())
    whole = dreamfusion("fit", made, "--name", "whole", *words)
    part = dreamfusion("fit", made, "--name", "part", *words)
    assert (whole.code, part.code) == (0, 0)
    run = directory.find("part", Path("outputs"))
    newest = run.latest_checkpoint()
    checkpoint.load(newest)
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    answer = dreamfusion("resume", "part")
    assert answer.code == 0, answer.err
    (run.path / "evaluation.json").unlink()  # stopped between the last step and the measurement
    again = dreamfusion("resume", "part")
    assert again.code == 0, again.err
    numbers = [
        [(line["psnr"], line["chamfer"]) for line in said.events if line["event"] == "evaluation"]
        for said in (whole, answer, again)
    ]
    assert numbers[0] == numbers[1] == numbers[2] and len(numbers[0]) == 1
    assert scored == [made / "truth.ply"] * 4
    assert dreamfusion("resume", "part").events[-1]["event"] == "finished"


def test_a_truth_that_is_gone_is_told_before_a_fit_goes_on(
    dreamfusion: Call, made: Path, tmp_path: Path, scored: list[Path]
) -> None:
    truth = tmp_path / "truth.ply"
    truth.write_bytes((made / "truth.ply").read_bytes())
    assert dreamfusion("fit", made, "--steps", 5, "--truth", truth, *fast()).code == 0 and len(scored) == 1
    truth.unlink()
    Path("outputs/0001-set/evaluation.json").unlink()
    answer = dreamfusion("resume", "1")
    assert answer.code == 23 and f"there is no mesh {truth}" in answer.err


def test_a_fit_that_is_stopped_while_it_measures_says_how_to_measure(
    dreamfusion: Call, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion.evaluation import held_out

    def stopped(*_: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(held_out, "look_at_held_out", stopped)
        answer = dreamfusion("fit", made, "--steps", 5, *fast())
    assert answer.code == 130 and "dreamfusion resume outputs/0001-set" in answer.err
    assert dreamfusion("resume", "outputs/0001-set").code == 0
    assert Path("outputs/0001-set/evaluation.json").is_file()


def test_pictures_without_opacity_get_a_learnt_background_unless_told(
    dreamfusion: Call, made: Path, tmp_path: Path
) -> None:
    content = json.loads((made / "transforms_train.json").read_text())
    (tmp_path / "flat" / "train").mkdir(parents=True)
    for path in (made / "train").iterdir():
        Image.open(path).convert("RGB").save(tmp_path / "flat" / "train" / path.name)
    (tmp_path / "flat" / "transforms_train.json").write_text(json.dumps(content))
    for words, kind in ([], "environment"), (["--set", "scene.background.kind=solid"], "solid"):
        answer = dreamfusion("fit", "flat", "--dry-run", *words)
        assert answer.code == 0, answer.err
        assert "# all" in answer.out and "# guidance" not in answer.out  # a fit has none
        (tmp_path / "dry.yaml").write_text(answer.out)
        planned = load_config(tmp_path / "dry.yaml")
        assert planned.scene.background.kind == kind
        # Previews and videos look from where the cameras were: Fibonacci's spiral down to -20 degrees.
        low, high = planned.cameras.elevation_deg
        assert -21 < low < 0 and 60 < high < 90 and planned.cameras.distance[0] > 1
    assert not Path("outputs").exists()


def test_the_pictures_field_of_view_comes_in_the_place_of_a_presets_focal_length(
    dreamfusion: Call, made: Path
) -> None:
    answer = dreamfusion("fit", made, "--dry-run", "--config", "paper")
    assert answer.code == 0 and "focal_length: null" in answer.out
    own = dreamfusion("fit", made, "--dry-run", "--config", "paper", "--set", "cameras.focal_length=[1, 1]")
    assert own.code != 0 and "fovy_deg and focal_length" in own.err


def test_odd_frames_do_not_say_where_to_look_from_and_warnings_name_them(
    dreamfusion: Call, made: Path, tmp_path: Path
) -> None:
    usual = {}
    for kind in ("clean", "odd"):
        folder = tmp_path / kind
        shutil.copytree(made, folder)
        content = json.loads((folder / "transforms_train.json").read_text())
        if kind == "odd":
            content["depth_path"] = "depth"
            matrix = np.array(content["frames"][5]["transform_matrix"])
            matrix[:3, 3] *= 30
            content["frames"][5]["transform_matrix"] = matrix.tolist()
            (folder / "train" / "r_007.png").unlink()
        (folder / "transforms_train.json").write_text(json.dumps(content))
        answer = dreamfusion("fit", folder, "--dry-run")
        assert answer.code == 0, answer.err
        (tmp_path / "dry.yaml").write_text(answer.out)
        usual[kind] = load_config(tmp_path / "dry.yaml").cameras
        warnings = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
        expected = ("depth images are not used", "1 of 12 images", "1 of 11 frames (r_005.png): a silhouette")
        assert len(warnings) == (3 if kind == "odd" else 0)
        assert all(any(part in line for line in warnings) for part in expected if kind == "odd")
    assert usual["odd"].distance == pytest.approx(usual["clean"].distance, rel=0.2)


def test_a_run_is_called_as_the_folder_of_its_pictures(made: Path, tmp_path: Path) -> None:
    (tmp_path / "desk.v2").mkdir()
    for dataset, name in (
        (made, "set"),
        (made / "transforms_train.json", "set"),
        (tmp_path / "desk.v2", "desk.v2"),
    ):
        assert fit_command._folder_name(dataset) == name


def test_what_is_wrong_with_the_data_is_told_before_a_run_is_made(
    dreamfusion: Call, made: Path, tmp_path: Path
) -> None:
    answer = dreamfusion("fit", tmp_path / "nothing")
    assert (answer.code, answer.err.count("\n")) == (22, 1)
    assert answer.err.startswith("error: there is no dataset")
    answer = dreamfusion("fit", made, "--truth", "absent.ply")
    assert (answer.code, answer.err) == (23, "error: there is no mesh absent.ply\n")
    answer = dreamfusion("fit", made, "--downscale", "3")
    assert (
        answer.code == 22 and "too small to be compared by SSIM" in answer.err and "got 8 x 8" in answer.err
    )
    answer = dreamfusion("fit", made, "--downscale", "99")
    assert answer.code == 11 and "data.downscale" in answer.err
    assert not Path("outputs").exists()
