"""What a step of the guidance costs, before a weight is read: work, memory, calls of the UNet.

The model is built from its settings on torch's meta device, where tensors have shapes and no contents, and one step is
taken there: encode, denoise, go back through the encoder. Work is counted operation by operation, memory by following
which storages are alive. Attention is counted with its scores in memory, which a GPU's kernels avoid; what those need
beside it (workspaces, fragmentation) is not seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dreamfusion.config import GuidanceConfig
from dreamfusion.guidance.families import Family, check_supported, read_json
from dreamfusion.guidance.precision import unet_dtype, vae_dtype
from dreamfusion.guidance.quiet import quiet_libraries

# CLIP's, and what IF is given of T5's.
TEXT_TOKENS = 77


@dataclass(frozen=True)
class GuidanceCost:
    """One step of the guidance.

    Attributes:
        unet_rows: rows of the UNet in the step, over all its calls.
        flop: floating-point operations, two for a multiplication with its addition.
        weights_bytes: the UNet's and the autoencoder's.
        peak_bytes: the most that is alive at once, weights included.
    """

    unet_rows: int
    flop: int
    weights_bytes: int
    peak_bytes: int


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make within it.

    Attributes:
        peak: bytes of the most that was alive at once, to a percent: looking which are still there takes longer than
            an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._at_most = self.peak = 0

    @property
    def alive(self) -> int:
        """Bytes of the storages that are still there."""
        self._made = {key: entry for key, entry in self._made.items() if not entry[0].expired()}
        self._at_most = sum(size for _, size in self._made.values())
        return self._at_most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                entry = self._made.get(storage._cdata)
                # A storage may lie where one has lain that is gone.
                if entry is None or entry[0].expired():
                    self._at_most += storage.nbytes() - (0 if entry is None else entry[1])
                    self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        if self._at_most > 1.01 * self.peak:
            self.peak = max(self.peak, self.alive)
        return result


def rows_of_step(config: GuidanceConfig, views: int) -> list[int]:
    """Rows of the UNet in each of its calls for one step, as the objective and its options need them.

    Of the first step, whose timesteps are the largest: SDI inverts less from smaller ones.
    """
    plain = views if config.guidance_scale == 1.0 else 2 * views
    last = 4 * views if config.perp_neg else plain
    objective = config.objective
    match objective.kind:
        case "sds":
            return [last]
        case "csd":
            shares = {objective.negative_weight.at(step) for step in (0, 1, 1_000_000)}
            return [views * (2 if shares <= {0.0, 1.0} else 3)]
        case "sdi":
            plain = views if objective.inversion_guidance_scale == 1.0 else 2 * views
            inverting = 4 * views if config.perp_neg else plain
            return [inverting] * objective.steps_to(config.timestep_max.at(0)) + [last]


def guidance_cost(
    config: GuidanceConfig, directory: Path, views: int, device: torch.device | str = "cpu"
) -> GuidanceCost:
    """What a step with `views` views would cost on `device`; reads the settings in `directory` and no weights."""
    family = check_supported(directory)
    dtype = unet_dtype(config.dtype, torch.device(device))
    encoder_dtype = vae_dtype(dtype, torch.device(device))
    unet, vae = _on_meta(directory, "unet", dtype), None
    if family != "deepfloyd-if":
        vae = _on_meta(directory, "vae", encoder_dtype)
    parts = [part for part in (unet, vae) if part is not None]
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    rows = rows_of_step(config, views)
    live, counter = LiveBytes(), FlopCounterMode(display=False)
    with counter, live:
        if config.slices:
            calls = [1] * sum(rows)
            if vae is not None:
                vae.enable_gradient_checkpointing()
        else:
            calls = rows
        repeated = _one_step(family, unet, vae, calls, views, config.image_size, counter)
    return GuidanceCost(sum(rows), counter.get_total_flops() + repeated, weights, weights + live.peak)


def native_image_size(directory: Path) -> int:
    """Side of the model's own images in pixels, from its settings."""
    side = read_json(directory / "unet" / "config.json").get("sample_size") or 64
    side = side if isinstance(side, int) else max(side)
    if check_supported(directory) == "deepfloyd-if":
        return side
    return side * 2 ** (len(read_json(directory / "vae" / "config.json").get("block_out_channels", [64])) - 1)


def _on_meta(directory: Path, component: str, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    part: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[component]
    settings = read_json(directory / component / "config.json")
    with quiet_libraries(), torch.device("meta"):
        return part.from_config(settings).to(dtype).requires_grad_(False).eval()


def _one_step(
    family: Family, unet: Any, vae: Any, rows: list[int], views: int, image_size: int | None, counter: Any
) -> int:
    """Encode, denoise, go back: as the guidance does, with tensors that are shapes.

    Equal calls of the UNet are made once; returns the work of those that were not.
    """
    side = unet.config.sample_size
    side = side if isinstance(side, int) else max(side or (64,))
    scale = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = image_size or side * scale
    if vae is None:
        latents = torch.zeros(views, 3, pixels, pixels, device="meta", requires_grad=True)
    else:
        images = torch.zeros(views, 3, pixels, pixels, device="meta", dtype=vae.dtype, requires_grad=True)
        latents = vae.encode(images).latent_dist.mode().float()
    repeated = 0
    with torch.no_grad():
        for count, times in Counter(rows).items():
            before = counter.get_total_flops()
            noisy = torch.zeros(count, *latents.shape[1:], device="meta", dtype=unet.dtype)
            unet(noisy, torch.zeros(count, device="meta"), **_conditions(family, unet, count))
            repeated += (times - 1) * (counter.get_total_flops() - before)
    latents.sum().backward()
    return repeated


def _conditions(family: Family, unet: Any, count: int) -> dict[str, Any]:
    width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    width = width if isinstance(width, int) else max(width)
    options = {"device": "meta", "dtype": unet.dtype}
    told: dict[str, Any] = {"encoder_hidden_states": torch.zeros(count, TEXT_TOKENS, width, **options)}
    if family == "stable-diffusion-xl":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        told["added_cond_kwargs"] = {
            "text_embeds": torch.zeros(count, pooled, **options),
            "time_ids": torch.zeros(count, 6, **options),
        }
    return told
