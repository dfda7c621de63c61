"""The files that make a model somebody's own, opened: safetensors only, whole, every number finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.errors import ConfigError, ModelNotFoundError, ModelUnsupportedError
from dreamfusion.guidance.weight_files import safetensors_fault

PICKLE_HINT = "save it as safetensors: a pickle may run code, and is not opened"
SAME_FAMILY = "it must have been trained on a model of the same family"


def check_file(file: str, key: str) -> Path:
    """The path of a personal file that `guidance.<key>` names.

    Raises ConfigError for another kind of file, ModelNotFoundError for none, ModelUnsupportedError for a damaged one.
    """
    if Path(file).suffix.lower() != ".safetensors":
        raise ConfigError(f"guidance.{key}", expected="a safetensors file", got=file, hint=PICKLE_HINT)
    try:
        path = Path(file).expanduser()
        there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, the home of nobody
        raise ModelNotFoundError(f"guidance.{key}: there is no file {file}", got=str(error)[:100]) from error
    if not there:
        raise ModelNotFoundError(f"guidance.{key}: there is no file {file}")
    try:
        fault = safetensors_fault(path)
    except (LookupError, TypeError, AttributeError, RecursionError):
        fault = "is no safetensors file"
    if fault is not None:
        raise ModelUnsupportedError(f"{file} {fault}", hint="download it again")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file's tensors, by safetensors' own reader; ModelUnsupportedError when it refuses the file."""
    from safetensors import SafetensorError, safe_open

    try:
        tensors = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelUnsupportedError(f"{path} cannot be read", got=str(error)[:160]) from error
    with tensors:
        yield tensors


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Key -> shape of all that is in a file; see `opened` for errors."""
    with opened(path) as tensors:
        return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118


def read(tensors: Any, key: str, path: Path, device: torch.device | str = "cpu") -> Tensor:
    """One tensor in float32; ModelUnsupportedError for what is no finite floating-point number."""
    found = tensors.get_tensor(key)
    value = found.to(device, torch.float32)
    # An alpha may be a whole number; weights in integers are quantised ones, whose scales nobody told.
    whole = not found.is_floating_point() and found.numel() > 1
    if whole or not bool(value.isfinite().all()):
        raise ModelUnsupportedError(
            f"{path} cannot be used",
            expected="finite floating-point numbers",
            got=f"{found.dtype} in {key}" if whole else f"others in {key}",
        )
    return value


def some(keys: list[str]) -> str:
    """How many keys, and one of them."""
    return f"the key {keys[0]}" if len(keys) == 1 else f"{len(keys)} keys such as {keys[0]}"
