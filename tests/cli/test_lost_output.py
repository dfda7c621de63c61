"""A full disk, a closed descriptor or a reader that has left behind stdout or stderr: no traceback, no lost work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dreamfusion.runs.directory import RunDirectory

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")

PRINTED = ["config show miniature", "config show", "models list"]
"""Commands whose only result is what they print, and that always print something."""
BROKEN = [">/dev/full", ">&-", "2>/dev/full", "2>&-", "<&- >&- 2>&-", "| head -c 1"]


def shell(words: str, redirection: str, folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of a command in a shell, which knows these redirections best."""
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m dreamfusion {words} {redirection}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("redirection", BROKEN)
def test_a_result_that_is_only_printed_and_lost_is_an_error(tmp_path: Path, redirection: str) -> None:
    # One command a redirection: each is a process that takes its time to start.
    words = PRINTED[BROKEN.index(redirection) % len(PRINTED)]
    code, told = shell(words, redirection, tmp_path)
    stdout_is_lost = redirection.startswith((">", "<"))
    assert code == (18 if stdout_is_lost else 0)
    assert "Traceback" not in told and "Exception ignored" not in told
    if stdout_is_lost and "2>" not in redirection:
        assert told.startswith("error: standard output cannot be written") and told.count("\n") == 1


def test_unbuffered_streams_and_errors_are_no_exception(tmp_path: Path) -> None:
    code, told = shell("config show miniature", ">/dev/full", tmp_path, PYTHONUNBUFFERED="1")
    assert (code, told.count("\n")) == (18, 1)
    assert shell("config show nonsense", ">/dev/full 2>/dev/full", tmp_path) == (11, "")


@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_files_are_written_whatever_becomes_of_the_output(
    run_with_checkpoint: RunDirectory, redirection: str
) -> None:
    words = f"render {run_with_checkpoint.path} --frames 3 --size 32 --device cpu"
    code, _ = shell(words, redirection, run_with_checkpoint.path)
    film = run_with_checkpoint.path / "turntable.mp4"
    assert code == 0 and film.stat().st_size > 0


def test_training_ends_well_on_a_full_disk_behind_its_output(
    tmp_path: Path, tiny_model: Path, small: list[str]
) -> None:
    overrides = " ".join(f"--set {shlex.quote(text)}" for text in small)
    words = f"train 'a red duck' --model {tiny_model} --config miniature --steps 2 --device cpu {overrides}"
    code, told = shell(words, ">/dev/full", tmp_path, HF_HUB_OFFLINE="1")
    [run] = (tmp_path / "outputs").iterdir()
    assert code == 0 and "standard output cannot be written" in told and "Traceback" not in told
    assert RunDirectory(run).info().status == "finished"
