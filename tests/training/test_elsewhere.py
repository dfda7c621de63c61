"""Everything of a step stays on its device: what a CPU's tests cannot notice and a GPU's first step would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dreamfusion.cameras import orbit_cameras
from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import load_config
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.rendering.renderer import Renderer
from dreamfusion.rendering.shading import ALBEDO, ShadingSample
from dreamfusion.scene.scene import make_scene
from dreamfusion.training.optimizer import SceneOptimizer
from dreamfusion.training.trainer import Trainer
from tests.elsewhere import ELSEWHERE, Elsewhere

PROMPT = "a peacock on a surfboard"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    made = torch.tensor

    def tensor(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return made(*args, **options) if device is None else made(*args, **options).to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    with Elsewhere():
        yield ELSEWHERE


def test_the_device_notices_what_a_gpu_would(elsewhere: torch.device) -> None:
    here, there = torch.rand(3, 2), torch.rand(3, 2).to(elsewhere)
    assert torch.equal((2 * there).cpu(), 2 * there.cpu())
    assert there.device == elsewhere and (there * torch.ones(())).device == elsewhere
    with pytest.raises(RuntimeError, match="two devices"):
        torch.add(here, there)
    with pytest.raises(RuntimeError, match="two devices"):
        here[torch.tensor([0, 1], device=elsewhere)]
    there[torch.tensor([0, 1])] = torch.rand(2, 2).to(elsewhere)
    with pytest.raises(RuntimeError, match="two devices"):
        there[torch.tensor([0, 1])] = torch.rand(2, 2)
    with pytest.raises(RuntimeError, match="two devices"):
        torch.stack([there.sum(), torch.ones(())])
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, generator=torch.Generator(), device=elsewhere)


@pytest.mark.parametrize("preset", ["miniature", "stable-diffusion", "paper", "dream-fields", "fit"])
def test_a_render_and_its_gradient_stay_on_their_device(elsewhere: torch.device, preset: str) -> None:
    config = load_config(preset, ["rendering.samples_per_ray=16", "rendering.occupancy.resolution=8"])
    stream = torch.Generator().manual_seed(0)
    scene = make_scene(config.scene, stream).to(elsewhere)
    renderer = Renderer(scene, config.rendering).to(elsewhere)
    warm = config.rendering.occupancy.warmup_steps + config.rendering.occupancy.update_every
    for step in (0, warm - warm % config.rendering.occupancy.update_every):
        assert renderer.update_occupancy(step, stream)
    cameras = orbit_cameras(30.0, 20.0, 2.5, 43.5, 8).to(elsewhere)
    lit = scene.normals_config.kind != "none"
    light = torch.tensor([[1.0, 2.0, 1.0]], device=elsewhere)
    shading = ShadingSample("lambertian", light, ambient=0.1, diffuse=0.9) if lit else ALBEDO
    output = renderer.render(cameras, shading, stream, stream, with_normals=lit)
    optimizer = SceneOptimizer(scene, config.optimizer)
    output.rgb.sum().backward()
    taken, norm = optimizer.apply(0)
    assert taken and norm > 0 and output.rgb.device == elsewhere
    assert renderer.render_image(cameras, with_normals=lit).rgb.device == elsewhere
    optimizer.load_state_dict(optimizer.state_dict())


OPTIONS = {
    "sds": [],
    "perp-neg": ["perp_neg=true", "view_prompts.split_sides=false"],
    "csd": ["objective.kind=csd"],
    "slices": ["slices=true"],
}


@pytest.fixture
def taken_here(request: pytest.FixtureRequest) -> tuple[ExperimentConfig, Any, list[float]]:
    """A config, its guidance, and the gradients' norms of its first steps on the CPU.

    Before `elsewhere` in a test's arguments: transformers has its own use for the device that stands for it.
    """
    settings = ["dtype=float32", *OPTIONS[request.param]]
    overrides = ["cameras.views_per_step=2", "cameras.track_centre=0.9", *(f"guidance.{s}" for s in settings)]
    config = load_config("miniature", overrides, {"prompt": PROMPT})
    guidance = make_guidance(config.guidance, PROMPT, "cpu")
    return config, guidance, _norms(Trainer(config, "cpu", guidance))


@pytest.mark.parametrize("taken_here", OPTIONS, indirect=True)
def test_steps_elsewhere_are_those_of_the_cpu(
    taken_here: tuple[ExperimentConfig, Any, list[float]],
    elsewhere: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, guidance, expected = taken_here
    for part in (guidance.unet, guidance.vae):
        part.to(elsewhere)
    for name in ("view_embeddings", "negative_embeddings", "null_embedding"):
        monkeypatch.setattr(guidance, name, getattr(guidance, name).to(elsewhere, torch.float32))
    monkeypatch.setattr(guidance, "device", elsewhere)
    trainer = Trainer(config, elsewhere, guidance)
    assert _norms(trainer) == pytest.approx(expected, rel=1e-3)
    assert trainer.preview_png().startswith(b"\x89PNG")
    tensors, _ = trainer.state_dict()
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}


def _norms(trainer: Trainer) -> list[float]:
    return [trainer.train_step().gradient_norm for _ in range(2)]
