"""Bars where a person watches, JSON lines where a program does, and never both."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator

import pytest

from dreamfusion import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[tuple[Terminal, Terminal]]:
    """stdout and stderr are terminals while the body runs."""
    with contextlib.redirect_stdout(Terminal()) as out, contextlib.redirect_stderr(Terminal()) as err:
        yield out, err


def test_a_result_is_a_sentence_for_a_person() -> None:
    with terminal() as (out, err):
        progress.result("wrote it", path="x")
        progress.event(event="started")
    assert (out.getvalue(), err.getvalue()) == ("wrote it\n", "")


def test_a_result_is_json_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    progress.result("wrote it", path="x", faces=3)
    progress.notice("a note")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "x", "faces": 3}
    assert err == "a note\n"


def test_the_bar_shows_an_eta_and_the_numbers_on_stderr() -> None:
    with terminal() as (out, err), progress.Bar("training") as bar:
        for done in range(1, 4):
            bar(done, 3, {"opacity": 0.123456, "memory": "1.2 GB"})
    last = err.getvalue().rstrip().rpartition("\r")[2]
    assert out.getvalue() == ""
    assert "training 100%" in last and "3/3" in last and "ETA" in last
    assert "opacity 0.123, memory 1.2 GB" in last
    assert "loss" not in last


def test_no_bar_and_no_line_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Bar("training") as bar, progress.busy("loading"):
        bar(1, 2)
        bar(2, 2)
    assert capsys.readouterr() == ("", "")


def test_reports_for_programs_are_spaced_in_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Bar("training", report_every_s=10.0) as bar:
        for done in range(1, 26):
            now[0] = float(done)
            bar(done, 25, {"opacity": 0.5})
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The first step, which loads and warms up, is where the clock starts.
    assert [line["done"] for line in out] == [11, 21]
    expected = {"task": "training", "done": 11, "total": 25, "rate": 1.0, "eta_s": 14, "opacity": 0.5}
    assert out[0] == {"event": "progress", **expected}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_work_goes_on_when_its_reader_has_gone(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, stream, closed)
        progress.event(event="started")
        progress.notice("a note")
        progress.result("wrote it", path="x")
