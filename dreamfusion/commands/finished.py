"""From the run that the user names to a scene that can be looked at. No guidance, and so no frozen model, is loaded."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion import documents
from dreamfusion.errors import CheckpointCorruptError, OutputError, shown
from dreamfusion.progress import busy, notice
from dreamfusion.runs import directory
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.recovery import recover

if TYPE_CHECKING:
    from dreamfusion.rendering.renderer import Renderer


# Most systems take 255, of which what lies beside the file needs some: "-normal.png".
MAX_NAME_BYTES = 240


def find_run(reference: str | None, runs: Path) -> RunDirectory:
    """The run that is meant, put in order if its process was killed; a notice says which it is if that was not said exactly."""
    run = directory.find(reference, runs)
    recover(run)
    if reference is None or run.path.name != Path(reference).name:
        notice(f"run {run.path}")
    return run


def output_path(output: Path | None, run: RunDirectory, name: str, format: str | None, default: str) -> Path:
    """Where the result goes: as the user said, or `name` with the format's ending inside the run.

    Raises:
        OutputError: its folder cannot be written.
    """
    path = output if output is not None else run.path / f"{name}.{format or default}"
    check_writable_file(path)
    return path


def check_writable_file(path: Path) -> None:
    """Fail before the work and not after it; makes the folder if it is absent.

    Raises:
        OutputError: `path` is something other than a regular file (see `assets.files.check_target`), or its folder cannot
            be made or written. A folder without an ending may be one of frames.
    """
    from dreamfusion.assets.files import check_target
    from dreamfusion.runs.directory import check_writable
    from dreamfusion.runs.files import output_errors

    with output_errors(path):
        if documents.kind_of(path) != documents.FOLDER or path.suffix:
            check_target(path)
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise OutputError(
            "the name of --output", expected=f"at most {MAX_NAME_BYTES} bytes", got=shown(path.name)
        )
    try:
        check_writable(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
    except OutputError as error:
        raise OutputError(
            error.what, expected=error.expected, got=error.got, hint="choose another --output FILE"
        ) from error


def check_folder(path: Path) -> None:
    """See, just before `path` is written, that its folder is still there: it was checked or made before the work.

    Raises:
        OutputError: it was deleted or renamed meanwhile; a new one of its name would hold this file and nothing else.
    """
    if not path.parent.is_dir():
        raise OutputError(
            f"{path} cannot be written",
            got=f"{path.parent} was deleted or renamed meanwhile",
            hint="give the folder its name back, or choose another --output FILE",
        )


def load_view(run: RunDirectory, device: str) -> tuple[Renderer, dict[str, Any]]:
    """The renderer of the run's newest checkpoint, with the scene in it, and the checkpoint's meta.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        CheckpointMissingError, CheckpointCorruptError, ConfigError, DeviceError.
    """
    from dreamfusion.doctor import choose_device
    from dreamfusion.runs import checkpoint

    config, path = run.config(), run.latest_checkpoint()
    with busy(f"loading {path}"):
        chosen = choose_device(device)
        from dreamfusion.training.trainer import fits, load_renderer

        is_usable = partial(fits, config)
        tensors, meta = checkpoint.load(path, is_usable)
        try:
            return load_renderer(config, tensors, meta, chosen).eval(), meta
        except CheckpointCorruptError as error:
            raise checkpoint.unusable(path, error, is_usable) from error
