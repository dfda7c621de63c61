"""The run's directory: made under the next free number, found again by path, number or name, and listed.

    outputs/0007-a-peacock-on-a-surfboard/
        config.yaml       the resolved configuration
        manifest.json     prompt, seed, and per session the command line, versions, device, time
        state.json        how far it is and how it ended
        metrics.jsonl     one line a step
        log.txt
        previews/         000100.png: front, side, back, overhead
        checkpoints/      000200/: tensors.safetensors, meta.json

A run's directory appears with its configuration and manifest in it. Two starts at the same moment get two numbers.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion import documents
from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import dump_config, load_config
from dreamfusion.errors import ConfigError, OutputError, RunNotFoundError, shown
from dreamfusion.runs import checkpoint, leftovers, lock, manifest, metrics
from dreamfusion.runs.files import output_errors, write_atomically, write_json
from dreamfusion.temporary import temporary_name

_SLUG_LENGTH = 60
_OWN_FILES = {
    "config.yaml", "manifest.json", "state.json", "metrics.jsonl", "log.txt", ".lock", "previews", "checkpoints",
}  # fmt: skip


def slug(text: str) -> str:
    """`text` as a part of a file name that every system takes: a-z, 0-9 and single hyphens, at most 60 characters.

    "A Peacock on a Surfboard!" becomes "a-peacock-on-a-surfboard"; a text without any Latin letter becomes "run".
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain.replace("'", ""))
    kept = ""
    for word in words:
        longer = f"{kept}-{word}" if kept else word
        if len(longer) > _SLUG_LENGTH:
            break
        kept = longer
    return kept or "-".join(words)[:_SLUG_LENGTH] or "run"


@dataclass(frozen=True)
class RunDirectory:
    """One run on the disk. Holding an object of this class means that the directory exists and is a run's."""

    path: Path

    @property
    def number(self) -> int:
        """The run's number; 0 for a directory that was renamed to have none."""
        match = leftovers.RUN.fullmatch(self.path.name)
        return int(match[1]) if match else 0

    @property
    def name(self) -> str:
        """The part behind the number: the prompt's slug, or what --name said."""
        match = leftovers.RUN.fullmatch(self.path.name)
        return match[2] if match else self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def state_path(self) -> Path:
        return self.path / "state.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def lock_path(self) -> Path:
        return self.path / ".lock"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def config(self) -> ExperimentConfig:
        """The configuration that the run was started with.

        Raises:
            ConfigError: the file was damaged or belongs to another version; the message names it.
        """
        return self.config_with(())

    def config_with(self, overrides: Sequence[str]) -> ExperimentConfig:
        """The run's configuration with `--set` texts over it; the errors are those of `config`."""
        return load_config(self.config_path, overrides, run=self.path)

    def manifest(self) -> dict[str, Any]:
        return manifest.read(self.manifest_path)

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint's folder; CheckpointMissingError if there is none."""
        return checkpoint.latest(self.checkpoints)

    def write_state(self, status: str, step: int, message: str = "") -> None:
        """Note how far the run is and how it stands; see `RunInfo.status` for the words."""
        write_json(
            self.state_path, {"status": status, "step": step, "message": message, "updated": manifest.now()}
        )

    def make_folders(self) -> None:
        """Make the folders of previews and checkpoints where they are absent; never the run's own."""
        for folder in (self.previews, self.checkpoints):
            self.make_folder(folder)

    def make_folder(self, folder: Path) -> None:
        """Make one of the run's own folders if it is absent.

        Raises:
            OutputError: it cannot be made, or a link of that name leads out of the run.
        """
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
        if not documents.is_folder_under(folder, self.path):
            raise OutputError(
                f"{folder} cannot be written", got=f"a link out of {self.path}", hint="remove the link"
            )

    def check_documents(self) -> None:
        """See that what makes a folder a run, and is not written while it trains, is still there.

        Raises:
            OutputError: the configuration or the manifest was deleted or renamed.
        """
        for path in (self.config_path, self.manifest_path):
            if not documents.is_file(path):
                raise OutputError(
                    f"{path} was deleted or renamed while it was in use",
                    hint="without it no command knows the run: put it back",
                )

    def note_steps(self, steps: int) -> None:
        """Change `training.steps` in the run's configuration, if it is another number; schedules stay as they are."""
        config = self.config()
        if config.training.steps != steps:
            training = config.training.model_copy(update={"steps": steps})
            changed = config.model_copy(update={"training": training})
            write_atomically(self.config_path, dump_config(changed).encode())

    def info(self) -> RunInfo:
        """What a listing shows of this run; damaged files show as status "damaged" rather than stopping the listing."""
        try:
            told, config = self.manifest(), self.config()
        except (RunNotFoundError, ConfigError):
            return RunInfo(self, self.number, self.name, "", "damaged", 0, 0, "", False, "")
        state = self._state()
        found = checkpoint.listing(self.checkpoints)
        status = state.get("status", "created")
        if status in ("created", "running"):
            status = self._without_a_last_word(status, found, config.training.steps)
        step = metrics.last_step(self.metrics_path)
        return RunInfo(
            run=self,
            number=self.number,
            name=self.name,
            prompt=config.prompt,
            status=status,
            step=step,
            steps=config.training.steps,
            created=_text(told.get("created")),
            has_checkpoint=bool(found),
            message=state.get("message", ""),
        )

    def noted_status(self) -> str:
        """The status as it was written last; a killed process leaves "running" behind."""
        status = self._state().get("status", "created")
        return status if isinstance(status, str) else "created"

    def _without_a_last_word(self, noted: str, checkpoints: list[Path], steps: int) -> str:
        """The status of a run that was not noted as ended."""
        if lock.is_held(self.lock_path):  # a killed process leaves no lock behind
            return "running"
        if checkpoints and checkpoint.step_of(checkpoints[-1]) >= steps:
            return "finished"  # killed between the last checkpoint and its state
        return "killed" if noted == "running" else noted

    def _state(self) -> dict[str, Any]:
        try:
            content = documents.read_json(self.state_path, error=RunNotFoundError, under=self.path)
        except RunNotFoundError:
            return {}
        return {key: value for key, value in content.items() if isinstance(value, str)}


