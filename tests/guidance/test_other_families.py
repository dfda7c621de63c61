"""Stable Diffusion XL and DeepFloyd IF against diffusers' own pipelines, on tiny instances of the real classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, IFPipeline, StableDiffusionXLPipeline
from huggingface_hub import constants
from transformers import T5EncoderModel

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ModelNotFoundError, ModelUnsupportedError, PromptError
from dreamfusion.guidance.deepfloyd_if import DeepFloydIFGuidance
from dreamfusion.guidance.embedding_cache import EmbeddingCache
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.models import find_model
from dreamfusion.guidance.precision import vae_dtype
from dreamfusion.guidance.sampling import sample_images
from dreamfusion.guidance.schedulers import SCHEDULERS
from dreamfusion.guidance.sds import guided_output, score_distillation
from dreamfusion.guidance.stable_diffusion import StableDiffusionXLGuidance

NEGATIVES = ["", "blurry"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make(directory: Path, **options) -> Any:
    config = GuidanceConfig.model_validate({"model": str(directory), "dtype": "float32", **options})
    return make_guidance(config, "a peacock")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def record_steps(pipe: Any, **arguments: Any) -> list[tuple[torch.Tensor, int, torch.Tensor]]:
    """Run the pipeline; for each step its latents, timestep, and combined prediction."""
    recorded = []
    step = pipe.scheduler.step

    def recording_step(model_output, timestep, sample, **options):
        recorded.append((sample.clone(), int(timestep), model_output.clone()))
        return step(model_output, timestep, sample, **options)

    pipe.scheduler.step = recording_step
    pipe.set_progress_bar_config(disable=True)
    pipe(**arguments)
    return recorded


# ------------------------------------------------------------------------------------------------------ SDXL


def xl_pipeline(directory: Path) -> Any:
    pipe: Any = StableDiffusionXLPipeline.from_pretrained(
        directory, local_files_only=True, low_cpu_mem_usage=False, add_watermarker=False
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


@pytest.mark.parametrize("negative", NEGATIVES)
def test_xl_predicts_as_its_pipeline(tiny_sdxl: Path, negative: str):
    guidance = make(tiny_sdxl)
    assert type(guidance) is StableDiffusionXLGuidance
    steps = record_steps(
        xl_pipeline(tiny_sdxl),
        prompt="a duck",
        negative_prompt=negative or None,
        guidance_scale=7.5,
        num_inference_steps=3,
        latents=torch.randn(1, 4, 8, 8, generator=seeded(0)),
        output_type="latent",
    )
    cond, uncond = guidance.encode_texts(["a duck", negative]).split(1)
    assert bool(uncond.tokens.any()) == bool(negative)
    assert len(steps) == 3
    for sample, timestep, expected in steps:
        got = guided_output(guidance.denoise, sample, torch.tensor([timestep]), cond, uncond, 7.5)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_xl_is_told_the_size_of_its_pictures(tiny_sdxl: Path):
    latents = torch.randn(1, 4, 12, 12, generator=seeded(1))
    small, large = make(tiny_sdxl), make(tiny_sdxl, image_size=48)
    texts = small.encode_texts(["a duck"])
    (sample, timestep, expected), *_ = record_steps(
        xl_pipeline(tiny_sdxl), prompt="a duck", guidance_scale=1.0, num_inference_steps=2, height=48, width=48,
        latents=latents, output_type="latent",
    )  # fmt: skip
    got = large.denoise(sample, torch.tensor([timestep]), texts)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(small.denoise(sample, torch.tensor([timestep]), texts), expected, atol=1e-4)


def test_xl_draws_its_pipelines_pictures(tiny_sdxl: Path):
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=seeded(seed)) for seed in (2, 5)])
    pipe = xl_pipeline(tiny_sdxl)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        ["a duck"] * 2, num_inference_steps=3, guidance_scale=4.0, latents=latents, output_type="np"
    ).images
    got = sample_images(make(tiny_sdxl), ["a duck"], [2, 5], [4.0], 3)[0, 0]
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-3, atol=1e-4)


def test_xls_views_carry_their_pooled_texts(tiny_sdxl: Path, monkeypatch):
    guidance = make(tiny_sdxl, view_prompts={"rule": "interpolate"}, negative_prompt="red")
    seen = []
    monkeypatch.setattr(guidance, "denoise", lambda noisy, timesteps, texts: seen.append(texts) or noisy)
    images = torch.rand(1, 32, 32, 3).requires_grad_()
    guidance(images, torch.tensor([45.0]), torch.tensor([0.0]), 0, seeded(0), seeded(1)).loss.backward()
    front, side, negative = guidance.encode_texts(
        ["a peacock, front view", "a peacock, side view", "red"]
    ).pooled
    torch.testing.assert_close(seen[0].pooled, torch.stack([negative, (front + side) / 2]))
    assert images.grad is not None and images.grad.abs().max() > 0


def test_xls_autoencoder_never_runs_in_float16():
    # It overflows there ("force_upcast" in its config); so does the gradient through any other.
    for device in ("cpu", "cuda"):
        assert vae_dtype(torch.float16, torch.device(device)) in (torch.float32, torch.bfloat16)


def test_an_xl_refiner_and_a_part_that_is_missing_are_told(tiny_sdxl: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_sdxl, copy)
    (copy / "text_encoder_2" / "model.safetensors").unlink()
    (copy / "tokenizer_2" / "tokenizer.json").unlink(missing_ok=True)
    (copy / "tokenizer_2" / "merges.txt").unlink(missing_ok=True)
    with pytest.raises(ModelNotFoundError, match=r"tokenizer_2/.*, text_encoder_2's weights"):
        find_model(str(copy))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    with pytest.raises(ModelUnsupportedError, match="refiner"):
        find_model(str(copy))


# -------------------------------------------------------------------------------------------------------- IF


@pytest.fixture
def if_steps(tiny_if: Path) -> list[tuple[torch.Tensor, int, torch.Tensor]]:
    pipe: Any = IFPipeline.from_pretrained(tiny_if, local_files_only=True, low_cpu_mem_usage=False)
    return record_steps(
        pipe, prompt="A duck ", negative_prompt="blurry", guidance_scale=7.0, num_inference_steps=3,
        output_type="pt", generator=seeded(3), clean_caption=False,
    )  # fmt: skip


def test_if_predicts_as_its_pipeline(tiny_if: Path, if_steps):
    guidance = make(tiny_if)
    assert type(guidance) is DeepFloydIFGuidance
    cond, uncond = guidance.encode_texts(["A duck ", "blurry"]).split(1)
    assert len(if_steps) >= 3
    for sample, timestep, expected in if_steps:
        assert expected.shape[1] == 6
        got = guided_output(guidance.denoise, sample, torch.tensor([timestep]), cond, uncond, 7.0)
        # The pipeline's output has the variance behind the noise. A scale of 7 multiplies the rows' rounding, by 13 at most.
        torch.testing.assert_close(got, expected[:, :3], rtol=1e-4, atol=3e-5)


def test_if_distils_in_pixels_by_its_own_noise_schedule(tiny_if: Path, if_steps):
    guidance = make(tiny_if)
    sample, timestep, output = if_steps[0]
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    abar = scheduler.alphas_cumprod[timestep]
    image = torch.rand(1, 16, 16, 3, generator=seeded(4))
    pixels = image.permute(0, 3, 1, 2) * 2 - 1
    torch.testing.assert_close(guidance.encode(image), pixels)
    # The noise with which this image becomes the pipeline's own input, so that its prediction can be compared.
    noise = (sample - abar.sqrt() * pixels) / (1 - abar).sqrt()
    cond, uncond = guidance.encode_texts(["A duck ", "blurry"]).split(1)
    got = score_distillation(
        guidance.denoise,
        guidance.schedule,
        pixels,
        noise,
        torch.tensor([timestep]),
        cond,
        uncond,
        7.0,
        "sigma2",
    )
    torch.testing.assert_close(got, (1 - abar) * (output[:, :3] - noise), rtol=1e-3, atol=1e-4)


def test_ifs_gradient_is_the_pull_on_the_pixels(tiny_if: Path):
    guidance = make(tiny_if)
    images = torch.rand(2, 16, 16, 3, generator=seeded(5)).requires_grad_()
    azimuth, elevation = torch.tensor([0.0, 180.0]), torch.zeros(2)
    output = guidance(images, azimuth, elevation, 0, seeded(6), seeded(7))
    output.loss.backward()
    noise = torch.randn(2, 3, 16, 16, generator=seeded(6))
    pull = guidance.gradient(output.latents, noise, output.timesteps, azimuth, elevation, 0)
    expected = 2 * pull.permute(0, 2, 3, 1) / pull.numel()
    assert images.grad is not None
    torch.testing.assert_close(images.grad, expected)


@pytest.fixture(scope="module")
def if_guidance(tiny_if: Path) -> Any:
    return make(tiny_if)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_ifs_samples_are_pictures_with_every_scheduler(if_guidance: DeepFloydIFGuidance, scheduler: str):
    images = sample_images(if_guidance, ["a duck"], [8, 9], [4.0], 4, scheduler)[0, 0]
    assert images.shape == (2, 16, 16, 3)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.01


def test_t5_runs_once_for_a_prompt_and_never_again(tiny_if: Path, home: Path, monkeypatch):
    first = make(tiny_if, negative_prompt="blurry")
    files = list((home / "dreamfusion" / "embeddings").iterdir())
    assert len(files) == 5 and all(file.suffix == ".safetensors" for file in files)

    def refuse(*arguments, **options):
        raise AssertionError("the text encoder was asked again")

    monkeypatch.setattr(T5EncoderModel, "forward", refuse)
    monkeypatch.setattr(T5EncoderModel, "from_pretrained", refuse)
    again = make(tiny_if, negative_prompt="blurry")
    assert torch.equal(first.view_embeddings.tokens, again.view_embeddings.tokens)
    with pytest.raises(AssertionError, match="asked again"):
        make(tiny_if, negative_prompt="red")


def test_another_model_revision_or_text_has_another_embedding(tiny_if: Path, tmp_path: Path):
    cache = EmbeddingCache(tiny_if)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_if, copy)
    assert cache.path("a duck") != cache.path("a duck, front view")
    assert cache.path("a duck") == EmbeddingCache(tiny_if).path("a duck")
    before = EmbeddingCache(copy).path("a duck")
    assert before != cache.path("a duck")
    weights = copy / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert EmbeddingCache(copy).path("a duck") != before


def test_each_precision_has_its_own_embedding(tiny_if: Path):
    make(tiny_if, dtype="bfloat16")
    after = make(tiny_if).view_embeddings.tokens
    cache = EmbeddingCache(tiny_if, precision=str(torch.bfloat16))
    assert cache.path("a duck") != EmbeddingCache(tiny_if, precision=str(torch.float32)).path("a duck")
    for file in cache.root.iterdir():
        file.unlink()
    assert torch.equal(after, make(tiny_if).view_embeddings.tokens)


def test_a_damaged_embedding_is_made_again(tiny_if: Path):
    cache = EmbeddingCache(tiny_if)
    cache.put("a duck", torch.ones(3, 2))
    assert cache.get("a duck") is not None
    cache.path("a duck").write_bytes(b"half a fi")
    assert cache.get("a duck") is None


def test_a_prompt_that_is_too_long_for_if_is_refused(tiny_if: Path):
    with pytest.raises(PromptError, match="77 tokens"):
        make(tiny_if).encode_texts(["peacock " * 20])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"in_channels": 6}, "upscaling"),
        ({"out_channels": 4}, "output"),
        ({"class_embed_type": "timestep"}, "more than"),
    ],
)
def test_ifs_later_stages_are_refused(tiny_if: Path, tmp_path: Path, values: dict[str, Any], message: str):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_if, copy)
    file = copy / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(ModelUnsupportedError, match=message):
        find_model(str(copy))


def test_a_sentencepiece_tokenizer_without_its_packages_says_what_to_install(
    tiny_if: Path, tmp_path: Path, monkeypatch
):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_if, copy)
    (copy / "tokenizer" / "tokenizer.json").rename(copy / "tokenizer" / "spiece.model")
    monkeypatch.setattr("dreamfusion.guidance.deepfloyd_if._installed", lambda module: False)
    with pytest.raises(
        ModelUnsupportedError, match=r"without sentencepiece and google.protobuf.*dreamfusion\[if\]"
    ):
        make(copy)
