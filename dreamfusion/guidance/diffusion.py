"""Guidance by a frozen text-to-image diffusion model: what all families have in common.

A training step is one encoding of the render, which is differentiable (pixel models: a resize), and one batched call of
the UNet, which is not; nothing is decoded. Prompts are encoded once, when the guidance is made, and the text encoders
are dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.config import GuidanceConfig, SDIConfig
from dreamfusion.errors import ConfigError, ModelUnsupportedError
from dreamfusion.guidance.families import Family
from dreamfusion.guidance.loading import load_part
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.personal import check_personal
from dreamfusion.guidance.precision import unet_dtype
from dreamfusion.guidance.prompts import ViewPrompts
from dreamfusion.guidance.schedulers import load_scheduler
from dreamfusion.guidance.sds import (
    Prediction,
    classifier_score_distillation,
    distil,
    guided_output,
    inverted_noise,
    perp_neg_output,
    score_distillation,
    sds_loss,
)
from dreamfusion.guidance.text_embeddings import TextEmbeddings


@dataclass(frozen=True)
class GuidanceOutput:
    """What one call of a guidance gives.

    Args:
        loss: differentiable scalar; its value means nothing, its gradient is score distillation's, divided by the
            number of views and latent values.
        gradient_norm: the mean over views of the norm of w(t) (eps_hat - eps), not normalised: what to watch.
        timesteps: the diffusion indices that were drawn, one a view.
        latents: the encoded images, without gradient.
    """

    loss: Float[Tensor, ""]
    gradient_norm: float
    timesteps: Int[Tensor, " b"]
    latents: Float[Tensor, "b c h w"]


class DiffusionGuidance(ABC):
    """A frozen diffusion model that pulls images towards a prompt (DreamFusion, arXiv 2209.14988, eq. 3).

    "Latents" are whatever the UNet denoises: an autoencoder's latents, or the pixels themselves in [-1, 1].

    Args:
        config: the model, guidance scale, objective, weighting, timesteps, precision and view words.
        prompt: what the images should show.
        device: where the model runs; images come from and gradients go to their own device and float32.
        directory: the model's files, already checked.

    Raises ModelUnsupportedError, PromptError (empty, or longer than the text encoder reads) and ConfigError (an image
    size that the model cannot take).
    """

    family: Family = "stable-diffusion"
    pixels = False
    vae: Any = None

    def __init__(self, config: GuidanceConfig, prompt: str, device: torch.device, directory: Path) -> None:
        self.config, self.device, self.directory = config, device, directory
        self.prompts = ViewPrompts(prompt, config.view_prompts)
        self.dtype = unet_dtype(config.dtype, self.device)
        self.scheduler = load_scheduler(directory, self.pixels)
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self.personal = check_personal(config.loras, config.embeddings, self.family, directory)
        self.unet = load_part(directory, "unet", self.dtype, self.device)
        self.personal.merge_into(self.unet, "unet")
        self._load_autoencoder()
        self.reconfigure(config)
        self._encode_prompts()

    def reconfigure(self, config: GuidanceConfig) -> None:
        """Go on with other settings; those of the model and its texts must be the same."""
        self.config = config
        self.image_size = self._image_size()
        if self.vae is not None:
            switch = self.vae.enable_gradient_checkpointing if config.slices else None
            (switch or self.vae.disable_gradient_checkpointing)()

    # ------------------------------------------------------------------------------- what a family fills in

    @abstractmethod
    def _load_autoencoder(self) -> None:
        """Read what `encode` and `decode` need."""

    @property
    @abstractmethod
    def latent_scale(self) -> int:
        """Pixels along the side of one latent."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b c h8 w8"]:
        """Latents of images in [0, 1], float32, differentiable: scaled to the model's size, mapped to [-1, 1], encoded."""

    def encode_at(self, images: Float[Tensor, "b h w 3"], step: int) -> Float[Tensor, "b c h8 w8"]:
        """`encode` as an optimiser iteration has it: families with a faster encoder may use that at first."""
        return self.encode(images)

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b h w 3"]:
        """Images in [0, 1], float32, of latents; never part of a training step."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of texts as the family's own pipeline makes them, in the UNet's precision.

        The text encoder is loaded for this and dropped afterwards. Raises PromptError for a text that it would cut.
        """

    def _added_conditions(self, texts: TextEmbeddings) -> dict[str, Any]:
        """What the UNet takes beside the tokens."""
        return {}

    # ---------------------------------------------------------------------------------------------- a step

    def __call__(
        self,
        images: Float[Tensor, "b h w 3"],
        azimuth_deg: Float[Tensor, " b"],
        elevation_deg: Float[Tensor, " b"],
        step: int,
        noise_generator: torch.Generator,
        timestep_generator: torch.Generator,
    ) -> GuidanceOutput:
        """Score distillation of images in [0, 1], seen from these directions, at optimiser iteration `step`.

        Both generators are the CPU's; each view draws its own timestep and its own noise.
        """
        with record_function("guidance.vae"):
            latents = self.encode_at(images, step)
        timesteps = self.timesteps_at(step, len(images), timestep_generator)
        noise = torch.randn(latents.shape, generator=noise_generator).to(latents)
        gradient = self.gradient(
            latents.detach(), noise, timesteps, azimuth_deg, elevation_deg, step, noise_generator
        )
        norm = gradient.flatten(1).norm(dim=1).mean().item()
        return GuidanceOutput(sds_loss(latents, gradient), norm, timesteps, latents.detach())

    def timesteps_at(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """The timesteps of `count` views at an optimiser iteration, as `config.timestep_sampling` has them."""
        low, high = self.config.timestep_min.at(step), self.config.timestep_max.at(step)
        sampling = self.config.timestep_sampling
        match sampling.kind:
            case "uniform":
                return self.schedule.sample_timesteps(count, low, high, generator)
            case "dreamtime":
                timestep = self.schedule.dreamtime_timestep(
                    step / sampling.steps, low, high, sampling.centre, sampling.spread
                )
                return torch.full((count,), timestep)

    def gradient(
        self,
        latents: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
        azimuth_deg: Float[Tensor, " b"],
        elevation_deg: Float[Tensor, " b"],
        step: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The pull on the latents, not normalised, of the objective in the config.

        What an objective draws beside `noise` comes from `generator`, or from torch's own without one.
        """
        config, objective = self.config, self.config.objective
        cond, uncond = self.embeddings_of_views(azimuth_deg, elevation_deg)
        if objective.kind == "csd":
            null = self.null_embedding.repeated(len(cond))
            share = objective.negative_weight.at(step)
            return classifier_score_distillation(
                self.denoise, self.schedule, latents, noise, timesteps, cond, null, uncond, share,
                config.guidance_scale, config.weighting,
            )  # fmt: skip
        if objective.kind == "sdi":
            scale = objective.inversion_guidance_scale
            if config.perp_neg:
                inverting = self._perp_neg(azimuth_deg, elevation_deg, uncond, scale)
            else:
                inverting = self._plain(cond, uncond, scale)
            noise = self._inverted(objective, inverting, latents, timesteps, generator)
        if config.perp_neg:
            prediction = self._perp_neg(
                azimuth_deg, elevation_deg, uncond, config.guidance_scale, config.guidance_rescale
            )
            return distil(prediction, self.schedule, latents, noise, timesteps, config.weighting)
        return score_distillation(
            self.denoise, self.schedule, latents, noise, timesteps, cond, uncond,
            config.guidance_scale, config.weighting, config.guidance_rescale,
        )  # fmt: skip

    def _inverted(
        self,
        objective: SDIConfig,
        prediction: Prediction,
        latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "b c h w"]:
        """SDI's noise; its random part is drawn from `generator`, the CPU's."""
        steps = objective.steps_to((int(timesteps.max()) + 1) / self.schedule.num_train_timesteps)
        drawn = None
        if objective.eta:
            drawn = torch.randn(steps, *latents.shape, generator=generator).to(latents)
        with record_function("guidance.unet"):
            return inverted_noise(prediction, self.schedule, latents, timesteps, steps, objective.eta, drawn)

    def _plain(self, cond: TextEmbeddings, uncond: TextEmbeddings, scale: float) -> Prediction:
        return lambda noisy, timesteps: guided_output(self.denoise, noisy, timesteps, cond, uncond, scale)

    def _perp_neg(
        self,
        azimuth_deg: Float[Tensor, " b"],
        elevation_deg: Float[Tensor, " b"],
        uncond: TextEmbeddings,
        scale: float,
        rescale: float = 0.0,
    ) -> Prediction:
        wanted, others, coefficients = self.prompts.perp_neg(azimuth_deg, elevation_deg)
        positive = self.view_embeddings.mixed(wanted)
        negatives = [self.view_embeddings.mixed(other) for other in others]

        def prediction(noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
            return perp_neg_output(
                self.denoise, noisy_latents, timesteps, uncond, positive, negatives, coefficients,
                scale, rescale,
            )  # fmt: skip

        return prediction

    @torch.no_grad()
    def denoise(
        self,
        noisy_latents: Float[Tensor, "b c h w"],
        timesteps: Real[Tensor, " b"],
        embeddings: TextEmbeddings,
    ) -> Float[Tensor, "b c h w"]:
        """The UNet's raw output in float32, without guidance, a learned variance, or any conversion to epsilon.

        Score distillation draws whole timesteps; some of diffusers' samplers ask between them.
        """
        if self.config.slices and len(noisy_latents) > 1:
            rows = (slice(index, index + 1) for index in range(len(noisy_latents)))
            return torch.cat([self.denoise(noisy_latents[r], timesteps[r], embeddings[r]) for r in rows])
        noisy = noisy_latents.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        output = self.unet(
            noisy,
            timesteps.to(self.device),
            encoder_hidden_states=embeddings.tokens,
            return_dict=False,
            **self._added_conditions(embeddings),
        )
        return output[0][:, : noisy.shape[1]].float().contiguous()

    # ------------------------------------------------------------------------------------------------ texts

    def _encode_prompts(self) -> None:
        """All texts in one pass of the text encoder; which of them a camera uses is decided at each step."""
        views = list(self.prompts.texts().values())
        negatives = list(self.prompts.negatives(self.config.negative_prompt).values())
        texts = list(dict.fromkeys([*views, *negatives, ""]))
        if self.config.objective.kind != "csd" and "" not in negatives:
            texts.remove("")
        self.personal.tell_doubts(texts)
        embeddings = self.encode_texts(texts)
        self.view_embeddings = embeddings[[texts.index(text) for text in views]]
        self.negative_embeddings = embeddings[[texts.index(text) for text in negatives]]
        self.null_embedding = embeddings[[texts.index("")]] if "" in texts else embeddings[:0]

    def embeddings_of_views(
        self, azimuth_deg: Float[Tensor, " b"], elevation_deg: Float[Tensor, " b"]
    ) -> tuple[TextEmbeddings, TextEmbeddings]:
        """The conditional and unconditional embeddings of each camera, in the UNet's precision."""
        weights = self.prompts.weights(azimuth_deg, elevation_deg)
        return self.view_embeddings.mixed(weights), self.negative_embeddings.mixed(weights)

    # ----------------------------------------------------------------------------------------------- images

    def _planes(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h8 w8"]:
        """Images in [0, 1] scaled to the model's size and mapped to [-1, 1]."""
        planes = images.permute(0, 3, 1, 2)
        size = (self.image_size, self.image_size)
        if planes.shape[-2:] != size:
            # Antialiasing matters only when the render is larger than the model's image.
            shrinks = min(planes.shape[-2:]) > self.image_size
            planes = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=shrinks)
        return planes * 2.0 - 1.0

    def _image_size(self) -> int:
        sample_size = self.unet.config.sample_size
        side = sample_size if isinstance(sample_size, int) else max(sample_size or (64,))
        size = self.config.image_size or side * self.latent_scale
        # The UNet halves its input between levels, and its two halves must meet again.
        step = self.latent_scale * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if size % step:
            raise ConfigError(
                "guidance.image_size does not fit the model", expected=f"a multiple of {step}", got=str(size)
            )
        return size


def finite(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`values` of a model's making; ModelUnsupportedError where one is not finite, which would be black in an image."""
    if not bool(values.isfinite().all()):
        raise ModelUnsupportedError(
            "the model's output is not finite",
            hint="use --dtype float32, or give LoRAs a smaller weight",
        )
    return values
