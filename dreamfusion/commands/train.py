"""`dreamfusion train` and `dreamfusion resume`: everything is checked before the first weight is read."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dreamfusion.commands.finished import find_run
from dreamfusion.commands.prompts import check_prompt, tell_unknown_words
from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import dump_config, load_config
from dreamfusion.errors import ConfigError
from dreamfusion.progress import Bar, busy, event, interactive, notice, result
from dreamfusion.runs.directory import RunDirectory

REPORT_EVERY_S = 10.0


@dataclass(frozen=True)
class TrainRequest:
    """What the user asked for; see `dreamfusion train --help`.

    Attributes:
        config: preset or file; None leaves the choice to the machine.
        overrides: the `--set` texts.
        options: dotted config key to value; None where the option was left out.
    """

    prompt: str
    config: str | None
    overrides: tuple[str, ...]
    options: Mapping[str, Any]
    output: Path
    name: str | None
    dry_run: bool


def train(request: TrainRequest) -> None:
    """Make a new run and train it.

    Raises:
        DreamfusionError: of every kind but those of finished runs.
    """
    prompt = check_prompt(request.prompt)
    config = _config(request, prompt)
    _check_model(config)
    if not request.dry_run:
        from dreamfusion.runs.directory import check_writable

        check_writable(request.output)
    from dreamfusion.doctor import choose_device

    device = choose_device(config.device)
    if request.dry_run:
        print_plan(config)
        return
    from dreamfusion.runs.directory import create

    _train(create(request.output, config, request.name), config, device, resume=False)


def resume(reference: str | None, runs: Path, device: str | None) -> None:
    """Continue a run from its newest checkpoint.

    Args:
        device: another one than the run's own.

    Raises:
        DreamfusionError: of every kind that a run can have.
    """
    run = find_run(reference, runs)
    config = run.config()
    if device is not None:
        config = config.model_copy(update={"device": device})
    run.latest_checkpoint()
    _check_model(config)
    from dreamfusion.doctor import choose_device

    _train(run, config, choose_device(config.device), resume=True)


# --------------------------------------------------------------------------------------------- what is run


def _config(request: TrainRequest, prompt: str) -> ExperimentConfig:
    options = {**request.options, "prompt": prompt}
    if request.config is not None:
        return load_config(request.config, request.overrides, options)
    _fits_some_preset(request.overrides, options)
    name, model, reason = choose_preset(_said(request, "device") or "auto")
    other = "stable-diffusion" if name == "miniature" else "miniature"
    notice(f"preset {name}: {reason} (choose otherwise with --config {other})")
    if model is not None and _said(request, "guidance.model") is None:
        options["guidance.model"] = model
    return load_config(name, request.overrides, options)


def _said(request: TrainRequest, key: str) -> Any:
    """What the command line says of a key, by an option or by --set."""
    last = [text.partition("=")[2] for text in request.overrides if text.partition("=")[0].strip() == key]
    return request.options.get(key) or (last[-1].strip() if last else None)


def _fits_some_preset(overrides: tuple[str, ...], options: Mapping[str, Any]) -> None:
    # Finding a GPU and asking the hub take seconds; a misspelt key is told before.
    try:
        load_config("miniature", overrides, options)
    except ConfigError as error:
        try:
            load_config("stable-diffusion", overrides, options)
        except ConfigError:
            raise error from None


def choose_preset(device: str) -> tuple[str, str | None, str]:
    """The preset for this machine, the model it is to use (None: the preset's own), and why in a few words."""
    from dreamfusion.doctor import why_no_cuda

    if device not in ("auto", "cuda"):
        return "miniature", None, f"--device {device} is too slow for Stable Diffusion"
    why_not = why_no_cuda()
    if why_not is not None:
        return "miniature", None, f"no CUDA device, {why_not}"
    from dreamfusion.guidance.models import available_stable_diffusion

    model = available_stable_diffusion() or available_stable_diffusion(probe_hub=True)
    if model is None:
        return "miniature", None, "Stable Diffusion is neither in the cache nor within reach"
    return "stable-diffusion", model, f"a CUDA device and {model} are there"


def _check_model(config: ExperimentConfig) -> None:
    from dreamfusion.guidance.models import find_model

    find_model(config.guidance.model, probe_hub=True)
    tell_unknown_words(config.prompt, config.guidance.model)


def print_plan(config: ExperimentConfig) -> None:
    """The resolved config, then a table of what would be optimised; as a YAML file with comments."""
    import torch

    from dreamfusion.commands.tables import print_table
    from dreamfusion.scene.scene import make_scene

    print(dump_config(config))
    scene = make_scene(config.scene, torch.Generator().manual_seed(config.seed))
    rows = [("# module", "shape", "parameters")]
    for name, value in scene.named_parameters():
        rows.append((f"# scene.{name}", "x".join(map(str, value.shape)) or "1", f"{value.numel():,}"))
    rows.append(("# all", "", f"{sum(value.numel() for value in scene.parameters()):,}"))
    print_table(rows)


# ------------------------------------------------------------------------------------------------ training


def _train(run: RunDirectory, config: ExperimentConfig, device: str, resume: bool) -> None:
    from dreamfusion.runs.session import run_training

    notice(f"run {run.path} on {device}")
    event(event="started", run=run.path, prompt=config.prompt, device=device, steps=config.training.steps)
    raise NotImplementedError(run_training)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step is finished and saved; the second one stops at once."""
    stop = threading.Event()

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        sys.stderr.write(
            "\nfinishing the step and saving; Ctrl-C again to leave at once\n" if interactive() else ""
        )

    # Only the main thread may take signals; elsewhere (tests, notebooks) Ctrl-C is somebody else's.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
