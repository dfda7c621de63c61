"""Guidance by DeepFloyd IF's first stage: 64x64 pixels without an autoencoder, a T5 text encoder.

The nearest thing to the paper's own Imagen. The text encoder has 4.8 billion parameters: it runs once for a prompt, on
the CPU where the device has no room for it, and what it says is kept on the disk.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.errors import ModelUnsupportedError, PromptError, shown
from dreamfusion.guidance.diffusion import DiffusionGuidance
from dreamfusion.guidance.embedding_cache import EmbeddingCache
from dreamfusion.guidance.loading import load_part, readable
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.text_embeddings import TextEmbeddings

# T5 reads more, but IF was trained on this many (diffusers' IFPipeline).
_MAX_TOKENS = 77


class DeepFloydIFGuidance(DiffusionGuidance):
    """A frozen first stage of DeepFloyd IF; see `DiffusionGuidance`. Its "latents" are pixels in [-1, 1]."""

    family = "deepfloyd-if"
    pixels = True

    def _load_autoencoder(self) -> None:
        """There is none."""

    @property
    def latent_scale(self) -> int:
        return 1

    def encode(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 s s"]:
        """Images in [0, 1] as the model's own pixels: scaled to its size and mapped to [-1, 1]; differentiable."""
        return self._planes(images).to(self.device)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b s s 3"]:
        """Images in [0, 1] of the model's pixels."""
        return (latents / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1).contiguous()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of texts as IFPipeline makes them, in the UNet's precision; from the disk where they are there.

        Raises PromptError for a text that is longer than the model was trained with.
        """
        cache = EmbeddingCache(self.directory, precision=str(self._text_dtype))
        known = {text: cache.get(text) for text in texts}
        missing = [text for text, tokens in known.items() if tokens is None]
        if missing:
            for text, tokens in zip(missing, self._run_encoder(missing), strict=True):
                known[text] = tokens
                cache.put(text, tokens)
        tokens = torch.stack([tokens for text in texts if (tokens := known[text]) is not None])
        return TextEmbeddings(tokens.to(self.device, self.dtype))

    def _run_encoder(self, texts: list[str]) -> list[Float[Tensor, "tokens d"]]:
        # As IFPipeline does before it asks its tokenizer.
        inputs = _tokenize(self._tokenizer(), [text.lower().strip() for text in texts])
        device = self._text_device()
        encoder = load_part(self.directory, "text_encoder", self._text_dtype, device, "T5EncoderModel")
        states = encoder(inputs["input_ids"].to(device), attention_mask=inputs["attention_mask"].to(device))[
            0
        ]
        return [tokens.cpu() for tokens in states]

    @property
    def _text_dtype(self) -> torch.dtype:
        # Never float16, in which T5 overflows.
        return torch.float32 if self.dtype == torch.float32 else torch.bfloat16

    def _text_device(self) -> torch.device:
        """The guidance's own device where the text encoder fits into what is free there beside the UNet, else the CPU."""
        if self.device.type != "cuda":
            return self.device
        free, _ = torch.cuda.mem_get_info(self.device)
        folder = self.directory / "text_encoder"
        # On the disk in float32 or float16, in memory in bfloat16; a tenth for what it computes.
        size = max(sum(f.stat().st_size for f in folder.glob(f"*{e}")) for e in (".safetensors", ".bin"))
        return self.device if free > 1.1 * size else torch.device("cpu")

    def _tokenizer(self) -> Any:
        from transformers import T5Tokenizer

        tokenizer = self.directory / "tokenizer"
        # The library's own message is about another package, which would not help.
        lacking = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
        if lacking and not (tokenizer / "tokenizer.json").is_file():
            raise ModelUnsupportedError(
                f"the tokenizer in {self.directory} cannot be read without {' and '.join(lacking)}",
                hint="run pip install 'dreamfusion[if]'",
            )
        with readable(f"the tokenizer in {self.directory}"), quiet_libraries():
            return T5Tokenizer.from_pretrained(tokenizer, local_files_only=True)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _tokenize(tokenizer: Any, texts: list[str]) -> Any:
    for text in texts:
        count = len(tokenizer(text, truncation=False)["input_ids"])
        if count > _MAX_TOKENS:
            raise PromptError(
                f"the prompt {shown(text)} is too long for the model",
                expected=f"{_MAX_TOKENS} tokens at most, with the view's words and a mark",
                got=str(count),
                hint="shorten the prompt",
            )
    return tokenizer(texts, padding="max_length", max_length=_MAX_TOKENS, return_tensors="pt")
