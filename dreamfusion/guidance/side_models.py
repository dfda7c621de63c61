"""Where the names of the models beside the denoiser lead: a CLIP, a tiny autoencoder. No torch, no weight is read.

Either is a directory or a hub id (`owner/name` or `owner/name@revision`); what is not in the hub's cache is fetched, for
both are small.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dreamfusion.config import JUDGE, ClipConfig, GuidanceConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError, ModelUnsupportedError, shown
from dreamfusion.guidance.families import Family, read_json
from dreamfusion.guidance.models import (
    check_cache,
    hub_reason,
    is_hub_id,
    package_directory,
    path_of,
    split_hub_id,
)
from dreamfusion.guidance.weight_files import weights_problem

# Trained by Ollin Boer Bohan for the latents of each family.
TINY_AUTOENCODERS: dict[Family, str] = {
    "stable-diffusion": "madebyollin/taesd",
    "stable-diffusion-xl": "madebyollin/taesdxl",
}

# Of the autoencoders whose latents they give.
SCALING_FACTORS: dict[Family, float] = {"stable-diffusion": 0.18215, "stable-diffusion-xl": 0.13025}

TINY_HINT = ", or leave it out with --set guidance.tiny_autoencoder=null"


CLIP_NAMES = ("miniature", JUDGE)
"""What `clip_directory` takes before it looks for a directory."""


def clip_directory(name: str) -> Path:
    """The CLIP in a directory of transformers' layout or of a hub id; "miniature": the package's own, "judge": its second.

    Raises ModelNotFoundError when the directory or one of its files is not there, nor in the hub's cache or within reach.
    """
    if name == "miniature":
        directory = package_directory() / "miniature" / "clip"
    elif name == JUDGE:
        directory = package_directory() / "miniature" / JUDGE
    else:
        wanted = ["config.json", "preprocessor_config.json", "*token*", "vocab.json", "merges.txt", "*.safetensors"]  # fmt: skip
        directory = _found(name, "CLIP", wanted)
    for file in ("config.json", "preprocessor_config.json"):
        if not (directory / file).is_file():
            raise ModelNotFoundError(
                f"no CLIP in {directory}",
                expected=f"{file} and the files beside it",
                hint="train it: scripts/train_miniature.py --stage judge,export"
                if name == JUDGE
                else "name another directory",
            )
    return directory


def check_clip(config: ClipConfig) -> None:
    """Say before a run is made what Dream Fields' guidance lacks: ModelNotFoundError, ConfigError for a picture."""
    clip_directory(config.model)
    views = config.view_images
    for picture in (config.image, views.front, views.side, views.back, views.overhead):
        if picture is not None and not Path(picture).expanduser().is_file():
            raise ConfigError(
                f"the example picture {picture} is not there",
                hint="name another file with clip.image or clip.view_images",
            )


def tiny_autoencoder_directory(config: GuidanceConfig, family: Family, model: Path) -> Path | None:
    """The tiny autoencoder that `config` asks for; None where it asks for none, or the model works on pixels.

    Args:
        config: whose `tiny_autoencoder` names one, or leaves the choice to the family.
        family: of the model.
        model: its directory, whose autoencoder's settings the tiny one must fit.

    Raises ModelNotFoundError, and ModelUnsupportedError for another class, or latents of another shape or scale.
    """
    tiny = config.tiny_autoencoder
    if tiny is None or family == "deepfloyd-if":
        return None
    vae = read_json(model / "vae" / "config.json")
    if tiny.model is None:
        _check_family_latents(vae, family)
    name = tiny.model or TINY_AUTOENCODERS[family]
    directory = _found(
        name, "tiny autoencoder", ["config.json", "diffusion_pytorch_model.safetensors"], "config.json"
    )
    settings = read_json(directory / "config.json")
    shape = (
        settings.get("latent_channels", 4),
        len(settings.get("encoder_block_out_channels", (64,) * 4)),
    )
    wanted = (vae.get("latent_channels", 4), len(vae.get("block_out_channels", (64,))))
    if settings.get("_class_name") != "AutoencoderTiny" or shape != wanted:
        raise ModelUnsupportedError(
            f"the tiny autoencoder {name} does not fit the model",
            expected=f"an AutoencoderTiny of {wanted[0]} channels and {wanted[1]} levels",
            got=f"{settings.get('_class_name')} of {shape[0]} and {shape[1]}",
        )
    fault = weights_problem(directory, "")
    if fault is not None:
        raise ModelNotFoundError(
            f"the tiny autoencoder in {directory} lacks{fault.removeprefix(chr(39) + 's')}"
        )
    return directory


def _check_family_latents(vae: dict[str, Any], family: Family) -> None:
    """A family's tiny autoencoder gives that family's latents: refuse a model whose own are scaled in another way."""
    factor = vae.get("scaling_factor", SCALING_FACTORS["stable-diffusion"])
    odd = {key: vae[key] for key in ("latents_mean", "latents_std", "shift_factor") if vae.get(key)}
    if factor != SCALING_FACTORS[family] or odd:
        raise ModelUnsupportedError(
            f"{TINY_AUTOENCODERS[family]} does not fit the model's latents",
            expected=f"scaling_factor {SCALING_FACTORS[family]}",
            got=", ".join([f"scaling_factor {factor}", *odd]),
            hint="name one that was trained for them with guidance.tiny_autoencoder.model" + TINY_HINT,
        )


def _found(name: str, what: str, wanted: list[str], needed: str | None = None) -> Path:
    """A directory that is there, or a hub repository's files."""
    path = path_of(name)
    if os.path.isdir(path) and (needed is None or os.path.isfile(path / needed)):
        return path
    tried = f"directory {shown(path, 200)}: {f'no {needed}' if os.path.isdir(path) else 'not there'}"
    hint = "name a directory, or a hub id" + (TINY_HINT if needed else "")
    if not is_hub_id(name):
        raise ModelNotFoundError(f"no {what} in {shown(Path(name), 200)}; tried: {tried}", hint=hint)
    try:
        from huggingface_hub import snapshot_download

        repo, revision = split_hub_id(name)
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except Exception as error:  # its class depends on which HTTP client this hub version uses
        check_cache(error)
        raise ModelNotFoundError(
            f"no {what} in {shown(Path(name), 200)}; tried: {tried}; hub: {hub_reason(error, name)}",
            hint=hint,
        ) from error
