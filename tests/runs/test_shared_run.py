"""A run that a stranger made: nothing outside of it is read, written, waited for or shown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamfusion.config_files import load_config
from dreamfusion.errors import CheckpointCorruptError, ConfigError, DreamfusionError, OutputError
from dreamfusion.runs import checkpoint, directory, lock, manifest, metrics
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.files import open_to_append, write_json
from dreamfusion.runs.session import _logging_to


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("mine\n")
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = directory.create(tmp_path / "outputs", load_config("miniature", (), {"prompt": "a red duck"}))
    made.write_state("stopped", 3)
    made.metrics_path.write_text('{"step": 3}\n')
    return made


def instead(path: Path, kind: str, victim: Path) -> None:
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)


WRITERS: dict[str, tuple[str, Callable[[RunDirectory], object]]] = {
    "the lock": (".lock", lambda run: lock.held(run.lock_path).__enter__()),
    "the log": ("log.txt", lambda run: _logging_to(run.log_path).__enter__()),
    "the metrics": ("metrics.jsonl", lambda run: metrics.MetricsWriter(run.metrics_path, 0)),
}


@pytest.mark.parametrize("kind", ["link", "fifo"])
@pytest.mark.parametrize("what", WRITERS)
def test_nothing_is_appended_to_through_a_link_or_fifo(
    run: RunDirectory, victim: Path, what: str, kind: str
) -> None:
    name, write = WRITERS[what]
    instead(run.path / name, kind, victim)
    with pytest.raises(OutputError, match="symbolic link" if kind == "link" else "no regular file|device"):
        write(run)
    assert victim.read_text() == "mine\n"


def test_what_is_replaced_is_the_link_and_not_what_it_leads_to(run: RunDirectory, victim: Path) -> None:
    instead(run.state_path, "link", victim)
    run.write_state("stopped", 4)
    write_json(run.manifest_path, manifest.read(run.manifest_path))
    assert victim.read_text() == "mine\n"
    assert not run.state_path.is_symlink()


@pytest.mark.parametrize("name", ["previews", "checkpoints"])
def test_no_file_is_made_in_a_folder_that_a_link_leads_to(
    run: RunDirectory, tmp_path: Path, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run.path / name).rmdir()
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link out of"):
        run.make_folders()


def test_checkpoints_elsewhere_are_none_of_the_runs(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    checkpoint.save(tmp_path / "elsewhere" / "000002", {}, {"step": 2})
    (run.checkpoints / "000002").symlink_to(tmp_path / "elsewhere" / "000002")
    assert checkpoint.listing(run.checkpoints) == []
    checkpoint.prune(run.checkpoints, 1)
    run.checkpoints.rename(run.path / "other")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    assert checkpoint.listing(run.checkpoints) == []
    assert (tmp_path / "elsewhere" / "000002" / "meta.json").is_file()


@pytest.mark.parametrize("name", [checkpoint.META, checkpoint.TENSORS])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_checkpoint_is_read_from_its_own_files(
    run: RunDirectory, tmp_path: Path, name: str, kind: str
) -> None:
    path = run.checkpoints / "000002"
    checkpoint.save(path, {}, {"step": 2})
    copy = tmp_path / "copy"
    copy.write_bytes((path / name).read_bytes())
    instead(path / name, kind, copy)
    with pytest.raises(CheckpointCorruptError, match="leads out of" if kind == "link" else "a FIFO"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "state.json", "metrics.jsonl", ".lock"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_listing_reads_no_file_elsewhere_and_waits_for_none(
    run: RunDirectory, tmp_path: Path, name: str, kind: str
) -> None:
    """The file elsewhere is a valid one: only its place keeps it out."""
    copy = tmp_path / "copy"
    copy.write_bytes((run.path / name).read_bytes() if name != ".lock" else b"")
    instead(run.path / name, kind, copy)
    [info] = directory.listing(tmp_path / "outputs")
    if name in ("config.yaml", "manifest.json"):
        assert info.status == "damaged"
    elif name == "state.json":
        assert info.status == "created"
    elif name == "metrics.jsonl":
        assert info.step == 0
    else:
        assert (info.status, info.step) == ("stopped", 3)


BAD = {
    "NaN": b'{"step": NaN}\n', "a float": b'{"step": 1.0}\n', "true": b'{"step": true}\n', "1e999": b'{"step": 1e999}\n',
    "401 digits": b'{"step": 1' + b"0" * 400 + b"}\n", "5,000 digits": b'{"step": ' + b"1" * 5_000 + b"}\n",
    "deep": b'{"step": 4, "a": ' + b"[" * 9_999 + b"]" * 9_999 + b"}\n", "a list": b"[4]\n", "no text": b"\xff\xfe\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_line_of_metrics_ends_what_is_read_and_no_command(run: RunDirectory, name: str) -> None:
    run.metrics_path.write_bytes(b'{"step": 1}\n' + BAD[name] + b'{"step": 2}\n')
    assert list(metrics.read(run.metrics_path)) == [{"step": 1}]
    assert metrics.last_step(run.metrics_path) == 2
    run.metrics_path.write_bytes(b'{"step": 1}\n' + BAD[name])
    assert run.info().step == 1
    with metrics.MetricsWriter(run.metrics_path, 7):
        assert run.metrics_path.read_bytes() == b'{"step": 1}\n'


def test_one_damaged_run_does_not_break_the_list_of_all(run: RunDirectory, tmp_path: Path) -> None:
    root = tmp_path / "outputs"
    parts = [
        (part, fault)
        for part in ("manifest.json", "state.json", "config.yaml")
        for fault in ("deep", "no text")
    ]
    for number, (part, fault) in enumerate(parts, 2):
        other = shutil.copytree(run.path, root / f"{number:04d}-other")
        (other / part).write_bytes(BAD[fault])
    (root / ("9" * 200 + "-x")).mkdir()
    (root / "0400-loop").symlink_to("0400-loop")
    os.mkfifo(root / "0401-fifo")
    (root / "0402-file").touch()
    listed = directory.listing(root)
    assert len(listed) == 1 + len(parts)
    assert listed[0].status == "stopped" and {info.status for info in listed[1:]} == {"damaged", "created"}


@pytest.mark.parametrize(
    "content", ['{"created": 7, "sessions": []}', '{"created": ["x"], "sessions": [{}]}']
)
def test_odd_values_of_a_manifest_are_no_text(run: RunDirectory, content: str) -> None:
    run.manifest_path.write_text(content)
    run.state_path.write_text('{"status": ["finished"], "step": {}, "message": 4}')
    info = run.info()
    assert (info.created, info.status, info.message) == ("", "created", "")


@pytest.mark.parametrize(
    "name", ["other.yaml", "../../other.yaml", "/etc/hostname", "~/x", "config.yaml", "''"]
)
def test_a_runs_own_config_extends_presets_only(run: RunDirectory, tmp_path: Path, name: str) -> None:
    for folder in (run.path, tmp_path):
        (folder / "other.yaml").write_text("seed: 7\n")
    text = run.config_path.read_text()
    run.config_path.write_text(f"extends: {name}\n{text}")
    for read in (run.config, lambda: run.config_with(["seed=3"])):
        with pytest.raises(ConfigError, match=r"'extends'.*expected one of the presets"):
            read()
    assert run.info().status == "damaged"
    run.config_path.write_text(f"extends: miniature\n{text}")
    assert run.config() == load_config(run.config_path)
    # One's own files may extend each other.
    (tmp_path / "mine.yaml").write_text("extends: other.yaml\n")
    assert load_config(str(tmp_path / "mine.yaml")).seed == 7


def test_nothing_is_left_of_a_run_that_never_began(run: RunDirectory) -> None:
    for error in (KeyboardInterrupt, DreamfusionError("x")):
        began = directory.create(run.path.parent, run.config())
        never = directory.create(run.path.parent, run.config())
        began.metrics_path.write_text('{"step": 1}\n')
        for made, stays in ((began, True), (never, False)):
            with pytest.raises(BaseException), directory.discarded_unless_begun(made):  # noqa: B017
                raise error
            assert made.path.exists() == stays


def test_a_file_is_appended_to_where_it_lies(tmp_path: Path) -> None:
    for content in (b"a", b"b"):
        with open_to_append(tmp_path / "new") as file:
            file.write(content)
    assert (tmp_path / "new").read_bytes() == b"ab"