def _text(value: Any) -> str:
    """What a stranger's file says where a text belongs."""
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class RunInfo:
    """One line of `dreamfusion runs`.

    `status` is one of created, running, finished, stopped (by Ctrl-C), killed (without a word), collapsed, failed, damaged.
    """

    run: RunDirectory
    number: int
    name: str
    prompt: str
    status: str
    step: int
    steps: int
    created: str
    has_checkpoint: bool
    message: str


def create(output_root: Path, config: ExperimentConfig, name: str | None = None) -> RunDirectory:
    """Make the next numbered run under `output_root`, with its configuration and manifest already in it.

    Args:
        output_root: folder of all runs; made if it is absent.
        config: the resolved configuration, prompt included.
        name: the name behind the number; the prompt's by default.

    Raises:
        OutputError: the folder cannot be written.
    """
    with output_errors(output_root):
        output_root.mkdir(parents=True, exist_ok=True)
        leftovers.clean_root(output_root)
        number, reserved, owner = _reserve(output_root)
        try:
            path = output_root / f"{number:04d}-{slug(name or config.prompt)}"
            write_atomically(reserved / "config.yaml", dump_config(config).encode())
            write_json(
                reserved / "manifest.json", manifest.new_manifest(path.name, config.prompt, config.seed)
            )
            (reserved / "previews").mkdir()
            (reserved / "checkpoints").mkdir()
            os.rename(reserved, path)
        except BaseException:
            shutil.rmtree(reserved, ignore_errors=True)
            raise
        (path / owner).unlink(missing_ok=True)
    return RunDirectory(path)


@contextlib.contextmanager
def discarded_unless_begun(run: RunDirectory) -> Iterator[None]:
    """However the body ends: if it raises and no step was taken, nothing is left of `run`."""
    try:
        yield
    except BaseException:
        discard_unused(run)
        raise


