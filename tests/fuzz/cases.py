"""One hostile input: what is called, what may come of it, and whether it did."""

from __future__ import annotations

import inspect
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from typer.testing import CliRunner

from dreamfusion import errors
from dreamfusion.cli import app

LIMIT_S = 20.0
SECRET = "the-secret-of-another-folder"
EXIT_CODES = {
    cls.exit_code
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.DreamfusionError) and cls is not errors.DreamfusionError
}
USAGE = 2
# Commands that list faults, and say by their exit code that there are some.
FOUND_FAULTS = {"models verify": 1, "doctor": 1}


@dataclass
class Case:
    """One input.

    Attributes:
        surface: kind of input, for the counts.
        name: what is hostile about it.
        words: of the command line; empty where `call` does the work.
        must: "refuse": an error's exit code; "accept": 0; "survive": either.
        call: instead of a command line; returns what a stranger would see of it, raises only the user's errors.
        untouched: files that must stay as they are.
        codes: the exit codes of its own fault, where another fault of the command line would hide that it was accepted.
    """

    surface: str
    name: str
    words: list[str] = field(default_factory=list)
    must: Literal["refuse", "accept", "survive"] = "refuse"
    call: Callable[[], str] | None = None
    untouched: list[Path] = field(default_factory=list)
    codes: set[int] | None = None

    def __str__(self) -> str:
        shown = " ".join(word if len(word) < 60 else word[:57] + "..." for word in self.words)
        return errors.printable(f"{self.surface}: {self.name}: {shown}")


class TooLongError(BaseException):
    """The time is over; nothing that catches Exception may hide it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def over(_number: int, _frame: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(case: Case) -> str | None:
    """What was wrong with the answer; None if nothing was."""
    before = [path.read_bytes() for path in case.untouched]
    began = time.monotonic()
    try:
        with time_limit(LIMIT_S):
            code, seen = _answer(case)
    except TooLongError:
        return f"hang: not done after {time.monotonic() - began:.0f} s"
    except BaseException as error:
        return "traceback: " + "".join(traceback.format_exception(error)[-3:]).strip()
    if [path.read_bytes() for path in case.untouched] != before:
        return "damage: it wrote into a file elsewhere"
    return _fault(case, code, seen)


def _answer(case: Case) -> tuple[int, str]:
    if case.call is not None:
        try:
            return 0, case.call()
        except errors.DreamfusionError as error:
            return error.exit_code, f"error: {error}\n"
    result = CliRunner().invoke(app, case.words, catch_exceptions=False)
    return result.exit_code, result.stdout + result.stderr


def _fault(case: Case, code: int, seen: str) -> str | None:
    if SECRET in seen:
        return "leak: it shows a file elsewhere"
    faults = {code for command, code in FOUND_FAULTS.items() if " ".join(case.words).startswith(command)}
    if code not in EXIT_CODES | faults | {0, USAGE}:
        return f"exit code {code} is not in the tree: {seen[-300:]}"
    if (code == 0 and case.must == "refuse") or (case.codes is not None and code not in case.codes):
        return f"silent acceptance: {code}: {seen[-300:]}"
    if code != 0 and case.must == "accept":
        return f"refused: {seen[-300:]}"
    told = [line for line in seen.split("\n") if re.match("error: ", line, re.IGNORECASE)]
    if code in EXIT_CODES and len(told) != 1:
        return f"{len(told)} errors instead of one line: {seen[-300:]}"
    if any(not line.isprintable() for line in seen.replace("\t", " ").split("\n")):
        return f"control characters on the terminal: {seen[-300:]!r}"
    if any(len(line) > 5_000 for line in told):
        return f"a message of {max(map(len, told))} characters"
    return None
