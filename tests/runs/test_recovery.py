"""What a kill leaves behind is put right by the next command: names, old checkpoints, and a state that was not written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamfusion.config import ExperimentConfig
from dreamfusion.runs import checkpoint, directory, lock
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.leftovers import clean_root, clean_run
from dreamfusion.runs.recovery import recover
from dreamfusion.runs.session import run_training
from dreamfusion.training.trainer import Trainer

MakeConfig = Callable[..., ExperimentConfig]
MakeTrainer = Callable[[ExperimentConfig, str], Trainer]
NOBODY = 2**22 + 1


class KilledError(BaseException):
    """Stands for a kill."""


# ------------------------------------------------------------------------------- the last word was not written


@pytest.fixture
def killed_at_the_end(
    tmp_path: Path, make_config: MakeConfig, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> RunDirectory:
    """Killed when the last checkpoint was whole, the older ones were not pruned and the state not written."""
    run = directory.create(tmp_path, make_config(checkpoint_every=2))
    prune = checkpoint.prune

    def dying(folder: Path, keep: int) -> list[Path]:
        if (folder / "000012").is_dir():
            monkeypatch.setattr(RunDirectory, "write_state", lambda *_: None)
            raise KilledError
        return prune(folder, keep)

    monkeypatch.setattr(checkpoint, "prune", dying)
    with pytest.raises(KilledError):
        run_training(run, run.config(), make_trainer=make_trainer)
    monkeypatch.undo()
    return run


def test_a_run_killed_behind_its_last_checkpoint_is_finished_and_pruned(
    killed_at_the_end: RunDirectory,
) -> None:
    run = killed_at_the_end
    assert run.noted_status() == "running" and len(checkpoint.listing(run.checkpoints)) == 3
    assert run.info().status == "finished"
    recover(run)
    assert run.noted_status() == "finished"
    assert [path.name for path in checkpoint.listing(run.checkpoints)] == ["000010", "000012"]


def test_a_run_that_is_being_written_is_left_alone(killed_at_the_end: RunDirectory) -> None:
    with lock.held(killed_at_the_end.lock_path):
        recover(killed_at_the_end)
    assert killed_at_the_end.noted_status() == "running"
    assert len(checkpoint.listing(killed_at_the_end.checkpoints)) == 3


@pytest.mark.parametrize(("status", "steps"), [("running", 10), ("collapsed", 12), ("stopped", 10)])
def test_only_a_run_with_its_last_checkpoint_is_called_finished(
    tmp_path: Path, make_config: MakeConfig, status: str, steps: int
) -> None:
    run = directory.create(tmp_path, make_config())
    run.write_state(status, steps)
    (run.checkpoints / f"{steps:06d}").mkdir()
    recover(run)
    assert run.noted_status() == status
    assert run.info().status == {"running": "killed"}.get(status, status)


def test_a_run_that_cannot_be_put_right_is_no_obstacle(tmp_path: Path, make_config: MakeConfig) -> None:
    recover(RunDirectory(tmp_path / "nowhere"))
    run = directory.create(tmp_path, make_config())
    run.write_state("running", 1)
    run.config_path.write_text("{")
    recover(run)
    assert run.info().status == "damaged"


# ------------------------------------------------------------------------------------------- what is left over

LEFT = {
    # As versions before this one named them: in the run's folder and in those below.
    f".state.json.{NOBODY}.tmp": "",
    f".config.yaml.{NOBODY}.tmp": "",
    f"previews/.000100.png.{NOBODY}.tmp": "",
    f"checkpoints/.000004.{NOBODY}.tmp/tensors.safetensors": "",
    f"checkpoints/.000002-pruned.{NOBODY}.tmp/meta.json": "",
    ".turntable-k3_x9ab0.mp4": "",
    ".turntable-depth-k3_x9ab0.gif": "",
    ".turntable-k3_x9ab0/frame-0000.png": "",
    ".mesh-abcdefgh.glb": "",
    "held_out/.003-abcdefgh.png": "",
}
KEPT = {
    ".lock": "",
    ".gitignore": "",
    ".turntable.mp4": "",
    ".turntable-holiday.txt": "",
    ".my-notes-abcdefgh.mp4": "",
    f".notes.{NOBODY}.tmp": "",
    "turntable.mp4": "",
    "previews/.keep": "",
}


def written(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_older_versions_left_goes_and_other_files_stay(tmp_path: Path, make_config: MakeConfig) -> None:
    run = directory.create(tmp_path, make_config())
    own = files_in(run.path)
    written(run.path, LEFT | KEPT)
    clean_run(run.path)
    assert files_in(run.path) == own | set(KEPT)


def test_a_living_older_version_keeps_its_files(tmp_path: Path) -> None:
    written(tmp_path, {f".state.json.{os.getpid()}.tmp": ""})
    clean_run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_abandoned_reservations_go_and_their_number_is_given_again(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    (tmp_path / ".0001").mkdir()
    written(tmp_path / ".0002", {"config.yaml": "", f".manifest.json.{NOBODY}.tmp": ""})
    (tmp_path / ".0002" / "previews").mkdir()
    (tmp_path / ".probe.4194399").mkdir()
    written(tmp_path / ".0003", {"diary.txt": "not ours"})
    written(tmp_path / ".0004", {"checkpoints/000100/meta.json": "a run that somebody hid"})
    assert directory.create(tmp_path, make_config()).number == 5  # past those that were kept
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == {".0003", ".0004"}


def test_a_reservation_of_a_living_process_stays(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from dreamfusion.runs import directory
print(directory._reserve(Path(sys.argv[1]))[1], flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        reserved = Path(other.stdout.readline().strip())
        clean_root(tmp_path)
        assert reserved.name == ".0001" and reserved.is_dir()
        other.send_signal(signal.SIGKILL)
        other.wait()
        clean_root(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Kills at the moments when something lies about under a temporary name: the call that is interrupted there, and the
# command that comes next.
MOMENTS = {
    "os.replace": "directory.create(root, config)",
    "os.rename": "directory.create(root, config)",
    "pathlib.Path.mkdir": "directory.create(root, config)",
    "os.fsync": "run.write_state('running', 3)",
    "safetensors.torch.save_file": "checkpoint.save(run.checkpoints / '000004', {}, {})",
    "PIL.Image.Image.save": "write_image(pixels, run.path / 'picture.png')",
    "dreamfusion.assets.video._frames_in": "write_video([pixels] * 3, run.path / 'turntable.mp4')",
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_next_command_leaves_nothing_of_what_was_killed(tmp_path: Path, make_config: MakeConfig) -> None:
    # One process that forks at each moment: to start one for each would take longer than the test is worth.
    script = """
