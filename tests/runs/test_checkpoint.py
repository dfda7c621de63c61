"""A checkpoint is complete or absent, whatever happens to its writer, and a damaged one is told from a good one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamfusion.errors import CheckpointCorruptError, CheckpointMissingError, OutputError
from dreamfusion.runs import checkpoint


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "scene.weight": torch.randn(7, 5, generator=generator),
        "occupied": torch.rand(64, generator=generator) > 0.5,
        "generator.noise": generator.get_state(),
        "count": torch.tensor(3, dtype=torch.int64),
    }


def test_what_comes_back_is_what_went_in_bit_for_bit(tmp_path: Path) -> None:
    path = checkpoint.path_for(tmp_path, 200)
    checkpoint.save(path, tensors(), {"step": 200, "share": 0.1})
    loaded, meta = checkpoint.load(path)
    assert meta == {"step": 200, "share": 0.1}
    assert loaded.keys() == tensors().keys()
    for name, value in tensors().items():
        assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value), name
    assert [entry.name for entry in tmp_path.iterdir()] == ["000200"]


def test_same_content_same_bytes(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(checkpoint.path_for(tmp_path, step), tensors(), {"a": 1})
    first, second = checkpoint.listing(tmp_path)
    for name in (checkpoint.TENSORS, checkpoint.META):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_listing_is_by_step_and_sees_only_finished_ones(tmp_path: Path) -> None:
    for step in (999999, 1000000, 30):
        checkpoint.save(checkpoint.path_for(tmp_path, step), tensors(), {})
    (tmp_path / ".000040.123.tmp").mkdir()
    (tmp_path / "notes").mkdir()
    assert [checkpoint.step_of(path) for path in checkpoint.listing(tmp_path)] == [30, 999999, 1000000]
    assert checkpoint.latest(tmp_path).name == "1000000"


def test_prune_keeps_the_newest_and_clears_what_killed_writers_left(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(checkpoint.path_for(tmp_path, step), tensors(), {})
    (tmp_path / ".000040.99999999.tmp").mkdir()
    assert [path.name for path in checkpoint.prune(tmp_path, 2)] == ["000010"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["000020", "000030"]


@pytest.mark.parametrize("part", [checkpoint.TENSORS, checkpoint.META])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped"])
def test_any_damage_is_an_error_that_names_the_older_checkpoint(
    tmp_path: Path, part: str, damage: str
) -> None:
    for step in (100, 200):
        checkpoint.save(checkpoint.path_for(tmp_path, step), tensors(), {"step": step})
    file = checkpoint.path_for(tmp_path, 200) / part
    data = file.read_bytes()
    match damage:
        case "gone":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(data[:-3])
        case "flipped":
            # One bit in the last tensor's values, or in the checksum: only a checksum notices either.
            where = len(data) - 4 if part == checkpoint.TENSORS else data.index(b"sha256") + 12
            file.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
    with pytest.raises(
        CheckpointCorruptError, match=r"000200 cannot be read.*[Dd]elete that folder.*of step 100"
    ):
        checkpoint.load(checkpoint.path_for(tmp_path, 200))
    checkpoint.load(checkpoint.path_for(tmp_path, 100))


def test_the_checkpoint_named_is_the_newest_that_can_be_used_and_the_advice_leads_to_it(
    tmp_path: Path,
) -> None:
    for step in (100, 200, 300):
        checkpoint.save(checkpoint.path_for(tmp_path, step), tensors(), {})
    for step in (200, 300):
        (checkpoint.path_for(tmp_path, step) / checkpoint.META).write_text("{}")
    with pytest.raises(CheckpointCorruptError, match=r"[Dd]elete 000300 and 000200 .*of step 100"):
        checkpoint.load(checkpoint.path_for(tmp_path, 300))
    (checkpoint.path_for(tmp_path, 100) / checkpoint.META).write_text("[]")
    with pytest.raises(CheckpointCorruptError, match="start a new run"):
        checkpoint.load(checkpoint.path_for(tmp_path, 300))


def test_a_later_format_is_said_not_guessed(tmp_path: Path) -> None:
    path = checkpoint.path_for(tmp_path, 1)
    checkpoint.save(path, tensors(), {})
    content = json.loads((path / checkpoint.META).read_text())
    (path / checkpoint.META).write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(CheckpointCorruptError, match="format 99"):
        checkpoint.load(path)


def test_absent_checkpoints_are_missing_not_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissingError):
        checkpoint.latest(tmp_path)
    with pytest.raises(CheckpointMissingError):
        checkpoint.load(tmp_path / "000001")


def test_a_writer_that_fails_half_way_leaves_nothing_and_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.path_for(tmp_path, 5)
    checkpoint.save(path, tensors(1), {"old": True})

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "sync_file", interrupted)
    for step in (5, 6):
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(checkpoint.path_for(tmp_path, step), tensors(2), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["000005"]
    loaded, meta = checkpoint.load(path)
    assert meta == {"old": True} and torch.equal(loaded["scene.weight"], tensors(1)["scene.weight"])


def test_a_checkpoint_that_is_there_is_replaced(tmp_path: Path) -> None:
    path = checkpoint.path_for(tmp_path, 5)
    for seed in (1, 2):
        checkpoint.save(path, tensors(seed), {"seed": seed})
    assert checkpoint.load(path)[1] == {"seed": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["000005"]


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "000001", tensors(), {})


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX matter")
def test_a_full_disk_is_an_output_error_and_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    # A limit on the size of files stands in for the full disk: the system refuses the write in the same way.
    script = f"""
import resource, signal, torch
from pathlib import Path
from dreamfusion.errors import OutputError
from dreamfusion.runs import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path({str(tmp_path)!r}) / "000001", {{"a": torch.zeros(100_000)}}, {{}})
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # Over the limit is "too large", and gets a full disk's advice: not to leave the run, but to make room for it.
    assert "cannot be written" in done.stdout and "Free some space" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    script = f"""
import torch
from pathlib import Path
from dreamfusion.runs import checkpoint
for step in range(100_000):
    checkpoint.save(Path({str(tmp_path)!r}) / f"{{step:06d}}", {{"a": torch.full((20_000,), step)}}, {{"step": step}})
    checkpoint.prune(Path({str(tmp_path)!r}), 2)
    print(step, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 10:
                break
        os.kill(writer.pid, signal.SIGKILL)
    found = checkpoint.listing(tmp_path)
    assert len(found) in (2, 3)
    for path in found:
        loaded, meta = checkpoint.load(path)
        assert meta["step"] == checkpoint.step_of(path) and bool((loaded["a"] == meta["step"]).all())
