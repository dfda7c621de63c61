"""Score distillation sampling (Poole et al., DreamFusion, arXiv 2209.14988, eq. 3), apart from any model.

    gradient = w(t) (eps_hat(z_t; y, t) - eps),    eps_hat = eps_uncond + s (eps_cond - eps_uncond)

and its relatives, which differ in what stands in the bracket and where z_t comes from:

    rescaled guidance   eps_hat scaled to the spread of eps_cond (Lin et al., arXiv 2305.08891, sec. 3.4)
    Perp-Neg            views that are not meant are subtracted, across the wanted direction only (arXiv 2304.04968)
    CSD                 w(t) s (eps_cond - eps_other): the classifier's half alone (arXiv 2310.19415)
    SDI                 z_t by DDIM inversion of z, instead of by fresh noise (arXiv 2405.15891)

The denoiser is any function, so that the formula is tested against exact denoisers with no weights at all. No
gradient flows through it: DreamFusion drops its Jacobian, and it is called without recording one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.guidance.noise_schedule import NoiseSchedule, Weighting
from dreamfusion.guidance.text_embeddings import TextEmbeddings, stacked

Embeddings = TextEmbeddings | Tensor
Denoiser = Callable[..., Tensor]
"""(noisy latents "b c h w", timesteps " b", embeddings of b texts) -> the model's raw output "b c h w"."""
Prediction = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents "b c h w", timesteps " b") -> a guided output, of the model's own kind."""


@torch.no_grad()
def outputs_of(
    denoiser: Denoiser,
    noisy_latents: Float[Tensor, "b c h w"],
    timesteps: Real[Tensor, " b"],
    texts: Sequence[Embeddings],
) -> tuple[Float[Tensor, "b c h w"], ...]:
    """The raw outputs for several texts a view, in one batched call; the rows of the first text come first."""
    count = len(texts)
    output = denoiser(noisy_latents.repeat(count, 1, 1, 1), timesteps.repeat(count), stacked(texts))
    return output.chunk(count)


