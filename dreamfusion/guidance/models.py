"""Which checkpoint a name means, whether it is here, and whether score distillation can use it.

A name is an alias of `models.yaml` (`miniature`, `sd-1.5`, ...), a directory in diffusers' Stable Diffusion layout, or
a hub id (`owner/name` or `owner/name@revision`). `find_model` answers in the first second: it reads a few JSON files
and no weights, and loads no torch. The network is reached by `fetch_model` only, or when probing is asked for.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dreamfusion.errors import DreamfusionError, ModelNotFoundError, ModelUnsupportedError

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")
_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
)


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model's files are, or where they can be fetched from.

    Args:
        name: what the user said.
        directory: the files, all there and fit for score distillation; None when they must be fetched first.
        hub_ids: the repositories to fetch from, in order, when `directory` is None.
        tried: what was looked at, one line each.
    """

    name: str
    directory: Path | None
    hub_ids: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()


def package_directory() -> Path:
    """The installed package's own directory, which holds the miniature."""
    return Path(str(resources.files("dreamfusion")))


@cache
def aliases() -> dict[str, dict[str, Any]]:
    """The table of `models.yaml`: alias -> {directory: ...} or {mirrors: [...]}."""
    return yaml.safe_load((Path(__file__).parent / "models.yaml").read_text(encoding="utf-8"))


def find_model(name: str, probe_hub: bool = False) -> ResolvedModel:
    """Say where the model `name` is, without reading a weight.

    Aliases come first, then directories, then hub ids, whose local cache is looked at. With `probe_hub` the hub is
    asked whether it holds what the cache lacks; without, that is left to `fetch_model`, unless HF_HUB_OFFLINE is set.

    Raises ModelNotFoundError with the list of what was tried, ModelUnsupportedError for a checkpoint that is there
    but cannot be distilled.
    """
    alias = aliases().get(name)
    if alias is not None and "directory" in alias:
        return _in_directory(name, package_directory() / alias["directory"])
    if alias is not None:
        return _on_hub(name, alias["mirrors"], probe_hub)
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_directory(name, path)
    if path.is_file():
        raise ModelUnsupportedError(
            f"model '{name}' is a single file",
            expected="a directory in diffusers' layout",
            hint="convert it once with diffusers' StableDiffusionPipeline.from_single_file and save_pretrained",
        )
    if _HUB_ID.fullmatch(name) and not name.startswith((".", "~")):
        return _on_hub(name, [name], probe_hub, tried=[f"directory {path}: not there"])
    raise _not_found(name, [f"aliases {', '.join(aliases())}", f"directory {path}: not there"])


def available_stable_diffusion(probe_hub: bool = False) -> str | None:
    """The first alias other than the miniature whose files are in the cache; with `probe_hub`, or on the hub."""
    for name, alias in aliases().items():
        if "mirrors" not in alias:
            continue
        try:
            found = find_model(name, probe_hub=probe_hub)
        except (ModelNotFoundError, ModelUnsupportedError):
            continue
        if found.directory is not None or probe_hub:
            return name
    return None


def fetch_model(model: ResolvedModel, half_precision: bool = False) -> Path:
    """The directory of the model's files, downloaded into the hub's cache when they are not on this machine.

    With `half_precision` the repository's fp16 weights are preferred, which halves the download.

    Raises ModelNotFoundError when no repository gives them, ModelUnsupportedError as `find_model` does, before any
    weight is downloaded.
    """
    if model.directory is not None:
        return model.directory
    tried = list(model.tried)
    for hub_id in model.hub_ids:
        directory = _download(hub_id, half_precision, tried)
        if directory is not None:
            return directory
    raise _not_found(model.name, tried)


def weights_variant(directory: Path, component: str) -> str | None:
    """`None` when the component's plain weights are there, "fp16" when only those are; FileNotFoundError for neither."""
    for variant in (None, "fp16"):
        if any(path.is_file() for path in _weight_files(directory, component, variant)):
            return variant
    raise FileNotFoundError(directory / component)


