"""A polite end: the first SIGINT or SIGTERM lets the step finish and the checkpoint be written."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Stopping:
    """Context that turns signals into the flag `asked`; a second signal acts as it always did."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before = {}

    def __enter__(self) -> Stopping:
        # Handlers can be set in the main thread only; elsewhere nothing is caught.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
