"""Files that a stranger may have written: one reader of JSON, YAML and JSON lines, and of files under a folder.

A run or a dataset may be shared, so nothing in it is trusted. Only regular files count that really lie under their folder:
no symbolic link out of it, no FIFO that would wait for ever, no device. Each read has a limit of bytes. A document has
limits of nesting, of values and of digits, no key twice, no lone surrogate and no NUL, and the shape that was asked for.

Every function takes the class of error that its caller owes the user, and raises nothing else: one line that names the
file and, where it can be said, the line. No library's exception, RecursionError or MemoryError gets out.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import stat
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dreamfusion.errors import DreamfusionError, shown

REGULAR, FOLDER, LINK = "a regular file", "a folder", "a symbolic link"
KIB = 1 << 10
MIB = 1 << 20
Shape = Literal["mapping", "list", "any"]


@dataclass(frozen=True)
class Limits:
    """What a document may be at most.

    Attributes:
        bytes: of the file or text.
        depth: mappings and lists inside each other.
        containers: mappings and lists in all; with YAML, values of every kind, those that an alias repeats included.
        digits: of an integer; 40 hold 128 bits.
    """

    bytes: int = 16 * MIB
    depth: int = 64
    containers: int = 1_000_000
    digits: int = 40


JSON = Limits()
# PyYAML reads some 100 kB a second, and a configuration has ten.
YAML = Limits(bytes=256 * KIB, containers=10_000)
LINE = Limits(bytes=MIB, containers=10_000)


class _FaultError(Exception):
    """What is wrong with a document; the reader adds the file's name."""


# ----------------------------------------------------------------------------------------------- regular files


def regular_file(
    path: Path, *, error: type[DreamfusionError], under: Path | None = None, max_bytes: int | None = None
) -> Path:
    """The real path of the regular file `path`, without any link in it, for a library that opens it itself.

    Args:
        path: may be a symbolic link, if it leads to a file under `under`.
        error: the class to raise.
        under: folder that the file must really lie in; None takes a file anywhere.
        max_bytes: None has no limit.

    Raises:
        error: absent, unreadable, outside `under`, no regular file, or too large.
    """
    try:
        return _checked(path, under, max_bytes)
    except _FaultError as fault:
        raise error(f"{path} {fault}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read ({reason(problem)})") from None


def is_regular(path: Path, under: Path | None = None) -> bool:
    """Whether `path` is a regular file that really lies under the folder `under`."""
    try:
        _checked(path, under, None)
    except (_FaultError, OSError, ValueError):
        return False
    return True


def is_file(path: Path) -> bool:
    """As `Path.is_file`; False, and no error, for a name that the system refuses (too long, no permission)."""
    try:
        return path.is_file()
    except OSError:
        return False


def expanded(name: str | Path) -> Path:
    """As `Path.expanduser`; the name of a user that is not known stays as it is, so that no file is found there."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_folder_under(path: Path, under: Path) -> bool:
    """Whether `path` is a folder that really lies under the folder `under`."""
    try:
        return path.is_dir() and _inside(path, under)
    except (OSError, ValueError):
        return False


def open_regular(
    path: Path,
    *,
    error: type[DreamfusionError],
    under: Path | None = None,
    max_bytes: int | None = None,
    name: str | None = None,
) -> io.BufferedReader:
    """A regular file opened to be read as bytes; see `regular_file` for the arguments and what is refused.

    Args:
        name: what a message calls the file; its path if None.
    """
    try:
        real = _checked(path, under, max_bytes)
        # What lies there may have changed since: a FIFO must not block, a link must not be followed.
        flags = os.O_RDONLY if os.name == "nt" else os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        file = open(os.open(real, flags), "rb")  # noqa: SIM115
        _check_kind(os.fstat(file.fileno()), max_bytes)
        return file
    except _FaultError as fault:
        raise error(f"{name or path} {fault}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{name or path} cannot be read ({reason(problem)})") from None


def read_bytes(
    path: Path,
    *,
    error: type[DreamfusionError],
    max_bytes: int,
    under: Path | None = None,
    name: str | None = None,
) -> bytes:
    """The content of a regular file; see `open_regular` for the arguments and what is refused."""
    with open_regular(path, error=error, under=under, max_bytes=max_bytes, name=name) as file:
        try:
            content = _up_to(file, max_bytes)
        except OSError as problem:
            raise error(f"{name or path} cannot be read ({reason(problem)})") from None
    if len(content) > max_bytes:  # it grew, or is one of those that have no size
        raise error(f"{name or path} has more than the {max_bytes:,} bytes that are expected at most")
    return content


def _up_to(file: io.BufferedReader, max_bytes: int) -> bytes:
    """All of a file, or more than `max_bytes` of it; `read` with a number would ask for that much memory at once."""
    parts, length, left = [], 0, os.fstat(file.fileno()).st_size
    while length <= max_bytes and (part := file.read(max(left - length, 0) + 64 * KIB)):
        parts.append(part)
        length += len(part)
    return b"".join(parts)


def read_text(
    path: Path,
    *,
    error: type[DreamfusionError],
    max_bytes: int,
    under: Path | None = None,
    name: str | None = None,
) -> str:
    """The text of a regular file in UTF-8, a byte-order mark dropped; see `open_regular`."""
    content = read_bytes(path, error=error, max_bytes=max_bytes, under=under, name=name)
    try:
        return _decoded(content)
    except _FaultError as fault:
        raise error(f"{name or path} cannot be read ({fault})") from None


def reason(problem: Exception) -> str:
    """What the system or a library says of a failure, in its own words and without the path."""
    text = problem.strerror if isinstance(problem, OSError) else None
    return shown_plain(text or str(problem) or type(problem).__name__)


def shown_plain(text: str) -> str:
    """A library's sentence as a message can hold it: begins small, ends without a full stop."""
    return (text[:1].lower() + text[1:]).rstrip(".") if not text[:2].isupper() else text.rstrip(".")


