"""`dreamfusion diffuse` on a picture and on a run, with a small random model; its numbers are the guidance's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.assets.sheets import labelled_sheet
from dreamfusion.commands.diffuse import _as_in_training, _read
from dreamfusion.config import GuidanceConfig
from dreamfusion.config_files import change_config, dump_config, load_config
from dreamfusion.guidance.diffuse import diffuse
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:40] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "box.png")
    return tmp_path / "box.png"


def test_each_level_is_consistent_and_pulls_as_training_does(tiny_model: Path) -> None:
    guidance = make_guidance(GuidanceConfig(model=str(tiny_model), guidance_scale=4.0), "a duck")
    image = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    levels = diffuse(guidance, image, [0.02, 0.5, 1.0], torch.Generator().manual_seed(1), 170.0, 10.0)
    assert [level.timestep for level in levels] == [20, 500, 999]
    latents = guidance.encode(image[None])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    for level in levels:
        timesteps = torch.tensor([level.timestep])
        noisy = guidance.schedule.add_noise(latents, noise, timesteps)
        torch.testing.assert_close(level.noisy, guidance.decode(noisy)[0])
        pull = guidance.gradient(latents, noise, timesteps, torch.tensor([170.0]), torch.tensor([10.0]), 0)
        torch.testing.assert_close(level.gradient, pull[0], rtol=1e-4, atol=1e-5)
        signal, noise_std = guidance.schedule.signal_and_noise_std(timesteps, latents)
        clean = (noisy - noise_std * level.predicted_noise) / signal
        torch.testing.assert_close(level.clean, guidance.decode(clean)[0])
        # w(t) is 1 - abar here: the gradient without it is the difference of the noises.
        wrong = level.gradient / level.noise_std**2
        torch.testing.assert_close(level.predicted_noise, noise[0] + wrong, rtol=1e-3, atol=1e-3)
    # At the smallest noise the prediction of the clean picture hardly differs from it.
    near, far = ((level.clean - guidance.decode(latents)[0]).abs().mean() for level in (levels[0], levels[2]))
    assert near < far


def test_a_picture(dreamfusion: Call, tiny_model: Path, image: Path) -> None:
    words = ["diffuse", image, "--prompt", "a duck", "--model", tiny_model, "--timesteps", "0.2,0.8"]
    answer = dreamfusion(*words)
    assert answer.code == 0, answer.err
    (line,) = answer.events
    assert Path(line["path"]) == Path("outputs/diffused/box.png")
    assert list(line["gradient_norms"]) == ["200", "800"]
    with Image.open(line["path"]) as sheet:
        assert sheet.width > 4 * 128 and sheet.height > 3 * 128
    again = dreamfusion(*words, "--seed", "1").events[0]
    assert again["gradient_norms"] != line["gradient_norms"]


def test_a_run_brings_its_prompt_and_its_guidance(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tiny_model: Path
) -> None:
    answer = dreamfusion("diffuse", "1", "--model", tiny_model, "--timesteps", "0.5")
    assert answer.code == 0, answer.err
    (line,) = answer.events
    assert line["text"] == "a red duck" and line["guidance_scale"] == 10.0
    assert Path(line["path"]).parent.name == run_with_checkpoint.path.name


def test_the_views_words_and_its_camera_are_the_same(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion import cameras
    from dreamfusion.guidance import diffuse as method

    looked: list[tuple[object, ...]] = []
    orbit, explain = cameras.orbit_cameras, method.diffuse
    monkeypatch.setattr(cameras, "orbit_cameras", lambda *args: looked.append(args) or orbit(*args))
    monkeypatch.setattr(method, "diffuse", lambda *args: looked.append(args[4:]) or explain(*args))
    words = ("--azimuth-deg", "100", "--elevation-deg", "20", "--timesteps", "0.5", "--model", tiny_model)
    answer = dreamfusion("diffuse", "1", *words)
    assert answer.code == 0, answer.err
    # The middle of the preset's distances and fields of view, and the side that the run was trained at.
    assert looked == [(100.0, 20.0, 2.5, 43.5, 16), (100.0, 20.0)]
    # Of a size that grows, the last.
    grows = "cameras.resolution={kind: doubling, start: 8, end: 32, steps: 100}"
    config = change_config(run_with_checkpoint.config(), [grows])
    (run_with_checkpoint.path / "config.yaml").write_text(dump_config(config))
    assert dreamfusion("diffuse", "1", *words).code == 0
    assert looked[2] == (100.0, 20.0, 2.5, 43.5, 32)


def test_a_picture_is_looked_at_as_training_would(
    dreamfusion: Call, tiny_model: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _as_in_training(None).guidance == load_config("miniature").guidance
    answer = dreamfusion("diffuse", image, "--prompt", "a duck", "--model", tiny_model, "--timesteps", "0.5")
    assert answer.events[0]["guidance_scale"] == 101.0  # the preset for Stable Diffusion


def test_the_middle_of_a_picture_is_taken_over_white(image: Path, tmp_path: Path) -> None:
    middle = _read(image)
    assert middle.shape == (40, 40, 3)
    rows, columns = (middle[..., 0] > 0.5).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 10, 29)
    Image.new("RGBA", (8, 20), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(_read(tmp_path / "clear.png"), torch.ones(8, 8, 3))


@pytest.mark.parametrize(("words", "code", "what"), [
    (["--timesteps", "0.5,2"], 11, "--timesteps"),
    (["--timesteps", "often"], 11, "--timesteps"),
    ([], 10, "the prompt is empty. Say what the picture shows: --prompt"),
    (["--elevation-deg", "nan"], 11, "--elevation-deg"),
    (["--elevation-deg", "90.5"], 11, "--elevation-deg: expected a number from -90 to 90"),
    (["--elevation-deg", "-90.5"], 11, "--elevation-deg"),
    (["--azimuth-deg", "-36001"], 11, "--azimuth-deg: expected a number from -36000 to 36000"),
    (["--guidance-scale", "1e39"], 11, "--guidance-scale: expected a number from -3.4e+38 to 3.4e+38"),
    # At their limits they are taken, so the next mistake is reported.
    (["--azimuth-deg", "-36000", "--elevation-deg", "-90"], 10, "the prompt is empty"),
    (["--azimuth-deg", "36000", "--elevation-deg", "90"], 10, "the prompt is empty"),
])  # fmt: skip
def test_mistakes_are_told(dreamfusion: Call, image: Path, words: list[str], code: int, what: str) -> None:
    answer = dreamfusion("diffuse", image, *words)
    assert answer.code == code and answer.err.startswith(f"error: {what}")
    absent = dreamfusion("diffuse", "nothing.png")
    assert absent.code == 12 and "neither a picture's file nor a run" in absent.err


def test_an_empty_prompt_is_not_taken_for_none(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    assert dreamfusion("diffuse", "1", "--prompt", " ").code == 10
    assert dreamfusion("diffuse", "1", "--prompt", "").code == 10


def test_labels_stand_beside_what_they_name() -> None:
    images = np.zeros((2, 3, 10, 12, 3), np.uint8)
    images[1, 2] = (0, 255, 0)
    sheet = labelled_sheet(images, ["a", "bb"], ["x", "yy", "z"])
    green = (sheet == (0, 255, 0)).all(-1).nonzero()
    assert len(green[0]) == 120
    assert green[0].min() > sheet.shape[0] / 2 and green[1].min() > sheet.shape[1] / 2
    with pytest.raises(ValueError, match="labels"):
        labelled_sheet(images, ["a"], ["x", "yy", "z"])


@pytest.mark.parametrize(
    "key", ["perp_neg=true", "guidance_rescale=0.5", "objective={kind: csd}", "weighting=uniform"]
)
def test_what_the_sheet_leaves_out_of_a_runs_guidance_is_named(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tiny_model: Path, key: str
) -> None:
    run = run_with_checkpoint
    run.config_path.write_text(dump_config(run.config_with([f"guidance.{key}"])))
    answer = dreamfusion("diffuse", "1", "--model", tiny_model, "--timesteps", "0.5")
    assert answer.code == 0, answer.err
    name = key.partition("=")[0]
    assert (f"without this run's guidance.{name}" in answer.err) == (name != "weighting")
