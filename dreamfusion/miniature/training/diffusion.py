"""Training the denoiser and the text tower that reads the prompt for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel

from dreamfusion.miniature.training.data import Pictures, draw_indices
from dreamfusion.miniature.training.labels import HEADS
from dreamfusion.miniature.training.loop import Learner, step_generator
from dreamfusion.miniature.training.models import LATENT_CHANNELS, LATENT_SIZE, make_scheduler
from dreamfusion.miniature.training.sheets import SHEET_PROMPTS, draw_samples, with_views
from dreamfusion.miniature.training.texts import VARIANTS, Texts, joined
from dreamfusion.miniature.training.tokenizer import CaptionEncoder

CAPTION_DROPOUT = 0.1
# How often a picture of two things is shown for each time that one of a single thing is: there is more to learn in it,
# and each thing is smaller.
PAIR_WEIGHT = 2.0
# How often, for each other pair, one is shown that has a noun of the first prompt that anybody tries, in its place there.
FIRST_PROMPT_WEIGHT = 4.0
FIRST_PROMPT = ("peacock", "surfboard")
# (timestep, mean squared error of v) of the weights after 222,000 pictures.
LEVEL_ERRORS = (
    (0.0, 0.80),
    (10.0, 0.63),
    (50.0, 0.24),
    (100.0, 0.147),
    (150.0, 0.116),
    (200.0, 0.096),
    (300.0, 0.078),
    (400.0, 0.073),
    (500.0, 0.074),
    (600.0, 0.082),
    (700.0, 0.098),
    (800.0, 0.132),
    (850.0, 0.170),
    (900.0, 0.250),
    (930.0, 0.341),
    (960.0, 0.531),
    (980.0, 0.777),
    (999.0, 0.90),
)
EVALUATED_TIMESTEPS = (150, 350, 550, 750, 930)


def level_weights(timesteps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The smallest of the errors of v over the error at this timestep, or, in more noise than there, its square root.

    Karras et al. 2024 (EDM2, arXiv 2312.02696) learn such weights beside the model, so that every noise level counts
    the same; here they were measured once, on held-out pictures. Near pure noise most of v's error is the colour of the
    background, which no text tells: with an even weight a third of all gradients would be about that, and none of it can be
    learnt. But what is decided there, which side is seen and what stands where, is what distillation needs most and was
    learnt last: hence the root.
    """
    at, errors = (torch.tensor(values, device=timesteps.device) for values in zip(*LEVEL_ERRORS, strict=True))
    place = torch.searchsorted(at, timesteps.float()).clamp(1, len(at) - 1)
    share = (timesteps - at[place - 1]) / (at[place] - at[place - 1])
    weights = errors.min() / torch.lerp(errors[place - 1], errors[place], share)
    return torch.where(timesteps > at[errors.argmin()], weights.sqrt(), weights)


def picture_weights(labels: Int[Tensor, "n heads"], nouns: Sequence[str]) -> Float[Tensor, " n"]:
    """How often each picture is shown, as a weight: `PAIR_WEIGHT` and `FIRST_PROMPT_WEIGHT` tell.

    Args:
        labels: what `labels.labels` makes of the pictures' scenes.
        nouns: the world's, in the order of the labels.
    """
    known, (first, second) = list(nouns), FIRST_PROMPT
    has_first = labels[:, HEADS.index("noun a")] == 1 + known.index(first)
    has_second = labels[:, HEADS.index("noun b")] == 1 + known.index(second)
    paired = labels[:, HEADS.index("relation")] > 0
    weights = torch.where(paired, PAIR_WEIGHT, 1.0)
    return torch.where(paired & (has_first | has_second), weights * FIRST_PROMPT_WEIGHT, weights)


