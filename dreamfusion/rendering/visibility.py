"""Which packed samples of a picture can be seen at all, so that only those are asked for colours and normals.

This costs one more look at the density. In training that does not pay (docs/performance.md): there rays are ended by
what the occupancy grid remembers, see `marching.march`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.rendering.compositing import composite
from dreamfusion.rendering.marching import PackedSamples
from dreamfusion.scene.fields import Field


@torch.no_grad()
def find_visible(
    field: Field,
    samples: PackedSamples,
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    termination: float,
    min_weight: float,
) -> tuple[PackedSamples, Float[Tensor, " visible"]]:
    """The samples that count, and their weights in the whole ray.

    Args:
        field: asked for its density.
        samples: of the rays.
        rays_o, rays_d: origins and unit directions, world frame.
        termination: a ray ends where its transmittance falls below this, 0 .. 1; its opacity changes by no more.
        min_weight: samples of less weight are left out.
    """
    with record_function(__name__):
        seen = composite(field.density(samples.positions(rays_o, rays_d)), samples)
        keep = (seen.transmittance >= termination) & (seen.weights >= min_weight)
        visible = samples.select(keep)
        # None is visible: the one sample of no length that stands for that weighs nothing.
        weights = seen.weights[keep] if keep.any() else torch.zeros_like(seen.weights[:1])
        return visible, weights
