"""Keeps the log lines and progress bars of diffusers and transformers away from the user's terminal."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from dreamfusion.errors import printable
from dreamfusion.progress import notice

# What a library leaves out of a user's file: the one thing in its log that the user has to know.
_LEFT_OUT = re.compile(
    r"ignor(?!e_)|\b(not used|unused|unexpected|not expected|skipp\w+|mismatch\w*)\b",
    re.IGNORECASE,
)
_PASSED = re.compile(r"The config attributes \{(.*)\} were passed to (\w+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 240


@contextmanager
def quiet_libraries(keys_are_checked: bool = False) -> Iterator[None]:
    """Within it both libraries draw no bars, and of their log only what they leave out of a file is shown, as a notice.

    With `keys_are_checked` the caller refuses weights without a place itself, and diffusers' line about them is dropped.

    Their advice is for people who call them; ours cannot act on it. Errors are exceptions and still come through, and some are
    logged beside. What was set before is put back.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = {"diffusers": diffusers_logging, "transformers": transformers_logging}
    before = [
        (library.get_verbosity(), library.is_progress_bar_enabled(), logging.getLogger(name).handlers[:])
        for name, library in libraries.items()
    ]
    for name, library in libraries.items():
        library.set_verbosity(logging.WARNING)
        library.disable_progress_bar()
        logging.getLogger(name).handlers[:] = [_LeftOut(keys_are_checked)]
    try:
        yield
    finally:
        for (name, library), (verbosity, bar, handlers) in zip(libraries.items(), before, strict=True):
            logging.getLogger(name).handlers[:] = handlers
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()


class _LeftOut(logging.Handler):
    """Shows a warning of something left out as one line; drops everything else."""

    def __init__(self, keys_are_checked: bool) -> None:
        super().__init__()
        self.keys_are_checked = keys_are_checked

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(_COLOURS.sub("", record.getMessage()).split())
        if self.keys_are_checked and text.startswith("Some weights of the model checkpoint"):
            return
        if record.levelno == logging.WARNING and _LEFT_OUT.search(text) and not _is_harmless(text):
            shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
            notice(f"warning: {record.name.partition('.')[0]}: {printable(shown)}")


def _is_harmless(text: str) -> bool:
    """Whether diffusers complains of what it writes itself: settings of another sampler, or TAESD's widths."""
    passed = _PASSED.match(text)
    if passed is None:
        return False
    names = set(re.findall(r"'(\w+)': ", passed[1]))
    if passed[2] == "AutoencoderTiny":
        return names == {"block_out_channels"}
    return passed[2].endswith("Scheduler") and names <= _sampler_settings()


@cache
def _sampler_settings() -> set[str]:
    import diffusers
    from diffusers.schedulers import KarrasDiffusionSchedulers

    samplers = [getattr(diffusers, kind.name) for kind in KarrasDiffusionSchedulers]
    return {name for sampler in samplers for name in inspect.signature(sampler.__init__).parameters}
