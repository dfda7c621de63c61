"""A whole training step of the miniature preset and its parts; the guidance alone."""

from __future__ import annotations

import statistics

import torch

from dreamfusion.guidance.factory import make_guidance
from dreamfusion.training.trainer import Trainer

PROMPT = "a peacock on a surfboard"


def test_training_step(benchmark, fitted):
    """The step as `dreamfusion train` takes it, on a scene that already is an object."""
    trainer = Trainer(fitted.config.model_copy(update={"prompt": PROMPT}))
    trainer.scene.load_state_dict(fitted.renderer.scene.state_dict())
    trainer.renderer.load_state_dict(fitted.renderer.state_dict())
    metrics = []
    benchmark.pedantic(lambda: metrics.append(trainer.train_step()), rounds=20, warmup_rounds=3)
    for part in metrics[0].cost.seconds:
        benchmark.extra_info[part] = statistics.median(m.cost.seconds[part] for m in metrics)
    benchmark.extra_info["peak_memory_mb"] = metrics[-1].cost.peak_memory_mb


def test_guidance_step(benchmark, fitted):
    """Encoding, one pass of the UNet for both halves of the guidance, and the way back to the picture."""
    guidance = make_guidance(fitted.config.guidance, PROMPT)
    picture = fitted.renderer.render_image(fitted.camera).rgb.clone().requires_grad_()
    noise, timesteps = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    camera = fitted.camera

    def step():
        guidance(picture, camera.azimuth_deg, camera.elevation_deg, 0, noise, timesteps).loss.backward()

    benchmark.pedantic(step, rounds=15, warmup_rounds=2)
