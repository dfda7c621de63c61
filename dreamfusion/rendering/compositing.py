"""Densities along rays into weights, and weighted sums (NeRF, arXiv 2003.08934, eq. 3; Max 1995).

    alphas_i        = 1 - exp(-tau_i),  tau_i = sigma_i length_i
    transmittance_i = exp(-sum of tau_j over j < i on the same ray)
    weights_i       = transmittance_i alphas_i

so the weights of a ray sum to 1 - exp(-sum of tau): with tau = (1, 1), weights = (0.632, 0.233), opacity 0.865.

The sums of tau are taken ray by ray in a padded table. One running sum over the packed list minus each ray's offset
would be shorter, but loses the small numbers of the late rays to rounding, and one bad ray would spoil all after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.rendering.marching import PackedSamples


@dataclass(frozen=True)
class Compositing:
    """What each of n packed samples contributes: `weights = transmittance * alphas`, all in [0, 1]."""

    weights: Float[Tensor, " n"]
    transmittance: Float[Tensor, " n"]
    alphas: Float[Tensor, " n"]


def ranks_in_rays(ray_indices: Int[Tensor, " n"], n_rays: int) -> Int[Tensor, " n"]:
    """The position of each sample among those of its own ray, from 0; `ray_indices` are sorted."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(ray_indices), device=ray_indices.device) - starts.index_select(0, ray_indices)


def composite(sigmas: Float[Tensor, " n"], samples: PackedSamples) -> Compositing:
    """Weights of packed samples from their densities (1/length, not negative); differentiable in `sigmas`.

    Raises:
        ValueError: a density per sample is needed.
    """
    if len(sigmas) != len(samples):
        raise ValueError(f"{len(sigmas)} densities for {len(samples)} samples")
    with record_function(__name__):
        taus = sigmas * samples.lengths.to(sigmas.dtype)
        ranks = ranks_in_rays(samples.ray_indices, samples.n_rays)
        columns = int(ranks.max()) + 2
        # Shifted by one column, the inclusive running sum is the exclusive one. Subtracting tau from the inclusive sum
        # would cancel where one sample is much denser than all before it.
        slots = samples.ray_indices * columns + ranks
        table = torch.zeros(samples.n_rays * columns, dtype=taus.dtype, device=taus.device)
        table = table.scatter(0, slots + 1, taus).view(samples.n_rays, columns)
        before = table.cumsum(dim=1).view(-1).index_select(0, slots)
        transmittance = torch.exp(-before)
        alphas = -torch.expm1(-taus)
        return Compositing(transmittance * alphas, transmittance, alphas)


def accumulate(
    weights: Float[Tensor, " n"],
    values: Float[Tensor, "n c"] | None,
    ray_indices: Int[Tensor, " n"],
    n_rays: int,
) -> Float[Tensor, "rays c"]:
    """Sum of weights * values over each ray's samples; `values` None counts as 1 (c = 1). No sample gives 0."""
    weighted = weights[:, None] if values is None else weights[:, None] * values
    sums = torch.zeros(n_rays, weighted.shape[1], dtype=weighted.dtype, device=weighted.device)
    return sums.index_add(0, ray_indices, weighted)
