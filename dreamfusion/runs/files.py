"""Writing files so that a kill, a full disk or a power cut leaves either the old content or the new one."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamfusion.errors import OutputError
from dreamfusion.temporary import temporary_name


def sync_directory(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Force the written bytes of `path` to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def open_to_append(path: Path) -> io.BufferedIOBase:
    """The regular file `path`, made if it is absent, to be read and appended to.

    A shared run may hold a symbolic link or a FIFO under that name: nothing is written through the one, and nobody waits at
    the other.

    Raises:
        OSError: it is no regular file, or cannot be written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    if os.name != "nt":
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise OSError(error.errno, "it is a symbolic link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return os.fdopen(descriptor, "ab+")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file `path` by `data`: a reader sees the old bytes or the new ones, never a part.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    temporary = temporary_name(path)
    with output_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # never through a link that somebody left under that name
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically (non-finite numbers are refused: they are not JSON)."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write at `path` into one line for the user."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written",
            expected="a writable folder with free space",
            got=(error.strerror or str(error)).lower(),
            hint=_advice(error),
        ) from error


# What a run says instead once it has saved something is `session`'s to know.
MAKE_ROOM = "free some space, then try again"


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return MAKE_ROOM
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return "its folder must not be deleted or renamed while it is in use"
    return "choose another folder with --output DIR"
