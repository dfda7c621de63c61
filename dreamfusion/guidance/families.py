"""The kinds of text-to-image model that can be distilled: what their directories hold, and which others are refused.

    stable-diffusion       latents, one CLIP text encoder: Stable Diffusion 1 and 2 and what was tuned from them
    stable-diffusion-xl    latents, two CLIP text encoders, pooled text and picture sizes beside the timestep
    deepfloyd-if           pixels, a T5 text encoder: stage one of DeepFloyd IF, in the place of the paper's Imagen

Read from a few JSON files; no weight is opened and no torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.weight_files import weights_problem

Family = Literal["stable-diffusion", "stable-diffusion-xl", "deepfloyd-if"]
FAMILIES: tuple[Family, ...] = ("stable-diffusion", "stable-diffusion-xl", "deepfloyd-if")


@dataclass(frozen=True)
class Layout:
    """What a family's directory holds.

    Attributes:
        parts: components with weights and a config.json.
        tokenizers: folders of tokenizers.
        tokenizer_files: either of these sets makes a tokenizer.
    """

    parts: tuple[str, ...]
    tokenizers: tuple[str, ...] = ("tokenizer",)
    tokenizer_files: tuple[tuple[str, ...], ...] = (("vocab.json", "merges.txt"), ("tokenizer.json",))


LAYOUTS: dict[Family, Layout] = {
    "stable-diffusion": Layout(("unet", "vae", "text_encoder")),
    "stable-diffusion-xl": Layout(
        ("unet", "vae", "text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2")
    ),
    "deepfloyd-if": Layout(
        ("unet", "text_encoder"), tokenizer_files=(("spiece.model",), ("tokenizer.json",))
    ),
}


def family_of(directory: Path) -> Family:
    """The family by model_index.json alone.

    Raises ModelUnsupportedError for a denoiser that is no UNet (SD3, FLUX and other transformers), and for the second
    models of a pair (SDXL's refiner, IF's upscalers).
    """
    index = read_json(directory / "model_index.json")
    name = str(index.get("_class_name", "a pipeline without a name"))
    if not _has(index, "unet"):
        flow = any(
            word in name for word in ("StableDiffusion3", "Flux", "SD3", "AuraFlow", "Sana", "Lumina2")
        )
        raise _unsupported(
            directory, "its denoiser", "a UNet", f"{name}, a flow-matching model" if flow else name
        )
    if _has(index, "image_encoder"):
        raise _unsupported(directory, "its conditioning", "a text alone", "an image as well")
    if _has(index, "text_encoder_2"):
        if not _has(index, "text_encoder"):
            raise _unsupported(directory, "its text encoders", "two", "one, as of a refiner")
        return "stable-diffusion-xl"
    if not _has(index, "vae"):
        encoder = index.get("text_encoder") or [None, None]
        if encoder[1] != "T5EncoderModel":
            raise _unsupported(directory, "its text encoder", "T5EncoderModel", str(encoder[1]))
        return "deepfloyd-if"
    return "stable-diffusion"


def missing_files(directory: Path) -> list[str]:
    """What `directory` lacks of its family's files, or has in a broken state, in words; model_index.json comes first."""
    if not (directory / "model_index.json").is_file():
        return ["model_index.json"]
    layout = LAYOUTS[family_of(directory)]
    configs = [f"{part}/config.json" for part in layout.parts] + ["scheduler/scheduler_config.json"]
    missing = [file for file in configs if not (directory / file).is_file()]
    for tokenizer in layout.tokenizers:
        folder = directory / tokenizer
        lacks = [[f for f in files if not (folder / f).is_file()] for files in layout.tokenizer_files]
        if all(lacks):
            missing += [f"{tokenizer}/{file}" for file in lacks[0]]
    problems = (weights_problem(directory, part) for part in layout.parts)
    return missing + [problem for problem in problems if problem is not None]


def check_supported(directory: Path) -> Family:
    """The family; ModelUnsupportedError when the JSON files in `directory` tell of a model that SDS cannot use."""
    family = family_of(directory)
    unet = read_json(directory / "unet" / "config.json")
    scheduler = read_json(directory / "scheduler" / "scheduler_config.json")
    vae = {} if family == "deepfloyd-if" else read_json(directory / "vae" / "config.json")
    for what, expected, got in _differences(family, unet, vae, scheduler):
        raise _unsupported(directory, what, expected, str(got))
    return family


def _differences(
    family: Family, unet: dict[str, Any], vae: dict[str, Any], scheduler: dict[str, Any]
) -> Iterator[tuple[str, str, Any]]:
    # What each default means: the value that diffusers' own classes take when the key is left out.
    pixels = family == "deepfloyd-if"
    channels = 3 if pixels else vae.get("latent_channels", 4)
    space = "3 colours" if pixels else f"the autoencoder's {channels} channels"
    prediction_type = scheduler.get("prediction_type", "epsilon")
    flow = "FlowMatch" in scheduler.get("_class_name", "")
    added = {
        "stable-diffusion": (None, "text"),
        "stable-diffusion-xl": ("text_time",),
        "deepfloyd-if": (None, "text"),
    }
    unet_class = unet.get("_class_name", "UNet2DConditionModel")
    vae_class = vae.get("_class_name", "AutoencoderKL")
    guidance_embedding = unet.get("time_cond_proj_dim") is not None
    # A model that learns its variance too puts it into further channels.
    outputs = (channels, 2 * channels) if pixels else (channels,)
    checks: list[tuple[bool, str, str, Any]] = [
        (
            prediction_type in ("epsilon", "v_prediction") and not flow,
            "its prediction type",
            "epsilon or v_prediction",
            "flow matching" if flow else prediction_type,
        ),
        (
            unet.get("addition_embed_type") in added[family],
            "its conditioning",
            f"what a {family} model takes",
            unet.get("addition_embed_type") or "a text without a pooled one",
        ),
        (unet_class == "UNet2DConditionModel", "its denoiser", "UNet2DConditionModel", unet_class),
        (
            unet.get("in_channels", 4) == channels,
            "its UNet's input, as of an inpainting, upscaling or otherwise conditional model",
            space,
            unet.get("in_channels", 4),
        ),
        (unet.get("out_channels", 4) in outputs, "its UNet's output", space, unet.get("out_channels", 4)),
        (
            not guidance_embedding and unet.get("class_embed_type") is None,
            "its UNet needs more than a text, as distilled and class-conditional models do",
            "a UNet conditioned on a text and a timestep",
            "a guidance embedding" if guidance_embedding else unet.get("class_embed_type"),
        ),
        (vae_class == "AutoencoderKL", "its autoencoder", "AutoencoderKL", vae_class),
    ]
    return ((what, expected, got) for good, what, expected, got in checks if not good)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; ModelUnsupportedError when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
        raise ModelUnsupportedError(f"{path} cannot be read", got=reason) from error


def _has(index: dict[str, Any], component: str) -> bool:
    # A component that a pipeline does without is written as [null, null].
    entry = index.get(component)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _unsupported(directory: Path, what: str, expected: str, got: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"the model in {directory} cannot be distilled: {what}",
        expected=expected,
        got=got,
        hint="use a text-to-image checkpoint of Stable Diffusion 1, 2 or XL or DeepFloyd IF's first stage; "
        "`dreamfusion models list` names some",
    )
