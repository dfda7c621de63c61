"""Output files: chosen by their ending, written under a temporary name and then renamed.

What a killed process left in the same folder goes before the next file is written (`dreamfusion.temporary`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dreamfusion import documents
from dreamfusion.errors import OutputError
from dreamfusion.temporary import sweep, temporary_name

STILLS = ("png", "jpg", "jpeg", "webp")
"""Endings of the pictures that `images.write_image` writes."""
# Endings under which the other's files are usual, too.
_ALIKE = ({"png", "apng"}, {"jpg", "jpeg"})


def choose_format(path: Path, format: str | None, known: Sequence[str]) -> str:
    """The format asked for, or the one that the path's ending names.

    Raises:
        OutputError: it is none of `known`, or the path's ending names another of them.
    """
    ending = path.suffix.lower().lstrip(".")
    chosen = ending if format is None else format.lower().lstrip(".")
    if chosen not in known:
        where = f"format {format!r}" if format is not None else f"the ending of {path.name!r}"
        raise OutputError(f"{where} is not known", expected="one of " + ", ".join(known))
    if ending in known and ending != chosen and {ending, chosen} not in _ALIKE:
        raise OutputError(
            f"format {chosen} and the name {path.name!r} do not go together", hint="leave out one"
        )
    return chosen


def check_target(path: Path) -> None:
    """See that a file may be put at `path`: nothing is there, or a regular file that is to be replaced.

    A device or FIFO is no place for a file that is renamed over it: root would lose `/dev/null`. A symbolic link is not
    followed, since a shared run may hold one that leads to a file elsewhere, and not replaced, since its owner may want it.

    Raises:
        OutputError: anything else is there.
        OSError: the system does not say what is there.
    """
    kind = documents.kind_of(path)
    if kind in (None, documents.REGULAR):
        return
    hint = "name the file that it leads to" if kind == documents.LINK else None
    raise OutputError(f"{path} cannot be written", expected="a regular file's path", got=kind, hint=hint)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same ending, that is renamed to it when the block ends well.

    When the block fails, nothing is left behind and a file that was at `path` is still there. The same folder means
    the same disk, where a rename is one step.

    Raises:
        OutputError: the disk refused (no space, no permission, ...), or something other than a regular file is there.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        check_target(path)
        sweep(path.parent)
        temporary = temporary_name(path.with_name(path.stem), path.suffix)
        temporary.touch(exist_ok=False)
    try:
        with _disk_errors(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, own_files: str) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    Args:
        path: may exist if it holds nothing but files that match the pattern `own_files`; those are replaced.

    Raises:
        OutputError: the folder holds something else, or the disk refused.
    """
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if (kind := documents.kind_of(path)) not in (None, documents.FOLDER):
            raise OutputError(f"cannot write frames into {path}", expected="a folder", got=kind)
        foreign = [p.name for p in path.iterdir() if not p.match(own_files)] if path.exists() else []
        if foreign:
            raise OutputError(
                f"cannot write frames into {path}",
                expected=f"a new folder, or one that holds only {own_files}",
                got=f"{foreign[0]!r} in it",
            )
        sweep(path.parent)
        temporary = temporary_name(path)
        temporary.mkdir()
    try:
        with _disk_errors(path):
            yield temporary
            if path.exists():
                old = temporary_name(path)
                os.rename(path, old)
                os.rename(temporary, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
