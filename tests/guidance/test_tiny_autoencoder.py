"""The small encoder: the pipeline's own latents with it, and the change to the large one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderTiny
from huggingface_hub import constants

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ModelNotFoundError, ModelUnsupportedError
from dreamfusion.guidance.factory import make_guidance


def save_tiny(directory: Path, channels: int = 4, levels: int = 3) -> Path:
    torch.manual_seed(6)
    widths: Any = (8,) * levels
    AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(1,) * levels,
        latent_channels=channels,
        scaling_factor=1.5,  # TAESD's is 1, where leaving it out would not show
    ).save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> None:
    """An empty cache of the hub and of embeddings."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))

    def refuse(*arguments: Any, **options: Any) -> str:
        raise ConnectionError("no network in a test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def make(model: Path, tiny: Path | str | None, steps: int = 5) -> Any:
    options = {"model": None if tiny is None else str(tiny), "steps": steps}
    config = GuidanceConfig.model_validate(
        {"model": str(model), "dtype": "float32", "tiny_autoencoder": options}
    )
    return make_guidance(config, "a duck")


def test_the_first_steps_are_encoded_by_the_small_one(tiny_sd1: Path, tmp_path: Path):
    guidance = make(tiny_sd1, save_tiny(tmp_path))
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference: Any = AutoencoderTiny.from_pretrained(tmp_path, local_files_only=True, low_cpu_mem_usage=False)
    pixels = images.permute(0, 3, 1, 2) * 2 - 1
    expected = reference.encode(pixels).latents * reference.config.scaling_factor

    def latents(step: int) -> torch.Tensor:
        generators = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
        output = guidance(images, torch.zeros(2), torch.zeros(2), step, *generators)
        (gradient,) = torch.autograd.grad(output.loss, images)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        return output.latents

    torch.testing.assert_close(latents(4), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents(5), guidance.encode(images).detach())
    assert not torch.allclose(latents(4), latents(5), atol=1e-2)
    assert not any(parameter.requires_grad for parameter in guidance.tiny_vae.parameters())


def test_one_that_does_not_fit_or_is_not_there_is_told(tiny_sd1: Path, tmp_path: Path):
    with pytest.raises(
        ModelUnsupportedError, match="expected an AutoencoderTiny of 4 channels and 3 levels, got"
    ):
        make(tiny_sd1, save_tiny(tmp_path / "flux", channels=16))
    with pytest.raises(ModelUnsupportedError, match="got AutoencoderKL"):
        make(tiny_sd1, tiny_sd1 / "vae")
    with pytest.raises(
        ModelNotFoundError, match=r"no tiny autoencoder in some/where; tried: directory .*null"
    ):
        make(tiny_sd1, "some/where")
    cut = save_tiny(tmp_path / "cut") / "diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ModelNotFoundError, match=r"cut lacks weights \(.* bytes\)"):
        make(tiny_sd1, tmp_path / "cut")


def test_each_family_has_one_of_its_own(tiny_sd1: Path, tiny_sdxl: Path, tiny_if: Path, monkeypatch):
    asked = []

    def refuse(repo: str, **options: Any) -> str:
        asked.append((repo, options["revision"]))
        raise ConnectionError("no network in a test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    for model in (tiny_sd1, tiny_sdxl):
        with pytest.raises(ModelNotFoundError, match="no network in a test"):
            make(model, None)
    with pytest.raises(ModelNotFoundError, match="hub: ConnectionError"):
        make(tiny_sd1, "some/where@v2")
    assert asked == [("madebyollin/taesd", None), ("madebyollin/taesdxl", None), ("some/where", "v2")]
    assert make(tiny_if, None).vae is None  # pixels need none


def test_loading_it_says_nothing(tiny_sd1: Path, tmp_path: Path, capfd):
    make(tiny_sd1, save_tiny(tmp_path))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
