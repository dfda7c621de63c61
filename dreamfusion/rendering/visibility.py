"""Which packed samples can be seen at all, found without gradients before the costly differentiable pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.rendering.compositing import composite
from dreamfusion.rendering.marching import PackedSamples
from dreamfusion.scene.fields import Field


@torch.no_grad()
def drop_hidden(
    field: Field,
    samples: PackedSamples,
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    termination: float,
    min_weight: float = 0.0,
) -> PackedSamples:
    """The samples in front of the point where their ray's transmittance falls below `termination`.

    Each ray's picture changes by at most `termination` (times the range of the colour).

    Args:
        field: asked for its density.
        samples: of the rays.
        rays_o, rays_d: origins and unit directions, world frame.
        termination: transmittance, 0 .. 1.
        min_weight: samples of less weight are dropped too. Leave it at 0 where gradients matter: a sample that is
            transparent now may be what grows next.
    """
    with record_function(__name__):
        seen = composite(field.density(samples.positions(rays_o, rays_d)), samples)
        keep = seen.transmittance >= termination
        if min_weight > 0.0:
            keep &= seen.weights >= min_weight
        return samples.select(keep)
