"""The run's numbers as JSON lines, one line a step, that a resumed run continues without a seam."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamfusion import documents
from dreamfusion.errors import OutputError, RunNotFoundError
from dreamfusion.runs.files import open_to_append, output_errors
from dreamfusion.runs.lock import is_same_file

# A million steps have some hundred bytes each.
MAX_BYTES = 512 * documents.MIB


class MetricsWriter:
    """Appends to a metrics file; every line has an integer `step`, ascending.

    A line reaches the system with each `write`, so a killed process loses none; `sync` brings it to the disk.
    """

    def __init__(self, path: Path, from_step: int) -> None:
        """Open `path` behind the line of `from_step`; later lines and a half-written one are cut off."""
        self.path = path
        with output_errors(path):
            self._file = open_to_append(path)
            self._file.truncate(_length_up_to(path, from_step))

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one step's numbers; a number that is not finite becomes null, because JSON has none.

        Raises:
            OutputError: the disk refused, or the file was deleted or renamed.
        """
        if not is_same_file(self.path, self._file):
            raise OutputError(f"{self.path} was deleted or renamed while it was in use")
        line = json.dumps(_finite(dict(metrics)), allow_nan=False) + "\n"
        with output_errors(self.path):
            self._file.write(line.encode())
            self._file.flush()

    def sync(self) -> None:
        """Force all lines to the disk: a checkpoint must never be newer than its metrics."""
        with output_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with output_errors(self.path):
            self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file in order; none if it is absent; stops before a half-written line."""
    with _opened(path) as file:
        while line := file.readline(documents.LINE.bytes):
            parsed = _parsed(line)
            if parsed is None:
                return
            yield parsed


def last_step(path: Path) -> int:
    """Step of the last whole line, 0 if there is none; reads only the file's end."""
    with _opened(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
        for line in reversed(file.read().splitlines(keepends=True)):
            parsed = _parsed(line)
            if parsed is not None:
                return parsed["step"]
    return 0


def _parsed(line: bytes) -> dict[str, Any] | None:
    content = documents.parse_json_line(line)
    return content if content is not None and type(content.get("step")) is int else None


def _opened(path: Path) -> io.BufferedIOBase:
    """The file, or nothing to read: one that is no regular file of the run counts as absent, and so does one too large."""
    try:
        return documents.open_regular(path, error=RunNotFoundError, under=path.parent, max_bytes=MAX_BYTES)
    except RunNotFoundError:
        return io.BytesIO()


def _length_up_to(path: Path, step: int) -> int:
    length = 0
    with _opened(path) as file:
        while line := file.readline(documents.LINE.bytes):
            parsed = _parsed(line)
            if parsed is None or parsed["step"] > step:
                break
            length += len(line)
    return length


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if value - value == 0 else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
