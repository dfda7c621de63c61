"""The one-file baseline: it stands alone, stays short, agrees with the package where both have a formula, and runs."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import imageio_ffmpeg
import pytest
import torch
import trimesh
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.cameras import orbit_cameras

FILE = Path(__file__).parents[2] / "examples" / "baseline.py"


@pytest.fixture(scope="module")
def baseline(module_at: Callable[[str], ModuleType]) -> ModuleType:
    return module_at("examples/baseline.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 2 in the smallest size: 16 px images, v-prediction, random weights."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("checkpoint")
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=40)
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "max_position_embeddings": 40,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vae: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
    }
    unet: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    }
    tokenizer.save_pretrained(directory / "tokenizer")
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(directory / "text_encoder")
    AutoencoderKL(**vae).save_pretrained(directory / "vae")
    UNet2DConditionModel(**unet).save_pretrained(directory / "unet")
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(directory / "scheduler")
    return directory


def test_it_is_one_short_file_that_stands_alone():
    source = FILE.read_text()
    assert len(source.splitlines()) <= 400
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    others = {"torch", "diffusers", "transformers", "skimage", "trimesh", "imageio", "numpy"}
    assert names - set(sys.stdlib_module_names) <= others


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (90.0, 20.0), (-130.0, 75.0)])
def test_its_cameras_are_the_packages(baseline, azimuth, elevation):
    rays_o, rays_d = baseline.camera_rays(azimuth, elevation, 2.5, 43.0, 7)
    expected_o, expected_d = orbit_cameras(azimuth, elevation, 2.5, 43.0, 7).rays()
    assert torch.allclose(rays_o, expected_o.reshape(-1, 3), atol=1e-6)
    assert torch.allclose(rays_d, expected_d.reshape(-1, 3), atol=1e-6)


def test_its_rendering_of_a_constant_fog_is_the_closed_form(baseline):
    def fog(x):
        return torch.full((len(x),), 0.8), torch.full((len(x), 3), 0.25)

    rays_o, rays_d = baseline.camera_rays(30.0, 10.0, 2.5, 60.0, 9)
    for jitter in (False, True):
        rgb, opacity = baseline.render(fog, rays_o, rays_d, torch.ones(3), 40, jitter)
        nearest = (rays_o - (rays_o * rays_d).sum(-1, keepdim=True) * rays_d).norm(dim=-1)
        chord = 2 * (1 - nearest**2).clamp(min=0).sqrt()
        expected = 1 - torch.exp(-0.8 * chord)
        assert torch.allclose(opacity, expected, atol=1e-5)
        assert torch.allclose(rgb, (1 - 0.75 * expected)[:, None].expand(-1, 3), atol=1e-5)
        assert (chord == 0).any() and (chord > 1.5).any()


def test_its_rendering_shows_the_nearer_thing(baseline):
    def two_sides(x):  # red in front, blue behind
        red, blue = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        return torch.full((len(x),), 50.0), torch.where(x[:, 2:] > 0, red, blue)

    for azimuth, seen in ((0.0, 0), (180.0, 2)):
        rgb, _ = baseline.render(
            two_sides, *baseline.camera_rays(azimuth, 0, 2.5, 43, 3), torch.ones(3), 64, False
        )
        assert rgb[4, seen] > 0.99 and rgb[4, 2 - seen] < 0.01


def test_its_gradient_is_that_of_the_exact_denoiser(baseline):
    # Data that is one point z_0: the best eps_hat is (z_t - sqrt(abar) z_0) / sqrt(1 - abar), whatever the noise, so
    # the gradient is w(t) sqrt(abar / (1 - abar)) (z - z_0) with w = 1 - abar.
    torch.manual_seed(0)
    critic = object.__new__(baseline.ScoreDistillation)
    critic.abar = torch.tensor([0.36]).expand(100)
    goal = torch.randn(1, 4, 2, 2)
    critic.encode_image = lambda image: image * 1.0
    critic.predict_noise = lambda z_t, t, view, scale: (z_t - 0.6 * goal) / 0.8
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss, size = critic.loss(z, "front", 10.0, 0.98)
    loss.backward()
    expected = 0.64 * (0.6 / 0.8) * (z.detach() - goal)
    assert z.grad is not None and torch.allclose(z.grad * z.numel(), expected, atol=1e-5)
    assert size == pytest.approx(expected.square().mean().sqrt().item(), rel=1e-5)


def test_its_guidance_turns_v_into_noise_and_exaggerates_the_caption(baseline):
    critic = object.__new__(baseline.ScoreDistillation)
    critic.abar, critic.predicts_v = torch.tensor([0.36]), True
    critic.texts = {"": torch.zeros(1, 1, 1), "side": torch.ones(1, 1, 1)}
    z_t, t = torch.randn(1, 4, 2, 2), torch.tensor([0])

    def unet(z, t, encoder_hidden_states):  # v = 2 without a caption, 3 with it
        return SimpleNamespace(sample=torch.full_like(z, 2.0) + encoder_hidden_states[:, :, :, None])

    critic.unet = unet
    eps_hat = critic.predict_noise(z_t, t, "side", 5.0)
    assert torch.allclose(eps_hat, 0.6 * torch.tensor(2 + 5 * 1.0) + 0.8 * z_t)


def test_views_are_named_by_where_the_camera_is(baseline):
    assert [baseline.view_of(a, 10) for a in (0, 44, -44, 46, -90, 136, -136, 180, 359)] == (
        ["front"] * 3 + ["side"] * 2 + ["back"] * 3 + ["front"]
    )
    assert baseline.view_of(0, 61) == "overhead"


def test_it_runs_from_a_prompt_to_a_mesh_and_a_video(baseline, checkpoint, tmp_path, capsys):
    options = ["--steps", "2", "--size", "16", "--samples", "8", "--resolution", "24", "--threshold", "5"]
    options += ["--frames", "3", "--video-size", "16", "--model", str(checkpoint), "--output", str(tmp_path)]
    baseline.main(["a snowman", *options])
    mesh = trimesh.load_mesh(tmp_path / "mesh.ply")
    # After two steps the scene is still close to its blob, which is 5 deep at a quarter: 10 (1 - r / 0.5) = 5.
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * math.pi * 0.25**3, rel=0.2)
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "turntable.mp4"))[0] == 3
    assert "sds gradient" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_scene_and_the_prompt_matters(baseline, checkpoint):
    args = SimpleNamespace(steps=2, size=16, samples=8, guidance_scale=10.0, device="cpu")

    def trained(prompt: str) -> torch.Tensor:
        torch.manual_seed(0)
        nerf = baseline.NeRF((4, 8))
        baseline.train(nerf, baseline.ScoreDistillation(str(checkpoint), prompt, "cpu"), args)
        return torch.cat([p.detach().flatten() for p in nerf.parameters()])

    first = trained("a duck")
    assert torch.equal(trained("a duck"), first)
    assert not torch.equal(trained("a house"), first)
