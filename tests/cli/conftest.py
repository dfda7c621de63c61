"""The command line in this process, tiny models of the real classes, and a run that was never trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dreamfusion.cli import app
from dreamfusion.config_files import load_config
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory

SMALL = [
    "scene.field.resolutions=[8]",
    "scene.field.hidden_width=8",
    "rendering.samples_per_ray=8",
    "cameras.resolution=16",
    "training.preview_size=16",
    "training.preview_every=2",
    "training.checkpoint_every=2",
]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def dreamfusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Calls the command in an empty folder; an exception that is no user's mistake comes through."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Answer:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        return Answer(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, module_at: Callable[[str], Any]) -> Path:
    """A randomly initialised Stable Diffusion of 32 px images."""
    module = module_at("tests/guidance/conftest.py")
    return module.save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny"), "sd1")


@pytest.fixture
def husk(tmp_path: Path) -> Path:
    """A model whose every file is there, with nothing in the weights: reading one of them would be noticed."""
    configs = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
        },
        "unet/config.json": {
            "in_channels": 4,
            "out_channels": 4,
            "sample_size": 8,
            "block_out_channels": [32, 32],
            "down_block_types": ["DownBlock2D"] * 2,
            "up_block_types": ["UpBlock2D"] * 2,
            "layers_per_block": 1,
            "cross_attention_dim": 8,
        },
        "vae/config.json": {"latent_channels": 4, "block_out_channels": [32]},
        "text_encoder/config.json": {},
        "scheduler/scheduler_config.json": {"prediction_type": "epsilon"},
        "tokenizer/vocab.json": {},
    }
    root = tmp_path / "husk"
    for name, content in configs.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    (root / "tokenizer" / "merges.txt").touch()
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        # A header of two bytes that names nothing: whole, and empty.
        (root / f"{name}.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return root


@pytest.fixture
def small() -> list[str]:
    """`--set` texts for a scene whose steps take milliseconds."""
    return SMALL


@pytest.fixture
def fresh_run(tmp_path: Path, husk: Path) -> RunDirectory:
    """Run 1 in outputs/, with no checkpoint."""
    config = load_config(
        "miniature", SMALL, {"prompt": "a red duck", "guidance.model": str(husk), "device": "cpu"}
    )
    return directory.create(tmp_path / "outputs", config)


@pytest.fixture(scope="session")
def untrained_state() -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's content before the first step: a soft ball."""
    from dreamfusion.training.trainer import Trainer

    def no_guidance(*_: object, **__: object) -> Any:
        raise AssertionError("nobody may train here")

    config = load_config("miniature", SMALL, {"prompt": "a red duck"})
    return Trainer(config, "cpu", guidance=no_guidance).state_dict()


@pytest.fixture
def run_with_checkpoint(
    fresh_run: RunDirectory, untrained_state: tuple[dict[str, Any], dict[str, Any]]
) -> RunDirectory:
    tensors, meta = untrained_state
    checkpoint.save(checkpoint.path_for(fresh_run.checkpoints, 0), tensors, meta)
    return fresh_run


@pytest.fixture
def run_with_corrupt_checkpoint(run_with_checkpoint: RunDirectory) -> RunDirectory:
    """Half of the tensors' file is gone. Whatever is told before this one never read a checkpoint."""
    path = run_with_checkpoint.latest_checkpoint() / checkpoint.TENSORS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.rmtree(run_with_checkpoint.previews)
    return run_with_checkpoint
