"""Which files hold a component's weights, and whether they are whole. Reads names and headers, never a weight.

A component has its weights in one file, or in several named by an index; each in full precision or in half
("fp16" in the name), as safetensors or in the older pickle, which the libraries open without running its code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dreamfusion import documents
from dreamfusion.errors import ModelUnsupportedError

VARIANTS: tuple[str | None, ...] = (None, "fp16")
# A header names a few thousand tensors; more than this is not a safetensors file.
_MAX_HEADER_BYTES = 100_000_000
_HEADER = documents.Limits(bytes=_MAX_HEADER_BYTES, depth=4)
CHECKSUMS = "SHA256SUMS"
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
        except (OSError, ValueError, ModelUnsupportedError):
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
    """The files that an index names, all beside it; a single file stands for itself. ValueError for a damaged index."""
    if weights.suffix != ".json":
        return [weights]
    names = documents.read_json(weights, error=ModelUnsupportedError).get("weight_map")
    files = set(names.values()) if isinstance(names, dict) and _are_texts(names.values()) else set()
    if not files or any(Path(name).name != name for name in files):
        raise ValueError(f"{weights} names no files beside it")
    return [weights.parent / name for name in sorted(files)]


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _header(file: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Tensor name -> {dtype, shape, data_offsets}, the metadata, where the data begins; ValueError for no such file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{file} has no safetensors header")
        text = stream.read(length)
    try:
        header = documents.parse_json(text, str(file), error=ModelUnsupportedError, limits=_HEADER)
    except ModelUnsupportedError as error:
        raise ValueError(str(error)) from error
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(_describes_tensor(entry) for entry in header.values()):
        raise ValueError(f"{file} has no safetensors header")
    return header, {key: value for key, value in metadata.items() if isinstance(value, str)}, 8 + length


def _describes_tensor(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    numbers = [entry.get("shape"), entry.get("data_offsets")]
    if not all(isinstance(found, list) and all(isinstance(n, int) for n in found) for found in numbers):
        return False
    return len(entry["data_offsets"]) == 2


def safetensors_fault(file: Path) -> str | None:
    """Why the file cannot be whole, or None: its header says how many bytes it should have."""
    try:
        header, _, start = _header(file)
    except (OSError, ValueError):
        return "is no safetensors file, or was cut short"
    wanted = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    size = file.stat().st_size
    return None if size == wanted else f"has {size:,} of {wanted:,} bytes"


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of a safetensors file; ValueError for what is none."""
    return {name: tuple(entry["shape"]) for name, entry in _header(file)[0].items()}


def metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself; ValueError for what is none."""
    return _header(file)[1]


def checksum_fault(file: Path, directory: Path) -> str | None:
    """Compare a file with the checksum that it came with: "" when equal, None when there is none, else what is wrong.

    The hub's cache names files by it; a folder that the hub's client downloaded into keeps it under .cache/huggingface. It
    is the SHA-256 of large files, and git's SHA-1 of small ones. A directory may also list its own; see `checksums`.
    """
    wanted, came = file.resolve().name, "downloaded"
    if not _CHECKSUM.fullmatch(wanted):
        wanted = _noted(file, directory)
    if not _CHECKSUM.fullmatch(wanted):
        wanted, came = checksums(directory).get(file.relative_to(directory).as_posix(), ""), "shipped"
    if not _CHECKSUM.fullmatch(wanted):
        return None
    return "" if _digest(file, wanted) == wanted else f"does not have the contents that it was {came} with"


def _noted(file: Path, directory: Path) -> str:
    note = directory / ".cache" / "huggingface" / "download" / f"{file.relative_to(directory)}.metadata"
    try:
        return note.read_text(encoding="utf-8").split()[1]
    except (OSError, ValueError, IndexError):
        return ""


def _digest(file: Path, like: str) -> str:
    """SHA-256, or git's SHA-1 where `like` has its length."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def checksums(directory: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of the files that a directory's own list names, as `sha256sum` writes it; empty without one."""
    try:
        lines = (directory / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    return {
        name.lstrip("*"): digest for digest, _, name in (line.partition(" ") for line in _stripped(lines))
    }


def _stripped(lines: list[str]) -> list[str]:
    return [" ".join(line.split(maxsplit=1)) for line in lines if line.strip()]


def write_checksums(directory: Path) -> None:
    """List the SHA-256 of every file in `directory`, for those who get a copy of it."""
    files = sorted(f for f in directory.rglob("*") if f.is_file() and f.name != CHECKSUMS)
    lines = [f"{_digest(file, '0' * 64)}  {file.relative_to(directory).as_posix()}\n" for file in files]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
