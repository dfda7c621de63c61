"""The losses beside score distillation: what the paper adds so that a surface, and one facing outwards, wins.

All are means over rays, so their weights carry over to any resolution and number of views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import LossConfig
from dreamfusion.rendering.compositing import accumulate
from dreamfusion.rendering.marching import PackedSamples
from dreamfusion.rendering.renderer import RenderOutput


def orientation_loss(
    weights: Float[Tensor, " n"],
    normals: Float[Tensor, "n 3"],
    rays_d: Float[Tensor, "rays 3"],
    ray_indices: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Mean over rays of sum_i sg(w_i) max(0, n_i . v)^2 (Ref-NeRF, arXiv 2112.03907, eq. 11; DreamFusion, App. A.2).

    It punishes what is seen from behind. The weights carry no gradient: or it would be cheapest to see nothing.

    Args:
        weights: of n packed samples.
        normals: theirs, unit and outward.
        rays_d: unit directions of all rays; a surface seen from its front has n . v < 0.
        ray_indices: the ray of each sample.
    """
    away = (normals * rays_d.index_select(0, ray_indices)).sum(dim=-1).clamp(min=0.0)
    return (weights.detach() * away.square()).sum() / len(rays_d)


def opacity_loss(opacity: Float[Tensor, "*rays"]) -> Float[Tensor, ""]:
    """Mean of sqrt(opacity^2 + 0.01), from 0.1 for an empty image to 1.005 (DreamFusion, App. A.2).

    It keeps space empty that need not be filled, such as fog between object and camera.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def entropy_loss(opacity: Float[Tensor, "*rays"]) -> Float[Tensor, ""]:
    """Mean binary entropy of the opacity in bits: 0 where a ray is all or nothing, 1 at one half.

    It sharpens outlines (stable-dreamfusion's `entropy`; threestudio's `opaque` is the same in nats,
    which are ln 2 times as many).
    """
    # Beyond the clamp the slope, which would be infinite at 0 and 1, is 0.
    share = opacity.clamp(1e-5, 1.0 - 1e-5)
    return -(share * share.log2() + (1.0 - share) * (1.0 - share).log2()).mean()


def transmittance_loss(opacity: Float[Tensor, "*rays"], target: float) -> Float[Tensor, ""]:
    """-min(target, mean of 1 - opacity): wants light to pass, up to a share of it (Dream Fields, arXiv 2112.01455).

    Args:
        opacity: of all rays of a step.
        target: the share, 0 .. 1; beyond it nothing is gained.
    """
    return -(1.0 - opacity).mean().clamp(max=target)


def convexity_loss(
    normals: Float[Tensor, "b h w 3"],
    opacity: Float[Tensor, "b h w"],
    c2w: Float[Tensor, "b 4 4"],
    side: int = 8,
) -> Float[Tensor, ""]:
    """Minus how far normals turn outwards from one place of a coarse picture to the next (SDI's code, arXiv 2405.15891).

    The normals are averaged to `side` x `side` places, where a surface that bulges has its normal turn to the right from left
    to right, and downwards from top to bottom; hollows turn the other way. For each of the two directions the mean of the
    sine of the turn, as measured around the camera's own axes. The public code measures both around the world's vertical
    axis, which hardly sees the turn from top to bottom, and on normals as colours, (n + 1) / 2.

    Args:
        normals: unit, outward, world frame; 0 where nothing is seen.
        opacity: what the normals are weighted with, without gradient: or it would be cheapest to see more.
        c2w: camera to world.
    """
    weighted = (normals * opacity.detach()[..., None]).permute(0, 3, 1, 2)
    coarse = F.adaptive_avg_pool2d(weighted, side).permute(0, 2, 3, 1)
    right, up = c2w[:, None, None, :3, 0], c2w[:, None, None, :3, 1]
    across = (torch.linalg.cross(coarse[:, :, :-1], coarse[:, :, 1:]) * up).sum(dim=-1)
    down = (torch.linalg.cross(coarse[:, :-1], coarse[:, 1:]) * right).sum(dim=-1)
    return -(across.mean() + down.mean())


def z_variance_loss(
    weights: Float[Tensor, " n"], samples: PackedSamples, opacity: Float[Tensor, "*rays"]
) -> Float[Tensor, ""]:
    """Mean variance of the distance at which a ray sees something, over the rays of opacity above 0.5; 0 without any.

    It makes surfaces thin (HiFA, arXiv 2305.18766, as threestudio computes it).

    Args:
        weights: of n packed samples.
        samples: these, with their distances in world units.
        opacity: of all rays, row by row.
    """
    flat, rays, distances = opacity.reshape(-1), samples.ray_indices, samples.t_mids
    shares = weights / flat.clamp(min=1e-5).index_select(0, rays)

    def mean(values: Float[Tensor, " n"]) -> Float[Tensor, " rays"]:
        return accumulate(shares, values[:, None], rays, samples.n_rays)[:, 0]

    variance = mean((distances - mean(distances).index_select(0, rays)).square())
    seen = (flat > 0.5).to(variance)
    return (variance * seen).sum() / seen.sum().clamp(min=1.0)


def needs_normals(config: LossConfig, step: int) -> bool:
    """Whether a loss at optimiser iteration `step` looks at normals."""
    return config.orientation.at(step) != 0.0 or config.convexity.at(step) != 0.0


def needs_normals_within(config: LossConfig, steps: int) -> bool:
    """Whether a loss looks at normals at any of the first `steps` optimiser iterations."""
    return config.orientation.acts_within(steps) or config.convexity.acts_within(steps)


def weighted_losses(
    config: LossConfig, output: RenderOutput, c2w: Float[Tensor, "b 4 4"], step: int
) -> dict[str, tuple[float, Float[Tensor, ""]]]:
    """Name to (weight, loss) of each loss whose weight is not 0 at optimiser iteration `step`.

    Raises:
        ValueError: a loss that looks at normals is wanted and `output` was rendered without.
    """
    found: dict[str, tuple[float, Tensor]] = {}
    if (weight := config.orientation.at(step)) != 0.0:
        if output.sample_normals is None or output.weights is None or output.samples is None:
            raise ValueError("the orientation loss needs samples with normals: render with_normals=True")
        flat = output.rays_d.reshape(-1, 3)
        found["orientation"] = (
            weight,
            orientation_loss(output.weights, output.sample_normals, flat, output.samples.ray_indices),
        )
    if (weight := config.opacity.at(step)) != 0.0:
        found["opacity"] = (weight, opacity_loss(output.opacity))
    if (weight := config.entropy.at(step)) != 0.0:
        found["entropy"] = (weight, entropy_loss(output.opacity))
    if (weight := config.convexity.at(step)) != 0.0:
        if output.normals is None:
            raise ValueError("the convexity loss needs normals: render with_normals=True")
        found["convexity"] = (weight, convexity_loss(output.normals, output.opacity, c2w))
    if (weight := config.z_variance.at(step)) != 0.0:
        if output.weights is None or output.samples is None:
            raise ValueError("the z variance needs the samples of a training render")
        found["z_variance"] = (weight, z_variance_loss(output.weights, output.samples, output.opacity))
    if (weight := config.transmittance.at(step)) != 0.0:
        target = config.transmittance_target.at(step)
        found["transmittance"] = (weight, transmittance_loss(output.opacity, target))
    return found


def total_loss(
    guidance_loss: Float[Tensor, ""], weighted: dict[str, tuple[float, Float[Tensor, ""]]]
) -> Float[Tensor, ""]:
    """The scalar to differentiate. Its value means nothing, because score distillation's does not."""
    return torch.stack([guidance_loss, *(weight * loss for weight, loss in weighted.values())]).sum()
