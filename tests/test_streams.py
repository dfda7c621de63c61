"""The streams that `protect` puts in the place of stdout and stderr differ from the old ones in one thing: they never fail."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamfusion import streams

Protect = Callable[[Any], Any]


@pytest.fixture
def protect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Protect]:
    """From what stdout is to what it is after `protect`; the old one stays open, as `sys.__stdout__` does."""
    kept: list[Any] = []

    def put(stream: Any) -> Any:
        kept.append(stream)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", io.StringIO())  # has no layers, and stays what it is
        streams.protect()
        assert isinstance(sys.stderr, io.StringIO)
        return sys.stdout

    yield put
    for stream in kept:
        stream.close()


@pytest.mark.parametrize(
    ("errors", "written"),
    [("strict", rb"caf\xe9"), ("replace", b"caf?"), ("ignore", b"caf"), ("xmlcharrefreplace", b"caf&#233;")],
)
def test_a_character_that_the_encoding_lacks_stops_nothing(
    protect: Protect, tmp_path: Path, errors: str, written: bytes
) -> None:
    with protect((tmp_path / "out").open("w", encoding="ascii", errors=errors)) as stream:
        stream.write("café")
    assert (tmp_path / "out").read_bytes() == written


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le"])
def test_the_encoding_stays(protect: Protect, tmp_path: Path, encoding: str) -> None:
    with protect((tmp_path / "out").open("w", encoding=encoding)) as stream:
        stream.write("café")
    assert (tmp_path / "out").read_bytes() == "café".encode(encoding)


@pytest.mark.parametrize(("buffering", "at_once"), [(1, b"a line\n"), (-1, b"")])
def test_a_line_is_written_when_it_was_before(
    protect: Protect, tmp_path: Path, buffering: int, at_once: bytes
) -> None:
    with protect((tmp_path / "out").open("w", buffering, encoding="ascii")) as stream:
        stream.write("a line\n")
        assert (tmp_path / "out").read_bytes() == at_once
    assert (tmp_path / "out").read_bytes() == b"a line\n"


def test_a_stream_without_a_buffer_writes_at_once(protect: Protect, tmp_path: Path) -> None:
    raw: Any = (tmp_path / "out").open("wb", buffering=0)
    with protect(io.TextIOWrapper(raw, "ascii", write_through=True)) as stream:
        stream.write("half a line")
        assert (tmp_path / "out").read_bytes() == b"half a line"


def test_a_pipe_that_does_not_block_gets_all(protect: Protect) -> None:
    # Another program of the same pipeline may have set this; a pipe holds less than is written here.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received: list[int] = []

    def drain() -> None:
        with open(reader, "rb") as end:
            received.append(len(end.read()))

    thread = threading.Thread(target=drain)
    thread.start()
    old = open(writer, "w", encoding="ascii")  # noqa: SIM115
    with protect(old) as stream:
        stream.write("x" * 1_000_000)
        assert streams.lost_output() is None
    old.close()
    thread.join(10)
    assert received == [1_000_000]
