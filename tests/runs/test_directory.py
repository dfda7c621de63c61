"""Numbers are never given twice, runs are found by what people type, and a listing tells how each stands."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CheckpointMissingError, ConfigError, OutputError, RunNotFoundError
from dreamfusion.runs import directory, lock, manifest
from dreamfusion.runs.directory import RunDirectory


def config(prompt: str = "a peacock on a surfboard") -> ExperimentConfig:
    return ExperimentConfig(prompt=prompt, seed=7)


def test_slug_of_the_prompt_everyone_types() -> None:
    assert directory.slug("A Peacock on a Surfboard!") == "a-peacock-on-a-surfboard"
    assert directory.slug("un château d'Écosse") == "un-chateau-decosse"
    assert directory.slug("孔雀") == "run"


@given(st.text(max_size=300))
def test_a_slug_is_a_file_name_anywhere_and_stable(text: str) -> None:
    made = directory.slug(text)
    assert 0 < len(made) <= 60
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not made.startswith("-") and not made.endswith("-") and "--" not in made
    assert directory.slug(made) == made


def test_a_run_holds_what_made_it(tmp_path: Path) -> None:
    run = directory.create(tmp_path / "outputs", config())
    assert run.path.name == "0001-a-peacock-on-a-surfboard"
    assert (run.number, run.name) == (1, "a-peacock-on-a-surfboard")
    assert run.config() == config()
    told = run.manifest()
    assert told["prompt"] == "a peacock on a surfboard" and told["seed"] == 7 and told["sessions"] == []
    manifest.add_session(run.manifest_path, ["dreamfusion", "train", "a peacock"], "cpu", 0)
    [session] = run.manifest()["sessions"]
    assert session["command"] == "dreamfusion train 'a peacock'" and session["device"] == "cpu"
    assert session["versions"]["torch"] != "absent" and session["versions"]["python"].startswith("3.")


def test_numbers_go_on_past_gaps_names_and_four_digits(tmp_path: Path) -> None:
    assert directory.create(tmp_path, config(), name="First Try").path.name == "0001-first-try"
    (tmp_path / "0041-something").mkdir()
    assert directory.create(tmp_path, config()).number == 42
    (tmp_path / "9999-something").mkdir()
    assert directory.create(tmp_path, config("a duck")).path.name == "10000-a-duck"
    assert directory.create(tmp_path, config("a duck")).number == 10001


def _create_many(root: str, prompt: str, count: int) -> None:
    for _ in range(count):
        directory.create(Path(root), config(prompt))


def test_simultaneous_starts_never_share_a_number(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    starters = [
        context.Process(target=_create_many, args=(str(tmp_path), f"prompt {i}", 10)) for i in range(4)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
        assert starter.exitcode == 0
    numbers = sorted(int(entry.name.split("-")[0]) for entry in tmp_path.iterdir())
    assert numbers == list(range(1, 41))


def test_a_number_taken_between_look_and_mkdir_is_not_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other start finishes exactly in the gap: our look at the folder is older than its rename.
    directory.create(tmp_path, config("a duck"))
    monkeypatch.setattr(directory, "_highest", lambda _: 0)
    assert directory.create(tmp_path, config("a car")).number == 2


def test_a_start_that_fails_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr(directory, "write_json", full)
    with pytest.raises(OutputError):
        directory.create(tmp_path, config())
    assert list(tmp_path.iterdir()) == []


def test_found_by_path_number_name_and_latest(tmp_path: Path) -> None:
    first = directory.create(tmp_path, config("a duck"))
    second = directory.create(tmp_path, config("a car"))
    third = directory.create(tmp_path, config("a duck"))
    for reference, expected in [
        (str(first.path), first),
        ("1", first),
        ("0002", second),
        ("0001-a-duck", first),
        ("a-duck", third),
        ("a duck", third),
        ("a-car", second),
        ("latest", third),
        (None, third),
    ]:
        assert directory.find(reference, tmp_path) == expected, reference


def test_the_latest_is_the_highest_number_not_the_last_name(tmp_path: Path) -> None:
    for name in ("9999-zebra", "10000-ant"):
        (tmp_path / name).mkdir()
    assert directory.find(None, tmp_path).number == 10000


@pytest.mark.parametrize("reference", ["8", "0002-a-duk", "a-duk", "no/such/dir"])
def test_an_unknown_run_names_what_there_is(tmp_path: Path, reference: str) -> None:
    directory.create(tmp_path, config("a duck"))
    with pytest.raises(RunNotFoundError, match=r"0001-a-duck|a-duck"):
        directory.find(reference, tmp_path)


def test_no_runs_and_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="there is no run in"):
        directory.find(None, tmp_path / "nowhere")
    with pytest.raises(RunNotFoundError, match="is not a run"):
        directory.find(str(tmp_path), tmp_path)


def test_a_damaged_config_is_one_line(tmp_path: Path) -> None:
    run = directory.create(tmp_path, config())
    run.config_path.write_text("prompt: [")
    with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
        run.config()
    assert "\n" not in str(caught.value)


def test_the_listing_tells_how_each_run_stands(tmp_path: Path) -> None:
    names = ["created", "running", "finished", "killed", "collapsed", "damaged"]
    runs = {name: directory.create(tmp_path, config(), name=name) for name in names}
    for name in ("running", "finished", "killed", "collapsed"):
        runs[name].write_state("running" if name == "killed" else name, 3, message=f"{name}!")
        runs[name].metrics_path.write_text('{"step": 3}\n{"step": 4}\n{"st')
    runs["damaged"].manifest_path.unlink()
    with lock.held(runs["running"].lock_path):
        # Another process looks, because one's own lock never stands in one's own way.
        shown = subprocess.run(
            [sys.executable, "-c", _LIST, str(tmp_path)], capture_output=True, text=True, check=True
        )
    assert shown.stdout.split() == [
        f"{name}:{name}:{step}" for name, step in zip(names, [0, 4, 4, 4, 4, 0], strict=True)
    ]
    assert directory.listing(tmp_path / "nowhere") == []
    assert [info.has_checkpoint for info in directory.listing(tmp_path)] == [False] * 6


_LIST = """
import sys
from pathlib import Path
from dreamfusion.runs.directory import listing
assert "torch" not in sys.modules
for info in listing(Path(sys.argv[1])):
    print(f"{info.name}:{info.status}:{info.step}")