def check_supported(directory: Path) -> None:
    """Raise ModelUnsupportedError when the JSON files in `directory` tell of a model that SDS cannot use."""
    index = _read_json(directory / "model_index.json")
    unet, vae, scheduler = (
        _read_json(directory / file)
        for file in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    )
    for what, expected, got in _differences(index, unet, vae, scheduler):
        raise ModelUnsupportedError(
            f"the model in {directory} cannot be distilled: {what}",
            expected=expected,
            got=str(got),
            hint=f"use a text-to-image checkpoint of the Stable Diffusion 1 or 2 family, such as {_examples()}",
        )


def _differences(
    index: dict[str, Any], unet: dict[str, Any], vae: dict[str, Any], scheduler: dict[str, Any]
) -> Iterable[tuple[str, str, Any]]:
    # What each default means: the value that diffusers' own classes take when the key is left out.
    channels = vae.get("latent_channels", 4)
    prediction_type = scheduler.get("prediction_type", "epsilon")
    scheduler_class = scheduler.get("_class_name", "")
    checks = [
        (
            prediction_type in ("epsilon", "v_prediction") and "FlowMatch" not in scheduler_class,
            "its prediction type",
            "epsilon or v_prediction",
            "flow matching" if "FlowMatch" in scheduler_class else prediction_type,
        ),
        (
            # "text" pools the one encoder's own states; the other kinds want inputs that this pipeline does not have.
            "text_encoder_2" not in index and unet.get("addition_embed_type") in (None, "text"),
            "its conditioning",
            "one CLIP text encoder",
            "more than one, as in Stable Diffusion XL",
        ),
        (
            unet.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel",
            "its denoiser",
            "UNet2DConditionModel",
            unet.get("_class_name"),
        ),
        (
            unet.get("in_channels", 4) == channels,
            "its UNet's input, as of an inpainting or upscaling model",
            f"the autoencoder's {channels} channels",
            unet.get("in_channels", 4),
        ),
        (
            unet.get("out_channels", 4) == channels,
            "its UNet's output",
            f"the autoencoder's {channels} channels",
            unet.get("out_channels", 4),
        ),
        (
            unet.get("time_cond_proj_dim") is None and unet.get("class_embed_type") is None,
            "its UNet needs more than a text, as distilled and class-conditional models do",
            "a UNet conditioned on a text and a timestep",
            unet.get("class_embed_type") or "a guidance embedding",
        ),
        (
            vae.get("_class_name", "AutoencoderKL") == "AutoencoderKL",
            "its autoencoder",
            "AutoencoderKL",
            vae.get("_class_name"),
        ),
    ]
    return ((what, expected, got) for good, what, expected, got in checks if not good)


def _in_directory(name: str, directory: Path) -> ResolvedModel:
    index = directory / "model_index.json"
    # Another family lacks parts too; say what it is rather than what it lacks.
    if index.is_file() and "unet" not in _read_json(index):
        raise ModelUnsupportedError(
            f"the model in {directory} cannot be distilled: its denoiser",
            expected="a UNet",
            got=str(_read_json(index).get("_class_name", "no UNet")),
            hint=f"use a checkpoint of the Stable Diffusion 1 or 2 family, such as {_examples()}",
        )
    missing = _missing_files(directory)
    if missing:
        raise _not_found(name, [f"directory {directory}: lacks {', '.join(missing)}"])
    check_supported(directory)
    return ResolvedModel(name, directory, tried=(f"directory {directory}",))


def _on_hub(name: str, hub_ids: list[str], probe_hub: bool, tried: list[str] | None = None) -> ResolvedModel:
    tried = [] if tried is None else tried
    for hub_id in hub_ids:
        directory = _cached_directory(hub_id)
        missing = None if directory is None else _missing_files(directory)
        if directory is not None and not missing:
            check_supported(directory)
            return ResolvedModel(name, directory, (hub_id,), (*tried, f"cache of {hub_id}"))
        tried.append(f"cache of {hub_id}: {'lacks ' + ', '.join(missing) if missing else 'not there'}")
    if _offline():
        raise _not_found(name, tried, offline=True)
    if probe_hub:
        hub_ids = [hub_id for hub_id in hub_ids if _repository_exists(hub_id, tried)]
        if not hub_ids:
            raise _not_found(name, tried)
    return ResolvedModel(name, None, tuple(hub_ids), tuple(tried))


