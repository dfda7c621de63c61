"""In which floating-point type a frozen model runs: asked of the device, never assumed."""

from __future__ import annotations

import platform
from typing import Literal

import torch

Precision = Literal["auto", "float32", "float16", "bfloat16"]


def preferred_cpu_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it in hardware (AMX, AVX512-BF16, ARM BF16), else float32.

    The processor is asked rather than timed: a timing on a busy machine could choose differently after a resume, and
    a resumed run equals an unbroken one bit for bit. Without these instructions torch emulates bfloat16, at several
    times the cost of float32.
    """
    ask = getattr(torch.cpu, "get_capabilities", None)
    capabilities = ask() if ask is not None else {}
    arm = platform.machine().lower() in ("aarch64", "arm64")
    names = ("bf16", "arm_bf16") if arm else ("amx_bf16", "avx512_bf16")
    return torch.bfloat16 if any(capabilities.get(name, False) for name in names) else torch.float32


def unet_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The denoiser's type: as asked, or for `auto` float16 on CUDA, `preferred_cpu_dtype` on a CPU, else float32."""
    if precision != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.float16
    return preferred_cpu_dtype() if device.type == "cpu" else torch.float32


def vae_dtype(unet: torch.dtype, device: torch.device) -> torch.dtype:
    """The autoencoder's type: the denoiser's, but never float16.

    A gradient flows through the encoder, and divided by the number of latent values it underflows in float16, whose
    smallest number is 6e-8; some autoencoders overflow in it too. bfloat16 has float32's range; a CUDA device without
    it in hardware (before 2020) takes float32.
    """
    if unet != torch.float16:
        return unet
    in_hardware = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if in_hardware else torch.float32
