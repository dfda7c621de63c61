"""What is replaced is whole before it has its name, and a system that refuses is told in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dreamfusion.errors import OutputError
from dreamfusion.runs import checkpoint, files


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of the disk, in order: the inode that was synced, or "rename"."""
    asked: list[Any] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (asked.append(os.fstat(file).st_ino), sync(file)))
    for name in ("rename", "replace"):
        rename = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *paths, rename=rename: (asked.append("rename"), rename(*paths)))
    return asked


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, done: list[Any]) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    files.write_atomically(path, b"new")
    assert done == [inode(path), "rename", inode(tmp_path)]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, done: list[Any]) -> None:
    import torch

    path = checkpoint.path_for(tmp_path, 7)
    checkpoint.save(path, {"a": torch.zeros(3)}, {})
    parts = [path / checkpoint.TENSORS, path / checkpoint.META, path]
    # The tensors' library names its file itself; what counts is the last rename, which makes the checkpoint.
    last = len(done) - 1 - done[::-1].index("rename")
    assert {inode(part) for part in parts} <= set(done[:last])
    assert done[last:] == ["rename", inode(tmp_path)]


def test_a_write_that_is_refused_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"state\.json cannot be written.*no space left.*Free some space"):
        files.write_atomically(path, b"new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
