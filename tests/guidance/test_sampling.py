"""Pictures of the frozen model alone, against diffusers' own pipeline with each of its schedulers."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ConfigError
from dreamfusion.guidance.diffusion import DiffusionGuidance
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.models import package_directory
from dreamfusion.guidance.sampling import BATCH, sample_images
from dreamfusion.guidance.schedulers import SCHEDULERS, TWICE, check_scheduler, load_sampler, load_scheduler

# diffusers' own, of the schedulers that go by way of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


def make(directory: Path) -> DiffusionGuidance:
    guidance = make_guidance(GuidanceConfig(model=str(directory), dtype="float32"), "a peacock")
    if guidance.vae.config.shift_factor:
        # The pipeline ignores a shift; without it both must agree.
        guidance.vae.register_to_config(shift_factor=None)
    return guidance


@pytest.fixture(scope="module")
def guidance(tiny_sd1: Path) -> DiffusionGuidance:
    return make(tiny_sd1)


@pytest.fixture(scope="module", params=["tiny_sd1", "tiny_sd2"], ids=["epsilon", "v"])
def both(request: pytest.FixtureRequest) -> tuple[DiffusionGuidance, Any]:
    """A guidance, and diffusers' pipeline of the same checkpoint."""
    directory = request.getfixturevalue(request.param)
    pipe: Any = StableDiffusionPipeline.from_pretrained(
        directory, local_files_only=True, low_cpu_mem_usage=False
    )
    pipe.set_progress_bar_config(disable=True)
    return make(directory), pipe


@pytest.mark.parametrize("name", SCHEDULERS)
def test_pictures_are_the_pipelines_with_every_scheduler(
    both: tuple[DiffusionGuidance, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    guidance, pipe = both
    done = []
    got = sample_images(
        guidance, ["a duck"], [3, 9], [4.0], 6, name, "red", lambda *counts: done.append(counts)
    )
    scheduler = getattr(diffusers, f"{name}Scheduler")
    monkeypatch.setattr(pipe, "scheduler", scheduler.from_config(pipe.scheduler.config, clip_sample=False))
    # The pipeline too draws the first noise of each picture from its own generator.
    expected = pipe(
        ["a duck"] * 2,
        negative_prompt=["red"] * 2,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 9)],
        # TCD's own; the pipeline's is DDIM's.
        eta=0.3 if name == "TCD" else 0.0,
        output_type="np",
    ).images
    torch.testing.assert_close(got[0, 0], torch.from_numpy(expected), rtol=1e-3, atol=2e-4)
    total = done[-1][1]
    assert done == [(call, total) for call in range(1, total + 1)] and total >= 6


def test_a_cell_is_its_own_text_scale_and_seed(guidance: DiffusionGuidance) -> None:
    texts, scales, seeds = ["a duck", "a red duck"], [1.0, 4.0], list(range(BATCH + 1))
    done = []
    grid = sample_images(
        guidance, texts, seeds, scales, 2, "EulerAncestralDiscrete", on_step=lambda *n: done.append(n)
    )
    assert grid.shape == (2, 2, BATCH + 1, 32, 32, 3)
    # Ten pictures of each scale, three calls of at most four.
    assert done[-1] == (12, 12) and len(done) == 12
    # Alone it is the same picture, whichever batch it was in.
    for i, j, k in ((0, 1, BATCH), (1, 0, 2)):
        alone = sample_images(guidance, [texts[i]], [seeds[k]], [scales[j]], 2, "EulerAncestralDiscrete")
        torch.testing.assert_close(grid[i, j, k], alone[0, 0, 0], rtol=1e-4, atol=1e-4)
    cells = grid.flatten(0, 2)
    different = torch.cdist(cells.flatten(1), cells.flatten(1)) + torch.eye(len(cells))
    assert different.min() > 1e-3


