"""What a person sees while they wait: bars with an ETA on stderr, and none of it when no person is watching.

stdout is for results. On a terminal they are sentences; anywhere else they are JSON, one object a line, and stderr
carries notices and errors only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from dreamfusion.errors import OutputError, printable
from dreamfusion.streams import lost_output

_BAR = "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} {rate_fmt} ETA {remaining}{postfix}"


def interactive() -> bool:
    """Whether a person is watching: stdout and stderr are both terminals."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def notice(text: str) -> None:
    """One line for the person, on stderr; above the bar where there is one."""
    if interactive():
        from tqdm import tqdm

        tqdm.write(_shown(text), file=sys.stderr)
    else:
        _line(_shown(text), sys.stderr)


def result(sentence: str, **fields: Any) -> None:
    """What a command came to, on stdout: `sentence` for a person, `fields` as one line of JSON for a program."""
    if sys.stdout.isatty():
        _line(_shown(sentence), sys.stdout)
    else:
        event(**fields)


def _shown(text: str) -> str:
    """`text` without what a terminal would obey: a prompt, a file's name or a run of others may hold anything."""
    return "\n".join(printable(line) for line in text.split("\n"))


def event(**fields: Any) -> None:
    """One JSON object on one line of stdout when that is no terminal, else nothing."""
    if not sys.stdout.isatty():
        _line(json.dumps(fields, default=str), sys.stdout)


def check_printed() -> None:
    """Ends a command whose only result is what it printed.

    Commands that write files do not call this: their results are on the disk, whatever became of stdout.

    Raises:
        OutputError: stdout could not be written, so that the result is lost.
    """
    reason = lost_output()
    if reason is not None:
        raise OutputError("standard output cannot be written", got=reason)


def _line(text: str, stream: Any) -> None:
    """`text` on a line of its own, or nowhere if it cannot be written (`| head -1`): no work is lost for that."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: Any) -> None:
    """What is still in the buffer of `stream`, and all that comes, goes nowhere: its reader or terminal has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Bar:
    """One task's progress; call it with (done, total) and the numbers worth showing.

    It is drawn on a terminal only. `report_every_s` sets how often the same numbers go to stdout as JSON where no
    person is watching; None leaves them out.
    """

    def __init__(self, task: str, unit: str = "it", report_every_s: float | None = None) -> None:
        self.task, self.unit, self.report_every_s = task, unit, report_every_s
        self._shown = interactive()
        self._bar: Any = None
        self._first: tuple[float, int] | None = None
        self._reported = (0.0, 0)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, done: int, total: int, metrics: Mapping[str, float | str] | None = None) -> None:
        """`done` of `total` units are finished; the first call sets where the rate is counted from."""
        if self._shown:
            try:
                self._draw(done, total, metrics or {})
            except (
                OSError
            ):  # a terminal that was closed, just before its SIGHUP came: no work is lost for that
                self._shown, self._bar = False, None
        elif self.report_every_s is not None:
            self._report(done, total, metrics or {})

    def _report(self, done: int, total: int, metrics: Mapping[str, float | str]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = self._reported = (now, done)
        if self.report_every_s is None or now - self._reported[0] < self.report_every_s:
            return
        self._reported = (now, done)
        rate = (done - self._first[1]) / (now - self._first[0])
        eta_s = round((total - done) / rate) if rate > 0 else None
        event(
            event="progress",
            task=self.task,
            done=done,
            total=total,
            rate=round(rate, 3),
            eta_s=eta_s,
            **metrics,
        )

    def close(self) -> None:
        """Leave the bar as it stands and the cursor below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, done: int, total: int, metrics: Mapping[str, float | str]) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self.task,
                total=total,
                # A resumed run's rate counts from where it is resumed.
                initial=max(done - 1, 0),
                unit=self.unit,
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=0.2,
                bar_format=_BAR,
            )
        self._bar.set_postfix_str(", ".join(f"{k} {_short(v)}" for k, v in metrics.items()), refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.refresh()


@contextmanager
def busy(task: str) -> Iterator[None]:
    """Shows `task` and the seconds gone while the body runs, for work whose length is not known."""
    if not interactive():
        yield
        return
    started, stop = time.monotonic(), threading.Event()

    def draw() -> None:
        while not stop.wait(0.5):
            sys.stderr.write(f"\r{task} ... {time.monotonic() - started:.0f} s")
            sys.stderr.flush()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
