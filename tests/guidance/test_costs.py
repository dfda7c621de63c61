"""Counts of work and memory against real steps on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dreamfusion.config import GuidanceConfig
from dreamfusion.guidance import costs
from dreamfusion.guidance.costs import LiveBytes, guidance_cost, rows_of_step
from dreamfusion.guidance.factory import make_guidance

OPTIONS: list[dict[str, Any]] = [
    {},
    {"guidance_scale": 1.0},
    {"perp_neg": True},
    {"objective": {"kind": "csd"}},
    {"objective": {"kind": "csd", "negative_weight": 0.5}},
    {"objective": {"kind": "sdi", "inversion_steps": 3}, "perp_neg": True, "timestep_min": 1.0, "timestep_max": 1.0},
    {"objective": {"kind": "sdi"}, "timestep_min": 0.3, "timestep_max": {"kind": "linear", "start": 0.3, "end": 0.9, "steps": 9}},
]  # fmt: skip


def config_of(directory: Path, options: dict[str, Any]) -> GuidanceConfig:
    return GuidanceConfig.model_validate({"model": str(directory), "dtype": "float32", **options})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("views", [1, 2])
def test_rows_and_work_are_those_of_a_real_step(
    tiny_sd1: Path, monkeypatch, options: dict[str, Any], views: int
):
    config = config_of(tiny_sd1, options)
    guidance = make_guidance(config, "a duck")
    calls = []
    forward = guidance.unet.forward
    monkeypatch.setattr(
        guidance.unet, "forward", lambda z, *a, **o: calls.append(len(z)) or forward(z, *a, **o)
    )
    images = torch.rand(views, 32, 32, 3, requires_grad=True)
    generators = (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    # The counter does not know the CPU's own fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        guidance(images, torch.zeros(views), torch.zeros(views), 0, *generators).loss.backward()
    assert rows_of_step(config, views) == calls
    monkeypatch.setattr(costs, "TEXT_TOKENS", guidance.view_embeddings.tokens.shape[1])
    cost = guidance_cost(config, tiny_sd1, views)
    assert cost.unet_rows == sum(calls)
    assert cost.flop == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("family", ["tiny_sd1", "tiny_sdxl", "tiny_if"])
def test_every_family_is_counted(request, family: str):
    directory = request.getfixturevalue(family)
    one, four = (guidance_cost(config_of(directory, {}), directory, views) for views in (1, 4))
    assert four.flop == pytest.approx(4 * one.flop, rel=0.01)
    assert four.weights_bytes == one.weights_bytes < one.peak_bytes < four.peak_bytes
    half = guidance_cost(config_of(directory, {"dtype": "bfloat16"}), directory, 1)
    assert half.weights_bytes == one.weights_bytes / 2


def test_live_bytes_follow_what_is_kept():
    with LiveBytes() as live:
        a = torch.zeros(1000, device="meta")
        b = a + 1
        assert live.peak == 8000
        del a
        b = b * 2  # the product exists beside its factor for a moment, and a is gone
        assert live.peak == 8000
        view = b[:10]
        del b
        c = torch.zeros(1000, device="meta")
    assert live.peak == 8000 and len(view) == 10 and len(c) == 1000


def test_memory_kept_for_the_way_back_counts():
    def peak(grad: bool) -> int:
        weight = torch.zeros(100, 100, device="meta", requires_grad=grad)
        with LiveBytes() as live:
            x = torch.zeros(100, 100, device="meta")
            for _ in range(10):
                x = (x @ weight).sin()
            if grad:
                x.sum().backward()
        return live.peak

    assert peak(True) > 4 * peak(False)
