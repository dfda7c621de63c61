"""Muon for weight matrices, AdamW for the rest, in one optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Quintics, one a round, that drive singular values towards 1 (Jordan et al. 2024, "Muon", use one for five rounds).
# These are the first and the last two of a tuned five: three rounds leave them in 0.4 to 1.15, and a third of a
# training step on a CPU goes into this.
QUINTICS = ((4.0848, -6.8946, 2.9270), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012))
# The size of AdamW's usual update, so that one learning rate fits both (Liu et al. 2025, "Muon is Scalable for LLM Training").
MATCHED_RMS = 0.2


def orthogonalised(
    matrices: Float[Tensor, "n rows columns"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n rows columns"]:
    """About U V^T of each singular value decomposition; singular values under 1 % of a matrix's norm stay smaller.

    The products are taken in `dtype`: bfloat16 is exact enough for what is only about orthogonal (Jordan et al. 2024).
    """
    made = (matrices / (1.01 * torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)).to(dtype)
    flipped = made.shape[1] > made.shape[2]
    if flipped:
        made = made.mT
    for a, b, c in QUINTICS:
        gram = made @ made.mT
        made = a * made + (b * gram + c * (gram @ gram)) @ made
    return (made.mT if flipped else made).to(matrices.dtype)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon suits it: a hidden layer's matrix or kernel, no embedding and no layer at the model's ends."""
    ends = ("embedding", "conv_in", "conv_out", "heads.", "logit_scale")
    return parameter.ndim >= 2 and not any(end in name for end in ends)


class Muon(torch.optim.Optimizer):
    """Groups with `matrices=True` are moved by Muon with Nesterov momentum, the others by AdamW.

    A kernel "out in h w" counts as the matrix "out in*h*w".
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        eps: float = 1e-8,
        product_dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, {**defaults, "matrices": False})
        self.product_dtype = product_dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            torch._foreach_mul_(moved, 1.0 - group["lr"] * group["weight_decay"])
            if group["matrices"]:
                self._matrix_steps(moved, group)
            else:
                self._adam_steps(moved, group)

    def _matrix_steps(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        # Matrices of one shape are moved together: a GPU takes as long to be told of one as to move ten.
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for same in by_shape.values():
            flat = torch.stack([self._nesterov(parameter, group).flatten(1) for parameter in same])
            size = MATCHED_RMS * math.sqrt(max(flat.shape[1:]))
            for parameter, update in zip(same, orthogonalised(flat, self.product_dtype), strict=True):
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * size)

    def _nesterov(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1.0 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])

    def _adam_steps(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        # All of them in one go: a GPU takes as long to be told of one as to move hundreds.
        first, second = group["betas"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        states = [self.state[parameter] for parameter in parameters]
        counts = [float(state["step"].add_(1)) for state in states]
        means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_lerp_(means, gradients, 1.0 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1.0 - second)
        spreads = list(torch._foreach_div(squares, [1.0 - second**count for count in counts]))
        torch._foreach_sqrt_(spreads)
        torch._foreach_add_(spreads, group["eps"])
        rates = [-group["lr"] / (1.0 - first**count) for count in counts]
        torch._foreach_addcdiv_(list[Tensor](parameters), means, spreads, rates)