# One that counts in sigmas and one that looks twice, too.
@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "HeunDiscrete"])
def test_below_a_timestep_the_model_is_asked_without_guidance(
    guidance: DiffusionGuidance, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def draw(scale: float, above: int) -> torch.Tensor:
        return sample_images(guidance, ["a duck"], [0], [scale], 4, name, guidance_above=above)[0, 0, 0]

    asked: list[tuple[int, int]] = []
    denoise = guidance.denoise

    def counted(latents: torch.Tensor, timesteps: torch.Tensor, embeddings: Any) -> torch.Tensor:
        asked.append((int(timesteps[0]), len(latents)))
        return denoise(latents, timesteps, embeddings)

    monkeypatch.setattr(guidance, "denoise", counted)
    drawn = draw(4.0, 500)
    timesteps = [timestep for timestep, _ in asked]
    # Both sides have two steps, and the one without guidance needs the text alone.
    assert [timestep > 500 for timestep in sorted(set(timesteps))] == [False, False, True, True]
    assert asked == [(timestep, 2 if timestep >= 500 else 1) for timestep in timesteps]
    assert draw(4.0, 1000).equal(draw(1.0, 0)) and draw(4.0, timesteps[-1]).equal(draw(4.0, 0))
    assert min((drawn - draw(scale, 0)).abs().max() for scale in (1.0, 4.0)) > 1e-3


@pytest.mark.parametrize(("said", "meant"), [
    ("DPMSolverMultistep", "DPMSolverMultistep"),
    ("dpm-solver-multistep", "DPMSolverMultistep"),
    ("EulerDiscreteScheduler", "EulerDiscrete"),
    (" ddim", "DDIM"),
])  # fmt: skip
def test_a_schedulers_name_in_any_spelling(said: str, meant: str) -> None:
    assert check_scheduler(said) == meant


@pytest.mark.parametrize(("said", "told"), [
    ("euler", "Did you mean EulerDiscrete or EulerAncestralDiscrete?"),
    ("unipcmultistp", "Did you mean UniPCMultistep"),
    ("FlowMatchEulerDiscrete", "expected one of DDIM"),
    ("", "got ''"),
])  # fmt: skip
def test_a_name_that_is_none_is_told(said: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"--scheduler: expected one of") as caught:
        check_scheduler(said)
    assert told in str(caught.value)


def test_steps_that_a_scheduler_cannot_make_are_told_without_weights(tiny_sd1: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd1 / "scheduler", tmp_path / "scheduler")
    assert len(load_sampler(tmp_path, False, "LCM", 50).timesteps) == 50
    with pytest.raises(ConfigError, match="--steps: LCM cannot make 60 steps"):
        load_sampler(tmp_path, False, "LCM", 60)


def test_a_sampler_that_corrects_itself_is_not_heard(
    tiny_sd1: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_sampler(tiny_sd1, False, "DPMSolverSinglestep", 5)
    assert capfd.readouterr().err == ""


FEW_STEP_MODELS = ("LCM", "TCD")  # draw noise anew at each step, which only models trained for it can take


STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "trained_betas": None, "clip_sample": False,
}  # fmt: skip
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def scheduler_of(tmp_path: Path, **values: Any) -> Path:
    """A checkpoint's folder with Stable Diffusion 1.5's scheduler_config.json, and these values in it."""
    (tmp_path / "scheduler").mkdir()
    config = STABLE_DIFFUSION | values
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("spacing", [None, "leading", "trailing"])
def test_stable_diffusion_starts_where_diffusers_pipeline_does(spacing: str | None, tmp_path: Path) -> None:
    """50 steps of every scheduler: the same timesteps and sigmas, none of them capped; 13.12 at timestep 981."""
    directory = scheduler_of(tmp_path, **({} if spacing is None else {"timestep_spacing": spacing}))
    own: Any = PNDMScheduler.from_pretrained(directory / "scheduler")
    for name in SCHEDULERS:
        ours = load_sampler(directory, False, name, 50)
        reference = getattr(diffusers, f"{name}Scheduler").from_config(own.config)
        reference.set_timesteps(50)
        assert ours.timesteps.tolist() == reference.timesteps.tolist(), name
        if hasattr(reference, "sigmas"):
            torch.testing.assert_close(ours.sigmas, reference.sigmas, rtol=1e-6, atol=0)
        if name in TWICE:
            sigma, timestep = {"leading": (13.1204, 981)}.get(str(spacing), (14.6146, 999))
            assert float(ours.sigmas[0]) == pytest.approx(sigma, abs=1e-3) and ours.timesteps[0] == timestep


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_has_the_checkpoints_own_betas(name: str, tmp_path: Path) -> None:
    betas = torch.linspace(0.02, 0.2, 60, dtype=torch.float64)
    directory = scheduler_of(tmp_path, trained_betas=betas.tolist(), num_train_timesteps=60)
    expected = (1 - betas).cumprod(0)
    assert float(expected[-1]) > 1e-4  # not so far that the cap would show
    got = load_sampler(directory, False, name, 10).alphas_cumprod.double()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in FEW_STEP_MODELS])
@pytest.mark.parametrize(("schedule", "steps"), [("cosine", 20), ("cosine", 50), ("zero-snr", 50)])
def test_gaussian_data_keep_their_spread_with_every_scheduler(
    name: str, schedule: str, steps: int, tmp_path: Path
) -> None:
    """The exact denoiser of N(0, 1/4) under schedules that end in noise alone.

    The embedded model's cosine schedule ends at 20,000 times the signal, one of zero terminal SNR has none.
    """
    directory = package_directory() / "miniature" / "stable-diffusion"
    if schedule == "zero-snr":
        directory = scheduler_of(tmp_path, prediction_type="v_prediction", **ZERO_SNR)
    sampler = load_sampler(directory, False, name, steps)
    abar = load_scheduler(directory).alphas_cumprod.double().clamp(min=2.0**-24)
    log_sigmas = ((1 - abar) / abar).sqrt().log()
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * sampler.init_noise_sigma
    takes_generator = "generator" in inspect.signature(sampler.step).parameters
    options: Any = {"generator": torch.Generator().manual_seed(1)} if takes_generator else {}
    for timestep in sampler.timesteps:
        seen = sampler.scale_model_input(x, timestep)
        low = int(timestep)  # some samplers look between two timesteps
        sigma = torch.lerp(log_sigmas[low], log_sigmas[min(low + 1, 999)], float(timestep) - low).exp()
        signal, noise_std = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        clean = signal * 0.25 / (signal**2 * 0.25 + noise_std**2) * seen
        noise = (seen - signal * clean) / noise_std
        v = (signal * noise - noise_std * clean).float()
        x = sampler.step(v, timestep, x, **options).prev_sample
    assert x.std().item() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_zero_terminal_snr_draws_from_models_of_the_noise_too(name: str, tmp_path: Path) -> None:
    """Nothing divides by a signal of 0: such a model starts from what diffusers calls almost none."""
    sampler = load_sampler(scheduler_of(tmp_path, **ZERO_SNR), False, name, 8)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        x = sampler.step(sampler.scale_model_input(x, timestep) * 0.9, timestep, x).prev_sample
    assert bool(x.isfinite().all())
