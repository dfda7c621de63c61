"""Ctrl-C in real processes: code that swallows it, code that cleans up after it, and what comes out at the top."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Ended = Callable[[str], subprocess.CompletedProcess[str]]
HEAD = """
import os, signal, sys, time
from dreamfusion import interrupts

def press():
    os.kill(os.getpid(), signal.SIGINT)

def work():
    # Bytecode for a signal to come between; far longer than the reminder's interval, and no test waits for its end.
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pass
    print("ran on to a good end")
"""


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    """Runs the body of a guarded program as a module, as `python -m dreamfusion` is."""

    def run(body: str) -> subprocess.CompletedProcess[str]:
        program = "def program():\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / "program.py").write_text(f"{HEAD}\n{program}\ninterrupts.guarded(program)\n")
        command = [sys.executable, "-m", "program"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_an_interrupt_ends_with_its_code_and_no_traceback(ended: Ended) -> None:
    done = ended("press()")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("times", [1, 3])
def test_what_a_library_swallows_is_raised_again(ended: Ended, times: int) -> None:
    swallow = """
    try:
        {inner}
    except BaseException:
        print("swallowed")
    """
    body = textwrap.dedent(swallow).format(inner="press()")
    body += textwrap.dedent(swallow).format(inner="work()") * (times - 1)
    done = ended(body + "\nwork()")
    assert (done.returncode, done.stdout, done.stderr) == (130, "swallowed\n" * times, "")


def test_cleaning_up_is_not_disturbed(ended: Ended) -> None:
    done = ended(
        """
        try:
            try:
                press()
            finally:
                time.sleep(5 * interrupts.INSIST_S)
                print("the temporary file is gone")
        except BaseException:
            try:
                raise RuntimeError("what became of it")
            finally:
                time.sleep(5 * interrupts.INSIST_S)
                print("its folder, too")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        130,
        "the temporary file is gone\nits folder, too\n",
        "",
    )


def test_a_person_who_insists_is_obeyed_while_it_cleans_up(ended: Ended) -> None:
    done = ended(
        """
        try:
            press()
        finally:
            press()
            print("never")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_an_interrupted_import_turns_into_is_nobodys_mistake(ended: Ended) -> None:
    done = ended(
        """
        try:
            press()
        except BaseException:
            pass
        raise ImportError("cannot import name 'x' from partially initialized module 'y'")
        """
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_where_python_can_only_print_it_nothing_is_printed(ended: Ended) -> None:
    done = ended(
        """
        class Unlucky:
            def __del__(self):
                press()
        Unlucky()
        work()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_command_may_say_that_it_was_for_it(ended: Ended) -> None:
    done = ended(
        """
        try:
            press()
        except KeyboardInterrupt:
            interrupts.taken()
        time.sleep(5 * interrupts.INSIST_S)
        print("closed")
        raise SystemExit(0)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_without_an_interrupt_errors_and_exit_codes_are_as_they_were(ended: Ended) -> None:
    assert ended("raise SystemExit(14)").returncode == 14
    broken = ended("raise ValueError('a bug')")
    assert broken.returncode == 1 and "ValueError: a bug" in broken.stderr
    lost = ended(
        """
        class Broken:
            def __del__(self):
                raise ValueError('a bug')
        Broken()
        """
    )
    assert "ValueError: a bug" in lost.stderr


def test_an_interrupt_that_came_through_a_text_of_code_ends_with_the_same_code(ended: Ended) -> None:
    done = ended("exec('press()')")
    assert (done.returncode, done.stderr) == (130, "")


def test_at_pythons_own_end_an_interrupt_prints_nothing(ended: Ended) -> None:
    done = ended("import atexit\natexit.register(press)")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
