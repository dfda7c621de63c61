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
from dreamfusion.miniature.captions import plain_caption, view_word
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

    def and_these(self, others: Pictures) -> Pictures:
        """Both, one after the other."""
        images = torch.cat([self.images, others.images.to(self.images.device)])
        return Pictures(images, [*self.specs, *others.specs], [*self.views, *others.views])

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
    views = [word for shard in shards for word in view_words(shard.azimuth_deg, shard.elevation_deg)]
    return Pictures(images, specs, views)


def view_words(azimuth_deg: np.ndarray, elevation_deg: np.ndarray) -> list[str]:
    """The view word of each camera."""
    angles = zip(azimuth_deg.tolist(), elevation_deg.tolist(), strict=True)
    return [view_word(azimuth, elevation) for azimuth, elevation in angles]


def to_model(images: UInt8[Tensor, "b h w 3"], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """uint8 in [0, 255] to float32 in [-1, 1], channels second in shape and last in memory."""
    return (images.to(device, torch.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)


def to_bytes(images: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
    """The inverse of `to_model`, clipped."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def draw_indices(count: int, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Which pictures a step shows: uniform, with replacement."""
    return torch.randint(count, (batch_size,), generator=generator, device=generator.device)