def _checked(path: Path, under: Path | None, max_bytes: int | None) -> Path:
    real = Path(os.path.realpath(path, strict=True))
    if under is not None and not _inside(real, under):
        raise _FaultError(f"leads out of {under}, which only its own files belong to")
    _check_kind(os.lstat(real), max_bytes)
    return real


def _inside(path: Path, under: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(under))


def kind_of(path: Path) -> str | None:
    """What is at `path` itself, a symbolic link not followed: `REGULAR`, `FOLDER`, `LINK`, ...; None if nothing is.

    Raises:
        OSError: the system does not say.
    """
    try:
        return _kind(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISREG: REGULAR,
        stat.S_ISDIR: FOLDER,
        stat.S_ISLNK: LINK,
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def _check_kind(status: os.stat_result, max_bytes: int | None) -> None:
    if (kind := _kind(status.st_mode)) != REGULAR:
        raise _FaultError(f"is {kind}, where a regular file is expected")
    if max_bytes is not None and status.st_size > max_bytes:
        raise _FaultError(f"has {status.st_size:,} bytes, where at most {max_bytes:,} are expected")


def _decoded(content: bytes) -> str:
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _FaultError(
            f"byte {error.start} is not UTF-8; save the file in that encoding"
            if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            else "it is UTF-16; save the file as UTF-8"
        ) from None


# -------------------------------------------------------------------------------------------------------- json


def read_json(
    path: Path,
    *,
    error: type[DreamfusionError],
    shape: Shape = "mapping",
    under: Path | None = None,
    limits: Limits = JSON,
    finite: bool = True,
) -> Any:
    """The value in a JSON file.

    Args:
        path: see `regular_file`.
        error: the class to raise.
        shape: of the whole document.
        under: see `regular_file`.
        limits: what is refused above.
        finite: refuse NaN and Infinity, which JSON does not have but many programs write. A number beyond the
            largest float (1e999) is refused always.

    Raises:
        error: every fault of file or document.
    """
    content = read_bytes(path, error=error, max_bytes=limits.bytes, under=under)
    return parse_json(content, str(path), error=error, shape=shape, limits=limits, finite=finite)


def parse_json(
    content: bytes | str,
    where: str,
    *,
    error: type[DreamfusionError],
    shape: Shape = "mapping",
    limits: Limits = JSON,
    finite: bool = True,
) -> Any:
    """The value of a JSON text; `where` names it in the message, else as `read_json`."""
    try:
        return _shaped(_json(content, limits, finite), shape)
    except _FaultError as fault:
        raise error(f"{where} is not readable as JSON ({fault})") from None


def json_lines(
    path: Path, *, error: type[DreamfusionError], under: Path | None = None, limits: Limits = LINE
) -> Iterator[dict[str, Any] | None]:
    """The mappings in a file of JSON lines, in order; None for a line that is none, too long, or without its newline.

    Raises:
        error: the file cannot be read.
    """
    with open_regular(path, error=error, under=under) as file:
        while line := file.readline(limits.bytes):
            yield parse_json_line(line, limits)


def parse_json_line(line: bytes, limits: Limits = LINE) -> dict[str, Any] | None:
    """The mapping in one line with its newline; None if it is damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        return _shaped(_json(line, limits, finite=True), "mapping")
    except _FaultError:
        return None


def _json(content: bytes | str, limits: Limits, finite: bool) -> Any:
    if len(content) > limits.bytes:
        raise _FaultError(f"it has more than {limits.bytes:,} bytes")
    text = content if isinstance(content, str) else _decoded(content)
    # At most as many containers as brackets: an upper bound without parsing.
    if text.count("[") + text.count("{") > limits.containers:
        raise _FaultError(f"it has more than {limits.containers:,} lists and mappings")
    hooks = {
        "parse_int": lambda digits: _integer(digits, limits),
        "parse_float": _finite_float,
        "parse_constant": _refused_constant if finite else float,
        "object_pairs_hook": _without_repetition,
    }
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise _too_deep(limits) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _FaultError(f"{place}: {shown_plain(error.msg)}") from None
    _check_depth(value, limits)
    if "\\u" in text:  # only an escape can name what UTF-8 cannot hold
        _check_strings(value)
    return value


def _integer(digits: str, limits: Limits) -> int:
    if len(digits.lstrip("+-")) > limits.digits:
        raise _FaultError(f"the number {_cut(digits)} has more than {limits.digits} digits")
    return int(digits)


def _finite_float(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise _FaultError(f"the number {_cut(text)} is too large")
    return value


def _refused_constant(name: str) -> float:
    raise _FaultError(f"{name} is not a JSON number")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _FaultError(f"key {shown(twice)} is given twice")
    return found


def _check_depth(value: Any, limits: Limits) -> None:
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        if depth > limits.depth:
            raise _too_deep(limits)
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]


def _check_strings(value: Any) -> None:
    level = [value]
    while level:
        for item in level:
            for text in (item,) if isinstance(item, str) else item if isinstance(item, dict) else ():
                _check_text(text)
        level = [child for parent in level if isinstance(parent, dict | list) for child in _children(parent)]


def _children(container: dict[str, Any] | list[Any]) -> Any:
    return container.values() if isinstance(container, dict) else container


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _FaultError(f"the text {shown(text)} holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _FaultError(f"the text {shown(text)} holds half of a UTF-16 pair")


def _shaped(value: Any, shape: Shape) -> Any:
    expected = {"mapping": dict, "list": list, "any": object}[shape]
    if not isinstance(value, expected):
        raise _FaultError(f"expected a {shape}, got {shown(value)}")
    return value


def _too_deep(limits: Limits) -> _FaultError:
    return _FaultError(f"lists and mappings are nested more than {limits.depth} deep")


def _cut(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:17]}..."


# -------------------------------------------------------------------------------------------------------- yaml

_TAG = "tag:yaml.org,2002:"
SCALARS: dict[str, tuple[str, list[str]]] = {
    _TAG + "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    _TAG + "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    _TAG + "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    _TAG + "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}
"""Tag to the pattern of its words, in the order in which they are tried, and the letters that those begin with:
the core schema of YAML 1.2 (section 10.3.2), less octal and hexadecimal numbers."""


class _Loader(yaml.SafeLoader):
    """Plain YAML 1.2 scalars, no tag beyond the core schema's, no key twice in one mapping, and the limits."""

    yaml_implicit_resolvers: typing.ClassVar[dict] = {}
    yaml_constructors: typing.ClassVar[dict] = {}
    yaml_multi_constructors: typing.ClassVar[dict] = {}
    limits: Limits

    def __init__(self, text: str, limits: Limits) -> None:
        super().__init__(text)
        self.limits = limits
        self._depth = 0
        # By node, for what aliases repeat: values in all, and how deep they are nested.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        repeated = self.check_event(yaml.AliasEvent)
        place = self.peek_event()
        self._depth += 1
        if self._depth > self.limits.depth + 1:  # the innermost value is a word
            raise _too_deep(self.limits)
        node = super().compose_node(parent, index)
        if repeated and id(node) not in self._sizes:
            raise self._fault("a recursive alias: it stands inside of what it names", place)
        if not repeated:
            self._sizes[id(node)] = self._measured(node)
        size, height = self._sizes[id(node)]
        if size > self.limits.containers:
            raise _FaultError(f"it has more than {self.limits.containers:,} values")
        self._depth -= 1
        if self._depth + height > self.limits.depth:
            raise _too_deep(self.limits)
        return node

    def _measured(self, node: Any) -> tuple[int, int]:
        """How many values are in `node`, an alias's as often as it is used, and how deep they are nested."""
        if not isinstance(node, yaml.CollectionNode):
            return 1, 0
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        sizes = [self._sizes[id(part)] for part in parts]
        return 1 + sum(s for s, _ in sizes), 1 + max((h for _, h in sizes), default=0)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):
            raise self._fault("expected a mapping", node)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != _TAG + "str":
                raise self._fault("a key is not a word", key_node)
            if key_node.value in seen:
                raise self._fault(f"key {shown(key_node.value)} is given twice", key_node)
            seen.add(key_node.value)
        # Past SafeLoader's own, which knows YAML 1.1's merge keys.
        return yaml.constructor.BaseConstructor.construct_mapping(self, node, deep=deep)

    def read_scalar(self, node: Any) -> Any:
        """The value of a word whose tag was written or found; a written tag must fit the word."""
        text = self.construct_scalar(node)
        pattern, _ = SCALARS[node.tag]
        if re.fullmatch(pattern, text) is None:
            raise self._fault(f"{shown(text)} is not of type {node.tag.removeprefix(_TAG)}", node)
        match node.tag.removeprefix(_TAG):
            case "bool":
                return text.lower() == "true"
            case "int":  # a leading 0 is no octal in YAML 1.2
                return _integer(text, self.limits)
            case "float":
                plain = text.lower().replace(".inf", "inf").replace(".nan", "nan")
                return float(plain) if plain != text.lower() else _finite_float(text)
            case _:
                return None

    def read_string(self, node: Any) -> str:
        # JSON's escapes write a character beyond 16 bits as a pair.
        text = self.construct_scalar(node).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        _check_text(text)
        return text

    # Whole at once: PyYAML's own way lets a part hold itself, which nothing after it could walk through.
    def read_mapping(self, node: Any) -> dict:
        return self.construct_mapping(node, deep=True)

    def read_list(self, node: Any) -> list:
        return self.construct_sequence(node, deep=True)

    def read_undefined(self, node: Any) -> Any:
        raise self._fault(f"tag {shown(node.tag)} is not allowed", node)

    @staticmethod
    def _fault(problem: str, node: Any) -> yaml.MarkedYAMLError:
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _tag, (_pattern, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
    _Loader.add_constructor(_tag, _Loader.read_scalar)
_Loader.add_constructor(_TAG + "str", _Loader.read_string)
_Loader.add_constructor(_TAG + "map", _Loader.read_mapping)
_Loader.add_constructor(_TAG + "seq", _Loader.read_list)
_Loader.add_constructor(None, _Loader.read_undefined)  # pyright: ignore[reportArgumentType]


def read_yaml(
    path: Path,
    *,
    error: type[DreamfusionError],
    shape: Shape = "mapping",
    under: Path | None = None,
    limits: Limits = YAML,
) -> Any:
    """The value in a YAML file by the rules of version 1.2; an empty file is an empty mapping or list.

    The arguments and errors are those of `read_json`; `.inf` and `.nan`, which YAML has, are read.
    """
    text = read_text(path, error=error, max_bytes=limits.bytes, under=under)
    return parse_yaml(text, str(path), error=error, shape=shape, limits=limits)


def parse_yaml(
    text: str, where: str, *, error: type[DreamfusionError], shape: Shape = "any", limits: Limits = YAML
) -> Any:
    """The value of a YAML text; `where` names it in the message, else as `read_yaml`."""
    try:
        value = _yaml(text, limits)
        return {"mapping": {}, "list": [], "any": None}[shape] if value is None else _shaped(value, shape)
    except yaml.YAMLError as problem:
        raise error(_yaml_message(problem, where)) from None
    except _FaultError as fault:
        raise error(f"{where} is not readable as YAML ({fault})") from None


def _yaml(text: str, limits: Limits) -> Any:
    if len(text.encode("utf-8", "surrogatepass")) > limits.bytes:
        raise _FaultError(f"it has more than {limits.bytes:,} bytes")
    loader = _Loader(text, limits)
    try:
        return loader.get_single_data()
    except (ValueError, OverflowError) as problem:  # such as an escape beyond the last character
        raise _FaultError(reason(problem)) from None
    except RecursionError:
        raise _too_deep(limits) from None
    finally:
        loader.dispose()


def _yaml_message(problem: yaml.YAMLError, where: str) -> str:
    if isinstance(problem, yaml.MarkedYAMLError):
        mark = problem.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        return f"{place} is not readable as YAML ({problem.problem or problem.context})"
    if isinstance(problem, yaml.reader.ReaderError):
        character = shown(chr(problem.character)) if isinstance(problem.character, int) else "a byte"
        return f"{where} is not readable as YAML ({character} at position {problem.position} is no text)"
    return f"{where} is not readable as YAML ({shown(str(problem))})"
