"""Working on a run: train, write down what happens, stop when asked, and go on later as if nothing had been.

At any moment the directory can be resumed: metrics reach the disk before the checkpoint that they lead up to, the checkpoint
appears whole, and only then an older one goes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import CheckpointCorruptError, CollapseError, DreamfusionError, OutputError
from dreamfusion.runs import checkpoint, lock, manifest
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.files import MAKE_ROOM, open_to_append, output_errors, write_atomically
from dreamfusion.runs.metrics import MetricsWriter
from dreamfusion.training.devices import as_many_threads, describe_device, threads
from dreamfusion.training.trainer import StepMetrics, Trainer, fits

_log = logging.getLogger("dreamfusion")


class Observer:
    """Told of what happens in a session; every method may be overridden, none has to be."""

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        """A step is done, of `steps` in all."""

    def on_preview(self, path: Path) -> None:
        """A preview was written."""

    def on_checkpoint(self, path: Path) -> None:
        """A checkpoint was written."""

    def on_notice(self, text: str) -> None:
        """Something that the user should know, in one line."""


@dataclass(frozen=True)
class Outcome:
    """How a session ended.

    Attributes:
        status: "finished", or "stopped" because it was asked to.
        step: optimiser iterations done, of `steps`.
        checkpoint: the newest one.
        seconds: that this session took, loading included.
        resume_command: what continues from here.
        skipped: how many of the run's steps were not taken because a gradient was not finite.
    """

    status: Literal["finished", "stopped"]
    step: int
    steps: int
    checkpoint: Path
    seconds: float
    resume_command: str
    skipped: int = 0


def run_training(
    run: RunDirectory,
    config: ExperimentConfig,
    device: str = "cpu",
    *,
    resume: bool = False,
    command: Sequence[str] | None = None,
    observer: Observer | None = None,
    stop: Callable[[], bool] = lambda: False,
    make_trainer: Callable[[ExperimentConfig, str], Trainer] = Trainer,
) -> Outcome:
    """Train `run` to its last step, or until `stop` says so.

    Args:
        run: where everything is written; no other process may be working on it.
        config: the resolved configuration, as it lies in the run; where `training.steps` differs, the run's is changed.
        device: where to compute, already chosen ("cpu", "cuda", ...).
        resume: go on from the newest checkpoint, or from the start if there is none yet; False starts afresh.
        command: the words of the command line, for the manifest; this process's own by default.
        observer: told of steps, previews and checkpoints.
        stop: asked after each step; on True the state is saved and the session ends.
        make_trainer: from configuration and device to a trainer.

    Raises:
        ValueError: a fresh start in a run that has checkpoints.
        CheckpointCorruptError: the newest checkpoint cannot be used; the message names an older one.
        CollapseError: the scene can no longer become an object, or most steps were skipped.
        OutputError: the disk is full or not writable, the run's folder is gone, or another process works on the run.
    """
    if not resume and checkpoint.listing(run.checkpoints):
        raise ValueError(f"{run.path} has checkpoints: resume it, or create another run")
    session = _Session(run, config, observer or Observer(), time.monotonic())
    with lock.held(run.lock_path) as held, _logging_to(run.log_path), _state_on_failure(session, held):
        run.make_folders()
        saved = session.newest_checkpoint() if resume else None
        run.write_state("running", saved.step if saved else 0)
        run.note_steps(config.training.steps)
        with _threads_as_before(run, device, session.notice):
            session.trainer = trainer = make_trainer(config, device)
            if saved is not None:
                saved.restore(trainer)
            words = list(sys.argv if command is None else command)
            manifest.add_session(
                run.manifest_path, words, describe_device(trainer.device), trainer.step, threads()
            )
            _log.info(
                "%s on %s from step %d", shlex.join(words), describe_device(trainer.device), trainer.step
            )
            with MetricsWriter(run.metrics_path, trainer.step) as metrics:
                return session.loop(trainer, metrics, stop, held)


@contextlib.contextmanager
def _threads_as_before(run: RunDirectory, device: str, notice: Callable[[str], None]) -> Iterator[None]:
    """As many threads as the run began with: on a CPU the order of sums, and so the last bits, depends on their number."""
    before = manifest.threads(run.manifest_path)
    if before is None or before == threads() or not device.startswith("cpu"):
        yield
        return
    notice(f"computing with {before} threads, as the run began; this machine's choice would be {threads()}")
    with as_many_threads(before):
        yield


@dataclass(frozen=True)
class _Saved:
    """A checkpoint in memory, read before any weight of the guidance is."""

    path: Path
    tensors: dict[str, Any]
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        return checkpoint.step_of(self.path)

    def restore(self, trainer: Trainer) -> None:
        try:
            trainer.load_state_dict(self.tensors, self.meta)
        except CheckpointCorruptError as error:
            raise checkpoint.unusable(self.path, error, partial(fits, trainer.config)) from error


class _Session:
    def __init__(
        self, run: RunDirectory, config: ExperimentConfig, observer: Observer, started: float
    ) -> None:
        self.run, self.config, self.observer, self.started = run, config, observer, started
        self.trainer: Trainer | None = None

    @property
    def step(self) -> int:
        return 0 if self.trainer is None else self.trainer.step

    @property
    def resume_command(self) -> str:
        return shlex.join(["dreamfusion", "resume", str(self.run.path)])

    def newest_checkpoint(self) -> _Saved | None:
        found = checkpoint.listing(self.run.checkpoints)
        if not found:
            self.notice(f"{self.run.path} has no checkpoint yet: it starts again from step 0")
            return None
        return _Saved(found[-1], *checkpoint.load(found[-1], partial(fits, self.config)))

    def loop(
        self, trainer: Trainer, metrics: MetricsWriter, stop: Callable[[], bool], held: lock.Held
    ) -> Outcome:
        settings = self.config.training
        while trainer.step < settings.steps and not stop():
            told = trainer.train_step()
            held.check()
            while trainer.notices:
                self.notice(trainer.notices.pop(0))
            metrics.write(told.as_dict())
            if told.skipped:
                _log.warning("step %d skipped: a gradient was not finite", told.step)
            last = told.step >= settings.steps
            if last or told.step % settings.preview_every == 0:
                self._preview(trainer, told)
            if not last and told.step % settings.checkpoint_every == 0:
                self._save(trainer, metrics)
            self.observer.on_step(told, settings.steps)
        held.check()
        status = "finished" if trainer.step >= settings.steps else "stopped"
        if status == "finished":
            trainer.check_outcome()
        newest = self._save(trainer, metrics)
        self.run.write_state(status, trainer.step)
        outcome = Outcome(
            status=status,
            step=trainer.step,
            steps=settings.steps,
            checkpoint=newest,
            seconds=time.monotonic() - self.started,
            resume_command=self.resume_command,
            skipped=trainer.skipped_steps,
        )
        if outcome.skipped:
            self.notice(
                f"{outcome.skipped} of {outcome.step} steps were skipped: their gradients were not finite"
            )
        _log.info("%s at step %d after %.0f s", outcome.status, outcome.step, outcome.seconds)
        if status == "stopped":  # the terminal that would be told may be gone
            _log.info("go on with: %s", self.resume_command)
        return outcome

    def _save(self, trainer: Trainer, metrics: MetricsWriter) -> Path:
        path = checkpoint.path_for(self.run.checkpoints, trainer.step)
        if path in checkpoint.listing(self.run.checkpoints):  # nothing was done since
            return path
        trainer.check_scene()  # a checkpoint that is worth nothing must not push out one that is
        metrics.sync()
        checkpoint.save(path, *trainer.state_dict())
        checkpoint.prune(self.run.checkpoints, self.config.training.keep_checkpoints)
        self.run.check_documents()
        self.run.write_state("running", trainer.step)
        _log.info("checkpoint %s", path.name)
        self.observer.on_checkpoint(path)
        return path

    def _preview(self, trainer: Trainer, told: StepMetrics) -> None:
        path = self.run.previews / f"{told.step:06d}.png"
        write_atomically(path, trainer.preview_png())
        _log.info(
            "step %d: sds gradient norm %.3g, opacity %.3f, %.2f it/s, skipped %d",
            told.step,
            told.sds_gradient_norm,
            told.opacity,
            told.cost.steps_per_second,
            told.skipped_steps,
        )
        self.observer.on_preview(path)

    def notice(self, text: str) -> None:
        _log.info(text)
        self.observer.on_notice(text)


@contextlib.contextmanager
def _state_on_failure(session: _Session, held: lock.Held) -> Iterator[None]:
    """Leave a word of what went wrong in the run; the error itself goes on its way."""
    try:
        yield
    except BaseException as error:
        if (
            isinstance(error, OutputError)
            and error.hint == MAKE_ROOM
            and checkpoint.listing(session.run.checkpoints)
        ):
            error.hint = f"free some space, then go on with `{session.resume_command}`"
        match error:
            case CollapseError():
                status = "collapsed"
            case KeyboardInterrupt():
                status = "stopped"
            case _:
                status = "failed"
        if isinstance(error, DreamfusionError | KeyboardInterrupt):
            _log.error("%s: %s", status, error or type(error).__name__)
        else:
            _log.exception("failed")
        with contextlib.suppress(DreamfusionError):  # the disk may be what failed
            held.check()  # another run may have taken the place
            session.run.write_state(status, session.step, str(error) or type(error).__name__)
        raise


class _LogFile(logging.FileHandler):
    """A log that a full disk cannot write to is no reason to stop, nor for a traceback: what must be written says so."""

    def _open(self) -> Any:
        # Never through a link that a shared run may hold under that name.
        file: Any = open_to_append(Path(self.baseFilename))
        return io.TextIOWrapper(file, self.encoding, self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    with output_errors(path):
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")  # paths may hold any bytes
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(before)
        handler.close()
