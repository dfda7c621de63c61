"""LoRAs, words, negative prompts and precision in `sample`, `diffuse` and `train`: what each does to the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from dreamfusion.cli import _pairs
from dreamfusion.commands.diffuse import USED as USED_BY_DIFFUSE
from dreamfusion.commands.own_files import changed_guidance
from dreamfusion.commands.sample import USED as USED_BY_SAMPLE
from dreamfusion.config import ExperimentConfig, GuidanceConfig
from dreamfusion.errors import ConfigError
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """Weights for the UNet's last layer, in kohya's names: two of them cancel out exactly."""
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 16, 3, 3, generator=generator), torch.randn(4, 2, 1, 1, generator=generator)
    save_file(
        {
            "lora_unet_conv_out.lora_down.weight": down,
            "lora_unet_conv_out.lora_up.weight": up,
            "lora_unet_conv_out.alpha": torch.tensor(2.0),
        },
        tmp_path / "own.safetensors",
    )
    return tmp_path / "own.safetensors"


@pytest.fixture
def word(tmp_path: Path) -> Path:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(2)) * 3
    save_file({"emb_params": vectors}, tmp_path / "plush-style.safetensors")
    return tmp_path / "plush-style.safetensors"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "box.png")
    return tmp_path / "box.png"


@pytest.fixture(params=["sample", "diffuse"])
def drawn(
    request: pytest.FixtureRequest, dreamfusion: Call, tiny_model: Path, image: Path
) -> Callable[..., tuple[np.ndarray, dict[str, Any], str]]:
    """Pixels, the line of JSON and stderr of either command for some more options."""

    def draw(*words: object) -> tuple[np.ndarray, dict[str, Any], str]:
        common = ["--model", tiny_model, "--device", "cpu", "--dtype", "float32", "--output", "out.png"]
        if request.param == "sample":
            words = ("sample", "a plush-style duck", "--steps", "1", "--count", "1", *common, *words)
        else:
            words = (
                "diffuse",
                image,
                "--prompt",
                "a plush-style duck",
                "--timesteps",
                "0.5",
                *common,
                *words,
            )
        answer = dreamfusion(*words)
        assert answer.code == 0, answer.err
        (line,) = answer.events
        with Image.open(line["images"][0] if request.param == "sample" else line["path"]) as opened:
            return np.asarray(opened.convert("RGB")), line, answer.err

    return draw


def test_each_changes_the_images(drawn: Any, lora: Path, word: Path) -> None:
    plain, line, told = drawn()
    assert told == "" and line["loras"] == line["embeddings"] == [] and line["negative_prompt"] == ""
    again, line, _ = drawn("--lora", f"{lora}=0", "--negative-prompt", "")
    assert (again == plain).all() and line["loras"] == [{"file": str(lora), "weight": 0.0}]
    by_option, _, _ = drawn("--lora", f"{lora}=0.75", "--lora", f"{lora}=0.25")
    by_key, _, _ = drawn("--set", f"guidance.loras=[{{file: {lora}}}]")
    assert (by_option != plain).any() and np.abs(by_option.astype(int) - by_key).max() <= 1
    worded, line, told = drawn("--embedding", word)
    assert (worded != plain).any() and told == "" and line["embeddings"][0]["file"] == str(word)
    negative, line, told = drawn("--embedding", f"{word}=blurry", "--negative-prompt", "blurry")
    assert (negative != plain).any() and told == "" and line["negative_prompt"] == "blurry"
    rough, _, told = drawn("--dtype", "bfloat16", "--embedding", f"{word}=<own>")
    assert (rough != plain).any() and np.abs(rough.astype(int) - plain).mean() < 20
    assert told.count("\n") == 1 and f"{word} is not used: no text has its word '<own>'" in told
    small, _, _ = drawn("--set", "guidance.image_size=16")
    assert small.shape != plain.shape or (small != plain).any()


def test_a_model_whose_output_is_not_finite_draws_nothing(
    dreamfusion: Call, tiny_model: Path, lora: Path, image: Path, tmp_path: Path
) -> None:
    """An image of it would be black."""
    common = ["--model", tiny_model, "--device", "cpu", "--lora", f"{lora}=1e37", "--output", "out.png"]
    for command in (
        ["sample", "a duck", "--steps", "2", "--count", "1"],
        ["diffuse", image, "--prompt", "a duck"],
    ):
        answer = dreamfusion(*command, *common)
        assert answer.code == 16 and answer.err.splitlines()[-1].startswith(
            "error: the model's output is not finite"
        )
        assert not (tmp_path / "out.png").exists() and not (tmp_path / "out").exists()


VALUES = {
    "single_file_config": "sd-1.5",
    "loras": "[{file: x}]",
    "embeddings": "[{file: x}]",
    "negative_prompt": "blurry",
    "image_size": "16",
    "dtype": "float16",
    "slices": "true",
    "weighting": "uniform",
    "view_prompts": "{rule: none}",
}


@pytest.mark.parametrize(("command", "used"), [("sample", USED_BY_SAMPLE), ("diffuse", USED_BY_DIFFUSE)])
def test_every_key_is_used_or_refused(
    dreamfusion: Call, husk: Path, image: Path, command: str, used: tuple[str, ...]
) -> None:
    words = ["sample", "a duck"] if command == "sample" else ["diffuse", image, "--prompt", "a duck"]
    answer = dreamfusion(*words, "--model", husk, "--set", "guidance.perp_neg=true")
    assert answer.code == 11 and f"--set guidance.perp_neg: {command} does not use it" in answer.err
    other = [f"guidance.{key}" for key in GuidanceConfig.model_fields if key not in used]
    for key in [*other, "guidance", "prompt", "training.steps", "loras", "guidance.nothing"]:
        with pytest.raises(ConfigError, match=f"--set {key}: {command} does not use it"):
            changed_guidance(ExperimentConfig(), [f"{key}=1"], {}, used, command)
    for key in used:
        changed = changed_guidance(ExperimentConfig(), [f"guidance.{key}={VALUES[key]}"], {}, used, command)
        assert changed.model_dump()[key] != GuidanceConfig().model_dump()[key]


@pytest.mark.parametrize(("words", "code", "what"), [
    (["--lora", "none.safetensors"], 15, "guidance.loras: there is no file none.safetensors"),
    (["--lora", "own.pt"], 11, "expected a safetensors file, got own.pt. Save it as safetensors"),
    (["--lora", "own.safetensors=much"], 11, "guidance.loras.0.weight"),
    (["--lora", "own.safetensors=nan"], 11, "guidance.loras.0.weight"),
    (["--lora", "own.safetensors="], 11, "guidance.loras.0.weight"),
    (["--lora", "a=b.safetensors"], 15, "there is no file a=b.safetensors"),
    (["--lora", "a=b.safetensors=0.5"], 15, "there is no file a=b.safetensors"),
    (["--lora", f"{'x' * 300}.safetensors=0.5"], 15, "there is no file xxx"),
    (["--lora", "~nosuchuser/x.safetensors=1"], 15, "there is no file ~nosuchuser"),
    (["--lora", "own.safetensors"], 16, "own.safetensors cannot be applied whole: got the key else"),
    (["--embedding", "word.safetensors="], 11, "guidance.embeddings.0.word"),
    (["--embedding", "word.safetensors= "], 11, "guidance.embeddings.0.word"),
    (["--embedding", "own.ckpt"], 11, "a pickle may run code"),
    (["--embedding", "own.safetensors"], 16, "own.safetensors does not fit the model"),
    (["--dtype", "float64"], 2, "dtype"),
])  # fmt: skip
def test_mistakes_are_told_before_a_weight_is_read(
    dreamfusion: Call,
    husk: Path,
    image: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    what: str,
) -> None:
    save_file({"else": torch.zeros(1)}, tmp_path / "own.safetensors")
    save_file({"emb_params": torch.zeros(1, 512)}, tmp_path / "word.safetensors")
    (tmp_path / "own.pt").touch()
    # All of it goes through the same code in each.
    commands = ["sample", "diffuse", "train"] if words[0] == "--embedding" else ["sample"]
    for command in commands:
        prompt = [image, "--prompt", "a duck"] if command == "diffuse" else ["a duck"]
        answer = dreamfusion(command, *prompt, "--model", husk, "--device", "cpu", *words)
        assert answer.code == code and what in answer.err, answer.err
        assert answer.out == "" and (code == 2 or answer.err.splitlines()[-1].startswith("error: "))
    assert not list(tmp_path.glob("outputs/*-a-duck"))


def test_files_that_no_diffusion_model_would_read_are_refused(
    dreamfusion: Call, lora: Path, word: Path
) -> None:
    for words, key in ((["--lora", lora], "loras"), (["--embedding", word], "embeddings")):
        answer = dreamfusion("train", "a duck", "--guidance", "clip", "--device", "cpu", *words)
        assert answer.code == 11 and f"guidance.{key}: no diffusion model guides this run" in answer.err


def test_a_run_brings_its_own_and_options_replace_it(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, tiny_model: Path, lora: Path
) -> None:
    config = run_with_checkpoint.path / "config.yaml"
    text = config.read_text().replace("loras: []", f"loras: [{{file: {lora}, weight: 2.0}}]")
    config.write_text(text.replace("negative_prompt: ''", "negative_prompt: blurry"))
    words = ("diffuse", "1", "--model", tiny_model, "--timesteps", "0.5")
    (line,) = dreamfusion(*words).events
    assert line["loras"][0]["weight"] == 2.0 and line["negative_prompt"] == "blurry"
    (line,) = dreamfusion(*words, "--lora", f"{lora}=0.25", "--negative-prompt", "").events
    assert line["loras"] == [{"file": str(lora), "weight": 0.25}] and line["negative_prompt"] == ""
    assert dreamfusion(*words, "--set", "guidance.loras=[]").events[0]["loras"] == []


def test_training_takes_the_same(dreamfusion: Call, husk: Path, lora: Path, word: Path) -> None:
    words = (
        "--lora", f"{lora}=0.5", "--embedding", f"{word}=plush", "--negative-prompt", "blurry", "--dtype", "bfloat16",
    )  # fmt: skip
    train = ("train", "a plush duck", "--config", "miniature", "--device", "cpu", "--model", husk, *words)
    planned = yaml.safe_load(dreamfusion(*train, "--dry-run").out)["guidance"]
    assert planned["loras"] == [{"file": str(lora), "weight": 0.5}]
    assert planned["embeddings"] == [{"file": str(word), "word": "plush"}]
    assert (planned["negative_prompt"], planned["dtype"]) == ("blurry", "bfloat16")
    answer = dreamfusion(*train)  # of another model
    assert answer.code == 16 and f"{lora} cannot be applied whole" in answer.err


@pytest.mark.parametrize(("names", "text", "expected"), [
    (["a=b.safetensors"], "a=b.safetensors", ("a=b.safetensors", None)),
    (["a=b.safetensors"], "a=b.safetensors=0.5", ("a=b.safetensors", "0.5")),
    (["a", "a=0.5"], "a=0.5", ("a=0.5", None)),
    (["a"], "a=0.5", ("a", "0.5")),
    (["a"], "a=<b=c>", ("a", "<b=c>")),
    ([], "a=b.safetensors=0.5", ("a=b.safetensors", "0.5")),
    ([], "a=b.safetensors", ("a=b.safetensors", None)),
    ([], "a.safetensors=0.5", ("a.safetensors", "0.5")),
    ([], "a.safetensors=<b=c>", ("a.safetensors", "<b=c>")),
    ([], "a=b", ("a", "b")),
    ([], "a", ("a", None)),
    ([], "=a", ("", "a")),
])  # fmt: skip
def test_an_equals_sign_may_be_part_of_a_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    text: str,
    expected: tuple[str, str | None],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).touch()
    file, value = expected
    assert _pairs([text], "weight") == [{"file": file} if value is None else {"file": file, "weight": value}]
