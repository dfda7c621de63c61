"""Checkpoints in one file, as Stable Diffusion's makers and the sites for tuned models share them: what they are.

Such a file has weights, and sometimes a few words about them. Settings and tokenizer come from a directory of the same
family; `conversion` puts both together. Reads names, shapes and metadata; no weight is opened and no torch is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from dreamfusion.errors import ModelUnsupportedError, shown
from dreamfusion.guidance.families import Family
from dreamfusion.guidance.weight_files import metadata, safetensors_fault, tensor_shapes

UNET = "model.diffusion_model."
_ATTENDS_TO_TEXT = "attn2.to_k.weight"
_EPSILON, _V = "epsilon", "v_prediction"
# By letters and digits alone: people write "v_prediction", "V-pred" and "v prediction".
_PREDICTIONS = {
    _EPSILON: ("epsilon", "eps", "epsilonprediction", "epsilonpred", "epsprediction", "epspred"),
    _V: ("v", "vprediction", "vpred", "vparameterization", "velocity"),
}
# modelspec.architecture: the family, and what the model predicts where the name says it.
_ARCHITECTURES: dict[str, tuple[Family, str | None]] = {
    "stable-diffusion-v1": ("stable-diffusion", None),
    "stable-diffusion-v2-512": ("stable-diffusion", _EPSILON),
    "stable-diffusion-v2-768-v": ("stable-diffusion", _V),
    "stable-diffusion-xl-v1-base": ("stable-diffusion-xl", None),
}
# Whose settings a Stable Diffusion 2 is read with, by what it predicts.
_SECOND = {_EPSILON: "sd-2.1-base", _V: "sd-2.1-v"}
_OPTION = "--set guidance.single_file_config="
# Changes when conversion does.
_FORMAT = 2


@dataclass(frozen=True)
class SingleFile:
    """What a single file is, and what it says of itself.

    Attributes:
        family: by its names and shapes.
        second: whether it is a Stable Diffusion 2, by the width of its texts.
        prediction_type: epsilon or v_prediction, where the file says so, else None.
        zero_terminal_snr: whether nothing of the image is left at the last timestep (arXiv 2305.08891).
        resolution: width and height of its images in pixels, where it says so.
        encoder_layer: the text encoder's layer that it was tuned with, 1 being the last, where it says so.
    """

    family: Family
    second: bool = False
    prediction_type: str | None = None
    zero_terminal_snr: bool = False
    resolution: tuple[int, int] | None = None
    encoder_layer: int | None = None


def read_single_file(file: Path) -> SingleFile:
    """The family of a single file by its names and shapes, and what it says of itself by marks and metadata.

    Marks are the empty tensors `v_pred` and `ztsnr`; the metadata's keys are those of Stability AI's ModelSpec 1.0.0.

    Raises ModelUnsupportedError for pickles, files that were cut short, models that cannot be distilled, and files that
    contradict themselves.
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
    shapes, told = tensor_shapes(file), metadata(file)
    family = _family(file, shapes)
    _check_range(file, told.get("modelspec.timestep_range"))
    return SingleFile(
        family=family,
        second=family == "stable-diffusion" and _text_width(shapes) == 1024,
        prediction_type=_prediction(file, family, shapes, told),
        zero_terminal_snr="ztsnr" in shapes,
        resolution=_resolution(told.get("modelspec.resolution")),
        encoder_layer=_whole(told.get("modelspec.encoder_layer")),
    )


def settings_for(file: Path, found: SingleFile) -> str:
    """The alias whose settings fit a single file.

    Raises ModelUnsupportedError where several do and the file does not say which, with the option that settles it.
    """
    if found.zero_terminal_snr and found.prediction_type is None:
        raise ModelUnsupportedError(
            f"{file} has the mark ztsnr and does not say what the model predicts",
            expected="the mark v_pred or modelspec.prediction_type beside it",
            hint=f"name a model whose settings say it with {_OPTION}NAME",
        )
    if found.family == "stable-diffusion-xl":
        return "sdxl"
    if not found.second:
        return "sd-1.5"
    if found.prediction_type is None:
        raise ModelUnsupportedError(
            f"{file} does not say which Stable Diffusion 2 it is",
            expected="sd-2.1-base (epsilon, 512) or sd-2.1-v (v, 768), whose weights have the same shapes",
            hint=f"say which with {_OPTION}sd-2.1-base or {_OPTION}sd-2.1-v",
        )
    return _SECOND[found.prediction_type]


