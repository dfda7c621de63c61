"""`dreamfusion sample`: the grid, its files, and the mistakes that are told before a weight is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.commands import sample

Call = Callable[..., Any]


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


# diffusers' own, of the schedulers that go by way of numpy.
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
def test_a_grid_of_views_scales_and_seeds(dreamfusion: Call) -> None:
    """With the embedded model: 64 pixels a side, shown at twice that."""
    answer = dreamfusion(
        "sample", "a red mushroom", "--view", "none,back", "--guidance-scale", "2,7.5", "--seed", "4,0",
        "--steps", "2", "--scheduler", "euler-discrete", "--device", "cpu",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (line,) = answer.events
    sheet, folder = Path(line["path"]), Path("outputs/samples/a-red-mushroom-back-EulerDiscrete")
    assert sheet == folder.with_suffix(".png")
    assert line["texts"] == {"none": "a red mushroom", "back": "a red mushroom, back view"}
    assert line["scheduler"] == "EulerDiscrete" and line["seeds"] == [4, 0]
    assert line["steps"] == 2 and line["guidance_scales"] == [2, 7.5] and line["model"] == "miniature"
    assert line["loras"] == line["embeddings"] == [] and line["negative_prompt"] == ""
    names = [f"{view}s{scale}-seed{seed}" for view in ("", "back-") for scale in (2, 7.5) for seed in (4, 0)]
    assert [Path(path) for path in line["images"]] == [folder / f"{name}.png" for name in names]
    assert sorted(folder.iterdir()) == sorted(folder / f"{name}.png" for name in names)
    singles = [pixels(path) for path in line["images"]]
    assert all(single.shape == (64, 64, 3) for single in singles)
    assert len({single.tobytes() for single in singles}) == 8
    shown = pixels(sheet)
    assert shown.shape[0] > 4 * 128 and shown.shape[1] > 2 * 128


def test_every_picture_of_a_grid_has_a_name_of_its_own() -> None:
    scales = [0.0, 1.0, 7.5, 100.0, 100.0001, 100.0002, 0.1 + 0.2, 1e-7, 1000.0]
    grid = sample.Grid(["none", "front"], scales, [0, 12])
    places = itertools.product(range(2), range(len(scales)), range(2))
    names = [grid.file_name(*place) for place in places]
    assert len(set(names)) == len(names) == 2 * len(scales) * 2
    assert names[0] == "s0-seed0.png" and names[-1] == "front-s1000-seed12.png"
    assert len({label for _, _, label in grid.rows()}) == 2 * len(scales)


def test_both_sides_have_words_of_their_own(dreamfusion: Call, tiny_model: Path) -> None:
    words = ("--model", tiny_model, "--steps", "1", "--count", "1", "--device", "cpu")
    texts = dreamfusion("sample", "a duck", "--view", "left,side,right", *words).events[0]["texts"]
    assert texts == {view: f"a duck, {view} view" for view in ("left", "side", "right")}


def test_a_picture_is_its_seeds_whatever_else_is_drawn(dreamfusion: Call, tiny_model: Path) -> None:
    words = ["sample", "a duck", "--model", tiny_model, "--steps", "2", "--device", "cpu"]
    many = dreamfusion(*words, "--count", "3", "--seed", "5", "--output", "many/sheet.webp").events[0]
    assert many["seeds"] == [5, 6, 7] and Path(many["images"][2]) == Path("many/sheet/s7.5-seed7.png")
    one = dreamfusion(*words, "--seed", "7", "--count", "1").events[0]
    difference = pixels(one["images"][0]).astype(int) - pixels(many["images"][2])
    # The batch's size may change the last bit of a sum.
    assert np.abs(difference).max() <= 1
    assert len(dreamfusion(*words).events[0]["images"]) == 4


def test_the_miniature_is_guided_in_strong_noise_only(dreamfusion: Call, tiny_model: Path) -> None:
    words = ("sample", "a cat", "--steps", "4", "--count", "1", "--device", "cpu")
    default, same, everywhere = (
        dreamfusion(*words, "--output", f"{index}.png", *more).events[0]
        for index, more in enumerate(([], ["--guidance-above", "500"], ["--guidance-above", "0"]))
    )
    assert [event["guidance_above"] for event in (default, same, everywhere)] == [500, 500, 0]
    first, second, third = (pixels(event["images"][0]) for event in (default, same, everywhere))
    assert (first == second).all() and (first != third).any()
    assert dreamfusion(*words, "--model", tiny_model).events[0]["guidance_above"] == 0


@pytest.mark.parametrize(("words", "code", "parts"), [
    (["--scheduler", "dpmsolver-multistp"], 11, ["--scheduler: expected one of DDIM, ", "Did you mean DPMSolverMultistep"]),
    (["--view", "frnt"], 11, ["--view: expected front, ", "got 'frnt'. Did you mean 'front'?"]),
    (["--view", "front,all"], 11, ["--view: expected 'all' by itself"]),
    (["--seed", "1,-2"], 11, ["--seed: expected whole numbers from 0", "got '1,-2'"]),
    (["--seed", "1,x"], 11, ["--seed"]),
    (["--seed", "1,2,1"], 11, ["--seed: expected each value once"]),
    (["--seed", "1,2", "--count", "3"], 11, ["--count goes with one seed"]),
    (["--guidance-scale", "7.5,nan"], 11, ["--guidance-scale: expected numbers from 0 to 1000"]),
    (["--guidance-scale", ""], 11, ["--guidance-scale"]),
    (["--view", "all", "--guidance-scale", "1,2,3,4,5", "--count", "64"], 11, ["1024 pictures at most, got 1280"]),
    (["--scheduler", "LCM", "--steps", "60"], 11, ["--steps: LCM cannot make 60 steps"]),
    (["--output", "sheet.gif"], 18, ["the ending of 'sheet.gif'"]),
    # The control: with nothing wrong but the weights, those are what is wrong.
    ([], 16, ["unet"]),
])  # fmt: skip
def test_mistakes_are_told_before_a_weight_is_read(
    dreamfusion: Call, husk: Path, words: list[str], code: int, parts: list[str]
) -> None:
    answer = dreamfusion("sample", "a duck", "--model", husk, "--device", "cpu", *words)
    assert answer.code == code, answer.err
    assert answer.out == "" and answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert all(part in answer.err for part in parts), answer.err
    assert not list(Path().rglob("*.png"))


def test_a_file_where_the_single_images_belong(dreamfusion: Call, husk: Path, tmp_path: Path) -> None:
    (tmp_path / "sheet").touch()
    answer = dreamfusion("sample", "a duck", "--model", husk, "--output", "sheet.png")
    assert answer.code == 18 and "sheet cannot hold the single images" in answer.err


def test_each_file_and_each_place_on_the_sheet_holds_its_own_image(tmp_path: Path) -> None:
    """2 views, 3 scales and 4 seeds, each image of one colour."""
    grid = sample.Grid(["none", "back"], [1.0, 2.5, 7.0], [9, 3, 5, 0])
    images = torch.zeros(2, 3, 4, 16, 16, 3)
    for i, j, k in np.ndindex(2, 3, 4):
        images[i, j, k] = torch.tensor([255 - 50 * i, 40 * j, 60 * k]) / 255
    (tmp_path / "sheet").mkdir()
    single = sample._write(images, grid, tmp_path / "sheet.png", tmp_path / "sheet")
    places = list(np.ndindex(2, 3, 4))
    assert [path.name for path in single] == [grid.file_name(*place) for place in places]
    sheet = pixels(tmp_path / "sheet.png")
    middles = {}
    for (i, j, k), path in zip(places, single, strict=True):
        colour = (255 - 50 * i, 40 * j, 60 * k)
        assert (pixels(path) == colour).all(), path
        found = np.argwhere((sheet == colour).all(-1))
        assert len(found) == sample.SMALLEST**2, path
        middles[i * 3 + j, k] = found.mean(0)
    for (row, column), (down, right) in middles.items():
        assert down == middles[row, 0][0] and right == middles[0, column][1]
        assert row == 0 or down > middles[row - 1, column][0]
        assert column == 0 or right > middles[row, column - 1][1]
