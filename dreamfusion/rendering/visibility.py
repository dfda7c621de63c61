"""Which packed samples of a picture can be seen at all, so that only those are asked for colours and normals.

This costs one more look at the density. In training that does not pay (docs/performance.md): there rays are ended by
what the occupancy grid remembers, see `marching.march`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function

from dreamfusion.rendering.compositing import accumulate, composite
from dreamfusion.rendering.marching import PackedSamples
from dreamfusion.scene.fields import Field

# Below this opacity of a ray, what may be left out is absolute: or nearly empty rays would keep all their samples.
_CLEAR = 0.1


@torch.no_grad()
def find_visible(
    field: Field,
    samples: PackedSamples,
    rays_o: Float[Tensor, "rays 3"],
    rays_d: Float[Tensor, "rays 3"],
    termination: float,
    faint: float,
) -> tuple[PackedSamples, Float[Tensor, " visible"]]:
    """The samples that count, and their weights in the whole ray.

    Args:
        field: asked for its density.
        samples: of the rays.
        rays_o, rays_d: origins and unit directions, world frame.
        termination: a ray ends where its transmittance falls below this, 0 .. 1; its opacity changes by no more.
        faint: samples are left out whose weight is below this share of their ray's opacity (below 0.1: of 0.1), divided by
            the number of its samples. However many samples a ray has, what it loses is less than this share.
    """
    with record_function(__name__):
        seen = composite(field.density(samples.positions(rays_o, rays_d)), samples)
        opacity = accumulate(seen.weights, None, samples.ray_indices, samples.n_rays)[:, 0]
        counts = torch.bincount(samples.ray_indices, minlength=samples.n_rays).clamp_(min=1)
        least = (faint * opacity.clamp_(min=_CLEAR) / counts).index_select(0, samples.ray_indices)
        keep = (seen.transmittance >= termination) & (seen.weights >= least) & (seen.weights > 0.0)
        kept = keep.nonzero()[:, 0]
        # None is visible: the one sample of no length that stands for that weighs nothing.
        weights = seen.weights.index_select(0, kept) if len(kept) else torch.zeros_like(seen.weights[:1])
        return samples.take(kept), weights
