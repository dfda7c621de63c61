"""Pictures drawn by a frozen model alone: what it believes of a text before score distillation is spent on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dreamfusion.guidance.diffusion import DiffusionGuidance, finite
from dreamfusion.guidance.schedulers import load_sampler
from dreamfusion.guidance.sds import guided_output
from dreamfusion.guidance.text_embeddings import TextEmbeddings

# Pictures at once: what memory has to hold does not grow with the grid.
BATCH = 4


@torch.no_grad()
def sample_images(
    guidance: DiffusionGuidance,
    texts: Sequence[str],
    seeds: Sequence[int],
    guidance_scales: Sequence[float | int] = (7.5,),
    steps: int = 50,
    scheduler: str = "DDIM",
    negative_prompt: str = "",
    on_step: Callable[[int, int], None] | None = None,
    batch_size: int = BATCH,
    guidance_above: int = 0,
) -> Float[Tensor, "texts scales seeds h w 3"]:
    """The frozen model's own pictures, in [0, 1] on the CPU: one of each text with each guidance scale and each seed.

    DDIM (Song et al., arXiv 2010.02502) is deterministic here. A picture depends on its own seed alone, which draws the
    first noise and whatever a stochastic sampler adds, and not on what else is in the grid, but for rounding.

    Args:
        guidance: the model; its own prompt and view words are not used.
        texts: used as they are, with no view words added.
        seeds: 0 or more.
        guidance_scales: s; 7.5 is usual for pictures, where score distillation takes more.
        steps: denoising steps; some samplers call the model twice in one.
        scheduler: one of `schedulers.SCHEDULERS`.
        negative_prompt: what the pictures should not show.
        on_step: called with the model's calls done and their number, for a progress bar.
        batch_size: pictures at once; a small model is twice as fast with 16.
        guidance_above: guide from this timestep up only; in less noise the model is asked once, with the text alone, as if
            s were 1 (Kynkäänniemi et al., arXiv 2404.07724). What is drawn is decided above, and below it guidance overdraws.

    Raises PromptError for a text that the text encoder would cut, ConfigError for steps that the scheduler cannot make,
    ModelUnsupportedError for a model whose output is not finite.
    """
    embeddings = guidance.encode_texts([*texts, negative_prompt])
    uncond = embeddings[[len(texts)]]
    cells = list(product(range(len(texts)), seeds))
    batches = [cells[start : start + batch_size] for start in range(0, len(cells), batch_size)]
    jobs = list(product(guidance_scales, batches))
    images = []
    for index, (scale, batch) in enumerate(jobs):
        sampler = load_sampler(guidance.directory, guidance.pixels, scheduler, steps, guidance.device)
        calls = len(sampler.timesteps)

        def tell(call: int, before: int = index * calls, total: int = len(jobs) * calls) -> None:
            if on_step is not None:
                on_step(before + call, total)

        conds = embeddings[[text for text, _ in batch]]
        batch_seeds = [seed for _, seed in batch]
        scales = [float(scale) if step >= guidance_above else 1.0 for step in sampler.timesteps.tolist()]
        images.append(_draw(guidance, sampler, conds, uncond, batch_seeds, scales, tell).cpu())
    grid = torch.cat(images).unflatten(0, (len(guidance_scales), len(texts), len(seeds)))
    return grid.transpose(0, 1)


def _draw(
    guidance: DiffusionGuidance,
    sampler: Any,
    conds: TextEmbeddings,
    uncond: TextEmbeddings,
    seeds: Sequence[int],
    guidance_scales: Sequence[float],
    on_call: Callable[[int], None],
) -> Float[Tensor, "seeds h w 3"]:
    """One picture a text and its seed, with a guidance scale for each of the sampler's calls.

    The sampler is a new one, timesteps set: several kinds remember their last steps.
    """
    generators = [Generator().manual_seed(seed) for seed in seeds]
    uncond = uncond.repeated(len(seeds))
    side = guidance.image_size // guidance.latent_scale
    shape = (1, guidance.unet.config.in_channels, side, side)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    # After the timesteps are set: the first standard deviation of some samplers depends on them.
    latents = noise.to(guidance.device) * sampler.init_noise_sigma
    takes_generator = "generator" in inspect.signature(sampler.step).parameters
    options: dict[str, Any] = {"generator": generators} if takes_generator else {}
    for call, (timestep, scale) in enumerate(zip(sampler.timesteps, guidance_scales, strict=True), start=1):
        # Those that count in sigmas keep latents of growing variance, which the model has never seen.
        noisy = sampler.scale_model_input(latents, timestep)
        # The sampler wants the model's own kind of output, guidance being linear in either.
        output = guided_output(guidance.denoise, noisy, timestep.expand(len(seeds)), conds, uncond, scale)
        latents = sampler.step(output, timestep, latents, **options).prev_sample
        on_call(call)
    return finite(guidance.decode(finite(latents)))
