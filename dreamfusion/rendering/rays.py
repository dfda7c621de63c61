"""Where a ray is inside the scene's ball."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def intersect_ball(
    rays_o: Float[Tensor, "n 3"], rays_d: Float[Tensor, "n 3"], radius: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Distances at which rays enter and leave the ball of `radius` around the origin.

    Both are at least 0, so an origin inside the ball enters at 0. `t_near == t_far` for a ray that misses it.
    Directions are unit.
    """
    along = -(rays_o * rays_d).sum(dim=-1)
    # The squared distance of the line from the origin. b^2 - c of the school formula cancels for distant cameras.
    closest = rays_o + along[:, None] * rays_d
    half_chord = (radius * radius - (closest * closest).sum(dim=-1)).clamp(min=0.0).sqrt()
    return (along - half_chord).clamp(min=0.0), (along + half_chord).clamp(min=0.0)
