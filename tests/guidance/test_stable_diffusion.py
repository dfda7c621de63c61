"""The guidance against StableDiffusionPipeline itself, on tiny instances of the real classes."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ConfigError, ModelUnsupportedError, PromptError
from dreamfusion.guidance import sds
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.sampling import sample_images
from dreamfusion.guidance.sds import guided_output, score_distillation
from dreamfusion.guidance.stable_diffusion import StableDiffusionGuidance

PROMPT = "a peacock"


def make(directory: Path, prompt: str = PROMPT, **options) -> StableDiffusionGuidance:
    config = GuidanceConfig.model_validate({"model": str(directory), "dtype": "float32", **options})
    guidance = make_guidance(config, prompt)
    assert type(guidance) is StableDiffusionGuidance
    return guidance


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pipeline(directory: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(directory, local_files_only=True, low_cpu_mem_usage=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def checkpoint(request) -> Path:
    return request.getfixturevalue(f"tiny_{request.param}")


@pytest.fixture(scope="module")
def guidance(checkpoint: Path) -> StableDiffusionGuidance:
    return make(checkpoint)


def call(
    guidance: StableDiffusionGuidance, images: Tensor, step: int = 0, seed: int = 0, azimuth: float = 0.0
):
    azimuths = torch.full((len(images),), azimuth)
    return guidance(images, azimuths, torch.zeros(len(images)), step, seeded(seed), seeded(seed + 1))


def record_pipeline(pipe: StableDiffusionPipeline, **arguments) -> list[tuple[Tensor, int, Tensor, Tensor]]:
    """Run the pipeline; for each step its latents, timestep, combined prediction and implied clean latents."""
    recorded = []
    step = pipe.scheduler.step

    def recording_step(model_output, timestep, sample, return_dict):
        result = step(model_output, timestep, sample)
        recorded.append((sample, int(timestep), model_output, result.pred_original_sample))
        return (result.prev_sample,)

    pipe.scheduler.step = recording_step
    pipe(output_type="latent", **arguments)
    return recorded


def test_the_combined_prediction_is_the_pipelines(checkpoint: Path, guidance: StableDiffusionGuidance):
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0))
    steps = record_pipeline(
        pipeline(checkpoint),
        prompt="a duck",
        negative_prompt="blurry",
        guidance_scale=7.5,
        num_inference_steps=4,
        latents=latents,
    )
    assert len(steps) == 4
    cond, uncond = guidance.encode_texts(["a duck", "blurry"]).split(1)
    for sample, timestep, expected, _ in steps:
        got = guided_output(guidance.denoise, sample, torch.tensor([timestep]), cond, uncond, 7.5)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_score_distillation_is_what_the_pipelines_prediction_gives(
    checkpoint: Path, guidance: StableDiffusionGuidance
):
    # The pipeline starts from latents that are noised by diffusers' own scheduler, at the timestep it starts with.
    pipe = pipeline(checkpoint)
    pipe.scheduler.set_timesteps(3)
    timesteps = pipe.scheduler.timesteps[:1]
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=seeded(1))
    noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
    first, *_ = record_pipeline(
        pipe, prompt=f"{PROMPT}, side view", guidance_scale=30.0, num_inference_steps=3, latents=noisy
    )
    _, timestep, _, clean = first
    assert timestep == timesteps.item()
    abar = pipe.scheduler.alphas_cumprod[timestep]
    eps_hat = (noisy - abar.sqrt() * clean) / (1 - abar).sqrt()
    expected = (1 - abar) * (eps_hat - noise)

    cond, uncond = guidance.embeddings_of_views(torch.tensor([90.0]), torch.tensor([0.0]))
    got = score_distillation(
        guidance.denoise, guidance.schedule, latents, noise, timesteps, cond, uncond, 30.0, "sigma2"
    )
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_one_call_equals_its_parts(guidance: StableDiffusionGuidance):
    """Which latents, noise, timesteps and view the call takes, and how its loss and norm come of them."""
    images = torch.rand(2, 32, 32, 3, generator=seeded(4)).requires_grad_()
    azimuth, elevation = torch.tensor([0.0, 180.0]), torch.tensor([0.0, 80.0])
    output = guidance(images, azimuth, elevation, 0, seeded(5), seeded(6))
    timesteps = guidance.schedule.sample_timesteps(2, 0.02, 0.98, seeded(6))
    assert torch.equal(output.timesteps, timesteps)
    texts = guidance.prompts.texts()
    cond = guidance.encode_texts([texts["front"], texts["overhead"]])
    uncond = guidance.encode_texts(["", ""])
    noise = torch.randn(2, 4, 8, 8, generator=seeded(5))
    latents = guidance.encode(images)
    gradient = score_distillation(
        guidance.denoise, guidance.schedule, latents.detach(), noise, timesteps, cond, uncond, 10.0, "sigma2"
    )
    expected = torch.autograd.grad(latents, images, gradient / latents.numel())[0]
    got = torch.autograd.grad(output.loss, images)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-9)
    per_view = [gradient[0].norm().item(), gradient[1].norm().item()]
    assert output.gradient_norm == pytest.approx(sum(per_view) / 2, rel=1e-4)
    assert torch.equal(output.latents, latents.detach())
    assert not output.latents.requires_grad


def test_latents_are_encoded_as_the_pipelines_image_processor_and_vae_do(
    checkpoint: Path, guidance: StableDiffusionGuidance
):
    pipe = pipeline(checkpoint)
    images = torch.rand(1, 32, 32, 3, generator=seeded(7))
    pixels = pipe.image_processor.preprocess(images.permute(0, 3, 1, 2))
    expected = pipe.vae.encode(pixels).latent_dist.mean
    expected = (expected - (pipe.vae.config.shift_factor or 0.0)) * pipe.vae.config.scaling_factor
    torch.testing.assert_close(guidance.encode(images), expected, rtol=1e-4, atol=1e-5)


def test_decoding_undoes_the_scaling(guidance: StableDiffusionGuidance):
    latents = guidance.encode(torch.rand(1, 32, 32, 3, generator=seeded(8)))
    config = guidance.vae.config
    raw = latents / config.scaling_factor + (config.shift_factor or 0.0)
    expected = (guidance.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(guidance.decode(latents), expected)


@pytest.mark.parametrize("side", [16, 32, 96])
def test_any_image_size_is_scaled_to_the_models(guidance: StableDiffusionGuidance, side: int):
    images = torch.rand(1, side, side, 3, generator=seeded(9)).requires_grad_()
    output = call(guidance, images)
    assert output.latents.shape == (1, 4, 8, 8)
    output.loss.backward()
    assert images.grad is not None
    # Every pixel counts: a resize without antialiasing would skip a third of the 96.
    assert (images.grad.abs().sum(-1) > 0).all()


def test_the_image_gets_a_gradient_and_no_model_does(guidance: StableDiffusionGuidance, monkeypatch):
    modes = []
    denoise = guidance.unet.forward

    def forward(*arguments, **options):
        modes.append(torch.is_grad_enabled())
        return denoise(*arguments, **options)

    monkeypatch.setattr(guidance.unet, "forward", forward)
    images = torch.rand(1, 32, 32, 3, generator=seeded(10)).requires_grad_()
    call(guidance, images).loss.backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.abs().max() > 0
    assert modes == [False]
    for part in (guidance.unet, guidance.vae):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert all(parameter.grad is None for parameter in part.parameters())


def test_nothing_is_decoded_and_no_text_encoded_in_a_step(guidance: StableDiffusionGuidance, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("not in a training step")

    monkeypatch.setattr(guidance.vae, "decode", refuse)
    monkeypatch.setattr(CLIPTextModel, "forward", refuse)
    call(guidance, torch.rand(1, 32, 32, 3))


def test_prompts_are_encoded_once_and_the_text_encoder_is_gone(tiny_sd1: Path, monkeypatch):
    batches, encoders = [], []
    forward = CLIPTextModel.forward

    def counting(self, input_ids, *arguments, **options):
        batches.append(len(input_ids))
        encoders.append(weakref.ref(self))
        return forward(self, input_ids, *arguments, **options)

    monkeypatch.setattr(CLIPTextModel, "forward", counting)
    guidance = make(tiny_sd1, negative_prompt="blurry")
    call(guidance, torch.rand(1, 32, 32, 3))
    call(guidance, torch.rand(1, 32, 32, 3))
    assert batches == [5]  # four views and the negative prompt
    assert [encoder() for encoder in encoders] == [None]


def test_views_and_negative_prompt_reach_the_unet(tiny_sd1: Path, monkeypatch):
    guidance = make(tiny_sd1, negative_prompt="red", view_prompts={"rule": "interpolate", "side": "a duck"})
    seen = []
    monkeypatch.setattr(
        guidance, "denoise", lambda noisy, timesteps, embeddings: seen.append(embeddings) or noisy
    )
    images = torch.rand(1, 32, 32, 3)
    call(guidance, images, azimuth=30.0)
    front, side, negative = guidance.encode_texts([f"{PROMPT}, front view", "a duck", "red"]).tokens
    expected = torch.stack([negative, front * 2 / 3 + side / 3])
    torch.testing.assert_close(seen[0].tokens, expected, rtol=1e-5, atol=1e-6)


def test_timesteps_follow_the_schedules(tiny_sd1: Path):
    guidance = make(
        tiny_sd1,
        timestep_min=0.3,
        timestep_max={"kind": "linear", "start": 0.98, "end": 0.4, "steps": 100},
    )
    images = torch.rand(32, 16, 16, 3)
    for step, top in ((0, 980), (50, 690), (200, 400)):
        timesteps = call(guidance, images, step).timesteps
        assert timesteps.min() >= 300
        assert 0.85 * top <= timesteps.max() <= top


def test_the_same_generators_give_the_same_bytes(guidance: StableDiffusionGuidance):
    images = torch.rand(1, 32, 32, 3, generator=seeded(11)).requires_grad_()
    first, second = (torch.autograd.grad(call(guidance, images, seed=3).loss, images)[0] for _ in range(2))
    assert torch.equal(first, second)
    other = torch.autograd.grad(call(guidance, images, seed=4).loss, images)[0]
    assert not torch.equal(first, other)


def test_bfloat16_agrees_with_float32_to_its_precision(tiny_sd1: Path):
    images = torch.rand(1, 32, 32, 3, generator=seeded(12)).requires_grad_()
    exact, half = make(tiny_sd1), make(tiny_sd1, dtype="bfloat16")
    assert half.unet.dtype == torch.bfloat16
    gradients = [torch.autograd.grad(call(guidance, images).loss, images)[0] for guidance in (exact, half)]
    assert gradients[1].dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)
    assert cosine > 0.98


def test_a_prompt_that_the_text_encoder_would_cut_is_refused(tiny_sd1: Path):
    with pytest.raises(PromptError, match="too long"):
        make(tiny_sd1, prompt="peacock " * 20)


def test_an_image_size_that_does_not_fit_is_refused(tiny_sd1: Path):
    assert make(tiny_sd1, image_size=48).image_size == 48
    with pytest.raises(ConfigError, match="image_size"):
        make(tiny_sd1, image_size=50)


def test_corrupt_weights_are_told_in_one_line(tiny_sd1: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_sd1, broken)
    # As long as its header says, but of a number type that there is not.
    header = b'{"conv_in.weight": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}'
    contents = len(header).to_bytes(8, "little") + header + bytes(4)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(contents)
    with pytest.raises(ModelUnsupportedError, match="unet"):
        make(broken)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_there_are_not_left_at_random(tiny_sd1: Path, tmp_path: Path, component: str):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_sd1, broken)
    (file,) = (broken / component).glob("*.safetensors")
    tensors = load_file(file)
    name = min(tensors)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelUnsupportedError, match=f"the {component} in .* lacks weights"):
        make(broken)


def test_half_precision_files_alone_are_enough(tiny_sd1: Path, tmp_path: Path):
    halved = tmp_path / "halved"
    shutil.copytree(tiny_sd1, halved)
    for component in ("unet", "vae", "text_encoder"):
        for file in (halved / component).glob("*.safetensors"):
            file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    images = torch.rand(1, 32, 32, 3, generator=seeded(13))
    assert call(make(halved), images).gradient_norm == call(make(tiny_sd1), images).gradient_norm


def test_loading_writes_nothing_to_the_terminal(checkpoint: Path, capfd):
    sample_images(make(checkpoint), ["a duck"], [0], steps=2)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_sampler_that_clips_does_not_clip_latents(tiny_sd1: Path, tmp_path: Path):
    copy = tmp_path / "clips"
    shutil.copytree(tiny_sd1, copy)
    file = copy / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    config.update(clip_sample=True, thresholding=True, _class_name="DDIMScheduler")
    file.write_text(json.dumps(config))
    scheduler = make(copy).scheduler
    assert not scheduler.config.clip_sample
    assert not scheduler.config.thresholding


def test_the_denoiser_is_called_through_the_tested_core():
    # A second copy of the formula in the guidance would not be covered by the closed form.
    from dreamfusion.guidance import diffusion

    assert diffusion.score_distillation is sds.score_distillation
