"""A scene that starts from something: its field is taught, point by point, what is there. No picture is rendered for it.

This is how a text changes an object that exists already, be it a run's or a mesh's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dreamfusion.config import ConstantSchedule, OptimizerConfig
from dreamfusion.scene.scene import Scene
from dreamfusion.training.optimizer import SceneOptimizer

STEPS = 200
POINTS = 8192
LEARNING_RATE = 0.03
# Opacity is compared over this share of the ball's radius: a marching step of the miniature preset.
STEP_SHARE = 1 / 32


Source = Callable[[Tensor], tuple[Tensor, Tensor]]
"""positions "n 3" in world units -> density " n" in 1/length and albedo "n 3" in [0, 1]: what a field is taught."""


def teach(
    scene: Scene,
    source: Source,
    generator: Generator,
    near: Float[Tensor, "k 3"] | None = None,
    steps: int = STEPS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> float:
    """Bring `scene`'s field to `source` by regression of opacity and albedo at random points of the ball.

    Args:
        generator: on the CPU.
        near: points that half of the samples lie close to, such as a surface's; None: all are uniform.
        steps: of Adam, at its own rate; the run's own optimiser is not touched.
        progress: called with (steps done, steps in all).

    Returns:
        The last mean squared error of the opacity over a step of 1/32 of the radius.
    """
    optimizer = SceneOptimizer(
        scene, OptimizerConfig(lr=ConstantSchedule(value=LEARNING_RATE), background_lr_scale=0.0)
    )
    device = next(scene.parameters()).device
    step_size = STEP_SHARE * scene.radius
    error = float("nan")
    for step in range(steps):
        positions = _points(scene.radius, near, generator).to(device)
        sigmas, albedo = source(positions)
        found = scene.field(positions)
        alphas, wanted = (-torch.expm1(-values * step_size) for values in (found.sigmas, sigmas))
        opacity_loss = (alphas - wanted).square().mean()
        # Where nothing is, no colour is right or wrong.
        colour_loss = (wanted[:, None] * (found.albedo - albedo).square()).mean()
        optimizer.zero_grad()
        (opacity_loss + colour_loss).backward()
        optimizer.apply(step)
        error = opacity_loss.item()
        progress(step + 1, steps)
    return error


def _points(radius: float, near: Float[Tensor, "k 3"] | None, generator: Generator) -> Float[Tensor, "n 3"]:
    """Uniform in the ball; or half of them so, and half around `near` with a std of a fiftieth of the radius."""
    directions = torch.nn.functional.normalize(torch.randn(POINTS, 3, generator=generator), dim=-1)
    uniform = directions * radius * torch.rand(POINTS, 1, generator=generator) ** (1 / 3)
    if near is None:
        return uniform
    chosen = near[torch.randint(len(near), (POINTS // 2,), generator=generator)]
    around = chosen + 0.02 * radius * torch.randn(chosen.shape, generator=generator)
    return torch.cat([uniform[: POINTS // 2], around])
