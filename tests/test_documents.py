"""One table of hostile documents and files, and every reader refuses each of them in one line."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dreamfusion import documents
from dreamfusion.documents import Limits
from dreamfusion.errors import ConfigError, DatasetError, printable, shown

JSON_FAULTS = {
    "deeper than the limit": (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
    "deeper than the stack": (b"[" * 100_000, "nested more than 64 deep"),
    "deep and closed": (b"[" * 5_000 + b"]" * 5_000, "nested more than 64 deep"),
    "an integer of 401 digits": (b'{"a": 1' + b"0" * 400 + b"}", "more than 40 digits"),
    "an integer beyond Python's own limit": (b'{"a": ' + b"9" * 5_000 + b"}", "more than 40 digits"),
    "a float beyond the largest": (b'{"a": 1e999}', "1e999 is too large"),
    "not a number": (b'{"a": NaN}', "NaN"),
    "infinite": (b'{"a": -Infinity}', "-Infinity"),
    "a key twice": (b'{"a": 1,\n"a": 2}', "'a' is given twice"),
    "a key twice inside": (b'{"b": [{"a": 1, "a": 1}]}', "'a' is given twice"),
    "latin-1": (b'{"a": "\xe9"}', "byte 7 is not UTF-8"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "UTF-16"),
    "half of a pair": (rb'{"a": "\ud800"}', "UTF-16 pair"),
    "half of a pair as a key": (rb'{"a": [{"\udfff": 1}]}', "UTF-16 pair"),
    "an escaped NUL": (rb'{"a": ["x\u0000"]}', "NUL"),
    "a plain NUL": (b'{"a": "x\0"}', "line 1, column 9"),
    "cut off": (b'{"a":\n [1,', "line 2, column 5"),
    "empty": (b"", "line 1, column 1"),
    "text behind it": (b'{"a": 1} x', "extra data"),
    "a list": (b"[1]", "expected a mapping, got [1]"),
    "a word": (b'"a"', "expected a mapping"),
    "null": (b"null", "expected a mapping, got None"),
    "too many lists": (b'{"a": [' + b"[]," * 1_000_000 + b"1]}", "1,000,000 lists and mappings"),
}

YAML_FAULTS = {
    "deeper than the limit": ("{a: " * 65 + "1" + "}" * 65, "nested more than 64 deep"),
    "deeper than the stack": ("[" * 50_000, "nested more than 64 deep"),
    "deep by indentation": ("\n".join(" " * n + "a:" for n in range(70)), "nested more than 64 deep"),
    "an integer of 401 digits": ("a: 1" + "0" * 400, "more than 40 digits"),
    "an integer beyond Python's own limit": ("a: " + "9" * 5_000, "more than 40 digits"),
    "a float beyond the largest": ("a: 1e999", "1e999 is too large"),
    "no boolean": ("a: 1\nb: !!bool maybe", "line 2, column 4 .*'maybe' is not of type bool"),
    "no integer": ("a: !!int x", "'x' is not of type int"),
    "no float": ("a: !!float 1:30", "'1:30' is not of type float"),
    "no null": ("a: !!null x", "'x' is not of type null"),
    "a list for a mapping": ("a: !!map [1]", "expected a mapping"),
    "a mapping for a list": ("a: !!seq {a: 1}", "expected a sequence"),
    "a list for text": ("a: !!str [a]", "expected a scalar"),
    "python": ("a: !!python/object/apply:os.system [id]", "python/object/apply:os.system' is not allowed"),
    "a date": ("a: !!timestamp x", "timestamp' is not allowed"),
    "bytes": ("a: !!binary x", "binary' is not allowed"),
    "a set": ("a: !!set {a}", "set' is not allowed"),
    "a tag of one's own": ("a: !mine x", "'!mine' is not allowed"),
    "a merge key": ("a: &b {c: 1}\nd: {!!merge <<: *b}", "not a word"),
    "a key twice": ("a: 1\na: 2", "line 2, column 1 .*'a' is given twice"),
    "a key that is a list": ("[a]: 1", "a key is not a word"),
    "a key that is a number": ("{1: a}", "a key is not a word"),
    "a key that is nothing": ("? \n: a", "a key is not a word"),
    "an alias inside itself": ("a: &b [1, *b]", "recursive"),
    "an alias of nothing": ("a: *b", "line 1, column 4 .*undefined alias"),
    "aliases of aliases": (
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 10))]),
        "more than 10,000 values",
    ),
    "a chain of aliases": (
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 70))]),
        "nested more than 64 deep",
    ),
    "half of a pair": (r'a: "\ud800"', "UTF-16 pair"),
    "an escaped NUL": (r'a: "x\0"', "NUL"),
    "a plain NUL": ("a: x\0", r"'\\x00' at position 4"),
    "an escape beyond the last character": (r'a: "\Uffffffff"', "not readable as YAML"),
    "cut off": ("a: [1,\n", "line 2, column 1"),
    "two documents": ("a: 1\n---\nb: 2", "line 2, column 1"),
    "a tab": ("a:\n\t- 1", "line 2, column 1"),
    "a list": ("- 1", r"expected a mapping, got \[1\]"),
    "a word": ("a", "expected a mapping, got 'a'"),
    "too many values": ("[" + "1," * 10_000 + "]", "more than 10,000 values"),
    "too many bytes": ("# " + "x" * 300_000, "more than 262,144 bytes"),
}


def refused(read: Callable[[], object], pattern: str, name: str) -> None:
    with pytest.raises(DatasetError, match=pattern) as caught:
        read()
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 2_000


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_json_that_is_refused(fault: str, tmp_path: Path) -> None:
    content, pattern = JSON_FAULTS[fault]
    path = tmp_path / "document.json"
    path.write_bytes(content)
    pattern = pattern.replace("[", r"\[").replace("]", r"\]")
    refused(lambda: documents.read_json(path, error=DatasetError), pattern, str(path))
    refused(lambda: documents.parse_json(content, "the text", error=DatasetError), pattern, "the text")


@pytest.mark.parametrize("fault", YAML_FAULTS)
def test_yaml_that_is_refused(fault: str, tmp_path: Path) -> None:
    text, pattern = YAML_FAULTS[fault]
    path = tmp_path / "document.yaml"
    path.write_text(text, encoding="utf-8")
    # A file is measured before it is read.
    of_file = "300,002 bytes" if fault == "too many bytes" else pattern
    refused(lambda: documents.read_yaml(path, error=DatasetError), of_file, str(path))
    refused(
        lambda: documents.parse_yaml(text, "the text", error=DatasetError, shape="mapping"),
        pattern,
        "the text",
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**127), 2**127)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=20,
)


@given(json_values)
def test_whatever_json_holds_is_read_as_the_library_reads_it(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert documents.parse_json(text, "", error=ConfigError, shape="any") == value
        with_mark = b"\xef\xbb\xbf" + text.encode()
        assert documents.parse_json(with_mark, "", error=ConfigError, shape="any") == value


@given(st.binary(max_size=200) | st.text("[]{}\",:!&*-?|>'%@` \n\t01.e\\uxanl~", max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_the_callers_error(content: bytes) -> None:
    """Both readers, over whatever bytes; and what YAML accepts is free of what is refused."""
    for parse in (
        lambda: documents.parse_json(content, "here", error=ConfigError, shape="any"),
        lambda: documents.parse_yaml(content.decode("utf-8", "surrogateescape"), "here", error=ConfigError),
    ):
        try:
            parse()
        except ConfigError as error:
            assert "here" in str(error)
            assert str(error).isprintable()


def test_nan_is_read_where_it_is_allowed() -> None:
    content = '{"a": [NaN, Infinity, -Infinity]}'
    found = documents.parse_json(content, "", error=ConfigError, finite=False)["a"]
    assert found[0] != found[0]
    assert found[1:] == [float("inf"), float("-inf")]
    with pytest.raises(ConfigError, match="too large"):
        documents.parse_json('{"a": 1e999}', "", error=ConfigError, finite=False)
    assert documents.parse_yaml("[.inf, -.INF, .NaN]", "", error=ConfigError)[:2] == [
        float("inf"),
        float("-inf"),
    ]


def test_the_limits_are_the_last_that_are_allowed() -> None:
    limits = Limits(bytes=100, depth=3, containers=3, digits=4)
    read = lambda text: documents.parse_json(text, "", error=ConfigError, shape="any", limits=limits)  # noqa: E731
    assert read("[[[1234]]]") == [[[1234]]]
    assert read("-1234") == -1234
    for text in ("[[[[1]]]]", "[[],[],[]]", "12345", "[" + " " * 99 + "]"):
        with pytest.raises(ConfigError):
            read(text)
    read_yaml = lambda text: documents.parse_yaml(text, "", error=ConfigError, limits=limits)  # noqa: E731
    assert read_yaml("[[1234]]") == [[1234]]
    for text in ("[[[[1]]]]", "[1, 2, 3]", "12345", "[" + " " * 99 + "]"):
        with pytest.raises(ConfigError):
            read_yaml(text)


def test_an_empty_yaml_file_has_the_shape_that_was_asked_for() -> None:
    found = [
        documents.parse_yaml("# a\n", "", error=ConfigError, shape=s) for s in ("mapping", "list", "any")
    ]
    assert found == [{}, [], None]


def test_aliases_that_stay_small_are_read() -> None:
    assert documents.parse_yaml("a: &b [1, 2]\nc: [*b, *b]\n", "", error=ConfigError) == {
        "a": [1, 2],
        "c": [[1, 2], [1, 2]],
    }


@given(json_values.filter(lambda value: "given" not in str(value)))
def test_yaml_reads_back_what_a_yaml_1_1_dumper_writes_of_json(value: object) -> None:
    text = yaml.safe_dump(value, default_style='"') if isinstance(value, str) else json.dumps(value)
    assert documents.parse_yaml(text, "", error=ConfigError) == value


# ----------------------------------------------------------------------------------------------- regular files


def make(kind: str, path: Path, outside: Path) -> None:
    """Put at `path` what a stranger might have put there."""
    match kind:
        case "absent":
            pass
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link to a fifo":
            os.mkfifo(path.with_name("other"))
            path.symlink_to("other")
        case "socket":
            socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
        case "link out":
            path.symlink_to(outside)
        case "link out by a relative path":
            path.symlink_to(os.path.relpath(outside, path.parent))
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "link to itself":
            path.symlink_to(path.name)
        case "too large":
            path.write_bytes(b"x" * 101)
        case "no permission":
            path.write_bytes(b"x")
            path.chmod(0)


ODD = (
    "absent", "folder", "fifo", "link to a fifo", "socket", "link out", "link out by a relative path",
    "link to a device", "link to itself", "too large",
)  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_only_a_regular_file_under_the_folder_counts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "secret"
    outside.write_text("secret")
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "it"
    make(kind, path, outside)
    readers: list[Callable[[], object]] = [
        lambda: documents.regular_file(path, error=DatasetError, under=folder, max_bytes=100),
        lambda: documents.read_bytes(path, error=DatasetError, under=folder, max_bytes=100),
        lambda: documents.read_json(path, error=DatasetError, under=folder, limits=Limits(bytes=100)),
        lambda: documents.read_yaml(path, error=DatasetError, under=folder, limits=Limits(bytes=100)),
    ]
    for read in readers:
        done = []
        thread = threading.Thread(target=lambda read=read, done=done: done.append(outcome(read)), daemon=True)
        thread.start()
        thread.join(5)
        assert done, "it waits for ever"
        assert isinstance(done[0], DatasetError)
        assert str(path) in str(done[0])
        assert "secret" not in str(done[0])
    assert documents.is_regular(path, folder) == (kind == "too large")
    if kind not in ("absent", "folder"):
        lines = lambda: list(documents.json_lines(path, error=DatasetError, under=folder))  # noqa: E731
        assert isinstance(outcome(lines), DatasetError) or kind == "too large"


def outcome(read: Callable[[], object]) -> object:
    try:
        return read()
    except DatasetError as error:
        return error


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_text("x")
    (folder / "link").symlink_to("a/file")
    (tmp_path / "alias").symlink_to(folder)
    for under in (folder, tmp_path / "alias"):
        path = under / "link"
        assert documents.read_bytes(path, error=ConfigError, under=under, max_bytes=10) == b"x"
        assert documents.is_regular(path, under)
        assert documents.is_folder_under(under / "a", under)
    (folder / "b").symlink_to(tmp_path)
    assert not documents.is_folder_under(folder / "b", folder)
    assert not documents.is_regular(folder / "b" / "alias" / "link", tmp_path / "elsewhere")


def test_json_lines_gives_nothing_for_a_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n[1]\n{"step": NaN}\n\n{"step": 2}\n{"step": 3}')
    found = list(documents.json_lines(path, error=ConfigError))
    assert found == [{"step": 1}, None, None, None, {"step": 2}, None]


# ----------------------------------------------------------------------------------------------------- messages


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[2Jb\x9b\u2028\u202ec\udcff\r\n") == (
        "a\\x1b[2Jb\\x9b\\u2028\\u202ec\\udcff\\r\\n"
    )
    assert printable("ein Pfau 🦚, 孔雀, 👨‍👩‍👧") == "ein Pfau 🦚, 孔雀, 👨‍👩‍👧"


def test_an_echo_is_short() -> None:
    for value in ("x" * 10_000, 10**6_000, -(10**100), list(range(10_000)), {"a": "\x1b" * 500}):
        assert len(shown(value)) <= 60
        assert shown(value).isprintable()


def test_a_message_is_cut_in_the_middle_of_what_is_long() -> None:
    message = str(ConfigError("a" * 5_000 + "end", expected="b" * 5_000, got="c" * 5_000, hint="do this"))
    assert len(message) < 3_000
    assert message.startswith("aaa")
    assert "end: expected bbb" in message
    assert message.endswith(". Do this")
