"""Parts of a checkpoint, read by the libraries' own classes: frozen, whole, and in the precision that is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.families import read_json
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.weight_files import weights_variant

# What torch and the libraries raise for files that are damaged, are of another kind, or would run code.
_UNREADABLE = (
    SafetensorError, UnpicklingError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    ImportError, ArithmeticError, StrictDataclassError,
)  # fmt: skip
_PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "T5EncoderModel"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}


def part_class(component: str, class_name: str) -> Any:
    """The class that a component is read with: the known few, never one that a checkpoint brings along."""
    import diffusers
    import transformers

    library = transformers if component.startswith("text_encoder") else diffusers
    names = _PARTS[component]
    return getattr(library, class_name if class_name in names else names[0])


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what the libraries raise for files that they cannot read into ModelUnsupportedError; `what` is being read.

    Pickles that would run code are refused by torch, damaged ones in many ways. Running out of memory is no such fault.
    """
    try:
        with warnings.catch_warnings():
            # What torch cannot read it refuses beside.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            yield
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # tokenizers raises a plain Exception.
        if not isinstance(error, _UNREADABLE) and type(error) is not Exception:
            raise
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in text:
            raise
        raise ModelUnsupportedError(
            f"{what} cannot be read", got=text[:160], hint="delete the directory and fetch the model again"
        ) from error


def load_part(
    directory: Path, component: str, dtype: torch.dtype, device: torch.device, class_name: str = ""
) -> Any:
    """One part of a checkpoint, frozen, in evaluation mode, on the device.

    Raises ModelUnsupportedError when its weights cannot be read, or do not cover what its config.json asks for.
    """
    part = part_class(component, class_name)
    encoder = component.startswith("text_encoder")
    # Only diffusers warns, and loads slowly by its own account, without the optional package accelerate.
    options: dict[str, Any] = {} if encoder else {"low_cpu_mem_usage": False}
    with readable(f"the {component} in {directory}"), quiet_libraries(keys_are_checked=not encoder):
        loaded: Any = part.from_pretrained(
            directory / component,
            variant=weights_variant(directory, component),
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    model, told = loaded
    # Cast here, not by an argument of from_pretrained: its name differs between the libraries' versions.
    with quiet_libraries():
        model = model.requires_grad_(False).eval().to(device, dtype)
    # The libraries leave the first at random, drop the others, and only log it. transformers' encoders have old names.
    check_keys(
        f"the {component} in {directory}", told["missing_keys"], () if encoder else told["unexpected_keys"]
    )
    return model if encoder else model.to(memory_format=torch.channels_last)


def check_keys(what: str, missing: Iterable[str], unexpected: Iterable[str] = ()) -> None:
    """Refuse weights that are not those that a config.json asks for: ModelUnsupportedError, with a name."""
    for keys, expected, got in (
        (missing, f"{what} lacks weights that its config.json asks for", "nothing for"),
        (unexpected, f"{what} has weights that its config.json does not ask for", "weights called"),
    ):
        if names := sorted(keys):
            raise ModelUnsupportedError(
                expected,
                got=f"{got} {names[0]} and {len(names) - 1} more",
                hint="config.json and weights belong to different models, or the download is broken",
            )


def contents_faults(directory: Path, files: Sequence[Path]) -> list[str]:
    """What is wrong inside weight files: unreadable, shapes that the settings do not have, numbers that are none."""
    wanted: dict[Path, dict[str, torch.Size]] = {}
    found = []
    for file in files:
        try:
            if file.parent not in wanted:
                wanted[file.parent] = shapes_by_settings(file.parent)
            with readable(str(file.relative_to(directory))):
                fault = _first_fault(_tensors(file), wanted[file.parent])
        except ModelUnsupportedError as error:
            found.append(f"{error.what}: {error.got}")
            wanted.setdefault(file.parent, {})
            continue
        if fault is not None:
            found.append(f"{file.relative_to(directory)} {fault}")
    return found


def _first_fault(tensors: Iterator[tuple[str, Any]], wanted: dict[str, torch.Size]) -> str | None:
    for key, tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            continue
        shape = wanted.get(key)
        if shape is not None and tensor.shape != shape:
            return f"has {key} of shape {tuple(tensor.shape)}, its config.json asks for {tuple(shape)}"
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"has numbers in {key} that are not finite"
    return None


def _tensors(file: Path) -> Iterator[tuple[str, Any]]:
    """What a weight file holds, by name; of a pickle only what torch opens without running its code."""
    from safetensors import safe_open

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                yield key, tensors.get_tensor(key)
        return
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it holds no names with tensors")
    yield from state.items()


def empty_part(folder: Path, component: str) -> Any:
    """The part that the config.json in `folder` describes, on torch's meta device: shapes without contents."""
    settings = read_json(folder / "config.json")
    part = part_class(component, (settings.get("architectures") or [""])[0])
    with quiet_libraries(), torch.device("meta"):
        if component.startswith("text_encoder"):
            return part(part.config_class.from_dict(settings))
        return part.from_config(settings)


def shapes_by_settings(folder: Path) -> dict[str, torch.Size]:
    """Names and shapes of the weights that a part's config.json describes; empty where there is no such part."""
    if folder.name not in _PARTS or not (folder / "config.json").is_file():
        return {}
    with readable(f"{folder.name}/config.json"):
        model = empty_part(folder, folder.name)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