def _family(file: Path, shapes: dict[str, tuple[int, ...]]) -> Family:
    first = shapes.get(UNET + "input_blocks.0.0.weight")
    if first is None:
        raise _refused(file, "its denoiser", "a UNet", _other(shapes))
    edm = sorted(name for name in shapes if name.startswith(("edm_", "edm.")))
    if edm:
        raise _refused(file, "its noise", "a schedule by betas", f"EDM's sigmas, by {edm[0]}")
    if len(first) < 2 or first[1] != 4:
        got = str(first[1]) if len(first) > 1 else f"shape {first}"
        raise _refused(file, "its UNet's input, as of an inpainting or otherwise conditional model", "4", got)
    if any(name.startswith("conditioner.embedders.1.model.") for name in shapes):
        return "stable-diffusion-xl"
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        raise _refused(file, "its text encoders", "two", "one, as of a refiner")
    return "stable-diffusion"


def _text_width(shapes: dict[str, tuple[int, ...]]) -> int | None:
    widths = (shape[-1] for name, shape in sorted(shapes.items())
              if name.startswith(UNET) and name.endswith(_ATTENDS_TO_TEXT) and shape)  # fmt: skip
    return next(widths, None)


def _prediction(
    file: Path, family: Family, shapes: dict[str, tuple[int, ...]], told: dict[str, str]
) -> str | None:
    said: dict[str, str] = {}
    if "v_pred" in shapes:
        said["the mark v_pred"] = _V
    text = told.get("modelspec.prediction_type", "")
    if text.strip():
        word = re.sub(r"[^a-z0-9]", "", text.lower())
        known = [kind for kind, words in _PREDICTIONS.items() if word in words]
        if not known:
            raise _refused(file, "its modelspec.prediction_type", "epsilon or v", shown(text))
        said["modelspec.prediction_type"] = known[0]
    name = told.get("modelspec.architecture", "").strip().lower()
    known_family, prediction = _ARCHITECTURES.get(name, (family, None))
    if known_family != family:
        raise _refused(
            file, "its modelspec.architecture does not fit its weights", f"one of a {family}", name
        )
    if prediction is not None:
        said[f"modelspec.architecture {name}"] = prediction
    if len(set(said.values())) > 1:
        got = " and ".join(f"{value} by {source}" for source, value in said.items())
        raise _refused(file, "it contradicts itself", "one prediction type", got)
    return next(iter(said.values()), None)


def _check_range(file: Path, text: str | None) -> None:
    """Refuse a model of a part of the timesteps, which guides in no other part."""
    numbers = re.fullmatch(r"\s*(\d{1,5})\s*,\s*(\d{1,5})\s*", text or "0,1000")
    if numbers is None or int(numbers[1]) > 0 or int(numbers[2]) < 999:
        raise _refused(file, "its modelspec.timestep_range", "all timesteps, 0,1000", shown(text))


def _resolution(text: str | None) -> tuple[int, int] | None:
    found = re.fullmatch(r"\s*(\d{1,5})\s*(?:x\s*(\d{1,5})\s*)?", text or "")
    return None if found is None else (int(found[1]), int(found[2] or found[1]))


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[1-9]\d?", text.strip()) else None


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
    """Where the conversion of `file` is kept, in the hub's folder: named by all that the result depends on.

    That is the file as it is now, the settings (a directory's by their contents, an alias or a hub id by its name), the
    precision, and the version of the library that reads it.
    """
    from huggingface_hub import constants

    state = file.stat()
    dtype = "float16" if half_precision else "float32"
    parts = [
        _FORMAT, file.resolve(), state.st_size, state.st_mtime_ns, _fingerprint(settings), dtype,
        importlib.metadata.version("diffusers"), importlib.metadata.version("transformers"),
    ]  # fmt: skip
    key = hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    # Short enough for a file system, whatever the file is called.
    return Path(constants.HF_HOME) / "dreamfusion" / "converted" / f"{file.stem[:40]}-{dtype}-{key}"


def _fingerprint(settings: str) -> str:
    """The name, and for a directory what its small files hold: they can be edited."""
    digest = hashlib.sha256(settings.encode("utf-8", "surrogateescape"))
    folder = Path(settings)
    for file in (
        sorted(folder.glob("*/*.json")) + sorted(folder.glob("*/*.txt")) + [folder / "model_index.json"]
    ):
        if file.is_file():
            digest.update(f"{file.relative_to(folder)}\0".encode("utf-8", "surrogateescape"))
            digest.update(file.read_bytes())
    return digest.hexdigest()
