"""A single file in diffusers' layout: its weights under diffusers' names, with the settings and tokenizer of a directory.

diffusers' converters rename the weights. They leave out what they do not know and say nothing, so every weight that the
settings ask for is looked for by its name here, and every one of the file's UNet must have found its place.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dreamfusion.documents import reason
from dreamfusion.errors import ModelUnsupportedError, OutputError
from dreamfusion.guidance.families import LAYOUTS, read_json
from dreamfusion.guidance.loading import empty_part
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.single_file import UNET, SingleFile
from dreamfusion.temporary import sweep, temporary_name

_TUNED_FROM = "name the model it was tuned from with --set guidance.single_file_config=ALIAS"
_WHOLE = "use a file that holds the whole model; the settings' own weights are not mixed in"
# What a file's weights of a part begin with; text encoders are CLIP's own or OpenCLIP's.
_PREFIXES = {
    "unet": (UNET,),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
_NAMES = {
    "unet": "UNet",
    "vae": "autoencoder",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
}


def convert(file: Path, found: SingleFile, settings: Path, target: Path, half_precision: bool) -> Path:
    """Read `file` with the settings and tokenizer in the directory `settings`, and write diffusers' layout to `target`.

    What the file says of itself (`found`) is written into the settings. The directory appears whole or not at all.

    Raises ModelUnsupportedError when settings and weights do not fit, or weights are missing, by their names;
    OutputError when the folder of `target` cannot be written.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelUnsupportedError(f"{file} cannot be read", got=reason(error)[:160]) from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        scratch = temporary_name(target)
        scratch.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with quiet_libraries():
            for part in LAYOUTS[found.family].parts:
                model = _part(file, tensors, part, settings, found)
                model.to(torch.float16 if half_precision else torch.float32).save_pretrained(scratch / part)
        _write_settings(settings, scratch, found)
        if not target.is_dir():
            scratch.rename(target)
    except (OSError, SafetensorError) as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _unwritable(target: Path, error: Exception) -> OutputError:
    return OutputError(
        f"the converted model cannot be kept in {target.parent}",
        got=reason(error)[:160],
        hint="set HF_HOME to a folder that can be written and has room",
    )


def _part(file: Path, tensors: dict[str, Tensor], part: str, settings: Path, found: SingleFile) -> Any:
    """One part of the model with the file's weights."""
    if not any(name.startswith(_PREFIXES[part]) for name in tensors):
        raise ModelUnsupportedError(
            f"{file} has no {_NAMES[part]} that can be read",
            expected=f"weights that begin with {' or '.join(_PREFIXES[part])}",
            hint=f"{_WHOLE}; {_TUNED_FROM}" if part.startswith("text") else _WHOLE,
        )
    try:
        model = empty_part(settings / part, part)
        weights = _renamed(tensors, part, model)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _unfit(
            file, settings, (str(error).strip().splitlines() or [type(error).__name__])[0]
        ) from error
    _check_names(
        file,
        part,
        {name: tuple(value.shape) for name, value in model.state_dict().items()},
        weights,
        settings,
    )
    if part == "unet":
        _check_places(file, tensors, weights)
    model.load_state_dict({name: weights[name] for name in model.state_dict()}, assign=True)
    if part == "text_encoder":
        _drop_layers(file, model, found)
    return model


def _renamed(tensors: dict[str, Tensor], part: str, model: Any) -> dict[str, Tensor]:
    """The file's weights of a part, under the names of `model`."""
    from diffusers.loaders import single_file_utils as converters

    if part == "unet":
        return converters.convert_ldm_unet_checkpoint(tensors, dict(model.config))
    if part == "vae":
        return converters.convert_ldm_vae_checkpoint(tensors, dict(model.config))
    prefix = "conditioner.embedders.1.model." if part == "text_encoder_2" else "cond_stage_model.model."
    if any(name.startswith(prefix) for name in tensors):
        weights = converters.convert_open_clip_checkpoint(model, tensors, prefix=prefix)
    else:
        weights = converters.convert_ldm_clip_checkpoint(tensors)
    if hasattr(model, "text_model"):
        return weights
    # transformers' class without the level in between.
    return {name.removeprefix("text_model."): value for name, value in weights.items()}


