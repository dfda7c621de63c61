"""Guidance by Stable Diffusion 1, 2 and XL, and whatever was tuned from them: latents of an autoencoder, CLIP's texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.errors import ModelUnsupportedError, PromptError
from dreamfusion.guidance.diffusion import DiffusionGuidance
from dreamfusion.guidance.families import read_json
from dreamfusion.guidance.latents import scaled, unscaled
from dreamfusion.guidance.loading import load_part, readable
from dreamfusion.guidance.precision import vae_dtype
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.side_models import tiny_autoencoder_directory
from dreamfusion.guidance.text_embeddings import TextEmbeddings
from dreamfusion.guidance.tiny_autoencoder import load_tiny_autoencoder


class StableDiffusionGuidance(DiffusionGuidance):
    """A frozen Stable Diffusion 1 or 2; see `DiffusionGuidance`."""

    def _load_autoencoder(self) -> None:
        self.vae_dtype = vae_dtype(self.dtype, self.device)
        self.vae = load_part(self.directory, "vae", self.vae_dtype, self.device)
        tiny = tiny_autoencoder_directory(self.config, self.family, self.directory)
        self.tiny_vae: Any = None
        if tiny is not None:
            self.tiny_vae = load_tiny_autoencoder(tiny, self.vae_dtype, self.device)

    @property
    def latent_scale(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b c h8 w8"]:
        """Latents of images in [0, 1], float32, differentiable: scaled to the model's size, mapped to [-1, 1], encoded.

        The mean of the autoencoder's posterior is taken: its variance is a fraction of a percent of the latents', and
        sampling it would only add noise to the gradient.
        """
        planes = self._planes(images).to(self.device, self.vae_dtype)
        posterior = self.vae.encode(planes.contiguous(memory_format=torch.channels_last)).latent_dist
        return scaled(posterior.mode().float(), self.vae.config)

    def encode_at(self, images: Float[Tensor, "b h w 3"], step: int) -> Float[Tensor, "b c h8 w8"]:
        """`encode`, or in the first steps what the tiny autoencoder gives, scaled by its own settings (TAESD's: 1)."""
        tiny = self.config.tiny_autoencoder
        if tiny is None or step >= tiny.steps:
            return self.encode(images)
        planes = self._planes(images).to(self.device, self.vae_dtype)
        latents = self.tiny_vae.encode(planes.contiguous(memory_format=torch.channels_last)).latents
        return scaled(latents.float(), self.tiny_vae.config)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h8 w8"]) -> Float[Tensor, "b h w 3"]:
        """Images in [0, 1], float32, of latents; never part of a training step."""
        raw = unscaled(latents, self.vae.config)
        planes = self.vae.decode(raw.to(self.device, self.vae_dtype)).sample
        return (planes.float() / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1).contiguous()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of texts as StableDiffusionPipeline makes them, in the UNet's precision.

        The text encoder is loaded for this and dropped afterwards. Raises PromptError for a text that it would cut.
        """
        return TextEmbeddings(self._read("tokenizer", "text_encoder", texts)[0].to(self.dtype))

    def _read(self, tokenizer_folder: str, component: str, texts: Sequence[str], **options: Any) -> Any:
        """What a text encoder gives for texts, LoRAs and words of one's own included."""
        tokenizer = self._tokenizer(tokenizer_folder)
        # float32: it runs once, and the text is what everything hangs on.
        encoder = load_part(self.directory, component, torch.float32, self.device)
        self.personal.merge_into(encoder, component)
        vocabulary = self.personal.vocabulary(tokenizer, encoder, component)
        input_ids = tokenize(tokenizer, vocabulary.spelled(texts), encoder, texts).to(self.device)
        # As the pipelines have it: that of Stable Diffusion XL gives no mask.
        masked = self.family == "stable-diffusion" and getattr(encoder.config, "use_attention_mask", False)
        mask = torch.ones_like(input_ids) if masked else None
        with vocabulary.read(input_ids) as read_ids:
            _check_tokens(read_ids, encoder)
            return encoder(read_ids, attention_mask=mask, **options)

    def _tokenizer(self, folder: str) -> Any:
        from transformers import CLIPTokenizer

        with readable(f"the {folder} in {self.directory}"), quiet_libraries():
            return CLIPTokenizer.from_pretrained(self.directory / folder, local_files_only=True)


class StableDiffusionXLGuidance(StableDiffusionGuidance):
    """A frozen Stable Diffusion XL (arXiv 2307.01952): two text encoders, pooled text and picture sizes.

    Its autoencoder overflows in float16, which `vae_dtype` never gives it.
    """

    family = "stable-diffusion-xl"

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of texts as StableDiffusionXLPipeline makes them, in the UNet's precision.

        The last hidden states but one of both encoders side by side, and the second one's projection as the pooled
        text. An empty text is zeros where the checkpoint says so (`force_zeros_for_empty_prompt`).
        """
        states = []
        for tokenizer, component in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
            output = self._read(tokenizer, component, texts, output_hidden_states=True)
            states.append(output.hidden_states[-2])
        # The encoder with a projection comes last.
        tokens, pooled = torch.cat(states, dim=-1), output.text_embeds
        if self._empty_is_zero():
            said = torch.tensor([bool(text) for text in texts], device=tokens.device)
            tokens, pooled = tokens * said[:, None, None], pooled * said[:, None]
        return TextEmbeddings(tokens.to(self.dtype), pooled.to(self.dtype))

    def _empty_is_zero(self) -> bool:
        index = read_json(self.directory / "model_index.json")
        return bool(index.get("force_zeros_for_empty_prompt", True))

    def _added_conditions(self, texts: TextEmbeddings) -> dict[str, Any]:
        # Original size, upper left corner of the crop, target size: of a picture that was neither scaled nor cut.
        size = float(self.image_size)
        time_ids = torch.tensor([size, size, 0.0, 0.0, size, size], device=self.device, dtype=self.dtype)
        return {
            "added_cond_kwargs": {"text_embeds": texts.pooled, "time_ids": time_ids.expand(len(texts), -1)}
        }


def shortened(text: str, length: int = 60) -> str:
    """`text`, or its beginning: an error is one line, and a user knows the prompt."""
    return text if len(text) <= length else text[: length - 3] + "..."


def tokenize(
    tokenizer: Any, texts: Sequence[str], encoder: Any, shown: Sequence[str] | None = None
) -> Int[Tensor, "n tokens"]:
    """Token ids, padded to the text encoder's length.

    That is the smaller of the tokenizer's limit, which a checkpoint may leave out, and the encoder's positions.

    Raises PromptError, with the text as `shown` has it, for one that does not fit.
    """
    with readable("the tokenizer"), quiet_libraries():  # transformers logs that a text is too long
        length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
        counts = [len(tokenizer(text, truncation=False)["input_ids"]) for text in texts]
    for original, count in zip(shown or texts, counts, strict=True):
        if count > length:
            raise PromptError(
                f"the prompt {shortened(original)!r} is too long for the model",
                expected=f"{length} tokens at most, with the view's words and two marks",
                got=str(count),
                hint="shorten the prompt",
            )
    with readable("the tokenizer"):  # its settings may lack the token that pads
        return tokenizer(list(texts), padding="max_length", max_length=length, return_tensors="pt").input_ids


def _check_tokens(input_ids: Int[Tensor, "n tokens"], encoder: Any) -> None:
    """Refuse tokens that the encoder has no vector for: ModelUnsupportedError."""
    size, largest = encoder.get_input_embeddings().num_embeddings, int(input_ids.max())
    if largest >= size:
        raise ModelUnsupportedError(
            "the model's tokenizer does not fit its text encoder",
            expected=f"tokens below {size}",
            got=str(largest),
        )
