"""Rates follow their schedules and scales, Adam is Adam, and a gradient that is not finite changes nothing."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.config import OptimizerConfig, SceneConfig
from dreamfusion.scene.scene import Scene, make_scene
from dreamfusion.training.optimizer import SceneOptimizer

SCENE = SceneConfig.model_validate(
    {
        # With a decoder, so that each of the three groups is there.
        "field": {"kind": "grids", "resolutions": [4, 6], "hidden_layers": 1, "hidden_width": 8},
        "background": {"kind": "environment", "width": 8},
    }
)


def make(generator: torch.Generator, **config: object) -> tuple[Scene, SceneOptimizer]:
    scene = make_scene(SCENE, generator)
    return scene, SceneOptimizer(scene, OptimizerConfig.model_validate(config))


def set_gradients(scene: Scene, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in scene.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_each_group_has_its_own_rate_and_follows_the_schedule(generator: torch.Generator) -> None:
    rate = {"kind": "linear", "start": 0.1, "end": 0.0, "steps": 10}
    scene, optimizer = make(generator, lr=rate, background_lr_scale=0.5, decoder_lr_scale=0.25)
    before = {name: p.detach().clone() for name, p in scene.named_parameters()}
    set_gradients(scene, 0)
    assert optimizer.apply(5)[0]
    # Adam's first step is the rate times the gradient's sign.
    kinds = {name.split(".")[0] + "." + name.split(".")[1] for name in before}
    assert kinds >= {"field.density_grids", "field.colour_grids", "field.hidden", "field.output"}
    for name, parameter in scene.named_parameters():
        scale = 0.5 if name.startswith("background") else (1.0 if "grids" in name else 0.25)
        assert parameter.grad is not None
        expected = before[name] - 0.05 * scale * parameter.grad.sign()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_it_is_adam_by_the_formula(generator: torch.Generator) -> None:
    scene, optimizer = make(generator, lr=0.01, betas=[0.8, 0.95], eps=1e-8)
    name, parameter = next(iter(scene.named_parameters()))
    value = parameter.detach().double().clone()
    mean, square = torch.zeros_like(value), torch.zeros_like(value)
    for step in range(5):
        set_gradients(scene, step)
        assert parameter.grad is not None
        gradient = parameter.grad.double()
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = mean / (1 - 0.8 ** (step + 1)), square / (1 - 0.95 ** (step + 1))
        value -= 0.01 * corrected[0] / (corrected[1].sqrt() + 1e-8)
        optimizer.apply(step)
    torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_skips_the_whole_step_and_leaves_no_trace(
    generator: torch.Generator, bad: float
) -> None:
    scene, optimizer = make(generator)
    set_gradients(scene, 0)
    optimizer.apply(0)
    before = [p.detach().clone() for p in scene.parameters()]
    moments = {name: value.clone() for name, value in optimizer.state_dict().items()}
    set_gradients(scene, 1)
    last = list(scene.parameters())[-1]
    assert last.grad is not None
    last.grad.view(-1)[-1] = bad
    taken, norm = optimizer.apply(1)
    assert not taken and not torch.tensor(norm).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, scene.parameters(), strict=True))
    assert all(torch.equal(value, moments[name]) for name, value in optimizer.state_dict().items())


def test_clipping_scales_the_whole_gradient_to_the_limit(generator: torch.Generator) -> None:
    scene, optimizer = make(generator, max_grad_norm=0.5)
    set_gradients(scene, 0)
    direction = torch.cat([p.grad.flatten() for p in scene.parameters() if p.grad is not None])
    _, norm = optimizer.apply(0)
    assert norm == pytest.approx(direction.norm().item(), rel=1e-5)
    clipped = torch.cat([p.grad.flatten() for p in scene.parameters() if p.grad is not None])
    torch.testing.assert_close(clipped, direction * (0.5 / norm), rtol=1e-4, atol=1e-8)
    for parameter in scene.parameters():
        parameter.grad = torch.full_like(parameter, 1e-5)
    optimizer.apply(1)
    assert all(bool((p.grad == 1e-5).all()) for p in scene.parameters() if p.grad is not None)


def test_a_restored_optimiser_takes_the_same_next_step(generator: torch.Generator) -> None:
    scene, optimizer = make(generator)
    for step in range(3):
        set_gradients(scene, step)
        optimizer.apply(step)
    other, restored = make(torch.Generator().manual_seed(5))
    other.load_state_dict(scene.state_dict())
    restored.load_state_dict(optimizer.state_dict())
    for each, stepper in ((scene, optimizer), (other, restored)):
        set_gradients(each, 3)
        stepper.apply(3)
    assert all(torch.equal(a, b) for a, b in zip(scene.parameters(), other.parameters(), strict=True))


def test_a_state_that_does_not_fit_is_refused(generator: torch.Generator) -> None:
    scene, optimizer = make(generator)
    set_gradients(scene, 0)
    optimizer.apply(0)
    state = optimizer.state_dict()
    name = next(name for name in state if name.endswith("exp_avg"))
    with pytest.raises(ValueError, match="fits no parameter"):
        optimizer.load_state_dict(state | {name: torch.zeros(2)})
    with pytest.raises(ValueError, match="fits no parameter"):
        optimizer.load_state_dict({"field.nothing.exp_avg": torch.zeros(2)})


def test_a_parameter_in_no_group_is_a_mistake_of_ours(generator: torch.Generator) -> None:
    scene = make_scene(SCENE, generator)
    scene.forgotten = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="exactly once"):
        SceneOptimizer(scene, OptimizerConfig())