def weighted_indices(
    weights: Float[Tensor, " n"], count: int, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """Drawn with replacement, as often as the weights say; in float64, since millions of float32 weights do not add up."""
    upto = weights.double().cumsum(0)
    drawn = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    return torch.searchsorted(upto, drawn * upto[-1]).clamp(max=len(weights) - 1)


def even_timesteps(batch_size: int, steps: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Timesteps spread evenly over a batch with one random offset: each alone is uniform, together they vary less."""
    offset = torch.rand((), generator=generator, device=generator.device)
    shares = (offset + torch.arange(batch_size, device=generator.device) / batch_size) % 1.0
    return (shares * steps).long().clamp(max=steps - 1)


def noisy_and_target(
    latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], alphas_cumprod: Float[Tensor, " b"]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """The noisy latents and v = sqrt(abar) eps - sqrt(1 - abar) z (Salimans & Ho 2022, appendix D)."""
    signal = alphas_cumprod.sqrt()[:, None, None, None]
    spread = (1.0 - alphas_cumprod).sqrt()[:, None, None, None]
    return signal * latents + spread * noise, signal * noise - spread * latents


@dataclass
class DiffusionLearner(Learner):
    """The UNet and, unless it is frozen, its text tower on encoded pictures; v-prediction, noise levels weighted alike.

    `weights` say how often each picture is shown (`picture_weights`). `latents` and `held_out_latents` are scaled to unit
    spread. `text_frozen` keeps the tower out of the optimiser.
    """

    latents: Tensor | None = None
    texts: Texts | None = None
    weights: Float[Tensor, " n"] | None = None
    held_out_latents: Tensor | None = None
    held_out: Pictures | None = None
    encode_captions: CaptionEncoder | None = None
    vae: AutoencoderKL | None = None
    text_frozen: bool = False
    sheet_seed: int = 0
    scheduler: DDIMScheduler = field(default_factory=make_scheduler)

    def __post_init__(self) -> None:
        self.modules["text"].requires_grad_(not self.text_frozen)
        super().__post_init__()
        self.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device)

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.modules["unet"]  # pyright: ignore[reportReturnType]

    @property
    def text(self) -> CLIPTextModel:
        return self.modules["text"]  # pyright: ignore[reportReturnType]

    def text_states(self, texts: Sequence[str]) -> Float[Tensor, "b tokens width"]:
        """What the tower makes of the texts."""
        assert self.encode_captions is not None
        return self.read(self.encode_captions(texts))

    def read(self, ids: Int[Tensor, "b tokens"]) -> Float[Tensor, "b tokens width"]:
        """What the tower makes of token ids."""
        return self.text(ids.to(self.device)).last_hidden_state

    def predict(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """The UNet's v, float32."""
        unet = self.compiled if torch.is_grad_enabled() else self.unet
        return unet(noisy, timesteps, states).sample.float()

    @cached_property
    def compiled(self) -> Callable[..., UNet2DConditionOutput]:
        """The UNet as it trains: compiled on a GPU (on an H100 about 9,000 pictures/s instead of 6,000)."""
        return torch.compile(self.unet) if self.device.type == "cuda" else self.unet

    def add(self, latents: Float[Tensor, "n c h w"], texts: Texts, weights: Float[Tensor, " n"]) -> None:
        """More pictures to learn from."""
        if self.latents is not None and self.texts is not None and self.weights is not None:
            latents, texts = torch.cat([self.latents, latents]), joined([self.texts, texts])
            weights = torch.cat([self.weights, weights])
        self.latents, self.texts, self.weights = latents, texts, weights

    def loss(self) -> tuple[Tensor, dict[str, float | Tensor]]:
        assert self.latents is not None and self.texts is not None and self.encode_captions is not None
        assert self.weights is not None
        generator = step_generator(self.seed, self.step, device=self.device)
        indices = weighted_indices(self.weights, self.batch_size, generator)
        variants = draw_indices(VARIANTS, self.batch_size, generator)
        dropped = torch.rand(self.batch_size, generator=generator, device=self.device) < CAPTION_DROPOUT
        nothing = self.encode_captions([""]).to(self.device)
        ids = torch.where(dropped[:, None], nothing, self.texts.captions[indices, variants].long())
        latents = self.latents[indices].float()
        timesteps = even_timesteps(self.batch_size, len(self.alphas_cumprod), generator)
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        alphas_cumprod = self.alphas_cumprod[timesteps]
        noisy, target = noisy_and_target(latents, noise, alphas_cumprod)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            predicted = self.predict(noisy, timesteps, self.read(ids))
        errors = (predicted - target).square().mean((1, 2, 3))
        loss = (errors * level_weights(timesteps)).mean()
        figures: dict[str, float | Tensor] = {"v_mse": errors.detach().mean()}
        return loss, figures

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The error of v at fixed timesteps, on held-out pictures with fixed noise and plain captions."""
        assert self.held_out_latents is not None and self.held_out is not None
        count = min(192, len(self.held_out_latents))
        latents = self.held_out_latents[:count].to(self.device, torch.float32)
        with self.autocast():
            states = self.text_states(self.held_out.plain_captions(range(count), with_view=True)).float()
        figures = {}
        for timestep in EVALUATED_TIMESTEPS:
            noise = torch.randn(latents.shape, generator=step_generator(0, timestep)).to(self.device)
            timesteps = torch.full((count,), timestep, device=self.device)
            noisy, target = noisy_and_target(latents, noise, self.alphas_cumprod[timesteps])
            with self.autocast():
                predicted = self.predict(noisy, timesteps, states)
            figures[f"v{timestep}"] = float((predicted - target).square().mean())
        return {"v_mse": sum(figures.values()) / len(figures), **figures}

    @torch.no_grad()
    def sample_latents(
        self, texts: Sequence[str], steps: int = 25, guidance_scale: float = 4.5, seed: int = 0
    ) -> Float[Tensor, "b 4 16 16"]:
        """Guided DDIM samples, scaled latents; the noise of picture i depends on (seed, i) only."""
        noise = [
            torch.randn((LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE), generator=step_generator(seed, i))
            for i in range(len(texts))
        ]
        latents = torch.stack(noise).to(self.device)
        states = self.text_states([""] * len(texts) + list(texts)).float()
        scheduler = make_scheduler()
        scheduler.set_timesteps(steps, device=self.device)
        for timestep in scheduler.timesteps:
            both = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
            with self.autocast():
                without, having = self.predict(both, timestep.expand(len(both)), states).chunk(2)
            guided = without + guidance_scale * (having - without)
            latents = scheduler.step(guided, int(timestep), latents).prev_sample  # pyright: ignore
        return latents

    def sheet(self, path: Path) -> None:
        assert self.vae is not None
        texts = with_views(SHEET_PROMPTS)
        with torch.no_grad():
            latents = self.sample_latents(texts, seed=self.sheet_seed)
            made = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample  # pyright: ignore[reportAttributeAccessIssue]
        draw_samples(path, made, SHEET_PROMPTS)


def diffusion_modules(unet: UNet2DConditionModel, text: CLIPTextModel) -> nn.ModuleDict:
    """The learner's modules."""
    return nn.ModuleDict({"unet": unet, "text": text})