def discard_unused(run: RunDirectory) -> None:
    """Remove a run in which no step was taken: there is nothing in it but a mistake that was reported already."""
    if metrics.last_step(run.metrics_path) != 0 or checkpoint.listing(run.checkpoints):
        return
    with contextlib.suppress(OSError):
        # Where the run was renamed while it loaded, another folder may have its name.
        if not run.manifest_path.is_file() or {entry.name for entry in run.path.iterdir()} - _OWN_FILES:
            return
        doomed = temporary_name(run.path)  # a kill in between leaves no half of a run
        os.rename(run.path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _reserve(output_root: Path) -> tuple[int, Path, str]:
    """The next free number, the folder that stands for it, and the name of the file in it that says its owner."""
    # The reservation's name holds nothing but the number, so that two starts with different prompts collide on it. It
    # becomes the run's directory by a rename: at any moment the number is visible as the one or as the other. It is made
    # by a rename as well, which fails over a folder that is not empty, so that it has an owner from the first moment.
    made = temporary_name(output_root / "reservation")
    made.mkdir()
    try:
        owner = leftovers.mark(made)
        number = _highest(output_root) + 1
        while True:
            reserved = output_root / f".{number:04d}"
            if _renamed(made, reserved):
                # Someone may have finished between our look and our rename.
                if all(run.number != number for run in _runs(output_root)):
                    return number, reserved, owner.name
                os.rename(reserved, made)
            number += 1
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _renamed(source: Path, target: Path) -> bool:
    """Whether `source` could be given the name `target`; False if there is something of that name."""
    try:
        os.rename(source, target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def _highest(output_root: Path) -> int:
    numbers = [0]
    for entry in output_root.iterdir():
        match = leftovers.RUN.fullmatch(entry.name) or leftovers.RESERVED.fullmatch(entry.name)
        if match:
            numbers.append(int(match[1]))
    return max(numbers)


def _runs(output_root: Path) -> list[RunDirectory]:
    with _reading(output_root):
        if not output_root.is_dir():
            return []
        found = [
            entry for entry in output_root.iterdir() if leftovers.RUN.fullmatch(entry.name) and entry.is_dir()
        ]
    return sorted((RunDirectory(entry) for entry in found), key=lambda run: (run.number, run.path.name))


def listing(output_root: Path) -> list[RunInfo]:
    """All runs under `output_root`, oldest first; an absent folder has none."""
    return [run.info() for run in _runs(output_root)]


def find(reference: str | None, output_root: Path) -> RunDirectory:
    """The run that `reference` means.

    Args:
        reference: a directory; a number ("7", "0007"); a directory's name; a name without number, which means the newest run
            of that name; None or "latest" for the run with the highest number.

    Raises:
        RunNotFoundError: no such run; the message names near ones.
    """
    runs = _runs(output_root)
    if reference is None or reference == "latest":
        if not runs:
            raise RunNotFoundError(
                f"there is no run in {output_root}",
                hint='start one with `dreamfusion train "a peacock on a surfboard"`, or say where with --runs DIR',
            )
        return runs[-1]
    path = Path(reference)
    with _reading(path):
        is_folder = path.is_dir()
    if is_folder and not reference.isdecimal():
        if not (path / "config.yaml").is_file():
            raise RunNotFoundError(
                f"{path} is not a run",
                expected="a directory with a config.yaml in it",
                hint=_known(runs, reference),
            )
        return RunDirectory(path)
    if reference.isdecimal():
        matching = [run for run in runs if str(run.number) == (reference.lstrip("0") or "0")]
    else:
        matching = [run for run in runs if reference in (run.path.name, run.name)]
        matching = matching or [run for run in runs if slug(reference) in (run.path.name, run.name)]
    if not matching:
        raise RunNotFoundError(
            f"there is no run {shown(reference)} in {output_root}", hint=_known(runs, reference)
        )
    return matching[-1]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """The system's refusals to look at `path` (no permission, a name too long) as one line."""
    try:
        yield
    except OSError as error:
        raise RunNotFoundError(
            f"{shown(str(path), 200)} cannot be read", got=documents.reason(error)
        ) from error


def _known(runs: list[RunDirectory], reference: str) -> str:
    if not runs:
        return "there are no runs in that folder; --runs DIR says where else to look"
    names = [run.path.name for run in runs]
    near = difflib.get_close_matches(
        Path(reference).name, names + [run.name for run in runs], n=2, cutoff=0.5
    )
    if near:
        return f"did you mean {' or '.join(dict.fromkeys(near))}? `dreamfusion runs` lists all"
    return f"the latest is {names[-1]}; `dreamfusion runs` lists all"


def check_writable(output_root: Path) -> None:
    """Fail in the first second, and before any weight is read, if runs cannot be made under `output_root`.

    Leaves no folder behind: what comes next may still end the command.

    Raises:
        OutputError: it is a file, or it cannot be made or written.
    """
    with output_errors(output_root):
        if output_root.exists() and not output_root.is_dir():
            raise OutputError(
                f"{output_root} cannot be used for runs",
                expected="a folder",
                got="a file",
                hint="choose another folder with --output DIR",
            )
        absent = [folder for folder in (output_root, *output_root.parents) if not folder.exists()]
        try:
            output_root.mkdir(parents=True, exist_ok=True)
            probe = temporary_name(output_root / "probe")
            probe.mkdir()
            probe.rmdir()
        finally:
            for folder in absent:
                with contextlib.suppress(OSError):  # another process may have put something into it
                    folder.rmdir()
