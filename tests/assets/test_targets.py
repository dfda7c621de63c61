"""What a file may be written over: nothing, or a regular file. Everything else stays as it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamfusion.assets.files import STILLS, atomic_folder, atomic_path, choose_format
from dreamfusion.assets.formats import WRITERS
from dreamfusion.assets.video import FORMATS
from dreamfusion.commands.finished import check_writable_file
from dreamfusion.errors import OutputError

EXPECTED = {
    "folder": "a folder", "fifo": "a FIFO", "device": "a device", "link to a file": "Name the file that it leads to",
    "link to a device": "a symbolic link", "link to nothing": "a symbolic link", "link to a folder": "a symbolic link",
}  # fmt: skip


def put(kind: str, path: Path, victim: Path) -> None:
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("only root makes devices")
        case "link to a file":
            path.symlink_to(victim)
        case "link to a device":
            path.symlink_to("/dev/null")
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to a folder":
            path.symlink_to(victim.parent)


def write(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")


WAYS: dict[str, Callable[[Path], None]] = {"writing": write, "checking before the work": check_writable_file}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EXPECTED)
def test_only_a_regular_file_is_replaced(tmp_path: Path, kind: str, way: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out.glb"
    victim.write_bytes(b"mine")
    put(kind, path, victim)
    before = os.lstat(path)
    with pytest.raises(OutputError, match=EXPECTED[kind]):
        WAYS[way](path)
    assert os.path.samestat(os.lstat(path), before)
    assert victim.read_bytes() == b"mine"
    assert {entry.name for entry in tmp_path.iterdir()} == {"victim", "out.glb"}


def test_a_regular_file_is(tmp_path: Path) -> None:
    path = tmp_path / "out.glb"
    for old in (None, b"old"):
        if old is not None:
            path.write_bytes(old)
        check_writable_file(path)
        write(path)
        assert path.read_bytes() == b"new"


@pytest.mark.parametrize("kind", [kind for kind in EXPECTED if kind != "folder"])
def test_frames_go_into_a_folder_only(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "frames"
    (tmp_path / "victim").write_bytes(b"mine")
    put(kind, path, tmp_path / "victim")
    with pytest.raises(OutputError, match="cannot write frames"), atomic_folder(path, "*.png") as folder:
        (folder / "0.png").write_bytes(b"new")
    assert not path.is_dir() or kind == "link to a folder"


@pytest.mark.parametrize("name", ["x" * 300, "x" * 245 + ".glb", "é" * 125 + ".glb"])
def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"too long|at most 240 bytes") as told:
        check_writable_file(tmp_path / name)
    assert len(str(told.value)) < 900
    check_writable_file(tmp_path / ("x" * 236 + ".glb"))


@pytest.mark.parametrize("known", [STILLS, FORMATS, tuple(WRITERS)], ids=["images", "videos", "meshes"])
def test_a_format_and_an_ending_that_disagree_are_refused(known: tuple[str, ...]) -> None:
    """All pairs; two names of one format are no disagreement, and then the option counts."""
    for ending in (*known, *map(str.upper, known)):
        assert choose_format(Path(f"a.b.{ending}"), None, known) == ending.lower()
        for format in known:
            path, same = Path(f"a.{ending}"), {ending.lower(), format}
            if len(same) == 1 or same in ({"png", "apng"}, {"jpg", "jpeg"}):
                assert choose_format(path, format.upper(), known) == format
            else:
                with pytest.raises(OutputError, match=f"format {format} and the name 'a.{ending}'"):
                    choose_format(path, format, known)
    for ending in ("", ".", ".doc"):  # says nothing of these formats
        assert choose_format(Path(f"a{ending}"), known[-1], known) == known[-1]
        with pytest.raises(OutputError, match="is not known"):
            choose_format(Path(f"a{ending}"), None, known)
