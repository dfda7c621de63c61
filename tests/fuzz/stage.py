"""The valid things that hostile ones are made of: a run, a dataset, meshes, images, a model; each made once."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cases import SECRET

SMALL = (
    "scene.field.resolutions=[8]",
    "scene.field.hidden_width=8",
    "rendering.samples_per_ray=8",
    "cameras.resolution=16",
    "training.preview_size=16",
    "training.steps=4",
)
TESTS = Path(__file__).parent.parent


class Stage:
    """A folder for everything; `fresh` gives a new place in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self.secret = folder / "secret"
        # As an image of the run's would begin, so that nothing but its place can keep it out.
        self.secret.write_bytes(b"\x89PNG " + SECRET.encode() + b"\n")

    def fresh(self, name: str = "") -> Path:
        self._count += 1
        return self.folder / f"{self._count:05d}{name}"

    def folder_of(self, name: str) -> Path:
        path = self.fresh(name)
        path.mkdir()
        return path

    @cached_property
    def run(self) -> Path:
        """A run with a checkpoint before its first step, a preview and metrics; its model is not there."""
        from dreamfusion.config_files import load_config
        from dreamfusion.runs import checkpoint, directory
        from dreamfusion.training.trainer import Trainer

        def no_guidance(*_: object, **__: object) -> Any:
            raise AssertionError("nobody trains here")

        options = {"prompt": "a red duck", "guidance.model": str(self.folder / "absent"), "device": "cpu"}
        config = load_config("miniature", SMALL, options)
        run = directory.create(self.folder_of("-template"), config)
        checkpoint.save(
            checkpoint.path_for(run.checkpoints, 2),
            *Trainer(config, "cpu", guidance=no_guidance).state_dict(),
        )
        (run.previews / "000002.png").write_bytes(self.image("PNG"))
        run.metrics_path.write_text('{"step": 1, "opacity": 0.5}\n{"step": 2, "opacity": 0.25}\n')
        run.write_state("stopped", 2)
        run.log_path.write_text("a line\n")
        return run.path

    def runs(self) -> tuple[Path, Path]:
        """A new folder with a good run, which is the second, and one that may be damaged, the first."""
        folder = self.folder_of("-runs")
        shutil.copytree(self.run, folder / "0001-a-red-duck")
        shutil.copytree(self.run, folder / "0002-a-good-run")
        return folder, folder / "0001-a-red-duck"

    def image(self, format: str) -> bytes:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format)
        return stream.getvalue()

    @cached_property
    def dataset(self) -> Path:
        """Six views around an object, as nerfstudio writes them."""
        conftest = _module("posed_images/conftest.py")
        folder = self.folder_of("-dataset")
        (folder / "images").mkdir()
        frames = []
        for index, pose in enumerate(conftest.camera_ring(6)):
            conftest.picture(index, alpha=True).save(folder / "images" / f"{index}.png")
            frames.append({"file_path": f"images/{index}.png", "transform_matrix": pose.tolist()})
        width, height = conftest.SIZE
        content = {
            "w": width,
            "h": height,
            "fl_x": 30.0,
            "fl_y": 30.0,
            "cx": 12.0,
            "cy": 10.0,
            "frames": frames,
        }
        (folder / "transforms.json").write_text(json.dumps(content))
        return folder

    @cached_property
    def meshes(self) -> dict[str, bytes]:
        """One ball in every format that `--init` reads."""
        import trimesh

        ball = trimesh.creation.icosphere(1)
        return {kind: _bytes(ball.export(file_type=kind)) for kind in ("glb", "obj", "ply", "stl")}

    @cached_property
    def model(self) -> Path:
        """A Stable Diffusion of random weights, in the layout of the real ones."""
        return _module("guidance/conftest.py").save_tiny_stable_diffusion(self.folder_of("-model"), "sd1")

    @cached_property
    def lora(self) -> bytes:
        """The beginnings of a LoRA in kohya's names, for a module that the tiny model may lack."""
        import torch
        from safetensors.torch import save

        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        tensors = {
            f"{name}.lora_down.weight": torch.ones(2, 32),
            f"{name}.lora_up.weight": torch.ones(32, 2),
            f"{name}.alpha": torch.tensor(2.0),
        }
        return save(tensors)


def _bytes(content: Any) -> bytes:
    return content.encode() if isinstance(content, str) else bytes(content)


def _module(path: str) -> Any:
    file = TESTS / path
    spec = importlib.util.spec_from_file_location(f"fuzz_{file.parent.name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
