"""The kinds of text-to-image model that can be distilled: what their directories hold, and which others are refused.

    stable-diffusion       latents, one CLIP text encoder: Stable Diffusion 1 and 2 and what was tuned from them
    stable-diffusion-xl    latents, two CLIP text encoders, pooled text and picture sizes beside the timestep
    deepfloyd-if           pixels, a T5 text encoder: stage one of DeepFloyd IF, in the place of the paper's Imagen

Read from a few JSON files; no weight is opened and no torch is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamfusion import documents
from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.noise_settings import Difference, is_number, noise_difference
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
    vae = {} if family == "deepfloyd-if" else read_json(directory / "vae" / "config.json")
    encoders = [part for part in LAYOUTS[family].parts if part.startswith("text_encoder")]
    texts = [read_json(directory / part / "config.json") for part in encoders]
    for what, expected, got in (
        *_noise_differences(directory),
        *_class_differences(read_json(directory / "model_index.json"), family),
        *_differences(family, unet, vae),
        *_latents_differences(vae),
        *_text_differences(unet, texts),
    ):
        raise _unsupported(directory, what, expected, str(got))
    return family


def _noise_differences(directory: Path) -> Iterator[Difference]:
    settings = read_json(directory / "scheduler" / "scheduler_config.json")
    # diffusers reads the settings with the class that model_index.json names, and with its defaults.
    entry = read_json(directory / "model_index.json").get("scheduler")
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else "DDIMScheduler"
    for read_as in (settings, settings | {"_class_name": name}):
        found = noise_difference(read_as)
        if found is not None:
            yield found


def _class_differences(index: dict[str, Any], family: Family) -> Iterator[Difference]:
    """Text encoders and tokenizers of other classes than those that they are read with."""
    clip = {
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    }
    t5 = {"text_encoder": ("T5EncoderModel",), "tokenizer": ("T5Tokenizer", "T5TokenizerFast")}
    for component, classes in (t5 if family == "deepfloyd-if" else clip).items():
        if _has(index, component) and index[component][1] not in classes:
            yield f"its {component}", " or ".join(classes), str(index[component][1])


def _latents_differences(vae: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What of an autoencoder's settings cannot be followed between its latents and the UNet's."""
    channels, factor = vae.get("latent_channels", 4), vae.get("scaling_factor", 0.18215)
    if not is_number(factor) or factor <= 0.0:
        yield "its autoencoder's scaling_factor", "a number above 0", factor
    given = {key: vae[key] for key in ("latents_mean", "latents_std") if vae.get(key) is not None}
    for key, values in given.items():
        numbers = isinstance(values, list) and all(is_number(value) for value in values)
        if not numbers or len(values) != channels:
            got = str(values)[:80] if not numbers else f"{len(values)}"
            yield f"its autoencoder's {key}", f"{channels} numbers, one a channel of its latents", got
        elif key == "latents_std" and min(values) <= 0.0:
            yield "its autoencoder's latents_std", "numbers above 0", min(values)
    if len(given) == 1:
        yield (
            "its autoencoder's latents",
            "latents_mean and latents_std together",
            f"{next(iter(given))} alone",
        )
    shift = vae.get("shift_factor")
    if shift is not None and not is_number(shift):
        yield "its autoencoder's shift_factor", "a number", str(shift)[:80]
    elif given and shift:
        yield "its autoencoder's latents", "a shift_factor or latents_mean", "both, in no order that is known"


def _text_differences(unet: dict[str, Any], texts: list[dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Whether the text encoders' vectors, side by side, are as wide as what the UNet attends to."""
    wanted = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim", 1280)
    widths = [text.get("hidden_size", text.get("d_model")) for text in texts]
    if isinstance(wanted, int) and all(isinstance(width, int) for width in widths):
        width = sum(width for width in widths if isinstance(width, int))
        if width != wanted:
            yield "the width of its text encoder", f"{wanted}, as its UNet has it", width


def _differences(family: Family, unet: dict[str, Any], vae: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    # What each default means: the value that diffusers' own classes take when the key is left out.
    pixels = family == "deepfloyd-if"
    channels = 3 if pixels else vae.get("latent_channels", 4)
    space = "3 colours" if pixels else f"the autoencoder's {channels} channels"
    added = {
        "stable-diffusion": (None, "text"),
        "stable-diffusion-xl": ("text_time",),
        "deepfloyd-if": (None, "text"),
    }
    unet_class = unet.get("_class_name", "UNet2DConditionModel")
    vae_class = vae.get("_class_name", "AutoencoderKL")
    colours = vae.get("in_channels", 3), vae.get("out_channels", 3)
    guidance_embedding = unet.get("time_cond_proj_dim") is not None
    # A model that learns its variance too puts it into further channels.
    outputs = (channels, 2 * channels) if pixels else (channels,)
    checks: list[tuple[bool, str, str, Any]] = [
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
        (
            unet.get("encoder_hid_dim_type") in (None, "text_proj"),
            "its conditioning",
            "a text alone",
            unet.get("encoder_hid_dim_type"),
        ),
        (
            unet.get("attention_type", "default") == "default",
            "its conditioning",
            "a text alone",
            f"attention_type {unet.get('attention_type')}",
        ),
        (vae_class == "AutoencoderKL", "its autoencoder", "AutoencoderKL", vae_class),
        (
            colours == (3, 3),
            "its autoencoder's images",
            "3 colours",
            f"{colours[0]} channels in and {colours[1]} out",
        ),
    ]
    return ((what, expected, got) for good, what, expected, got in checks if not good)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; ModelUnsupportedError when it cannot be read."""
    # Not finite: diffusers writes -Infinity, as the smallest lambda of some samplers.
    return documents.read_json(path, error=ModelUnsupportedError, finite=False)


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
