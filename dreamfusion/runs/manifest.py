"""What made a run: prompt, seed, and for each start or resume the command line, versions, device and time."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dreamfusion import documents
from dreamfusion.errors import RunNotFoundError
from dreamfusion.runs.files import write_json

_PACKAGES = ("dreamfusion", "torch", "diffusers", "transformers", "safetensors", "numpy", "pydantic")

MOST_THREADS = 1024
"""A larger number in a manifest is no number of threads."""


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Version of Python and of each package that takes part, without importing any of them; "absent" if it is not installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def new_manifest(name: str, prompt: str, seed: int) -> dict[str, Any]:
    """A manifest without sessions."""
    return {"format": 1, "name": name, "prompt": prompt, "seed": seed, "created": now(), "sessions": []}


def add_session(
    path: Path, command: Sequence[str], device: str, from_step: int, threads: int | None = None
) -> dict[str, Any]:
    """Append one start or resume to the manifest file `path` and return the new entry.

    Args:
        command: the words of the command line.
        device: what the run is computed on ("cpu", "cuda: NVIDIA H200").
        from_step: the step it starts at; 0 for a fresh run.
        threads: that the CPU computes with; equal results need an equal number.
    """
    manifest = read(path)
    session = {
        "started": now(),
        "command": shlex.join(command),
        "from_step": from_step,
        "device": device,
        "threads": threads,
        "platform": platform.platform(),
        "versions": versions(),
    }
    manifest["sessions"].append(session)
    write_json(path, manifest)
    return session


def threads(path: Path) -> int | None:
    """The number of threads that the run's first session on a CPU noted; None if none did.

    Raises:
        RunNotFoundError: there is no manifest.
    """
    sessions = [session for session in read(path)["sessions"] if isinstance(session, dict)]
    noted = [session.get("threads") for session in sessions if str(session.get("device")).startswith("cpu")]
    counts = [count for count in noted if type(count) is int and 1 <= count <= MOST_THREADS]
    return counts[0] if counts else None


def read(path: Path) -> dict[str, Any]:
    """The manifest in file `path`.

    Raises:
        RunNotFoundError: it is absent or no manifest.
    """
    try:
        content = documents.read_json(path, error=RunNotFoundError, under=path.parent)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"{path.parent} is not a run", expected="a readable manifest.json in it", got=error.what
        ) from error
    if not isinstance(content.get("sessions"), list):
        raise RunNotFoundError(f"{path.parent} is not a run", expected=f"a run's manifest in {path.name}")
    return content
