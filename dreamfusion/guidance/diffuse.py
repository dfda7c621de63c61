"""What a frozen model makes of one picture at several noise levels: the method, looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dreamfusion.guidance.diffusion import DiffusionGuidance, finite
from dreamfusion.guidance.sds import guided_output, sds_gradient


@dataclass(frozen=True)
class NoiseLevel:
    """One timestep.

    Attributes:
        timestep: diffusion index.
        noise_std: sqrt(1 - abar), 0 .. 1.
        noisy: the noised latents as a picture, [0, 1].
        predicted_noise: eps_hat, in latents.
        clean: the predicted clean picture, (z_t - noise_std eps_hat) / sqrt(abar) decoded, [0, 1].
        gradient: w(t) (eps_hat - eps), in latents: score distillation's pull.
    """

    timestep: int
    noise_std: float
    noisy: Float[Tensor, "h w 3"]
    predicted_noise: Float[Tensor, "c h8 w8"]
    clean: Float[Tensor, "h w 3"]
    gradient: Float[Tensor, "c h8 w8"]


@torch.no_grad()
def diffuse(
    guidance: DiffusionGuidance,
    image: Float[Tensor, "h w 3"],
    fractions: list[float],
    generator: Generator,
    azimuth_deg: float = 0.0,
    elevation_deg: float = 0.0,
) -> list[NoiseLevel]:
    """Noise `image` with the same noise at each timestep, and ask the model once for each.

    Args:
        guidance: its prompt, view words, guidance scale and weighting are used.
        image: square, in [0, 1].
        fractions: timesteps as shares of the schedule's length, in [0, 1].
        generator: on the CPU.
        azimuth_deg, elevation_deg: where the picture was taken from, for the view words.

    Raises ModelUnsupportedError for a model whose output is not finite.
    """
    latents = guidance.encode(image[None])
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    cond, uncond = guidance.embeddings_of_views(torch.tensor([azimuth_deg]), torch.tensor([elevation_deg]))
    schedule, found = guidance.schedule, []
    for fraction in fractions:
        index = schedule.timestep_at(fraction)
        timesteps = torch.tensor([index])
        noisy = schedule.add_noise(latents, noise, timesteps)
        output = finite(
            guided_output(guidance.denoise, noisy, timesteps, cond, uncond, guidance.config.guidance_scale)
        )
        predicted = schedule.to_epsilon(output, noisy, timesteps)
        _, noise_std = schedule.signal_and_noise_std(timesteps, latents)
        clean = schedule.to_clean(output, noisy, timesteps)
        gradient = sds_gradient(predicted, noise, schedule.weight(timesteps, guidance.config.weighting))
        found.append(
            NoiseLevel(
                timestep=index,
                noise_std=float(noise_std),
                noisy=guidance.decode(noisy)[0].cpu(),
                predicted_noise=predicted[0].cpu(),
                clean=guidance.decode(clean)[0].cpu(),
                gradient=gradient[0].cpu(),
            )
        )
    return found
