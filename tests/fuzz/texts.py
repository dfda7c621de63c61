"""Hostile texts: documents in JSON and YAML, words of a command line."""

from __future__ import annotations

import json
import random
from typing import Any

# Each is refused by every reader of documents, whatever it looks for.
BAD_JSON: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"frames": [{"file_path": ',
    "no text": bytes(range(256)),
    "latin-1": b'{"prompt": "caf\xe9"}',
    "deep": b'{"a":' * 300 + b"1" + b"}" * 300,
    "deeper than the stack": b"[" * 200_000,
    "an integer of 401 digits": b'{"step": 1' + b"0" * 400 + b', "sessions": [], "frames": []}',
    "an integer of 5,000 digits": b'{"step": ' + b"7" * 5_000 + b"}",
    "1e999": b'{"step": 1e999, "sessions": [], "frames": []}',
    "NaN": b'{"step": NaN, "sessions": [], "frames": []}',
    "a key twice": b'{"sessions": [], "sessions": [], "frames": [], "frames": []}',
    "half of a pair": rb'{"prompt": "\ud800", "sessions": [], "frames": []}',
    "NUL": rb'{"prompt": "\u0000", "sessions": [], "frames": []}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "a text": b'"text"',
}

BAD_YAML: dict[str, str] = {
    "no mapping": "- a\n- b\n",
    "a word": "miniature",
    "deep": "{a: " * 200 + "1" + "}" * 200,
    "deeper than the stack": "[" * 100_000,
    "a boolean maybe": "prompt: !!bool maybe",
    "python": "prompt: !!python/object/apply:os.system ['true']",
    "python name": "prompt: !!python/name:os.system",
    "a date": "prompt: !!timestamp tomorrow",
    "aliases of aliases": "\n".join(
        [
            "a0: &a0 [x, x, x, x, x, x, x, x, x]",
            *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 12)),
        ]
    ),
    "an alias in itself": "training: &t {steps: *t}",
    "a key twice": "seed: 1\nseed: 2",
    "an integer of 401 digits": "seed: 1" + "0" * 400,
    "1e999": "training: {steps: 1e999}",
    "half of a pair": r'prompt: "\ud800"',
    "NUL": r'prompt: "a\0b"',
    "cut off": "training: {steps: [",
    "a tab": "training:\n\tsteps: 1",
    "two documents": "seed: 1\n---\nseed: 2",
    "extends itself": "extends: [miniature]",
    "extends a number": "extends: 7",
    "extends nothing": "extends: no-such-preset",
    "larger than any": "prompt: " + "x" * 300_000,
}

# For any key of a configuration that holds a number, a mapping or a choice.
BAD_VALUES = (
    ".nan", ".inf", "-.inf", "1e999", "1" + "0" * 50, "-1e39", "true", "maybe", "[[[[1]]]]", "{a: {b: {c: 1}}}",
    "!!bool maybe", "!!python/name:os.system", "'", "[", "{", "*x", "&x", "&x [*x]", '"\\ud800"', '"\\0"', "\udcff",
    "x" * 1_000, "[" * 5_000, "{{data}}", "a: b: c", "!!int x", "0x10", "1:30", "\x1b[2J",
)  # fmt: skip

BAD_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1",
    "9" * 50,
    "9" * 5_000,
    "x",
    "",
    " ",
    "0x10",
    "1e",
    "\udcff",
    "--",
    "٣٣٣x",
)
BAD_NAMES = (
    "x" * 300, "\udcff", "a\x1b[2Jb", "~nosuchuser/x", "..", "/", "/dev/null/x", "/proc/self/mem", "x/" * 3_000,
    "-", "a\nb", "C:\\x", "{{data}}", "$(id)", "é" * 200, "",
)  # fmt: skip


def broken(valid: bytes, draw: random.Random) -> tuple[str, bytes]:
    """`valid` with a piece cut out, bytes changed or repeated: it may still be valid."""
    match draw.randrange(4):
        case 0:
            return "cut short", valid[: draw.randrange(len(valid))]
        case 1:
            at = draw.randrange(len(valid))
            return "a hole", valid[:at] + valid[at + draw.randrange(1, 64) :]
        case 2:
            content = bytearray(valid)
            for _ in range(draw.randrange(1, 20)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            return "other bytes", bytes(content)
        case _:
            at = draw.randrange(len(valid))
            return "a piece twice", valid[:at] + valid[max(0, at - 64) :]


ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -(2**63), 2**64, 10**39, "", "x", "../../x", "/etc/passwd", "\x1b[31m", "x" * 10_000,
    [], {}, [[]], {"a": {}}, [None], [[1, 2], [3]], "~nosuchuser", "NaN",
)  # fmt: skip


def with_odd_value(document: Any, draw: random.Random) -> tuple[str, Any]:
    """A copy of a JSON document in which one value, at any depth, is another one."""
    copy = json.loads(json.dumps(document))
    places = list(_places(copy))
    container, key = draw.choice(places)
    value = draw.choice(ODD_VALUES)
    container[key] = value
    return f"{key} is {str(value)[:30]!r}", copy


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
