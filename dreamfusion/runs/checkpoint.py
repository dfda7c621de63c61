"""One checkpoint is one folder of two files, `tensors.safetensors` and `meta.json`; it is complete or it is absent.

    checkpoints/000200/tensors.safetensors     named tensors, opaque to this module
    checkpoints/000200/meta.json               JSON meta, and the SHA-256 of the tensors' file

Nothing is pickled, so opening a stranger's checkpoint runs no code. The folder is written under a temporary name and
renamed when its bytes are on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dreamfusion import documents
from dreamfusion.errors import CheckpointCorruptError, CheckpointMissingError, OutputError
from dreamfusion.runs.files import output_errors, sync_directory, sync_file
from dreamfusion.runs.leftovers import clean_folder
from dreamfusion.temporary import temporary_name

TENSORS = "tensors.safetensors"
META = "meta.json"
FORMAT = 1
_NAME = re.compile(r"[0-9]{6,12}")
MAX_TENSOR_BYTES = 32 << 30


def path_for(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` >= 0 optimiser iterations lies, below the run's checkpoint folder."""
    return folder / f"{step:06d}"


def step_of(path: Path) -> int:
    """The step of the checkpoint folder `path`."""
    return int(path.name)


def listing(folder: Path) -> list[Path]:
    """All finished checkpoints in `folder`, oldest first; an absent folder has none."""
    if not documents.is_folder_under(folder, folder.parent):
        return []
    found = [entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)]
    return sorted((entry for entry in found if documents.is_folder_under(entry, folder)), key=step_of)


def latest(folder: Path) -> Path:
    """The newest checkpoint in `folder`.

    Raises:
        CheckpointMissingError: there is none.
    """
    found = listing(folder)
    if not found:
        raise CheckpointMissingError(
            f"{folder.parent} has no checkpoint yet",
            hint="wait for its first one, or choose another run (`dreamfusion runs` lists them)",
        )
    return found[-1]


def save(path: Path, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint so that `path` appears at once, whole, or not at all.

    Args:
        path: the checkpoint's folder (from `path_for`); one that is already there is replaced.
        tensors: name to contiguous tensor, no two of which share memory.
        meta: anything JSON can hold.

    Raises:
        OutputError: the folder is gone or not writable, or the disk is full; an older checkpoint at `path` is then
            untouched.
    """
    temporary = temporary_name(path)
    with output_errors(path):
        # No parent is made here: where the run's folder was deleted meanwhile, nothing may appear in its place.
        temporary.mkdir()
        try:
            _write_pair(temporary, tensors, meta)
            _put_in_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _write_pair(folder: Path, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), folder / TENSORS)
    except SafetensorError as error:  # the library's own wrapper around the system's refusals
        raise _system_error(error) from error
    sync_file(folder / TENSORS)
    content = {"format": FORMAT, "sha256": _sha256(folder / TENSORS), "meta": dict(meta)}
    with (folder / META).open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(folder)


def _system_error(error: Exception) -> OSError:
    """The system's refusal with its number, of which only the text is left: a full disk has its own advice."""
    number = re.search(r"os error (\d+)", str(error), re.IGNORECASE)
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(None, str(error))


def _put_in_place(temporary: Path, path: Path) -> None:
    if path.exists():
        # A folder cannot be renamed over a full one. Only a checkpoint that could not be read gets here twice.
        doomed = temporary_name(path.with_name(path.name + "-replaced"))
        os.rename(path, doomed)
        os.rename(temporary, path)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        os.rename(temporary, path)
    sync_directory(path.parent)


IsUsable = Callable[[dict[str, Any], dict[str, Any]], bool]
"""Whether tensors and meta, read from a checkpoint, fit what they are for."""


def load(path: Path, is_usable: IsUsable | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the checkpoint folder `path` whole: (tensors on the CPU, meta).

    Args:
        path: the checkpoint's folder.
        is_usable: what an other checkpoint must fulfil beside being readable to be named in a message.

    Raises:
        CheckpointMissingError: there is no such folder.
        CheckpointCorruptError: a file is missing, cut, altered or of another format; the message names the newest
            checkpoint that can be used, if there is one. Nothing is loaded in its place.
    """
    if not path.is_dir():
        raise CheckpointMissingError(f"there is no checkpoint {path}")
    try:
        return _load(path)
    except (CheckpointCorruptError, OSError, ValueError) as error:
        raise CheckpointCorruptError(
            f"checkpoint {path} cannot be read",
            got=str(error),
            hint=way_out(path, is_usable),
        ) from error


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load as load_bytes

    run = path.parent.parent
    content = documents.read_json(path / META, error=CheckpointCorruptError, under=run)
    if not isinstance(content.get("meta"), dict):
        raise ValueError(f"{META} that is not a checkpoint's")
    if content.get("format") != FORMAT:
        raise ValueError(f"format {content.get('format')!r} where this version reads {FORMAT}")
    data = documents.read_bytes(
        path / TENSORS, error=CheckpointCorruptError, under=run, max_bytes=MAX_TENSOR_BYTES
    )
    if hashlib.sha256(data).hexdigest() != content.get("sha256"):
        raise ValueError(f"{TENSORS} whose checksum differs from the one in {META}")
    try:
        return load_bytes(data), content["meta"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def way_out(path: Path, is_usable: IsUsable | None = None) -> str:
    """The advice where the checkpoint `path` cannot be used: the newest one that can, and what has to be deleted for it.

    Args:
        is_usable: a further condition on (tensors, meta) of a checkpoint that can be read.
    """
    doomed = [path]
    for candidate in reversed([other for other in listing(path.parent) if other != path]):
        try:
            tensors, meta = _load(candidate)
        except (CheckpointCorruptError, OSError, ValueError):
            usable = False
        else:
            usable = is_usable is None or is_usable(tensors, meta)
        if not usable:
            doomed.append(candidate)
            continue
        newer = [other for other in doomed if step_of(other) > step_of(candidate)]
        if not newer:
            return (
                f"the newest checkpoint that can be used is that of step {step_of(candidate)} ({candidate})"
            )
        what = "that folder" if newer == [path] else " and ".join(other.name for other in newer)
        return (
            f"delete {what} to resume from the newest checkpoint that can be used, of step "
            f"{step_of(candidate)} ({candidate})"
        )
    return "no other checkpoint can be used, so start a new run with `dreamfusion train`"


def unusable(path: Path, error: CheckpointCorruptError, is_usable: IsUsable) -> CheckpointCorruptError:
    """`error`, which came of using what is in `path`, with that path and the way to a checkpoint that can be used."""
    advice = way_out(path, is_usable)
    # Where none can be, it is the configuration that was changed, and the error's own advice is right.
    hint = advice if advice.startswith("delete") else error.hint
    return CheckpointCorruptError(f"{path}: {error.what}", expected=error.expected, got=error.got, hint=hint)


def prune(folder: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` >= 1 checkpoints, and what killed writers left; returns what went.

    A folder loses its name before its content, so a kill in between leaves no half checkpoint.

    Raises:
        OutputError: an old one cannot be removed.
    """
    gone = listing(folder)[:-keep]
    for path in gone:
        doomed = temporary_name(path.with_name(path.name + "-pruned"))
        try:
            os.rename(path, doomed)
        except OSError as error:
            raise OutputError(f"{path} cannot be removed", got=error.strerror) from error
        shutil.rmtree(doomed, ignore_errors=True)
    clean_folder(folder)
    return gone


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
