"""LoRA weights (arXiv 2106.09685), with and without DoRA's magnitudes (arXiv 2402.09353), from a file to the layers.

Every layer has its own rank and its own alpha. The layer becomes

    LoRA    W + alpha / rank * up down
    DoRA    m V / ||V||,  V = W + alpha / rank * up down

and with a weight s the change from W is multiplied by s, for DoRA too, as A1111 and ComfyUI do. Of a convolution, `down`
has the kernel and `up` is 1x1; with a third factor, `mid` has the kernel. A file is used whole or not at all: every key in
it is one of these or is named in the refusal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.lora_names import Layers, Shape
from dreamfusion.guidance.lora_settings import LoraSettings
from dreamfusion.guidance.personal_files import SAME_FAMILY, check_file, opened, read, shapes_of, some

# What follows a layer's name. PEFT may put the adapter's name in between; old diffusers said "_lora" or "lora_linear_layer".
_FACTORS = {
    "down": r"\.lora_(?:down|A)(?:\.\w+)?\.weight|(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight",
    "up": r"\.lora_(?:up|B)(?:\.\w+)?\.weight|(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"(?:_lora|\.lora|\.lora_linear_layer)?\.alpha",
    "dora_scale": r"\.dora_scale",
    "magnitude": r"\.lora_magnitude_vector(?:\.\w+)??(?:\.weight)?",
}
_MAGNITUDES = ("dora_scale", "magnitude")
_FACTOR = re.compile("(.+?)(?:" + "|".join(f"(?P<{k}>{v})" for k, v in _FACTORS.items()) + ")")
# What else is shared as a "LoRA".
_OTHER_KINDS = {
    "LoHa (Hadamard products)": r"\.hada_",
    "LoKr (Kronecker products)": r"\.lokr_",
    "OFT (rotations)": r"\.(oft|boft)_",
    "IA3 (scales)": r"\.on_input$|\.ia3_",
    "GLoRA": r"\.(a1|a2|b1|b2|bm)\.weight$",
    "full weights (diff)": r"\.(diff|diff_b|set_weight|w_norm|b_norm)$",
    "a bundled textual-inversion embedding": r"^bundle_emb\.",
    "an IP-Adapter": r"^(ip_adapter|image_proj)\.|_ip\.",
    "Custom Diffusion": r"_custom_diffusion\.",
    "whole layers (PEFT's modules_to_save)": r"\.modules_to_save\.",
    "a ControlNet": r"^(lora_controlnet$|input_hint_block\.|zero_convs\.|middle_block_out\.)",
    "LoRA for an embedding table": r"\.lora_embedding_[AB]",
    "biases": r"\.bias$",
    "a textual-inversion embedding, which belongs into guidance.embeddings": (
        r"^(emb_params|clip_[lg]|string_to_param.*|\*|<.*>)$"
    ),
    "a whole model, which belongs into guidance.model": (
        r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\."
    ),
}
_TRANSFORMER = re.compile(
    r"(^|_|\.)(transformer\.(?!text_model)|lora_transformer_|(double|single|joint)_(transformer_)?blocks|lora_te3)"
)
_AUTOENCODER = re.compile(r"(base_model\.model\.|lora_|lycoris_)?(vae|first_stage_model)[._]")


@dataclass(frozen=True)
class LoraLayer:
    """What a file has for one layer.

    Attributes:
        part: of the model, such as "unet".
        path: of the layer in it.
        keys: factor ("down", "up", "mid", "alpha", "dora_scale", "magnitude") -> key in the file.
        scale: alpha / rank where the file's settings have it and its keys do not.
    """

    part: str
    path: str
    keys: Mapping[str, str]
    scale: float


@dataclass(frozen=True)
class LoraFile:
    """A file all of whose keys have a place in the model.

    Attributes:
        path: of the file.
        layers: what it has.
        settings_missing: PEFT wrote it, and its alpha is in a file that is not there.
    """

    path: Path
    layers: tuple[LoraLayer, ...]
    settings_missing: bool = False


def check_lora_file(file: str, layers: Layers) -> LoraFile:
    """Find the layer of every key in a file. Reads names and shapes, no weight.

    Raises ModelUnsupportedError naming the keys that cannot be used, and what they are; see `check_file` for others.
    """
    path = check_file(file, "loras")
    shapes = shapes_of(path)
    named = _by_name(file, shapes)
    settings = LoraSettings.of(path, named)
    found: dict[tuple[str, str], LoraLayer] = {}
    places = {name: layers.find(name) for name in named}
    _refuse_strangers(file, places)
    for name, keys in named.items():
        part, layer = places[name][0]
        if (part, layer) in found:
            twice = [*found[part, layer].keys.values(), *keys.values()]
            raise _refused(file, f"{some(twice)} for one layer under two names", "")
        _check_shapes(
            file, {factor: shapes[key] for factor, key in keys.items()}, name, layers.shapes[part][layer]
        )
        dora = not keys.keys().isdisjoint(_MAGNITUDES)
        scale = settings.scale(part, name, shapes[keys["down"]][0], dora)
        found[part, layer] = LoraLayer(part, layer, keys, scale)
    return LoraFile(path, tuple(found.values()), settings.missing)


def merge_loras(model: Any, part: str, loras: Sequence[tuple[LoraFile, float]]) -> None:
    """Change the weights of one part of the model, in place.

    Args:
        model: the part.
        part: its name.
        loras: files and weights s. Their order does not matter: each changes the model's own weights, and the changes
            are added in float32.

    Raises ModelUnsupportedError for numbers that are not finite, in a file or in the sum.
    """
    by_path: dict[str, list[tuple[LoraLayer, Path, float]]] = {}
    for file, weight in loras:
        for layer in file.layers:
            if layer.part == part and weight:
                by_path.setdefault(layer.path, []).append((layer, file.path, weight))
    with ExitStack() as stack:
        tensors = {file.path: stack.enter_context(opened(file.path)) for file, _ in loras}
        for path, changes in by_path.items():
            parameter = model.get_submodule(path).weight
            own = parameter.detach().float()
            total = own.clone()
            for layer, file, weight in changes:
                factors = {k: read(tensors[file], v, file, own.device) for k, v in layer.keys.items()}
                total += weight * _change(layer, factors, own)
            if not bool(total.to(parameter.dtype).isfinite().all()):
                raise ModelUnsupportedError(
                    f"LoRA weights make {path} overflow in {str(parameter.dtype).removeprefix('torch.')}",
                    hint=f"give {changes[-1][1]} a smaller weight",
                )
            parameter.data.copy_(total)


def _change(layer: LoraLayer, factors: dict[str, Tensor], own: Float[Tensor, "out in *kernel"]) -> Tensor:
    """The new weight less the old one, at weight 1."""
    down, up = factors["down"], factors["up"].flatten(1)
    scale = layer.scale
    if "alpha" in factors:
        scale = float(factors["alpha"]) / len(down)
    if "mid" in factors:
        product = torch.einsum("or,rs...,si->oi...", up, factors["mid"], down.flatten(1))
    else:
        product = up @ down.flatten(1)
    change = scale * product.reshape(own.shape)
    magnitude = factors.get("dora_scale", factors.get("magnitude"))
    if magnitude is None:
        return change
    whole = own + change
    axis = _magnitude_axis(tuple(magnitude.shape), own.shape, "magnitude" in factors)
    norm = whole.transpose(0, axis).flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    stretch = [1] * own.ndim
    stretch[axis] = -1
    return whole * (magnitude.flatten() / norm).reshape(stretch) - own


def _magnitude_axis(magnitude: Shape, weight: Shape, peft: bool) -> int:
    """0 where DoRA has a length for each output of a layer, 1 where it has one for each input; ValueError for neither.

    PEFT has outputs always, however the magnitudes lie. kohya, LyCORIS and OneTrainer have both: "out 1 1 1" or "1 in 1 1".
    """
    longest = max(magnitude, default=1)
    if _count(magnitude) == longest:
        place = 0 if longest == 1 else magnitude.index(longest)
        if longest == weight[0] and (peft or place == 0):
            return 0
        if longest == weight[1] and not peft and (place == 1 or len(magnitude) == 1):
            return 1
    raise ValueError(magnitude)


# --------------------------------------------------------------------------------------------- names and shapes


def _by_name(file: str, shapes: Mapping[str, Shape]) -> dict[str, dict[str, str]]:
    """Layer's name -> factor -> key; refuses keys that are no factor, and layers that lack one."""
    named: dict[str, dict[str, str]] = {}
    others: dict[str, list[str]] = {}
    for key in shapes:
        match = _FACTOR.fullmatch(key)
        if match is None:
            kinds = (kind for kind, pattern in _OTHER_KINDS.items() if re.search(pattern, key))
            others.setdefault(next(kinds, "of no known kind"), []).append(key)
            continue
        factors = named.setdefault(match[1], {})
        factor = match.lastgroup or ""
        if factor in factors:
            raise _refused(file, f"{factors[factor]} and {key} for the same", "keep one adapter in a file")
        factors[factor] = key
    if others:
        told = "; ".join(f"{some(keys)}: {kind}" for kind, keys in others.items())
        raise _refused(
            file, told, "only LoRA and DoRA can be merged: convert the file, or leave those keys out"
        )
    if not named:
        raise _refused(file, "no key at all", "")
    for factors in named.values():
        missing = [factor for factor in ("down", "up") if factor not in factors]
        if missing or len(factors.keys() & _MAGNITUDES) > 1:
            lack = f"without its {missing[0]}" if missing else "with two kinds of magnitudes"
            raise _refused(file, f"{next(iter(factors.values()))} {lack}", "the file is incomplete")
    return named