def _check_names(
    file: Path, part: str, wanted: dict[str, tuple[int, ...]], weights: dict[str, Tensor], settings: Path
) -> None:
    missing = sorted(wanted.keys() - weights.keys())
    if missing:
        none = f"no {_NAMES[part]} that can be read, " if part.startswith("text_encoder") else ""
        raise _unfit(file, settings, f"{none}nothing for {_listed(missing)} of its {_NAMES[part]}")
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            raise _unfit(
                file, settings, f"{name} of its {_NAMES[part]} is {tuple(weights[name].shape)}, not {shape}"
            )


def _check_places(file: Path, tensors: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    used = {value.data_ptr() for value in weights.values()}
    left = sorted(
        n for n, v in tensors.items() if n.startswith(UNET) and v.numel() and v.data_ptr() not in used
    )
    if left:
        raise ModelUnsupportedError(
            f"{file} has weights that Stable Diffusion's UNet has no place for", got=_listed(left)
        )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}"


def _unfit(file: Path, settings: Path, got: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"{file} does not fit the settings in {settings}", got=got[:160], hint=_TUNED_FROM
    )


def _drop_layers(file: Path, encoder: Any, found: SingleFile) -> None:
    """A text encoder that ends where the file says (`modelspec.encoder_layer` 2: the last but one, "clip skip 2")."""
    layers = encoder.encoder.layers if hasattr(encoder, "encoder") else encoder.text_model.encoder.layers
    dropped = dropped_layers(found)
    if dropped >= len(layers):
        raise ModelUnsupportedError(
            f"the modelspec.encoder_layer of {file} is none of its text encoder's layers",
            expected=f"1 to {len(layers)}",
            got=str(found.encoder_layer),
        )
    if dropped:
        del layers[len(layers) - dropped :]
        encoder.config.num_hidden_layers = len(layers)


def dropped_layers(found: SingleFile) -> int:
    """How many of the text encoder's last layers the file does without: Stable Diffusion 1's alone, others end early anyway."""
    if found.family != "stable-diffusion" or found.second or found.encoder_layer is None:
        return 0
    return found.encoder_layer - 1


def _write_settings(settings: Path, target: Path, found: SingleFile) -> None:
    """The tokenizers, the scheduler and the index, with what the file says of itself."""
    for folder in (*LAYOUTS[found.family].tokenizers, "scheduler"):
        shutil.copytree(settings / folder, target / folder)
    index = read_json(settings / "model_index.json")
    index |= {
        name: [None, None]
        for name in ("safety_checker", "feature_extractor", "image_encoder")
        if name in index
    }
    _write(target / "model_index.json", index)
    file = target / "scheduler" / "scheduler_config.json"
    scheduler = read_json(file)
    if found.prediction_type is not None:
        scheduler["prediction_type"] = found.prediction_type
    if found.zero_terminal_snr:
        # The same paper: what is drawn must begin at the last timestep, which no other spacing has.
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    _write(file, scheduler)
    side, unet = usable_side(target, found), read_json(target / "unet" / "config.json")
    if side is not None:
        _write(target / "unet" / "config.json", unet | {"sample_size": side // _latent_scale(target)})


def usable_side(directory: Path, found: SingleFile) -> int | None:
    """The side in pixels that the file says, if its images are square and the UNet can halve them; else None."""
    if found.resolution is None:
        return None
    levels = len(read_json(directory / "unet" / "config.json").get("block_out_channels", [320] * 4))
    width, height = found.resolution
    step = _latent_scale(directory) * 2 ** (levels - 1)
    return width if width == height and width >= step and width % step == 0 else None


def _latent_scale(directory: Path) -> int:
    return 2 ** (len(read_json(directory / "vae" / "config.json").get("block_out_channels", [64])) - 1)


def reading_note(file: Path, found: SingleFile, settings: str, directory: Path) -> str:
    """One line: whose settings a single file was read with, what it is taken to predict, and what was not followed."""
    scheduler = read_json(directory / "scheduler" / "scheduler_config.json")
    kind = "v" if scheduler.get("prediction_type") == "v_prediction" else "epsilon"
    sample = read_json(directory / "unet" / "config.json").get("sample_size") or 64
    side = (sample if isinstance(sample, int) else max(sample)) * _latent_scale(directory)
    ends = ", zero terminal SNR" if scheduler.get("rescale_betas_zero_snr") else ""
    dropped = dropped_layers(found)
    ends += f", text encoder without its last {dropped}" if dropped > 0 else ""
    text = f"{file.name}: read with the settings of {settings} ({kind}, {side}{ends})"
    if found.resolution is not None and usable_side(directory, found) is None:
        width, height = found.resolution
        text += f"; its modelspec.resolution of {width}x{height} is not used"
    return text


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
