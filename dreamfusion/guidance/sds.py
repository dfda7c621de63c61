"""Score distillation sampling (Poole et al., DreamFusion, arXiv 2209.14988, eq. 3), apart from any model.

    gradient = w(t) (eps_hat(z_t; y, t) - eps),    eps_hat = eps_uncond + s (eps_cond - eps_uncond)

The denoiser is any function, so that the formula is tested against exact denoisers with no weights at all. No
gradient flows through it: DreamFusion drops its Jacobian, and it is called without recording one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.guidance.noise_schedule import NoiseSchedule, Weighting

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy latents "b c h w", timesteps " b", embeddings "b tokens d") -> the model's raw output "b c h w"."""


@torch.no_grad()
def guided_output(
    denoiser: Denoiser,
    noisy_latents: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    cond: Float[Tensor, "b tokens d"],
    uncond: Float[Tensor, "b tokens d"],
    guidance_scale: float,
) -> Float[Tensor, "b c h w"]:
    """The combined prediction out_uncond + s (out_cond - out_uncond) (Ho & Salimans, arXiv 2207.12598).

    This is diffusers' convention: s = 1 is no guidance, and DreamFusion's omega is s - 1. One batched call of the
    denoiser with the unconditional rows first; at s = 1 those are left out, for they cancel. The output is of the
    model's own kind; converting it to epsilon before or after is the same, for both are linear.
    """
    if guidance_scale == 1.0:
        return denoiser(noisy_latents, timesteps, cond)
    output = denoiser(
        torch.cat([noisy_latents, noisy_latents]),
        torch.cat([timesteps, timesteps]),
        torch.cat([uncond, cond]),
    )
    out_uncond, out_cond = output.chunk(2)
    return out_uncond + guidance_scale * (out_cond - out_uncond)


def sds_gradient(
    eps_hat: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], sds_weight: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """w(t) (eps_hat - eps), not normalised: one weight a row."""
    return sds_weight.to(eps)[:, None, None, None] * (eps_hat - eps)


@torch.no_grad()
def score_distillation(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    cond: Float[Tensor, "b tokens d"],
    uncond: Float[Tensor, "b tokens d"],
    guidance_scale: float,
    weighting: Weighting,
) -> Float[Tensor, "b c h w"]:
    """The whole of eq. 3 with respect to the latents, not normalised: add noise, denoise with guidance, weigh."""
    with record_function("guidance.unet"):
        noisy_latents = schedule.add_noise(latents, noise, timesteps)
        output = guided_output(denoiser, noisy_latents, timesteps, cond, uncond, guidance_scale)
        eps_hat = schedule.to_epsilon(output, noisy_latents, timesteps)
    return sds_gradient(eps_hat, noise, schedule.weight(timesteps, weighting))


def sds_loss(latents: Float[Tensor, "b c h w"], gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to `latents` is `gradient` / latents.numel(), to the last bit.

    Divided by the number of latent values and views, so that the weights of the other losses, which are means over
    rays and views, mean the same for 16x16x4 and 64x64x4 latents and for any number of views. The value itself means
    nothing and is never shown.
    """
    # A dot product, not the usual 0.5 (z - (z - g))^2: there the subtraction rounds away small gradients.
    return (latents * (gradient.detach() / latents.numel())).sum()
