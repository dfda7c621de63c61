"""Surface normals from a field's density: -grad sigma / |grad sigma|."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import NormalsConfig
from dreamfusion.errors import ConfigError
from dreamfusion.scene.fields import Field

_SMALLEST_GRADIENT = 1e-30


def density_normals(
    field: Field, positions: Float[Tensor, "n 3"], config: NormalsConfig
) -> Float[Tensor, "n 3"]:
    """Unit normals that point out of the dense region (DreamFusion, arXiv 2209.14988, sec. 3.1).

    Differentiable in the field's weights. Where the density is constant there is no normal, and a zero vector is returned.

    Args:
        field: what to differentiate.
        positions: world units.
        config: `analytic` differentiates the field exactly (twice, when its weights are trained). `finite_difference` takes
            the closed form of a field that has one (`Field.density_and_gradient`), and otherwise six densities at
            `epsilon` along the axes, with an error of O(epsilon^2).

    Raises:
        ConfigError: the kind is `none`.
    """
    match config.kind:
        case "analytic":
            return normals_from_gradient(analytic_gradient(field, positions))
        case "finite_difference":
            closed_form = field.density_and_gradient(positions)
            if closed_form is not None:
                return normals_from_gradient(closed_form[1])
            return normals_from_gradient(finite_difference_gradient(field, positions, config.epsilon))
        case "none":
            raise ConfigError(
                "shading asks for normals, but scene.normals.kind is 'none'",
                hint="choose 'analytic' or 'finite_difference', or albedo shading only",
            )


def analytic_gradient(field: Field, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The density's exact gradient, 1/length^2, by automatic differentiation; keeps a graph if gradients are on."""
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        moving = positions if positions.requires_grad else positions.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(field.density(moving).sum(), moving, create_graph=keep_graph)
    return gradient


def finite_difference_gradient(
    field: Field, positions: Float[Tensor, "n 3"], epsilon: float
) -> Float[Tensor, "n 3"]:
    """Central differences along the three axes: (sigma(x + epsilon e) - sigma(x - epsilon e)) / (2 epsilon).

    Not the four corners of a tetrahedron: those save two queries of six, but their error is epsilon times the mixed
    second derivative, first order instead of second.
    """
    offsets = epsilon * torch.eye(3, dtype=positions.dtype, device=positions.device)
    both = torch.cat([positions[:, None] + offsets, positions[:, None] - offsets], 1)
    densities = field.density(both.reshape(-1, 3)).reshape(-1, 2, 3)
    return (densities[:, 0] - densities[:, 1]) / (2.0 * epsilon)


def normals_from_gradient(gradient: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """-gradient / |gradient|; zero where the gradient is."""
    # In nearly empty space the gradient's square is below the smallest float: bring it near 1 first.
    largest = gradient.detach().abs().amax(-1, keepdim=True)
    scaled = gradient / largest.clamp_min(_SMALLEST_GRADIENT)
    return -scaled / scaled.square().sum(-1, keepdim=True).clamp_min(0.25).sqrt()