import os, pkgutil, signal, sys
from pathlib import Path
import numpy as np
from dreamfusion.assets.images import write_image
from dreamfusion.assets.video import write_video
from dreamfusion.config import ExperimentConfig
from dreamfusion.runs import checkpoint, directory
root, config = Path(sys.argv[1]), ExperimentConfig(prompt="a duck")
run = directory.create(root, config)
pixels = np.zeros((16, 16, 3), dtype=np.uint8)
for place, call in eval(sys.argv[2]).items():
    seen = set()
    for count in (1, 2, 3):
        child = os.fork()
        if child == 0:
            owner = pkgutil.resolve_name(place.rpartition(".")[0])
            name, calls = place.rpartition(".")[2], []
            real = getattr(owner, name)
            def dying(*args, **kwargs):
                calls.append(name)
                if len(calls) == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            setattr(owner, name, dying)
            eval(call)
            os._exit(0)
        os.waitpid(child, 0)
        seen |= {path.name for path in root.rglob(".*") if str(child) in path.name or path.name.startswith(".00")}
    print(place, len(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), repr(MOMENTS)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found.keys() == MOMENTS.keys() and "0" not in found.values(), found
    from dreamfusion.commands.tables import print_runs

    print_runs(tmp_path)
    assert list(tmp_path.rglob(".*")) == []
