"""Pictures and captions in the form that training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature.captions import caption, plain_caption, view_word
from dreamfusion.miniature.dataset import load_shard
from dreamfusion.miniature.world import SceneSpec


@dataclass(frozen=True)
class Pictures:
    """Pictures "n 64 64 3" with what each shows and from where."""

    images: UInt8[Tensor, "n h w 3"]
    specs: Sequence[SceneSpec]
    views: Sequence[str]

    def __len__(self) -> int:
        return len(self.specs)

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """One random caption a picture."""
        return [caption(self.specs[i], self.views[i], rng) for i in indices]

    def plain_captions(self, indices: Sequence[int], with_view: bool = False) -> list[str]:
        """The canonical caption of each picture."""
        return [
            plain_caption(self.specs[i]) + (f", {self.views[i]} view" if with_view else "") for i in indices
        ]


def load_pictures(paths: Sequence[Path]) -> Pictures:
    """Reads shards, in the order of their names.

    Raises:
        DreamfusionError: if there are none.
    """
    if not paths:
        raise DreamfusionError("there are no pictures to train on", hint="run the stage 'world' first")
    shards = [load_shard(path) for path in sorted(paths)]
    images = torch.from_numpy(np.concatenate([shard.images for shard in shards]))
    specs = [spec for shard in shards for spec in shard.specs]
    views = [
        view_word(float(azimuth), float(elevation))
        for shard in shards
        for azimuth, elevation in zip(shard.azimuth_deg, shard.elevation_deg, strict=True)
    ]
    return Pictures(images, specs, views)


def to_model(images: UInt8[Tensor, "b h w 3"], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """uint8 in [0, 255] to float32 in [-1, 1], channels second in shape and last in memory."""
    return (images.to(device, torch.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)


def to_bytes(images: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
    """The inverse of `to_model`, clipped."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def draw_indices(count: int, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Which pictures a step shows: uniform, with replacement."""
    return torch.randint(count, (batch_size,), generator=generator)