def _cached_directory(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repo, revision = _split(hub_id)
    cached = try_to_load_from_cache(repo, "model_index.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _repository_exists(hub_id: str, tried: list[str]) -> bool:
    from huggingface_hub import HfApi

    repo, revision = _split(hub_id)
    try:
        HfApi().model_info(repo, revision=revision, timeout=3.0)
    except Exception as error:  # its class depends on which HTTP client this hub version uses
        tried.append(f"hub {hub_id}: {_reason(error)}")
        return False
    return True


def _download(hub_id: str, half_precision: bool, tried: list[str]) -> Path | None:
    from huggingface_hub import HfApi, snapshot_download

    repo, revision = _split(hub_id)
    try:
        files = {
            s.rfilename for s in HfApi().model_info(repo, revision=revision, timeout=10.0).siblings or ()
        }
        weights = [f for component in _WEIGHTS for f in _choose_weights(files, component, half_precision)]
        small = [f for f in files if f.count("/") <= 1 and f.endswith((".json", ".txt"))]
        # The configs first: a model that cannot be distilled is refused before gigabytes are fetched.
        directory = Path(snapshot_download(repo, revision=revision, allow_patterns=small))
        check_supported(directory)
        snapshot_download(repo, revision=revision, allow_patterns=weights)
    except DreamfusionError:
        raise
    except Exception as error:  # its class depends on which HTTP client this hub version uses
        tried.append(f"hub {hub_id}: {_reason(error)}")
        return None
    missing = _missing_files(directory)
    if missing:
        tried.append(f"hub {hub_id}: lacks {', '.join(missing)}")
        return None
    return directory


def _choose_weights(files: set[str], component: str, half_precision: bool) -> list[str]:
    for variant in ("fp16", None) if half_precision else (None, "fp16"):
        for name in _weight_names(component, variant):
            if f"{component}/{name}" not in files:
                continue
            if not name.endswith(".index.json"):
                return [f"{component}/{name}"]
            shard = f"{component}/{_WEIGHTS[component]}-"
            return [f"{component}/{name}", *sorted(f for f in files if f.startswith(shard))]
    return []


def _missing_files(directory: Path) -> list[str]:
    missing = [file for file in _CONFIGS if not (directory / file).is_file()]
    if (directory / "tokenizer" / "tokenizer.json").is_file():
        missing = [file for file in missing if not file.startswith("tokenizer/")]
    for component in _WEIGHTS:
        if not any(
            file.is_file()
            for variant in (None, "fp16")
            for file in _weight_files(directory, component, variant)
        ):
            missing.append(f"{component}'s weights")
    return missing


def _weight_files(directory: Path, component: str, variant: str | None) -> list[Path]:
    return [directory / component / name for name in _weight_names(component, variant)]


def _weight_names(component: str, variant: str | None) -> list[str]:
    # Safetensors first, as the libraries themselves prefer them.
    dot = "" if variant is None else f".{variant}"
    stem = _WEIGHTS[component]
    old = "pytorch_model" if component == "text_encoder" else stem
    return [
        f"{stem}{dot}.safetensors",
        f"{stem}.safetensors.index{dot}.json",
        f"{old}{dot}.bin",
        f"{old}.bin.index{dot}.json",
    ]


def _not_found(name: str, tried: list[str], offline: bool = False) -> ModelNotFoundError:
    close = difflib.get_close_matches(name, aliases(), n=1)
    hint = f"name one of {', '.join(aliases())}, a directory in diffusers' layout, or a hub id such as {_examples()}"
    if close and close[0] != name:
        hint = f"did you mean '{close[0]}'? {hint}"
    if offline:
        hint = f"HF_HUB_OFFLINE is set: unset it to download, or {hint}"
    return ModelNotFoundError(f"model '{name}' was not found; tried: {'; '.join(tried)}", hint=hint)


def _examples() -> str:
    return next(alias["mirrors"][0] for alias in aliases().values() if "mirrors" in alias)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _split(hub_id: str) -> tuple[str, str | None]:
    repo, _, revision = hub_id.partition("@")
    return repo, revision or None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnsupportedError(f"{path} cannot be read", got=_reason(error)) from error
