"""Which floating-point type is chosen for which machine."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.guidance import precision
from dreamfusion.guidance.precision import preferred_cpu_dtype, unet_dtype, vae_dtype

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("machine", "capabilities", "expected"),
    [
        ("x86_64", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("x86_64", {"avx512_bf16": True}, torch.bfloat16),
        ("AMD64", {"amx_bf16": True}, torch.bfloat16),
        ("aarch64", {"neon": True, "bf16": True}, torch.bfloat16),
        ("arm64", {"neon": True}, torch.float32),
        ("x86_64", {}, torch.float32),
    ],
)
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, machine, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    assert preferred_cpu_dtype() is expected
    assert unet_dtype("auto", CPU) is expected


def test_a_torch_that_cannot_say_means_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert preferred_cpu_dtype() is torch.float32


def test_the_answer_is_the_same_each_time():
    assert preferred_cpu_dtype() is preferred_cpu_dtype()


def test_what_is_asked_for_is_given():
    for device in (CPU, CUDA, MPS):
        assert unet_dtype("float32", device) is torch.float32
        assert unet_dtype("bfloat16", device) is torch.bfloat16
    assert unet_dtype("auto", CUDA) is torch.float16
    assert unet_dtype("auto", MPS) is torch.float32


@pytest.mark.parametrize(("in_hardware", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_autoencoder_never_runs_in_float16(monkeypatch, in_hardware, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: in_hardware)
    assert vae_dtype(torch.float16, CUDA) is expected
    assert vae_dtype(torch.float16, CPU) is torch.float32
    assert vae_dtype(torch.bfloat16, CPU) is torch.bfloat16
    assert vae_dtype(torch.float32, CUDA) is torch.float32
