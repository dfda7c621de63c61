"""What a frozen model is told of a text: a vector a token, and for some models one vector for the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TextEmbeddings:
    """n texts, as the UNet takes them.

    Attributes:
        tokens: for cross-attention.
        pooled: of the whole text, for Stable Diffusion XL; None for models without.
    """

    tokens: Float[Tensor, "n tokens d"]
    pooled: Float[Tensor, "n p"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice | list[int]) -> TextEmbeddings:
        """The texts at `index`; an integer would drop the batch axis and is not taken."""
        return TextEmbeddings(self.tokens[index], None if self.pooled is None else self.pooled[index])

    def split(self, size: int) -> list[TextEmbeddings]:
        """Groups of `size` texts, in order."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def repeated(self, count: int) -> TextEmbeddings:
        """A single text `count` times."""
        pooled = None if self.pooled is None else self.pooled.expand(count, -1)
        return TextEmbeddings(self.tokens.expand(count, -1, -1), pooled)

    def mixed(self, weights: Float[Tensor, "b n"]) -> TextEmbeddings:
        """Sums of the texts with the weights of each row."""
        weights = weights.to(self.tokens)
        tokens = torch.einsum("bn,ntd->btd", weights, self.tokens)
        return TextEmbeddings(tokens, None if self.pooled is None else weights @ self.pooled)

    def to(self, device: torch.device, dtype: torch.dtype) -> TextEmbeddings:
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return TextEmbeddings(self.tokens.to(device, dtype), pooled)


def stacked(parts: Sequence[TextEmbeddings | Tensor]) -> TextEmbeddings | Tensor:
    """Texts one below another. Plain tensors are taken too: a denoiser of a test's own may need no more."""
    tokens = torch.cat([part.tokens if isinstance(part, TextEmbeddings) else part for part in parts])
    if not isinstance(parts[0], TextEmbeddings):
        return tokens
    pooled = [part.pooled for part in parts if isinstance(part, TextEmbeddings) and part.pooled is not None]
    return TextEmbeddings(tokens, torch.cat(pooled) if pooled else None)
