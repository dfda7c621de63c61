"""One process at a time works on a run: a lock that the system drops when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamfusion import documents
from dreamfusion.errors import OutputError
from dreamfusion.runs.files import open_to_append, output_errors

_PATIENCE_S = 0.5


def _try_lock(file: io.BufferedIOBase) -> bool:
    if os.name == "nt":
        import msvcrt

        # A byte far behind the text, because a locked byte cannot be read by others on Windows.
        file.seek(1 << 20)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Held:
    """A lock that this process holds, and with it a handle on the folder that it lies in."""

    path: Path
    file: io.BufferedIOBase

    def check(self) -> None:
        """See that the folder is still where it was: what is written into another one is lost to the run.

        Raises:
            OutputError: it was deleted, renamed or replaced.
        """
        if not is_same_file(self.path, self.file):
            raise OutputError(
                f"{self.path.parent} was deleted or renamed while it was in use",
                expected="a folder that stays where it is",
                hint="if it was renamed, give its new name to `dreamfusion resume`",
            )


def is_same_file(path: Path, file: io.BufferedIOBase) -> bool:
    """Whether `path` still names the open `file`."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


@contextlib.contextmanager
def held(path: Path) -> Iterator[Held]:
    """Hold the lock file `path` while the body runs.

    Raises:
        OutputError: another living process holds it; the message has its process id.
    """
    with output_errors(path):
        file = open_to_append(path)
    with file:
        # A listing looks at the lock by taking it for an instant; that must not turn a start away.
        deadline = time.monotonic() + _PATIENCE_S
        with output_errors(path):  # some network drives know no locks
            while not (locked := _try_lock(file)) and time.monotonic() < deadline:
                time.sleep(0.02)
        if not locked:
            file.seek(0)
            raise OutputError(
                f"{path.parent} is being written by another process",
                got=f"process {file.read(20).decode('ascii', 'replace').strip() or 'unknown'}",
                hint="wait until it ends, or stop it with Ctrl-C",
            )
        # Past Python's buffer, which a full disk would leave filled for `close` to fail on.
        with output_errors(path):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield Held(path, file)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file `path`."""
    try:
        if os.name == "nt":
            with open_to_append(path) as file:
                return not _try_lock(file)
        with documents.open_regular(path, error=OutputError, under=path.parent) as file:
            return not _try_lock(file)
    except (OSError, OutputError):
        return False
