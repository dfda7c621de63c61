"""Checkpoints in one file, as Stable Diffusion's makers and the sites for tuned models share them.

Such a file has weights only. Settings and tokenizer come from a directory of the same family, and diffusers' own reader
puts both together; the result is kept in diffusers' layout, so that everything else deals with directories.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.families import Family
from dreamfusion.guidance.weight_files import safetensors_fault, tensor_shapes
from dreamfusion.temporary import sweep, temporary_name

_UNET = "model.diffusion_model."
_CONTEXT = _UNET + "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
# Whose settings a file of this kind is read with.
_ALIASES = {768: "sd-1.5", 1024: "sd-2.1-base"}


def identify(file: Path) -> tuple[Family, str]:
    """The family of a single file, and the alias whose settings fit, from its names and shapes alone.

    Raises ModelUnsupportedError for pickles, files that were cut short, and models that cannot be distilled.
    """
    if file.suffix != ".safetensors":
        raise ModelUnsupportedError(
            f"{file} is no safetensors file",
            got=file.suffix or "no ending",
            hint="save it as safetensors: a pickle may run code, and is not opened",
        )
    fault = safetensors_fault(file)
    if fault is not None:
        raise ModelUnsupportedError(f"{file} {fault}", hint="download it again")
    shapes = tensor_shapes(file)
    first = shapes.get(_UNET + "input_blocks.0.0.weight")
    if first is None:
        raise _refused(file, "its denoiser", "a UNet", _other(shapes))
    if first[1] != 4:
        raise _refused(
            file, "its UNet's input, as of an inpainting or otherwise conditional model", "4", str(first[1])
        )
    if any(name.startswith("conditioner.embedders.1.model.") for name in shapes):
        return "stable-diffusion-xl", "sdxl"
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        raise _refused(file, "its text encoders", "two", "one, as of a refiner")
    width = shapes.get(_CONTEXT, (0, 768))[-1]
    return "stable-diffusion", _ALIASES.get(width, "sd-1.5")


def _other(shapes: dict[str, tuple[int, ...]]) -> str:
    if any("joint_blocks." in name or "double_blocks." in name for name in shapes):
        return "a flow-matching transformer, as Stable Diffusion 3 and FLUX"
    if any("lora" in name for name in shapes):
        return "LoRA weights, which belong into guidance.loras"
    return "no model.diffusion_model in it"


def _refused(file: Path, what: str, expected: str, got: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"the model in {file} cannot be distilled: {what}",
        expected=expected,
        got=got,
        hint="use a text-to-image checkpoint of Stable Diffusion 1, 2 or XL",
    )


def converted_directory(file: Path, settings: str, half_precision: bool) -> Path:
    """Where the conversion of `file` with these settings is kept: in the hub's folder, by what the file is now."""
    from huggingface_hub import constants

    state = file.stat()
    key = f"{file.resolve()}|{state.st_size}|{state.st_mtime_ns}|{settings}|{half_precision}"
    name = f"{file.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return Path(constants.HF_HOME) / "dreamfusion" / "converted" / name


def convert(file: Path, family: Family, settings: Path, target: Path, half_precision: bool) -> Path:
    """Read `file` with the settings and tokenizer in the directory `settings`, and write diffusers' layout to `target`.

    The directory appears whole or not at all. Raises ModelUnsupportedError when settings and weights do not fit.
    """
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    from dreamfusion.guidance.quiet import quiet_libraries

    pipeline_class: Any = (
        StableDiffusionXLPipeline if family == "stable-diffusion-xl" else StableDiffusionPipeline
    )
    options: dict[str, Any] = (
        {"safety_checker": None, "requires_safety_checker": False} if family == "stable-diffusion" else {}
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    scratch = temporary_name(target)
    scratch.mkdir()
    try:
        with quiet_libraries():
            pipeline = pipeline_class.from_single_file(
                str(file), config=str(settings), local_files_only=True, **options
            )
            _check_text_encoder(file, pipeline)
            pipeline.to(dtype=torch.float16 if half_precision else torch.float32).save_pretrained(scratch)
        if not target.is_dir():
            scratch.rename(target)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, AttributeError) as error:
        raise ModelUnsupportedError(
            f"{file} does not fit the settings in {settings}",
            got=(str(error).strip().splitlines() or [type(error).__name__])[0][:160],
            hint="name the model it was tuned from with --set guidance.single_file_config=ALIAS",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _check_text_encoder(file: Path, pipeline: Any) -> None:
    # The reader takes what it recognises and leaves the rest at random, or without contents, and says nothing.
    import torch
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if name.endswith("token_embedding.weight")]  # noqa: SIM118
        tables = [tensors.get_tensor(name) for name in names]
    for encoder in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        if encoder is None:
            continue
        embedding = encoder.get_input_embeddings().weight.detach()
        read = not any(parameter.is_meta for parameter in encoder.parameters()) and any(
            table.shape == embedding.shape and torch.equal(table.to(embedding), embedding) for table in tables
        )
        if not read:
            raise ValueError("it has no text encoder that can be read")
