"""Ctrl-C that is not lost.

Some libraries catch whatever is raised while they load, KeyboardInterrupt with it (trimesh around each optional import),
and a program that was told to stop then runs on to a good end. Here an interrupt is raised again until it has come out
at the top: nothing but this module's own `guarded` may end it, or a command that says it was for it (`taken`).

The few imports are few on purpose: before them Ctrl-C is Python's own, with a traceback.
"""

from __future__ import annotations

import _thread
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

EXIT_INTERRUPTED = 128 + signal.SIGINT  # as shells count it
# Longer than it takes to unlink a temporary file, shorter than a person's doubt whether the key was pressed.
INSIST_S = 0.2


class _Handler:
    """Raises KeyboardInterrupt at Ctrl-C, and from then on whenever it is no longer on its way."""

    def __init__(self) -> None:
        self.asked = self.over = False
        self._reminded = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        reminded, self._reminded = self._reminded, False
        # What catches it to clean up and raises it again must not be disturbed, unless a person insists.
        if reminded and (self.over or _on_its_way()):
            return
        if not self.asked:
            self.asked = True
            # Not threading's: its locks may be held by the very code that was interrupted.
            _thread.start_new_thread(self._remind, ())
        raise KeyboardInterrupt

    def _remind(self) -> None:
        time.sleep(INSIST_S)
        while not self.over:
            self._reminded = True
            _thread.interrupt_main()
            time.sleep(INSIST_S)


def _on_its_way() -> bool:
    """Whether the code that was interrupted is handling a KeyboardInterrupt, or an error that one led to."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


_handler: _Handler | None = None


def taken() -> None:
    """The interrupt has done what it was for: it is not raised again."""
    if _handler is not None:
        _handler.over = True


def guarded(program: Callable[[], None]) -> None:
    """Runs a whole program: after Ctrl-C it ends with `EXIT_INTERRUPTED` and no traceback, whatever became of it.

    What a library makes of an interrupted import (an ImportError, half of a module) is no mistake of anybody's.

    Raises:
        SystemExit: with `EXIT_INTERRUPTED`, or as the program raised it.
    """
    global _handler
    _handler = handler = _Handler()
    sys.unraisablehook = _quiet(sys.unraisablehook)
    signal.signal(signal.SIGINT, handler)
    try:
        program()
    except SystemExit as end:
        if handler.asked and end.code:
            raise SystemExit(EXIT_INTERRUPTED) from None
        raise
    except BaseException:
        if handler.asked:
            raise SystemExit(EXIT_INTERRUPTED) from None
        raise
    finally:
        handler.over = True
        # What is left is Python's own end; a second Ctrl-C there ends it at once and prints nothing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # An interrupt that came through exec of a text makes CPython end by the signal instead of the exit code;
        # the next such exec makes it forget.
        exec("")


def _quiet(hook: Any) -> Any:
    """Where Python can only print an exception, a KeyboardInterrupt is left out: it is raised again elsewhere."""

    def quiet(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)

    return quiet
