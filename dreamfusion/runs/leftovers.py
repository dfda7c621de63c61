"""What a killed process leaves between runs and inside of one, found by its name and removed by the next command.

Names that say their owner are `dreamfusion.temporary`'s. Versions before it gave other ones, which are known here; a
reservation of a run's number (`.0007`) holds a file that says its owner.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from dreamfusion.temporary import is_abandoned, is_alive, remove, sweep, temporary_name

RESERVED = re.compile(r"\.([0-9]{4,9})")
# What `create` puts into a reservation, besides the owner's file.
_OF_A_RUN = ("config.yaml", "manifest.json", "previews", "checkpoints")
_OLD_ATOMIC = re.compile(
    r"\.(?:(?:config\.yaml|manifest\.json|state\.json|dataset\.json|evaluation\.json|views\.csv|scores\.csv|\d{6,}\.png"
    r"|\d{6,}(?:-replaced|-pruned)?)\.(\d+)\.tmp|probe\.(\d+))"
)
_OLD_ASSET = re.compile(
    r"\.(?:turntable|picture|sheet|mesh|diffused|scores|\d{3})(?:-(?:rgb|normal|depth|opacity|poster))*"
    r"-[a-z0-9_]{8}(?:\.(?:mp4|webm|gif|webp|apng|png|jpe?g|glb|obj|mtl|ply|stl|3mf|usdz|html))?"
)


def mark(reservation: Path) -> Path:
    """Say inside a reservation which process it belongs to; returns the file, to be removed once the run has its name."""
    owner = temporary_name(reservation / "owner")
    owner.touch(exist_ok=False)
    return owner


def clean_root(output_root: Path) -> None:
    """Remove abandoned reservations and temporary files directly in the folder of all runs."""
    clean_folder(output_root)
    with contextlib.suppress(OSError):
        for entry in list(output_root.iterdir()):
            if RESERVED.fullmatch(entry.name) and _is_abandoned_reservation(entry):
                remove(entry)


def clean_run(run: Path) -> None:
    """Remove abandoned temporary files in a run and in its folders."""
    clean_folder(run)
    with contextlib.suppress(OSError):
        for entry in list(run.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                clean_folder(entry)


def clean_folder(folder: Path) -> None:
    """Remove abandoned temporary files directly in one folder of a run."""
    sweep(folder)
    with contextlib.suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if entry.name.startswith(".")]:
            if _is_old_leftover(entry.name):
                remove(entry)


def _is_old_leftover(name: str) -> bool:
    atomic = _OLD_ATOMIC.fullmatch(name)
    if atomic is not None:
        return not is_alive(int(atomic[1] or atomic[2]))
    return _OLD_ASSET.fullmatch(name) is not None


def _is_abandoned_reservation(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    others = [entry for entry in folder.iterdir() if entry.name not in _OF_A_RUN]
    empty = all(not any((folder / name).iterdir()) for name in _OF_A_RUN if (folder / name).is_dir())
    return empty and all(is_abandoned(entry) or _is_old_leftover(entry.name) for entry in others)
