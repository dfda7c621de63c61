"""A run whose process was killed is put in order by the next command that names it."""

from __future__ import annotations

import contextlib

from dreamfusion.errors import DreamfusionError
from dreamfusion.runs import checkpoint, lock
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.leftovers import clean_run


def recover(run: RunDirectory) -> None:
    """Do what a killed process had no time for: its temporary files go, and so do checkpoints that it would have pruned.

    A run that was killed after its last checkpoint and before its state was written is finished, and is noted so. A run
    that a living process works on, or that cannot be written, is left as it is.
    """
    clean_run(run.path)
    if run.noted_status() in ("finished", "collapsed"):
        return
    with contextlib.suppress(DreamfusionError, OSError):
        settings = run.config().training
        found = checkpoint.listing(run.checkpoints)
        is_last = bool(found) and checkpoint.step_of(found[-1]) >= settings.steps
        if not is_last and len(found) <= settings.keep_checkpoints:
            return
        if lock.is_held(run.lock_path):  # without the patience that taking it has
            return
        with lock.held(run.lock_path):
            checkpoint.prune(run.checkpoints, settings.keep_checkpoints)
            if is_last:
                run.write_state("finished", checkpoint.step_of(found[-1]))