@torch.no_grad()
def guided_output(
    denoiser: Denoiser,
    noisy_latents: Float[Tensor, "b c h w"],
    timesteps: Real[Tensor, " b"],
    cond: Embeddings,
    uncond: Embeddings,
    guidance_scale: float,
    rescale: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """The combined prediction out_uncond + s (out_cond - out_uncond) (Ho & Salimans, arXiv 2207.12598).

    This is diffusers' convention: s = 1 is no guidance, and DreamFusion's omega is s - 1. One batched call of the
    denoiser with the unconditional rows first; at s = 1 those are left out, for they cancel. The output is of the
    model's own kind; converting it to epsilon before or after is the same, for both are linear. `rescale` is phi of
    `rescaled_output`.
    """
    if guidance_scale == 1.0:
        return denoiser(noisy_latents, timesteps, cond)
    out_uncond, out_cond = outputs_of(denoiser, noisy_latents, timesteps, (uncond, cond))
    output = out_uncond + guidance_scale * (out_cond - out_uncond)
    return rescaled_output(output, out_cond, rescale) if rescale else output


def rescaled_output(
    output: Float[Tensor, "b c h w"], out_cond: Float[Tensor, "b c h w"], rescale: float
) -> Float[Tensor, "b c h w"]:
    """A share `rescale` (phi) of the output scaled to out_cond's standard deviation (arXiv 2305.08891, eq. 15 and 16)."""
    std_cond, std = (x.flatten(1).std(dim=1)[:, None, None, None] for x in (out_cond, output))
    return output * (rescale * std_cond / std + 1.0 - rescale)


def perpendicular(
    vectors: Float[Tensor, "b c h w"], to: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """What is left of each row's vector across `to`; the vector itself where `to` is 0."""
    dot = (vectors * to).flatten(1).sum(dim=1)
    square = to.flatten(1).square().sum(dim=1)
    # The smallest normal number: it changes no quotient of numbers that mean something.
    share = dot / square.clamp(min=torch.finfo(to.dtype).tiny)
    return vectors - share[:, None, None, None] * to


@torch.no_grad()
def perp_neg_output(
    denoiser: Denoiser,
    noisy_latents: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    uncond: Embeddings,
    positive: Embeddings,
    negatives: Sequence[Embeddings],
    coefficients: Float[Tensor, "b n"],
    guidance_scale: float,
    rescale: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """out_uncond + s [d_pos + sum_i c_i perp(d_i, d_pos)], d = out - out_uncond (Perp-Neg, arXiv 2304.04968).

    Args:
        negatives: n texts a view that are not meant.
        coefficients: how much each counts, 0 or less; what is negative pushes away.
    """
    out_uncond, out_positive, *others = outputs_of(
        denoiser, noisy_latents, timesteps, (uncond, positive, *negatives)
    )
    wanted = out_positive - out_uncond
    direction = wanted.clone()
    for other, coefficient in zip(others, coefficients.unbind(dim=1), strict=True):
        direction += coefficient.to(wanted)[:, None, None, None] * perpendicular(other - out_uncond, wanted)
    output = out_uncond + guidance_scale * direction
    return rescaled_output(output, out_positive, rescale) if rescale else output


def sds_gradient(
    eps_hat: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], sds_weight: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """w(t) (eps_hat - eps), not normalised: one weight a row."""
    return sds_weight.to(eps)[:, None, None, None] * (eps_hat - eps)


@torch.no_grad()
def distil(
    prediction: Prediction,
    schedule: NoiseSchedule,
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    weighting: Weighting,
) -> Float[Tensor, "b c h w"]:
    """The whole of eq. 3 with respect to the latents, not normalised, for any kind of guided prediction."""
    with record_function("guidance.unet"):
        noisy_latents = schedule.add_noise(latents, noise, timesteps)
        eps_hat = schedule.to_epsilon(prediction(noisy_latents, timesteps), noisy_latents, timesteps)
    return sds_gradient(eps_hat, noise, schedule.weight(timesteps, weighting))


def score_distillation(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    cond: Embeddings,
    uncond: Embeddings,
    guidance_scale: float,
    weighting: Weighting,
    rescale: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """The whole of eq. 3 with respect to the latents, not normalised: add noise, denoise with guidance, weigh."""

    def prediction(noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        return guided_output(denoiser, noisy_latents, timesteps, cond, uncond, guidance_scale, rescale)

    return distil(prediction, schedule, latents, noise, timesteps, weighting)


@torch.no_grad()
def classifier_score_distillation(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    latents: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    cond: Embeddings,
    null: Embeddings,
    negative: Embeddings,
    negative_weight: float,
    guidance_scale: float,
    weighting: Weighting,
) -> Float[Tensor, "b c h w"]:
    """w(t) s [eps_cond - (1 - a) eps_null - a eps_negative], a = `negative_weight` (CSD, arXiv 2310.19415).

    The noise itself does not appear: only what the text adds is followed. A text whose weight is 0 is not asked for.
    """
    others = [(null, 1.0 - negative_weight), (negative, negative_weight)]
    others = [(text, weight) for text, weight in others if weight != 0.0]
    with record_function("guidance.unet"):
        noisy_latents = schedule.add_noise(latents, noise, timesteps)
        outputs = outputs_of(denoiser, noisy_latents, timesteps, (cond, *(text for text, _ in others)))
        wanted, *rest = (schedule.to_epsilon(output, noisy_latents, timesteps) for output in outputs)
    baseline = sum(
        (weight * eps for (_, weight), eps in zip(others, rest, strict=True)), torch.zeros_like(wanted)
    )
    return guidance_scale * sds_gradient(wanted, baseline, schedule.weight(timesteps, weighting))


@torch.no_grad()
def inverted_noise(
    prediction: Prediction,
    schedule: NoiseSchedule,
    latents: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, " b"],
    steps: int,
    eta: float = 0.0,
    noise: Float[Tensor, "steps b c h w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The noise that DDIM inversion puts into the latents on their way to `timesteps` (SDI, arXiv 2405.15891).

    From the clean latents in `steps` equal steps of the timestep (each view has its own), DDIM backwards
    (arXiv 2010.02502, eq. 12), the model being asked at the timestep that a step ends at, as diffusers'
    DDIMInverseScheduler does; SDI's public code asks at the one that it starts from.

    A model of v answers with noise and clean latents mixed. Here its noise is taken at the noise level that it was asked
    at, and the clean latents follow from that noise and the latents before the step. DDIMInverseScheduler takes both at
    the level before the step, where the answer does not belong: the two agree for models of the noise and differ for v.

    Args:
        eta: random part of each step, as a fraction of the standard deviation of the posterior
            q(z_before | z_after, z) between its two timesteps (the same paper's eq. 16; diffusers' DDIM variance);
            0: the inversion is deterministic.
        noise: for that part, unit normal, one a step; it is added to what DDIM arrives at, as SDI's public code does.
    """
    noisy = latents
    signal, noise_std = torch.ones_like(latents[:, :1, :1, :1]), torch.zeros_like(latents[:, :1, :1, :1])
    for index in range(1, steps + 1):
        ends = torch.div(timesteps * index, steps, rounding_mode="floor")
        eps = schedule.to_epsilon(prediction(noisy, ends), noisy, ends)
        clean = (noisy - noise_std * eps) / signal
        before, (signal, noise_std) = (signal, noise_std), schedule.signal_and_noise_std(ends, latents)
        noisy = signal * clean + noise_std * eps
        if eta and noise is not None:
            lost = (1.0 - (signal / before[0]).square()).clamp(min=0.0).sqrt()
            noisy = noisy + eta * (before[1] / noise_std) * lost * noise[index - 1]
    return (noisy - signal * latents) / noise_std


def sds_loss(latents: Float[Tensor, "b c h w"], gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """A scalar whose gradient with respect to `latents` is `gradient` / latents.numel(), to the last bit.

    Divided by the number of latent values and views, so that the weights of the other losses, which are means over
    rays and views, mean the same for 16x16x4 and 64x64x4 latents and for any number of views. The value itself means
    nothing and is never shown.
    """
    # A dot product, not the usual 0.5 (z - (z - g))^2: there the subtraction rounds away small gradients.
    return (latents * (gradient.detach() / latents.numel())).sum()
