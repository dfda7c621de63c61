"""Which files hold a component's weights, and whether they are whole. Reads names and headers, never a weight.

A component has its weights in one file, or in several named by an index; each in full precision or in half
("fp16" in the name), as safetensors or in the older pickle, which the libraries open without running its code.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

VARIANTS: tuple[str | None, ...] = (None, "fp16")
# A header names a few thousand tensors; more than this is not a safetensors file.
_MAX_HEADER_BYTES = 100_000_000
_CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def weight_names(component: str, variant: str | None) -> list[str]:
    """File names that may hold a component's weights, best first: safetensors before pickle, one file before several."""
    dot = "" if variant is None else f".{variant}"
    encoder = component.startswith("text_encoder")
    stem = "model" if encoder else "diffusion_pytorch_model"
    old = "pytorch_model" if encoder else stem
    return [
        f"{stem}{dot}.safetensors",
        f"{stem}.safetensors.index{dot}.json",
        f"{old}{dot}.bin",
        f"{old}.bin.index{dot}.json",
    ]


def find_weights(folder: Path, component: str, variant: str | None) -> Path | None:
    """The file, or the index of the files, with the component's weights in this precision; None if there is none."""
    return next((folder / n for n in weight_names(component, variant) if (folder / n).is_file()), None)


def weights_variant(directory: Path, component: str) -> str | None:
    """`None` when the component's plain weights are there, "fp16" when only those are; FileNotFoundError for neither."""
    for variant in VARIANTS:
        if find_weights(directory / component, component, variant) is not None:
            return variant
    raise FileNotFoundError(directory / component)


def weights_problem(directory: Path, component: str) -> str | None:
    """What is wrong with a component's weights, in a few words, or None: absent, a shard missing, a file cut short."""
    folder = directory / component
    for variant in VARIANTS:
        found = find_weights(folder, component, variant)
        if found is None:
            continue
        try:
            files = shards(found)
        except (OSError, ValueError, KeyError):
            return f"{component}'s weights ({found.name} cannot be read)"
        for file in files:
            if not file.is_file():
                return f"{component}'s weights ({file.name} is missing)"
            fault = None if file.suffix != ".safetensors" else safetensors_fault(file)
            if fault is not None:
                return f"{component}'s weights ({file.name} {fault})"
        return None
    return f"{component}'s weights"


def shards(weights: Path) -> list[Path]:
    """The files that an index names; a single file stands for itself."""
    if weights.suffix != ".json":
        return [weights]
    names = json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()
    return [weights.parent / name for name in sorted(set(names))]


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Tensor name -> {dtype, shape, data_offsets}, and where the data begins; ValueError for what is no such file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{file} has no safetensors header")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{file} has no safetensors header")
    header.pop("__metadata__", None)
    return header, 8 + length


def safetensors_fault(file: Path) -> str | None:
    """Why the file cannot be whole, or None: its header says how many bytes it should have."""
    try:
        header, start = _header(file)
    except (OSError, ValueError):
        return "is no safetensors file, or was cut short"
    wanted = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    size = file.stat().st_size
    return None if size == wanted else f"has {size:,} of {wanted:,} bytes"


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a safetensors file; ValueError for what is none."""
    return {name: tuple(entry["shape"]) for name, entry in _header(file)[0].items()}


def checksum_fault(file: Path, directory: Path) -> str | None:
    """Compare a file with the checksum that the hub gave it: "" when equal, None when there is none, else what is wrong.

    The hub's cache names files by it; a folder that the hub's client downloaded into keeps it under .cache/huggingface. It is the
    SHA-256 of large files, and git's SHA-1 of small ones.
    """
    wanted = file.resolve().name
    if not _CHECKSUM.fullmatch(wanted):
        note = directory / ".cache" / "huggingface" / "download" / f"{file.relative_to(directory)}.metadata"
        try:
            wanted = note.read_text(encoding="utf-8").split()[1]
        except (OSError, ValueError, IndexError):
            return None
        if not _CHECKSUM.fullmatch(wanted):
            return None
    if len(wanted) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return "" if digest.hexdigest() == wanted else "does not have the contents that it was downloaded with"
