"""How a field's raw output becomes density: activations, the blob that a scene starts from, the scene's edge.

`sigmas = activation(raw + blob(positions)) * edge_mask(positions)`, in 1/length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EXP_LIMIT = 15.0
EDGE_SHARE = 0.05
_TINY = 1e-12


def truncated_exp(raw: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """exp up to `EXP_LIMIT`, and from there on its tangent line: never infinite, and never without a gradient.

    The gradient is exp(min(raw, EXP_LIMIT)), the one of Instant-NGP's truncated exp (arXiv 2201.05989, public code), but
    here it is the gradient of the value that is returned, to any order.

    Args:
        raw: any real numbers.
    """
    kept = raw.clamp(max=EXP_LIMIT)
    return kept.exp() * (1.0 + (raw - kept))


def softplus(raw: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(1 + exp(raw)): grows in a straight line, so that a dense region can still be emptied by a gradient."""
    return F.softplus(raw)


def gaussian_blob(positions: Float[Tensor, "*n 3"], height: float, std: float) -> Float[Tensor, "*n"]:
    """height * exp(-|x|^2 / (2 std^2)), added to the raw density (DreamFusion, arXiv 2209.14988, App. A.2).

    Args:
        positions: world units.
        height: of the blob, in raw density; the paper's is 5.
        std: world units; the paper's is 0.2.
    """
    return height * torch.exp(positions.square().sum(-1) * (-0.5 / std**2))


def linear_blob(positions: Float[Tensor, "*n 3"], height: float, radius: float) -> Float[Tensor, "*n"]:
    """height * (1 - |x| / radius), added to the raw density (Magic3D, arXiv 2211.10440, sec. 4; threestudio).

    Args:
        positions: world units.
        height: raw density in the middle; 10 in Magic3D.
        radius: world units, where the blob crosses zero and becomes negative; 0.5 in Magic3D.
    """
    return height * (1.0 - _norms(positions) / radius)


def linear_blob_gradient(
    positions: Float[Tensor, "*n 3"], height: float, radius: float
) -> Float[Tensor, "*n 3"]:
    """The gradient of `linear_blob` with respect to the positions; zero in the origin, where there is none."""
    return positions * (-height / radius / _norms(positions))[..., None]


def edge_mask(positions: Float[Tensor, "*n 3"], radius: float) -> Float[Tensor, "*n"]:
    """1 inside the scene's ball, 0 outside, with a smooth step over the outermost `EDGE_SHARE` of the radius.

    A hard edge would cut a staircase into a mesh that touches it; with a ramp some cells wide marching cubes finds a clean
    cap, and the normals there point outwards.

    Args:
        positions: world units.
        radius: of the ball, world units.
    """
    inside = ((radius - _norms(positions)) / (EDGE_SHARE * radius)).clamp(0.0, 1.0)
    return inside.square() * (3.0 - 2.0 * inside)


def edge_mask_gradient(positions: Float[Tensor, "*n 3"], radius: float) -> Float[Tensor, "*n 3"]:
    """The gradient of `edge_mask` with respect to the positions."""
    norms = _norms(positions)
    inside = ((radius - norms) / (EDGE_SHARE * radius)).clamp(0.0, 1.0)
    slope = 6.0 * inside * (1.0 - inside) * (-1.0 / (EDGE_SHARE * radius))
    return positions * (slope / norms)[..., None]


def _norms(positions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    # The norm's gradient in the origin is 0/0; this small floor makes it zero.
    return positions.square().sum(-1).clamp_min(_TINY).sqrt()
