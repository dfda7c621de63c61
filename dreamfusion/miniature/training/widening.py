"""Wider models that start as the narrow ones they grow from (Net2WiderNet; Chen et al. 2016, arXiv 1511.05641)."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

# Spread of the shares in which the copies of a channel are read: with equal ones they would stay copies for ever.
SHARE_SPREAD = 0.25


def _copies(parts: list[tuple[int, int]]) -> Tensor:
    """For each new channel the old one that it copies; `parts` are (old, new) widths of what is concatenated.

    Copies stand side by side: then the groups of a normalisation, the heads of an attention and the halves of a gated
    layer hold the copies of what they held.
    """
    index, start = [], 0
    for old, new in parts:
        if new % old:
            raise ValueError(f"a width of {old} can only grow to a multiple of it, got {new}")
        index.append(start + torch.arange(old).repeat_interleave(new // old))
        start += old
    return torch.cat(index)


def _width_below(unet: UNet2DConditionModel, block: int, resnet: int) -> int:
    # How many channels come from below into a residual block of the way up.
    widths = list(unet.config["block_out_channels"])[::-1]  # pyright: ignore[reportGeneralTypeIssues]
    return widths[block] if resnet or not block else widths[block - 1]


def _concatenated(new: UNet2DConditionModel, old: UNet2DConditionModel) -> dict[str, list[tuple[int, int]]]:
    """Widths of what each residual block of the way up reads: what came from below, and the skipped level's."""
    parts = {}
    for i, (block, narrow) in enumerate(zip(new.up_blocks, old.up_blocks, strict=True)):
        for j, (wide, thin) in enumerate(zip(block.resnets, narrow.resnets, strict=True)):  # pyright: ignore
            below = [_width_below(unet, i, j) for unet in (old, new)]
            skipped = [thin.in_channels - below[0], wide.in_channels - below[1]]
            parts[f"up_blocks.{i}.resnets.{j}"] = [(below[0], below[1]), (skipped[0], skipped[1])]
    return parts


@torch.no_grad()
def widen(new: nn.Module, old: nn.Module, generator: torch.Generator) -> None:
    """Gives `new`, of the same depth with levels as wide or a multiple, the function of `old`: a denoiser or an autoencoder.

    Exactly, if every level grows by the same factor. Else the groups of some normalisations on a denoiser's way up, which
    read two levels at once, hold other channels than before; and between levels that have become as wide as each other
    there is no projection any more.

    Raises:
        ValueError: if a width of `new` is no multiple of the old one, or a layer of `new` has no old one.
    """
    concatenated, weights, made = {}, old.state_dict(), {}
    if missing := set(new.state_dict()) - set(weights):
        raise ValueError(f"only widths can grow, but the old model has no {min(missing)}")
    if isinstance(new, UNet2DConditionModel) and isinstance(old, UNet2DConditionModel):
        concatenated = _concatenated(new, old)
    for name, wanted in new.state_dict().items():
        weight = weights[name]
        parts = concatenated.get(".".join(name.split(".")[:4]))
        reads_both = parts is not None and any(n in name for n in ("norm1.", "conv1.", "conv_shortcut."))
        if weight.ndim == 1:
            both = parts if reads_both and "norm1." in name else None
            made[name] = weight[_copies(both or [(len(weight), len(wanted))])]
        elif name == "time_embedding.linear_1.weight":
            made[name] = _every_other_frequency(weight, wanted)
        else:
            both = parts if reads_both else None
            made[name] = _widened(weight, wanted, both, generator)
        if name.endswith("to_q.weight"):
            # The copies' products add up, and the attention divides by the root of the head's width.
            made[name] = made[name] * (len(weight) / len(wanted)) ** 0.5
    new.load_state_dict(made)


def _widened(
    weight: Tensor, wanted: Tensor, reads: list[tuple[int, int]] | None, generator: torch.Generator
) -> Tensor:
    rows = _copies([(weight.shape[0], wanted.shape[0])])
    columns = _copies(reads or [(weight.shape[1], wanted.shape[1])])
    shape = (len(rows), len(columns))
    shares = 1.0 + SHARE_SPREAD * torch.randn(shape, generator=generator)
    total = torch.zeros(len(rows), weight.shape[1]).index_add_(1, columns, shares)
    shares = shares / total[:, columns]
    return weight[rows][:, columns] * shares.reshape(*shape, *[1] * (weight.ndim - 2))


def _every_other_frequency(weight: Tensor, wanted: Tensor) -> Tensor:
    # Twice as many frequencies in the same range: every other one is an old one.
    step = wanted.shape[1] // weight.shape[1]
    made = torch.zeros_like(wanted)
    made[:, ::step] = weight[_copies([(weight.shape[0], wanted.shape[0])])]
    return made
