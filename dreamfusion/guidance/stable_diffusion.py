"""Guidance by any checkpoint in diffusers' Stable Diffusion layout: the image is encoded, noised, and denoised once.

The training step is one encoding by the autoencoder, which is differentiable, and one batched call of the UNet, which
is not; nothing is decoded. Prompts are encoded once, when the guidance is made, and the text encoder is dropped.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ConfigError, ModelUnsupportedError, PromptError
from dreamfusion.guidance.families import check_supported
from dreamfusion.guidance.models import fetch_model, find_model
from dreamfusion.guidance.noise_schedule import NoiseSchedule
from dreamfusion.guidance.precision import unet_dtype, vae_dtype
from dreamfusion.guidance.prompts import ViewPrompts
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.sds import guided_output, score_distillation, sds_loss
from dreamfusion.guidance.weight_files import weights_variant


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


class StableDiffusionGuidance:
    """A frozen Stable Diffusion that pulls images towards a prompt (DreamFusion, arXiv 2209.14988, eq. 3).

    Args:
        config: the model, guidance scale, weighting, timestep range, precision and view words.
        prompt: what the images should show.
        device: where the model runs; images come from and gradients go to their own device and float32.

    Raises ModelNotFoundError, ModelUnsupportedError, PromptError (empty, or longer than the text encoder reads) and
    ConfigError (an image size that the autoencoder cannot take).
    """

    def __init__(self, config: GuidanceConfig, prompt: str, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.prompts = ViewPrompts(prompt, config.view_prompts)
        self.dtype = unet_dtype(config.dtype, self.device)
        self.vae_dtype = vae_dtype(self.dtype, self.device)
        found = find_model(config.model, single_file_config=config.single_file_config)
        self.directory = fetch_model(found, half_precision=self.dtype == torch.float16)
        check_supported(self.directory)

        self.scheduler = load_scheduler(self.directory)
        self.schedule = NoiseSchedule.from_scheduler(self.scheduler)
        self.unet = self._load("unet", self.dtype)
        self.vae = self._load("vae", self.vae_dtype)
        self.vae_scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_size = self._image_size()

        texts = self.prompts.texts()
        # One text encoder pass for everything, then it is gone.
        embeddings = self.encode_texts([*texts.values(), config.negative_prompt])
        self.cond_embeddings, self.uncond_embedding = embeddings[:-1], embeddings[-1:]

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
            latents = self.encode(images)
        timesteps = self.schedule.sample_timesteps(
            len(images),
            self.config.timestep_min.at(step),
            self.config.timestep_max.at(step),
            timestep_generator,
        )
        noise = torch.randn(latents.shape, generator=noise_generator).to(latents)
        cond, uncond = self.embeddings_of_views(azimuth_deg, elevation_deg)
        gradient = score_distillation(
            self.denoise,
            self.schedule,
            latents.detach(),
            noise,
            timesteps,
            cond,
            uncond,
            self.config.guidance_scale,
            self.config.weighting,
        )
        norm = gradient.flatten(1).norm(dim=1).mean().item()
        return GuidanceOutput(sds_loss(latents, gradient), norm, timesteps, latents.detach())

    def encode(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b c h8 w8"]:
        """Latents of images in [0, 1], differentiable: scaled to the model's size, mapped to [-1, 1], encoded.

        The mean of the autoencoder's posterior is taken: its variance is a fraction of a percent of the latents', and
        sampling it would only add noise to the gradient. Latents are float32.
        """
        planes = images.permute(0, 3, 1, 2)
        size = (self.image_size, self.image_size)
        if planes.shape[-2:] != size:
            # Antialiasing matters only when the render is larger than the model's image.
            shrinks = min(planes.shape[-2:]) > self.image_size
            planes = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=shrinks)
        planes = (planes * 2.0 - 1.0).to(self.device, self.vae_dtype)
        posterior = self.vae.encode(planes.contiguous(memory_format=torch.channels_last)).latent_dist
        return (posterior.mode().float() - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b h w 3"]:
        """Images in [0, 1], float32, of latents; never part of a training step."""
        unscaled = latents / self.vae.config.scaling_factor + self._shift
        planes = self.vae.decode(unscaled.to(self.device, self.vae_dtype)).sample
        return (planes.float() / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1).contiguous()

    @torch.no_grad()
    def denoise(
        self,
        noisy_latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
        embeddings: Float[Tensor, "b tokens d"],
    ) -> Float[Tensor, "b c h w"]:
        """The UNet's raw output in float32, without guidance and before any conversion to epsilon."""
        noisy = noisy_latents.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        output = self.unet(
            noisy, timesteps.to(self.device), encoder_hidden_states=embeddings, return_dict=False
        )
        return output[0].float().contiguous()

    def embeddings_of_views(
        self, azimuth_deg: Float[Tensor, " b"], elevation_deg: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b tokens d"], Float[Tensor, "b tokens d"]]:
        """The conditional and unconditional embeddings of each camera, in the UNet's precision."""
        weights = self.prompts.weights(azimuth_deg, elevation_deg).to(self.cond_embeddings)
        cond = torch.einsum("bv,vtd->btd", weights, self.cond_embeddings)
        return cond, self.uncond_embedding.expand(len(cond), -1, -1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "n tokens d"]:
        """Embeddings of texts as StableDiffusionPipeline makes them, in the UNet's precision.

        The text encoder is loaded for this and dropped afterwards. Raises PromptError for a text that it would cut.
        """
        from transformers import CLIPTokenizer

        with quiet_libraries():
            tokenizer = CLIPTokenizer.from_pretrained(self.directory / "tokenizer", local_files_only=True)
        input_ids = tokenize(tokenizer, texts).to(self.device)
        # float32: it runs once, and the text is what everything hangs on.
        encoder = self._load("text_encoder", torch.float32)
        mask = torch.ones_like(input_ids) if getattr(encoder.config, "use_attention_mask", False) else None
        return encoder(input_ids, attention_mask=mask)[0].to(self.dtype)

    @torch.no_grad()
    def sample(
        self,
        text: str,
        count: int = 1,
        steps: int = 50,
        guidance_scale: float = 7.5,
        generator: torch.Generator | None = None,
        negative_prompt: str = "",
        on_step: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "b h w 3"]:
        """The frozen model's own images of a text, in [0, 1], by deterministic DDIM (Song et al., arXiv 2010.02502).

        Args:
            text: used as it is, with no view words added.
            count: how many images.
            steps: denoising steps.
            guidance_scale: s; 7.5 is usual for images, where score distillation takes more.
            generator: of the CPU; None draws from the global one.
            on_step: called after each step with the number of steps done, for a progress bar.
        """
        cond, uncond = self.encode_texts([text, negative_prompt]).split(1)
        cond, uncond = cond.expand(count, -1, -1), uncond.expand(count, -1, -1)
        side = self.image_size // self.vae_scale
        latents = torch.randn(count, self.unet.config.in_channels, side, side, generator=generator)
        latents = latents.to(self.device) * self.scheduler.init_noise_sigma
        self.scheduler.set_timesteps(steps)
        for done, timestep in enumerate(self.scheduler.timesteps, start=1):
            # The scheduler wants the model's own kind of output, guidance being linear in either.
            output = guided_output(
                self.denoise, latents, timestep.expand(count), cond, uncond, guidance_scale
            )
            latents = self.scheduler.step(output, timestep, latents).prev_sample
            if on_step is not None:
                on_step(done)
        return self.decode(latents)

    def _load(self, component: str, dtype: torch.dtype) -> Any:
        """One part of the checkpoint, frozen, in evaluation mode, on the device."""
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from safetensors import SafetensorError
        from transformers import CLIPTextModel

        part = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}[component]
        # Only diffusers warns, and loads slowly by its own account, without the optional package accelerate.
        options: dict[str, Any] = {} if component == "text_encoder" else {"low_cpu_mem_usage": False}
        try:
            with quiet_libraries():
                loaded: Any = part.from_pretrained(
                    self.directory / component,
                    variant=weights_variant(self.directory, component),
                    local_files_only=True,
                    output_loading_info=True,
                    **options,
                )
                model, told = loaded
                # Cast here, not by an argument of from_pretrained: its name differs between the libraries' versions.
                model = model.requires_grad_(False).eval().to(self.device, dtype)
        except (SafetensorError, OSError) as error:
            raise ModelUnsupportedError(
                f"the {component} in {self.directory} cannot be read",
                got=(str(error).strip().splitlines() or [type(error).__name__])[0][:160],
                hint="delete the directory and fetch the model again",
            ) from error
        if told["missing_keys"]:
            # The libraries leave such weights at random and only log it.
            raise ModelUnsupportedError(
                f"the {component} in {self.directory} lacks weights that its config.json asks for",
                got=f"nothing for {min(told['missing_keys'])} and {len(told['missing_keys']) - 1} more",
                hint="config.json and weights belong to different models, or the download is broken",
            )
        return model if component == "text_encoder" else model.to(memory_format=torch.channels_last)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def _image_size(self) -> int:
        sample_size = self.unet.config.sample_size
        side = sample_size if isinstance(sample_size, int) else max(sample_size or (64,))
        size = self.config.image_size or side * self.vae_scale
        # The UNet halves its input between levels, and its two halves must meet again.
        step = self.vae_scale * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if size % step:
            raise ConfigError(
                "guidance.image_size does not fit the model", expected=f"a multiple of {step}", got=str(size)
            )
        return size


def load_scheduler(directory: Path) -> Any:
    """The checkpoint's noise schedule as diffusers' DDIM scheduler, whatever sampler the checkpoint prefers."""
    from diffusers import DDIMScheduler

    config = json.loads((directory / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    # Samplers without these keys do neither, while DDIM's own default is to clip, which ruins latents.
    config |= {"clip_sample": False, "thresholding": False}
    # Not DDIMScheduler.from_config: it imports every sampler that there is, and logs the keys of the others.
    known = inspect.signature(DDIMScheduler.__init__).parameters
    return DDIMScheduler(**{key: value for key, value in config.items() if key in known})


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Int[Tensor, "n tokens"]:
    """Token ids, padded to the text encoder's length; PromptError for a text that does not fit."""
    length = tokenizer.model_max_length
    for text in texts:
        count = len(tokenizer(text)["input_ids"])
        if count > length:
            raise PromptError(
                f"the prompt {text!r} is too long for the model",
                expected=f"{length} tokens at most, with the view's words and two marks",
                got=str(count),
                hint="shorten the prompt",
            )
    return tokenizer(list(texts), padding="max_length", max_length=length, return_tensors="pt").input_ids
