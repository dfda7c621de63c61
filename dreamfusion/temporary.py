"""Temporary files and folders whose names say which process they belong to, and the removal of those left by a kill.

    .turntable.4711-3f2a9c01-0.tmp.mp4      process 4711 on the host with that hash, its first such name

All that this package writes under a temporary name has such a name, so that any later command can tell what a killed
process left from what a living one is still writing. A file that is not named so is not touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"\..*\.(\d{1,10})-([0-9a-f]{8})-(\d+)\.tmp(\.[^.]*)?", re.DOTALL)
# Of the bytes that a name may have (255 on most systems) the rest is the owner's.
_STEM_BYTES = 180
# A folder may be shared with other hosts, whose processes cannot be asked. Nothing here is written for longer.
FOREIGN_AGE_S = 86400.0
_count = itertools.count()
_own: set[str] = set()
"""Names in use by this process: after a restart of a container another process may have had the same number."""


def temporary_name(path: Path, ending: str = "") -> Path:
    """A name beside `path`, so on the same file system, that no other call gives; `ending` follows it ("" or ".mp4")."""
    stem = path.name.encode("utf-8", "surrogateescape")[:_STEM_BYTES].decode("utf-8", "ignore")
    name = f".{stem}.{os.getpid()}-{_host()}-{next(_count)}.tmp{ending}"
    _own.add(name)
    return path.with_name(name)


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder in the system's place for temporary ones, removed at the end; those of killed processes go first.

    Raises:
        OSError: it cannot be made.
    """
    root = Path(tempfile.gettempdir())
    sweep(root)
    folder = temporary_name(root / f"dreamfusion-{purpose}")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(path: Path) -> bool:
    """Whether `path` is named by `temporary_name` in a process that has ended."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return False
    process, host = int(match[1]), match[2]
    if host != _host():
        with contextlib.suppress(OSError):
            return time.time() - path.lstat().st_mtime > FOREIGN_AGE_S
        return False
    if process == os.getpid():
        return path.name not in _own
    return not is_alive(process)


def is_alive(process: int) -> bool:
    """Whether a process of that number runs on this host."""
    if os.name == "nt":  # there os.kill would end it
        return _is_alive_on_windows(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left directly in `folder`; returns what went. What cannot be removed stays."""
    gone = []
    with contextlib.suppress(OSError):
        gone = [entry for entry in folder.iterdir() if entry.name.startswith(".") and is_abandoned(entry)]
    for entry in gone:
        remove(entry)
    return gone


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; a failure is no reason to stop."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_alive_on_windows(process: int) -> bool:
    import ctypes

    kernel = ctypes.windll.kernel32  # pyright: ignore[reportAttributeAccessIssue]
    handle = kernel.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return kernel.GetLastError() == 5  # it runs, and access is denied
    kernel.CloseHandle(handle)
    return True
