"""The mean, spread and scale of latents that an autoencoder's settings give, against diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.configuration_utils import FrozenDict

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.latents import scaled, unscaled
from dreamfusion.guidance.models import find_model
from dreamfusion.guidance.sampling import sample_images
from dreamfusion.guidance.side_models import tiny_autoencoder_directory

MEAN, STD = [-1.6, 0.4, 2.0, -0.3], [8.5, 5.1, 0.7, 1.3]


# diffusers' own, of the schedulers that go by way of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


def with_vae(source: Path, target: Path, **values: Any) -> Path:
    shutil.copytree(source, target)
    file = target / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return target


@pytest.mark.parametrize("settings", [
    {"scaling_factor": 0.18215},
    {"scaling_factor": 0.18215, "shift_factor": 0.25},
    {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD},
])  # fmt: skip
def test_scaling_and_its_inverse(settings: dict[str, Any]):
    raw = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = scaled(raw, FrozenDict(settings))
    for channel in range(4):
        mean = settings.get("latents_mean", [settings.get("shift_factor", 0.0)] * 4)[channel]
        std = settings.get("latents_std", [1.0] * 4)[channel]
        expected = (raw[:, channel] - mean) * settings["scaling_factor"] / std
        torch.testing.assert_close(got[:, channel], expected)
    torch.testing.assert_close(unscaled(got, FrozenDict(settings)), raw)


def test_pictures_and_latents_are_the_pipelines(tiny_sdxl: Path, tmp_path: Path):
    directory = with_vae(tiny_sdxl, tmp_path / "xl", latents_mean=MEAN, latents_std=STD, scaling_factor=0.5)
    guidance: Any = make_guidance(GuidanceConfig(model=str(directory), dtype="float32"), "a duck")
    pipe: Any = StableDiffusionXLPipeline.from_pretrained(
        directory, local_files_only=True, low_cpu_mem_usage=False, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = pipe(
        "a duck", num_inference_steps=3, guidance_scale=4.0, latents=latents, output_type="np"
    ).images
    got = sample_images(guidance, ["a duck"], [2], [4.0], 3, "EulerDiscrete")[0, 0]
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    raw = guidance.vae.encode(image.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    mean, std = torch.tensor(MEAN).view(1, 4, 1, 1), torch.tensor(STD).view(1, 4, 1, 1)
    torch.testing.assert_close(guidance.encode(image), (raw - mean) * 0.5 / std)
    decoded = (guidance.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(guidance.decode(guidance.encode(image)), decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("values", "message"), [
    ({"latents_mean": MEAN}, "latents_mean and latents_std together, got latents_mean alone"),
    ({"latents_std": STD}, "latents_std alone"),
    ({"latents_mean": MEAN, "latents_std": STD[:3]}, "latents_std: expected 4 numbers.*got 3"),
    ({"latents_mean": "0", "latents_std": STD}, "latents_mean: expected 4 numbers.*got 0"),
    ({"latents_mean": MEAN, "latents_std": [1.0, 0.0, 1.0, 1.0]}, "latents_std: expected numbers above 0, got 0.0"),
    ({"latents_mean": MEAN, "latents_std": [1.0, None, 1.0, 1.0]}, "latents_std: expected 4 numbers"),
    ({"latents_mean": MEAN, "latents_std": STD, "shift_factor": 0.1}, "a shift_factor or latents_mean, got both"),
    ({"shift_factor": "much"}, "shift_factor: expected a number, got much"),
    ({"scaling_factor": 0}, "scaling_factor: expected a number above 0, got 0"),
    ({"scaling_factor": None}, "scaling_factor"),
    ({"out_channels": 4}, "autoencoder's images: expected 3 colours"),
])  # fmt: skip
def test_settings_that_cannot_be_followed_are_refused(
    values: dict[str, Any], message: str, tiny_sd1: Path, tmp_path: Path
):
    with pytest.raises(ModelUnsupportedError, match=message):
        find_model(str(with_vae(tiny_sd1, tmp_path / "copy", **values)))


@pytest.mark.parametrize("values", [
    {"scaling_factor": 0.5}, {"shift_factor": 0.1}, {"latents_mean": MEAN, "latents_std": STD},
])  # fmt: skip
def test_the_familys_tiny_autoencoder_is_for_the_familys_latents(
    values: dict[str, Any], tiny_sd1: Path, tmp_path: Path
):
    directory = with_vae(tiny_sd1, tmp_path / "copy", **values)
    config = GuidanceConfig.model_validate({"tiny_autoencoder": {"steps": 5}})
    with pytest.raises(ModelUnsupportedError, match=r"taesd does not fit .*guidance.tiny_autoencoder.model"):
        tiny_autoencoder_directory(config, "stable-diffusion", directory)