def _refuse_strangers(file: str, places: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    unknown = [name for name, found in places.items() if not found]
    if unknown:
        transformer = [name for name in unknown if _TRANSFORMER.search(name)]
        autoencoder = [name for name in unknown if _AUTOENCODER.match(name)]
        if autoencoder:
            what, hint = f"{autoencoder[0]}, a layer of the autoencoder, which is not changed", "leave it out"
        elif transformer:
            what, hint = f"{transformer[0]}, a layer of a transformer such as SD3 or FLUX", SAME_FAMILY
        else:
            several = f"{len(unknown)} of {len(places)} layers that the model does not have, such as "
            one = "a layer that the model does not have: "
            what, hint = (several if len(unknown) > 1 else one) + unknown[0], SAME_FAMILY
        raise _refused(file, what, hint)
    double = [name for name, found in places.items() if len(found) > 1]
    if double:
        parts = " and ".join(part for part, _ in places[double[0]])
        raise _refused(file, f"{double[0]}, which {parts} both have", "put the part's name before it")


def _check_shapes(file: str, factors: Mapping[str, Shape], name: str, wanted: Shape) -> None:
    """Whether the factors make a change of the layer's own shape."""
    down, up, kernel = factors["down"], factors["up"], wanted[2:]
    mid = factors.get("mid")
    shapes = " and ".join(f"{factor} of {_text(shape)}" for factor, shape in factors.items() if shape)
    told = f"{shapes} for {name}, whose weight is {_text(wanted)}"
    matrices = min(len(down), len(up)) > 1 and down[0] > 0
    if (
        not matrices
        or up[1] != down[0]
        or _plain(up[2:])
        or (mid and (mid[:2] != up[1:2] * 2 or _plain(down[2:])))
    ):
        raise _refused(file, told, "its factors do not fit each other: the file is damaged")
    if (up[0], down[1]) != wanted[:2] or _plain((mid or down)[2:]) != _plain(kernel):
        raise _refused(file, told, SAME_FAMILY)
    if "alpha" in factors and _count(factors["alpha"]) != 1:
        raise _refused(file, f"an alpha of {_text(factors['alpha'])} for {name}", "")
    for kind in factors.keys() & _MAGNITUDES:
        try:
            _magnitude_axis(factors[kind], wanted, kind == "magnitude")
        except ValueError:
            told = f"magnitudes of {_text(factors[kind])} for {name}, whose weight is {_text(wanted)}"
            raise _refused(file, told, SAME_FAMILY) from None


def _plain(kernel: Shape) -> Shape:
    """A 1x1 kernel is none: a 1x1 convolution and a linear layer are written alike."""
    return () if all(size == 1 for size in kernel) else kernel


def _count(shape: Shape) -> int:
    return torch.Size(shape).numel()


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"


def _refused(file: str, got: str, hint: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(f"the LoRA in {file} cannot be applied whole", got=got, hint=hint or None)
