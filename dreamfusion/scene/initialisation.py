"""Weights drawn from an explicit generator: torch's own initialisation would take them from the global one."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn


def make_linear(inputs: int, outputs: int, generator: Generator) -> nn.Linear:
    """A linear layer with torch's default distribution: uniform within 1/sqrt(inputs), weights and biases alike.

    Args:
        inputs, outputs: features.
        generator: on the CPU.
    """
    # On the meta device the layer's own initialisation draws nothing.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1.0 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def uniform_parameter(shape: tuple[int, ...], bound: float, generator: Generator) -> nn.Parameter:
    """A parameter uniform in [-bound, bound)."""
    values: Tensor = (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound
    return nn.Parameter(values)
