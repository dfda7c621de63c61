"""stdout and stderr that no write can fail on: a full disk, a closed descriptor or a reader that has left stops no work.

`protect` runs once, before anything prints. Every library writes through `sys.stdout` and `sys.stderr`, so this one place
covers them all. Whether text was lost is kept, for the commands whose only result is what they print.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

ENCODING = "utf-8"


class _Unfailing(io.RawIOBase):
    """Passes bytes on to `raw`; what `raw` refuses is dropped, and the first reason kept in `failure`."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        left = view
        try:
            while left:
                written = self._raw.write(left)
                if written is None:  # a pipe that another program has made non-blocking
                    select.select([], [self._raw], [])
                else:
                    left = left[written:]
        except (OSError, ValueError) as error:  # ValueError: the stream was closed, or cannot be written
            if not isinstance(error, BrokenPipeError):  # its reader has left and wants no more
                self.failure = self.failure or _system_error(error)
        return len(view)


def _system_error(error: Exception) -> OSError:
    return (
        error
        if isinstance(error, OSError) and error.errno
        else OSError(errno.EBADF, os.strerror(errno.EBADF))
    )


def protect() -> None:
    """Put streams that no write can fail on in the place of `sys.stdout` and `sys.stderr`.

    Descriptors 0 to 2 that are closed are opened on the null device: else the next file that is opened would get such a
    number, and what a library prints would go into it.
    """
    for number in range(3):
        _fill(number)
    sys.stdout = _protected(sys.stdout)
    sys.stderr = _protected(sys.stderr)


def lost_output() -> str | None:
    """Why something that was printed to stdout is lost, in the system's words; None if nothing is.

    A reader that has left (`| head -1`) has what it wanted, so that counts as nothing lost.
    """
    raw = _raw(sys.stdout)
    if not isinstance(raw, _Unfailing):
        return None
    sys.stdout.flush()
    return None if raw.failure is None else str(raw.failure.strerror).lower()


def _fill(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _protected(stream: Any) -> Any:
    if stream is not None and _raw(stream) is None:
        return stream
    if stream is None:  # its descriptor was closed when Python started
        raw = _Unfailing(open(os.devnull, "rb", buffering=0))  # noqa: SIM115 (not writable: what is printed is lost)
        return io.TextIOWrapper(io.BufferedWriter(raw), ENCODING, "backslashreplace", line_buffering=True)
    raw = _Unfailing(_raw(stream))
    return io.TextIOWrapper(
        # PYTHONUNBUFFERED leaves the middle layer out.
        raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]
        stream.encoding,
        # A character that the terminal's encoding lacks is no reason to stop either.
        "backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: Any) -> Any:
    """The lowest layer of a text stream; None where it has no layers (a test's or a notebook's)."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    return stream.buffer.raw if isinstance(stream.buffer, io.BufferedWriter) else stream.buffer
