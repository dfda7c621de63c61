"""Between an autoencoder's latents and those that the UNet denoises: its settings' mean, spread and scale.

    z' = (z - mean) scaling_factor / std        z = z' std / scaling_factor + mean

as diffusers' pipelines of Stable Diffusion XL have it. `latents_mean` and `latents_std` have a number for each channel;
`shift_factor`, for all of them, is a mean. Where a setting is left out, mean is 0 and std is 1.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def scaled(raw: Float[Tensor, "b c h w"], settings: Any) -> Float[Tensor, "b c h w"]:
    """The UNet's latents, of those that an autoencoder with these settings (diffusers' `vae.config`) gives."""
    mean, std = _mean_and_std(raw, settings)
    return (raw - mean) * settings.scaling_factor / std


def unscaled(latents: Float[Tensor, "b c h w"], settings: Any) -> Float[Tensor, "b c h w"]:
    """The inverse of `scaled`."""
    mean, std = _mean_and_std(latents, settings)
    return latents * std / settings.scaling_factor + mean


def _mean_and_std(like: Tensor, settings: Any) -> tuple[Tensor | float, Tensor | float]:
    # Not every autoencoder's class has these settings; `check_supported` has refused what does not go together.
    mean, std = settings.get("latents_mean"), settings.get("latents_std")
    if mean is None or std is None:
        return settings.get("shift_factor") or 0.0, 1.0
    return tuple(torch.tensor(values).to(like)[None, :, None, None] for values in (mean, std))  # pyright: ignore
