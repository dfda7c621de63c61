"""Paths in a configuration, made absolute when a run is made: a run must mean the same files from every folder.

Which keys hold paths is said in `dreamfusion.config`, by `NamesFile`. Aliases and hub ids stay what they are.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from dreamfusion.config import NamesFile

Model = TypeVar("Model", bound=BaseModel)
IsName = Callable[[NamesFile, str], bool]


def with_absolute_paths(config: Model, is_name: IsName) -> Model:
    """The configuration with every path relative to the current folder, or to a home (`~`), made absolute.

    What does not exist stays as it is, and so do hub ids. Symbolic links are kept: the hub's cache consists of them,
    and what they lead to has another name.

    Args:
        config: of a whole experiment, or a part of one.
        is_name: whether a value of such a key is an alias, which comes before a file of the same name.
    """
    fields = type(config).model_fields
    update: dict[str, Any] = {}
    for name, field in fields.items():
        marker = names_file(field.annotation, field.metadata)
        update[name] = _absolute(getattr(config, name), marker, is_name)
    return config.model_copy(update=update)


def names_file(annotation: Any, metadata: Iterable[Any] = ()) -> NamesFile | None:
    """The mark of a key that holds a path, from its type and metadata; None for every other key."""
    if isinstance(annotation, NamesFile):
        return annotation
    for part in (*metadata, *typing.get_args(annotation)):
        if (mark := names_file(part)) is not None:
            return mark
    return None


def _absolute(value: Any, marker: NamesFile | None, is_name: IsName) -> Any:
    match value:
        case BaseModel():
            return with_absolute_paths(value, is_name)
        case tuple():
            return tuple(_absolute(part, marker, is_name) for part in value)
        case str() if marker is not None and value and not is_name(marker, value):
            return _absolute_path(value)
    return value


def _absolute_path(text: str) -> str:
    # What is not there is a hub id, or is refused by the name that the user gave it.
    try:
        path = Path(text).expanduser()
        there = path.exists()
    except (OSError, ValueError, RuntimeError):  # no such user, a NUL, too long: told where the file is read
        return text
    return str(path.absolute()) if there else text
