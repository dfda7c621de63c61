"""Every error that a user can cause, and the exit code that it ends the program with.

    DreamfusionError                 1   never raised itself
    ├── PromptError                 10   empty prompt, prompt that is too long
    ├── ConfigError                 11   unknown key, value out of range, unreadable file
    ├── RunNotFoundError            12   no such run, or no run at all
    ├── CheckpointMissingError      13   the run has no checkpoint yet
    ├── CheckpointCorruptError      14   a checkpoint that cannot be read or does not fit
    ├── ModelNotFoundError          15   no weights under that name, path or hub id
    ├── ModelUnsupportedError       16   weights found, but score distillation cannot use them
    ├── DeviceError                 17   the device is not there
    ├── OutputError                 18   the output cannot be written
    ├── NoSurfaceError              19   nothing crosses the density threshold
    ├── CollapseError               20   the scene went empty or solid, or its gradients are not finite
    ├── OutOfMemoryError            21   a step or an asset needs more memory than there is
    ├── DatasetError                22   posed pictures that cannot be read, or cannot be learnt from
    └── MeshError                   23   a mesh that was given cannot be read, or has no inside

A user's mistake is one of these and is printed as one line: what, where, expected, got, what to do.
A programmer's mistake is any other exception and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
import unicodedata
from typing import Any

_LONGEST_PART = 800
# Marks that change the order in which a terminal shows what follows them.
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` with everything escaped that a terminal would obey rather than show, and that UTF-8 has no bytes for.

    Control characters (ESC begins a terminal's commands), separators of lines, marks of direction and lone surrogates
    become backslash escapes: `"\\x1b[2J"`.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return hidden or _BIDI.match(character) is not None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shown(value: Any, longest: int = 60) -> str:
    """`value` as a message echoes it: printable, quoted if it is text, and cut to `longest` characters."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to write out the largest
        return f"an integer of {value.bit_length()} bits"
    text = printable(repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= longest else text[: longest - 3] + "..."


class DreamfusionError(Exception):
    """A mistake of the user's, told in one line.

    Args:
        what: what is wrong, with the place ("config key 'guidance.scale' is not known").
        expected: what would have been right, if that can be said.
        got: what came instead.
        hint: what to do now, as an imperative sentence without a full stop.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, expected: str | None = None, got: str | None = None, hint: str | None = None
    ) -> None:
        self.what, self.expected, self.got, self.hint = what, expected, got, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = _cut(self.what)
        if self.expected is not None:
            text += f": expected {_cut(self.expected)}"
        if self.got is not None:
            text += f"{',' if self.expected is not None else ':'} got {_cut(self.got)}"
        if self.hint is not None:
            text += f". {self.hint[:1].upper()}{_cut(self.hint[1:])}"
        return printable(" ".join(text.split()))


def _cut(text: str) -> str:
    """`text` without its middle where it is too long to be read."""
    half = _LONGEST_PART // 2
    return text if len(text) <= _LONGEST_PART else f"{text[:half]} ... {text[-half:]}"


# In lower case: torch's allocators, numpy, C++, CUDA's and AMD's libraries, and oneDNN, which names what it was making.
_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to|failed to) allocate|_alloc_failed|bad_alloc|bad allocation"
    r"|outofmemory|storage size calculation overflowed|could not (create|execute) a primitive(?! descriptor)"
    r"|could not (create|construct|initialize) a memory"
)


def says_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine itself, had no memory left; each says it in its own words."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error).lower()) is not None


def of_the_machine(error: Exception) -> DreamfusionError | None:
    """What disk or memory refused, as a user's error: the last net, for what no command expected there.

    Returns:
        None if it may be a programmer's mistake, which keeps its traceback.
    """
    if says_out_of_memory(error):
        return OutOfMemoryError("there is not enough memory for this", got=_first_line(error))
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}" if error.filename else "a file"
        return OutputError(f"{where} cannot be read or written", got=(error.strerror or str(error)).lower())
    return None


def _first_line(error: Exception) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0], 200)


class PromptError(DreamfusionError):
    exit_code = 10


class ConfigError(DreamfusionError):
    exit_code = 11


class RunNotFoundError(DreamfusionError):
    exit_code = 12


class CheckpointMissingError(DreamfusionError):
    exit_code = 13


class CheckpointCorruptError(DreamfusionError):
    exit_code = 14


class ModelNotFoundError(DreamfusionError):
    exit_code = 15


class ModelUnsupportedError(DreamfusionError):
    exit_code = 16


class DeviceError(DreamfusionError):
    exit_code = 17


class OutputError(DreamfusionError):
    exit_code = 18


class NoSurfaceError(DreamfusionError):
    exit_code = 19


class CollapseError(DreamfusionError):
    exit_code = 20


class OutOfMemoryError(DreamfusionError):
    exit_code = 21


class DatasetError(DreamfusionError):
    exit_code = 22


class MeshError(DreamfusionError):
    exit_code = 23