assert "torch" not in sys.modules, "a table of runs must not wait for torch"
"""


def test_a_run_is_written_by_one_process_only_and_a_dead_one_frees_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom dreamfusion.runs import lock\n"
        "with lock.held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert lock.is_held(path)
        with pytest.raises(OutputError, match=f"process {holder.pid}"), lock.held(path):
            pass
        holder.kill()
    assert not lock.is_held(path)
    with lock.held(path):
        assert path.read_text() == str(os.getpid())


def test_without_a_checkpoint_the_run_says_so(tmp_path: Path) -> None:
    run = directory.create(tmp_path, config())
    with pytest.raises(CheckpointMissingError, match="has no checkpoint yet"):
        run.latest_checkpoint()


def test_output_folders_are_probed_before_anything_is_computed(tmp_path: Path) -> None:
    directory.check_writable(tmp_path / "new" / "outputs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    directory.check_writable(tmp_path / "old")
    assert list((tmp_path / "old").iterdir()) == []
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            directory.check_writable(bad)


def test_a_renamed_run_is_still_a_run(tmp_path: Path) -> None:
    run = directory.create(tmp_path, config())
    moved = run.path.rename(tmp_path / "the good one")
    assert directory.find(str(moved), tmp_path) == RunDirectory(moved)
    assert RunDirectory(moved).number == 0 and RunDirectory(moved).name == "the good one"


def test_only_a_run_without_a_step_is_discarded(tmp_path: Path) -> None:
    started, unused, saved = (directory.create(tmp_path, config(), name=name) for name in ("a", "b", "c"))
    started.metrics_path.write_text('{"step": 1}\n')
    (saved.checkpoints / "000000").mkdir()
    (tmp_path / "0004-of-somebody-else").mkdir()
    foreign = RunDirectory(tmp_path / "0004-of-somebody-else")
    noted = directory.create(tmp_path, config(), name="d")
    (noted.path / "diary.txt").touch()
    for run in (started, unused, saved, foreign, noted):
        directory.discard_unused(run)
    assert [info.name for info in directory.listing(tmp_path)] == ["a", "c", "of-somebody-else", "d"]


def test_a_drive_without_locks_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_try_lock", none)
    with pytest.raises(OutputError, match="no locks available"), lock.held(tmp_path / ".lock"):
        pass
    assert not lock.is_held(tmp_path / ".lock")
