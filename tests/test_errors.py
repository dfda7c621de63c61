"""The tree in the docstring is the tree in the code, and a message is one line."""

from __future__ import annotations

import inspect
import re

from dreamfusion import errors
from dreamfusion.errors import ConfigError, DreamfusionError


def tree() -> dict[str, int]:
    classes = inspect.getmembers(errors, inspect.isclass)
    return {name: cls.exit_code for name, cls in classes if issubclass(cls, DreamfusionError)}


def test_the_docstring_draws_every_error_with_its_code() -> None:
    drawn = re.findall(r"(\w+Error) +(\d+)", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == tree()


def test_exit_codes_are_distinct_and_not_the_shells() -> None:
    codes = sorted(tree().values())
    assert len(set(codes)) == len(codes)
    # 2 is a usage error's, 126 and above are the shell's.
    assert all(code == 1 or 10 <= code < 126 for code in codes)


def test_a_message_is_one_line_in_a_fixed_order() -> None:
    error = ConfigError("key 'a'\n", expected="a number", got="'x\ny'", hint="write a number")
    assert str(error) == "key 'a' : expected a number, got 'x y'. Write a number"
    assert str(ConfigError("key 'a'", got="3")) == "key 'a': got 3"
    assert str(ConfigError("broken")) == "broken"
    assert error.args == (str(error),)
