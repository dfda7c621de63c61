"""Options that take several values with commas between them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TypeVar

from dreamfusion.errors import ConfigError

T = TypeVar("T")


def numbers(option: str, text: str, low: float | int, high: float | int, example: str) -> list[float]:
    """The numbers of `text`, each in [low, high], none of them twice.

    Raises ConfigError naming the option, with `example` as what it takes.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(low <= number <= high for number in found):
        wanted = f"numbers from {low:g} to {high:g} with commas, such as {example}"
        raise ConfigError(option, expected=wanted, got=repr(text))
    return _each_once(option, found, text)


def integers(option: str, text: str, low: int, high: int, example: str) -> list[int]:
    """The whole numbers of `text`, each in [low, high], none of them twice.

    Raises ConfigError naming the option, with `example` as what it takes.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(low <= number <= high for number in found):
        wanted = f"whole numbers from {low} to {high} with commas, such as {example}"
        raise ConfigError(option, expected=wanted, got=repr(text))
    return _each_once(option, found, text)


def words(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The words of `text`, each one of `known`, none of them twice.

    Raises ConfigError naming the option and the word that may have been meant.
    """
    found = [part.strip() for part in text.split(",")]
    for word in found:
        if word not in known:
            near = difflib.get_close_matches(word.lower(), known, n=1)
            raise ConfigError(
                option,
                expected=f"{', '.join(known)}, or several of them with commas",
                got=repr(word),
                hint=f"did you mean '{near[0]}'?" if near else None,
            )
    return _each_once(option, found, text)


def _each_once(option: str, found: list[T], text: str) -> list[T]:
    if len(set(found)) < len(found):
        raise ConfigError(option, expected="each value once", got=repr(text))
    return found
