"""What a killed process left is distinguished from what a living one writes, and from other people's files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dreamfusion import temporary
from dreamfusion.temporary import is_abandoned, scratch_folder, sweep, temporary_name

NOBODY = 2**22 + 1
"""No process has this number: it is above Linux's largest."""


def left_by(process: int, name: str = "turntable", ending: str = ".mp4") -> str:
    """A temporary name as a process of that number on this host gives it."""
    own = temporary_name(Path(name), ending).name
    return own.replace(f".{os.getpid()}-", f".{process}-")


def test_names_lie_beside_their_file_and_no_two_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "turntable.mp4"
    names = {temporary_name(path, ".mp4") for _ in range(50)}
    assert len(names) == 50 and all(name.parent == tmp_path for name in names)
    assert all(name.suffix == ".mp4" and name.name.startswith(".turntable.mp4.") for name in names)


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "孔" * 85, "a\nb", "..", "a.b.c"])
def test_any_name_that_a_file_can_have_gets_one_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    made = temporary_name(tmp_path / name, ".html")
    made.touch()
    assert not is_abandoned(made)
    assert is_abandoned(made.with_name(made.name.replace(f".{os.getpid()}-", f".{NOBODY}-")))


def test_only_what_ended_processes_left_goes(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        kept = [
            left_by(alive.pid),
            temporary_name(tmp_path / "state.json").name,
            ".bashrc",
            ".turntable.mp4",
            ".notes.tmp",
            f".state.json.{NOBODY}.tmp.bak",
            "turntable.mp4",
            left_by(NOBODY).lstrip("."),
        ]
        gone = [
            left_by(NOBODY),
            left_by(NOBODY, "state.json", ""),
            left_by(os.getpid(), "of another process"),
        ]
        temporary._own.discard(
            gone[-1]
        )  # such as one of the same number in a container that was started again
        for name in kept + gone:
            (tmp_path / name).write_text("x")
        folder = tmp_path / left_by(NOBODY, "000004", "")
        (folder / "inside").mkdir(parents=True)
        removed = sweep(tmp_path)
        assert alive.stdin is not None
        alive.stdin.close()
    assert sorted(path.name for path in removed) == sorted([*gone, folder.name])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_process_of_another_user_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_process: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(temporary.os, "kill", refused)
    path = tmp_path / left_by(1)
    path.touch()
    assert sweep(tmp_path) == [] and path.exists()


def test_other_hosts_cannot_be_asked_so_their_files_stay_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(temporary.platform, "node", lambda: "another host")
        path = tmp_path / left_by(NOBODY)
    path.touch()
    assert sweep(tmp_path) == []
    old = path.stat().st_mtime - temporary.FOREIGN_AGE_S - 1
    os.utime(path, (old, old))
    assert sweep(tmp_path) == [path]


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / left_by(NOBODY)).symlink_to(tmp_path / "precious")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious" / "file").exists()


def test_a_scratch_folder_goes_at_the_end_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / left_by(NOBODY, "dreamfusion-usd", "")).mkdir()
    with scratch_folder("unwrap") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
