"""Every mistake a user can make: one line on stderr, its own exit code, nothing on stdout, and no weight was read.

The models here are husks whose weights are empty and the checkpoints are cut in half: reading one of them ends with
another exit code than the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamfusion.commands.prompts import check_prompt
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]


def told(answer: Any, code: int, *parts: str) -> None:
    """One line, this exit code, and each of `parts` in it."""
    assert answer.code == code, answer.err
    assert answer.out == ""
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and answer.err.endswith(errors[0] + "\n"), answer.err
    for part in parts:
        assert part in errors[0]


# --------------------------------------------------------------------------------------------------- train


def test_the_husk_is_noticed_when_it_is_read(dreamfusion: Call, husk: Path) -> None:
    """The control: with nothing wrong on the command line the empty weights are what is wrong."""
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk, "--device", "cpu")
    assert answer.code == 16, answer.err
    assert list(Path("outputs").iterdir()) == [], "a run without a step is no run"


def test_a_prompt_that_is_too_long_is_one_short_line_and_leaves_no_run(
    dreamfusion: Call, tiny_model: Path, small: list[str]
) -> None:
    sets = [word for text in small for word in ("--set", text)]
    words = ["--config", "miniature", "--model", tiny_model, "--device", "cpu", *sets]
    answer = dreamfusion("train", "a peacock on " * 800, *words)
    assert answer.code == 10
    assert "is too long for the model" in answer.err and len(answer.err.splitlines()[-1]) < 300
    assert list(Path("outputs").iterdir()) == []


def test_a_model_that_does_not_fit_into_memory(
    dreamfusion: Call, husk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    # The class stays: modules that load later name it in their annotations.
    monkeypatch.setattr("dreamfusion.training.trainer.Trainer.__init__", full)
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk, "--device", "cpu")
    assert answer.code == 21 and "do not fit into memory. Take a smaller model" in answer.err


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt(dreamfusion: Call, husk: Path, prompt: str) -> None:
    told(dreamfusion("train", prompt, "--model", husk), 10, "the prompt is empty", "dreamfusion train '")
    told(dreamfusion("sample", prompt, "--model", husk), 10, "the prompt is empty")


def test_a_prompt_of_bytes_that_are_no_text(dreamfusion: Call, husk: Path) -> None:
    # As Python gives what a terminal in another encoding sent: Latin-1, and UTF-8 where the locale is C.
    assert check_prompt("a caf\udcc3\udca9") == "a café"
    told(dreamfusion("train", "a caf\udce9", "--model", husk), 10, "not text: expected UTF-8", r"a caf\udce9")


@pytest.mark.parametrize("config", [[], ["--config", "miniature"], ["--config", "paper"]])
def test_an_unknown_key(dreamfusion: Call, husk: Path, config: list[str]) -> None:
    answer = dreamfusion("train", "a duck", *config, "--model", husk, "--set", "training.stepps=3")
    told(answer, 11, "'training.stepps'", "Did you mean 'training.steps'?")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--steps", "0"], ["'training.steps' (command line): expected a number > 0, got 0"]),
        (["--seed", "-1"], ["'seed' (command line)", "got -1"]),
        (["--set", "rendering.termination=2"], ["expected a number from 0 to 1, got 2"]),
        (["--set", "scene.field.kind=cube"], ["expected one of 'mlp', 'hashgrid', 'grids', got 'cube'"]),
        (["--config", "papr"], ["'papr'", "Did you mean 'paper'?"]),
        (["--config", "none.yaml"], ["config file 'none.yaml' does not exist"]),
        (["--set", "cameras.distance=[0, 1]"], ["'cameras.distance.0' (--set): expected", "got 0"]),
        (["--set", "cameras.fovy_deg=[40, 200]"], ["'cameras.fovy_deg.1' (--set): expected", "got 200"]),
        (["--set", "guidance.timestep_min=0.99"], ["'guidance'", "at step 0 they are 0.99 and 0.98"]),
        (["--set", "optimizer.lr=-1"], ["'optimizer'", "expected lr >= 0", "at step 0 it is -1"]),
        (["--set", "guidance.view_prompts.template=a duck"], ["template'", "{prompt} in it, got 'a duck'"]),
    ],
)
def test_a_value_out_of_range(dreamfusion: Call, husk: Path, words: list[str], parts: list[str]) -> None:
    told(dreamfusion("train", "a duck", "--model", husk, *words), 11, *parts)


def test_a_model_that_is_not_there(dreamfusion: Call) -> None:
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", "./nowhere")
    told(answer, 15, "model './nowhere' was not found; tried:", "miniature")
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", "somebody/nothing")
    told(answer, 15, "tried:", "cache of somebody/nothing: not there", "HF_HUB_OFFLINE")
    told(dreamfusion("sample", "a duck", "--model", "./nowhere"), 15, "tried:")


def test_a_model_that_was_half_downloaded(dreamfusion: Call, husk: Path) -> None:
    weights = husk / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5])
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk)
    told(
        answer,
        15,
        "lacks unet's weights (diffusion_pytorch_model.safetensors is no safetensors file, or was cut",
    )
    told(dreamfusion("models", "verify", husk), 15, "unet's weights")


def test_a_model_to_verify_or_download_that_is_not_there(dreamfusion: Call) -> None:
    told(
        dreamfusion("models", "verify", "sd-1.5"),
        15,
        "cache of stable-diffusion-v1-5/",
        "models download sd-1.5",
    )
    told(dreamfusion("models", "download", "sd-1.5"), 15, "HF_HUB_OFFLINE")
    told(dreamfusion("models", "download", "sd-3.5"), 15, "name one of miniature, ")


def test_a_model_that_cannot_be_distilled(dreamfusion: Call, husk: Path) -> None:
    (husk / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
    )
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk)
    told(answer, 16, "flow matching")


def test_a_device_that_is_not_there(dreamfusion: Call, husk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamfusion import doctor

    monkeypatch.setattr(doctor, "why_no_cuda", lambda: "no NVIDIA driver was found")
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk, "--device", "cuda")
    told(answer, 17, "device 'cuda' is not there: no NVIDIA driver was found", "--device cpu")


@pytest.mark.parametrize("command", ["train", "sample"])
def test_an_output_that_cannot_be_written(
    dreamfusion: Call, husk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from dreamfusion import doctor

    # Another device than there is: looking for it loads torch, so the output has to be told before.
    monkeypatch.setattr(doctor, "why_no_mps", lambda: "no Apple GPU")
    (tmp_path / "file").touch()
    place = "file" if command == "train" else "file/sheet.png"
    extra = ["--config", "miniature"] if command == "train" else []
    told(
        dreamfusion(command, "a duck", "--model", husk, "--output", place, "--device", "mps", *extra),
        18,
        "file",
    )


def test_nothing_is_left_behind_by_a_mistake(dreamfusion: Call, husk: Path, tmp_path: Path) -> None:
    dreamfusion("train", "a duck", "--model", husk, "--steps", "0")
    dreamfusion("train", " ", "--model", husk)
    assert [path.name for path in tmp_path.iterdir()] == ["husk"]


# -------------------------------------------------------------------------------------------- finished runs


@pytest.mark.parametrize("command", ["resume", "export", "render"])
class TestRuns:
    def test_no_run_at_all(self, dreamfusion: Call, command: str) -> None:
        told(dreamfusion(command), 12, "there is no run in outputs", "dreamfusion train")

    @pytest.mark.parametrize("reference", ["7", "a-red-dukc", "husk", "./nowhere"])
    def test_no_such_run(
        self, dreamfusion: Call, fresh_run: RunDirectory, command: str, reference: str
    ) -> None:
        told(dreamfusion(command, reference), 12, reference.removeprefix("./"))

    def test_a_corrupt_checkpoint(
        self, dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, command: str
    ) -> None:
        told(dreamfusion(command), 14, f"{run_with_corrupt_checkpoint.path.name}/checkpoints/000000")

    def test_a_device_that_is_not_there(
        self,
        dreamfusion: Call,
        run_with_corrupt_checkpoint: RunDirectory,
        monkeypatch: pytest.MonkeyPatch,
        command: str,
    ) -> None:
        from dreamfusion import doctor

        monkeypatch.setattr(doctor, "why_no_mps", lambda: "no Apple GPU")
        told(dreamfusion(command, "--device", "mps"), 17, "device 'mps' is not there: no Apple GPU")

    def test_a_damaged_config(
        self, dreamfusion: Call, run_with_checkpoint: RunDirectory, command: str
    ) -> None:
        run_with_checkpoint.config_path.write_text("scene: 3\n")
        told(dreamfusion(command), 11, "config.yaml")


@pytest.mark.parametrize("command", ["export", "render"])
class TestLooking:
    def test_a_run_without_a_checkpoint(
        self, dreamfusion: Call, fresh_run: RunDirectory, command: str
    ) -> None:
        told(dreamfusion(command, "1"), 13, fresh_run.path.name, "has no checkpoint yet")

    def test_an_output_that_cannot_be_written(
        self, dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, tmp_path: Path, command: str
    ) -> None:
        (tmp_path / "file").touch()
        told(dreamfusion(command, "--output", "file/thing.glb"), 18, "file")

    def test_an_ending_that_is_not_known(
        self, dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, command: str
    ) -> None:
        told(dreamfusion(command, "--output", "thing.doc"), 18, "thing.doc", "expected one of")


@pytest.mark.parametrize(
    "words",
    [
        ["export", "--resolution", "4"],
        ["export", "--resolution", "10000"],
        ["export", "--threshold", "-1"],
        ["export", "--threshold", "nan"],
        ["export", "--faces", "10"],
        ["export", "--smooth", "-1"],
        ["export", "--close-holes", "100"],
        ["export", "--height-cm", "0"],
        ["export", "--texture-size", "10"],
        ["export", "--unwrap-limit", "-1"],
        ["view", "--port", "70000"],
        ["render", "--frames", "0"],
        ["render", "--fps", "0"],
        ["render", "--size", "1"],
        ["render", "--elevation-deg", "91"],
        ["render", "--sheet", "0"],
        ["render", "--distance", "0"],
        ["render", "--distance", "inf"],
    ],
)
def test_an_option_out_of_range(
    dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, words: list[str]
) -> None:
    told(dreamfusion(*words), 11, words[1], "expected", f"got {words[2]}")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_too_little_memory_says_what_to_lower(
    dreamfusion: Call,
    run_with_checkpoint: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("dreamfusion.assets.mesh.extract_mesh", full)
    told(dreamfusion("export", "--resolution", "16"), 21, "memory", "Lower --resolution")
    assert not list(run_with_checkpoint.path.glob("mesh*"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--transparent", "--format", "mp4"], ["--transparent", "got mp4"]),
        (["--codec", "h264", "--format", "webm"], ["codec of webm", "vp9 or av1"]),
        (["--codec", "vp9", "--format", "gif"], ["codec of gif", "none"]),
        (["--depth-16bit", "--what", "depth"], ["--depth-16bit", "--image --what depth"]),
        (["--transparent", "--sheet", "4"], ["--transparent", "a sheet"]),
        (["--elevation-range", "0", "95"], ["--elevation-deg", "got 95"]),
        (["--image", "--azimuth-range", "0", "90"], ["--azimuth-range", "expected a video, got --image"]),
        (["--sheet", "4", "--elevation-range", "0", "9"], ["--elevation-range", "got --sheet"]),
        (["--azimuth-deg", "30", "--azimuth-range", "0", "90"], ["--azimuth-range", "got --azimuth-deg 30"]),
        (
            ["--elevation-deg", "15", "--elevation-range", "0", "9"],
            ["--elevation-range", "got --elevation-deg 15"],
        ),
        (["--image", "--poster"], ["--poster", "expected a video"]),
        (["--image", "--codec", "vp9"], ["--codec", "expected a video"]),
        (["--image", "--frames", "120"], ["--frames", "expected a video"]),
        (["--sheet", "4", "--fps", "30"], ["--fps", "expected a video"]),
    ],
)
def test_what_does_not_go_together_is_told_before_the_work(
    dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, words: list[str], parts: list[str]
) -> None:
    told(dreamfusion("render", *words), 11, *parts)


@pytest.mark.parametrize(
    "words",
    [
        ["--texture", "atlas", "--format", "ply"],
        ["--unlit", "--format", "obj"],
        ["--normal-map", "--format", "usdz"],
        ["--normal-map", "--texture", "vertex"],
        ["--normal-map", "--unlit"],
        ["--page", "--format", "obj"],
        ["--texture-size", "1024", "--format", "stl"],
        ["--unwrap-limit", "30", "--texture", "vertex"],
    ],
)
def test_what_a_format_cannot_hold_is_told_before_the_work(
    dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, words: list[str]
) -> None:
    told(dreamfusion("export", *words), 11, words[0], "expected", "got", words[-1])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["export", "--format", "obj"], "duck.glb"),
        (["export", "--format", "obj"], "duck.png"),  # its own texture's name
        (["export", "--format", "glb", "--page"], "duck.html"),  # its own page's name
        (["export", "--format", "glb", "--check"], "duck"),  # the check reads by the ending
        (["render", "--image", "--format", "webp"], "duck.png"),
        (["render", "--format", "gif"], "duck.mp4"),
    ],
)
def test_a_name_that_says_another_format_is_told_before_the_work(
    dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, words: list[str], name: str
) -> None:
    told(dreamfusion(*words, "--output", name), 18, f"name '{name}' do not go together")


@pytest.mark.parametrize("words", [["diffuse", "1"]])
def test_a_sheet_whose_ending_is_not_known_is_told_before_a_model_is_read(
    dreamfusion: Call, run_with_corrupt_checkpoint: RunDirectory, words: list[str]
) -> None:
    told(dreamfusion(*words, "--device", "mps", "--output", "duck.doc"), 18, "duck.doc", "one of png")
    told(dreamfusion(*words, "--guidance-scale", "nan"), 11, "--guidance-scale", "got nan")


@pytest.mark.parametrize("words", [["export", "7"], ["render"], ["view"], ["diffuse", "7"]])
def test_where_else_to_look_is_an_option_that_there_is(dreamfusion: Call, words: list[str]) -> None:
    told(dreamfusion(*words), 12, "--runs DIR")


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--lora", "mine.safetensors"], (11, 15), "guidance.loras"),  # 11: peft is not installed
        (["--embedding", "mine.safetensors"], (15,), "there is no file mine.safetensors"),
        (["--set", "data.path=."], (11,), "config key 'data'"),
        (["--guidance", "clip", "--set", "clip.model=nowhere"], (15,), "no CLIP in nowhere"),
        (["--guidance", "clip", "--set", "clip.image=duck.png"], (11,), "duck.png is not there"),
        (
            ["--set", "guidance.tiny_autoencoder={model: nowhere, steps: 3}"],
            (15,),
            "no tiny autoencoder in nowhere",
        ),
    ],
)
def test_what_would_stop_a_run_is_told_before_it_is_made(
    dreamfusion: Call, husk: Path, words: list[str], code: tuple[int, ...], what: str
) -> None:
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk, *words)
    assert answer.code in code and what in answer.err
    assert not list(Path("outputs").glob("0*"))


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["peacock " * 20], 10, "is too long for the model"),
        (["a duck", "--set", "guidance.image_size=50"], 11, "guidance.image_size does not fit the model"),
    ],
)
def test_nothing_is_left_of_a_run_that_could_not_begin(
    dreamfusion: Call, tiny_model: Path, small: list[str], words: list[str], code: int, what: str
) -> None:
    sets = [word for text in small for word in ("--set", text)]
    answer = dreamfusion(
        "train", *words, "--config", "miniature", "--model", tiny_model, "--device", "cpu", *sets
    )
    assert (answer.code, answer.err.count("error: ")) == (code, 1) and what in answer.err
    assert not list(Path("outputs").glob("0*"))


def test_a_resumed_run_is_planned_again(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    config = run_with_checkpoint.path / "config.yaml"
    text = config.read_text()
    assert "vram_gb: null" in text
    config.write_text(text.replace("vram_gb: null", "vram_gb: 0.1"))
    answer = dreamfusion("resume")
    told(answer, 21, "does not fit into the device's memory", "got 0.1 GiB", "smaller model")


def test_no_surface_tells_the_fields_range(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    answer = dreamfusion("export", "--resolution", "16", "--threshold", "1e6")
    told(answer, 19, "range")
    assert not list(run_with_checkpoint.path.glob("mesh*"))


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "a duck", "--device", "tpu"],
        ["train", "a duck", "--stepps", "3"],
        ["export", "--threshold", "high"],
        ["export", "--format", "fbx"],
        ["render", "--video", "--image"],
        ["render", "--sheet", "4", "--image"],
        ["render", "--image", "--format", "gif"],
        ["train", "a duck", "--probe"],
        ["sample", "a duck", "--count", "0"],
        ["conjure"],
    ],
)
def test_what_the_command_line_does_not_know_is_a_usage_error(dreamfusion: Call, words: list[str]) -> None:
    answer = dreamfusion(*words)
    assert answer.code == 2
    assert "Error" in answer.err and "Traceback" not in answer.err


def test_a_programmers_mistake_keeps_its_traceback(
    dreamfusion: Call, husk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion.commands import train

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(train, "_check_model", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        dreamfusion("train", "a duck", "--config", "miniature", "--model", husk)
