"""`dreamfusion train` and `dreamfusion resume`: everything is checked before the first weight is read."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dreamfusion.commands.finished import find_run
from dreamfusion.commands.fit import forget_measurement, is_measured, measure_fit, read_truth
from dreamfusion.commands.own_files import check_own_files, refuse_own_files
from dreamfusion.commands.prompts import check_prompt, tell_unknown_words
from dreamfusion.commands.starting import find_start, start_from
from dreamfusion.config import CameraConfig, ExperimentConfig, GuidanceConfig, NamesFile, RenderingConfig
from dreamfusion.config_files import dump_config, load_config
from dreamfusion.errors import ConfigError, OutOfMemoryError
from dreamfusion.progress import Bar, busy, check_printed, event, notice, result, silence
from dreamfusion.runs import checkpoint
from dreamfusion.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dreamfusion.posed_images.dataset import PosedDataset
    from dreamfusion.runs.session import Outcome
    from dreamfusion.training.trainer import StepMetrics

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
    probe: bool = False


def train(request: TrainRequest) -> None:
    """Make a new run and train it.

    Raises:
        DreamfusionError: of every kind but those of finished runs.
    """
    prompt = check_prompt(request.prompt)
    config = _config(request, prompt)
    if config.data is not None:
        raise ConfigError("config key 'data' is for posed pictures", hint="use dreamfusion fit DATASET")
    config = absolute_paths(config)
    if config.clip is not None and not config.clip.mixes(config.training.steps):
        refuse_own_files(config.guidance)
    _check_model(config, own_files=not request.dry_run)
    if not request.dry_run:
        _check_parts(config)
        from dreamfusion.runs.directory import check_writable

        check_writable(request.output)
    if config.init is not None:
        config = config.model_copy(update={"init": find_start(config.init, request.output, config.init_up)})
    from dreamfusion.doctor import choose_device

    device = choose_device(config.device)
    config = _planned(config, device)
    if request.dry_run:
        print_plan(config, device)
        if request.probe:
            _print_probe(config, device)
        check_printed()
        return
    from dreamfusion.runs.directory import create, discarded_unless_begun

    run = create(request.output, config, request.name)
    with discarded_unless_begun(run):
        train_run(run, config, device)


def resume(reference: str | None, runs: Path, device: str | None, steps: int | None = None) -> None:
    """Continue a run from its newest checkpoint.

    Args:
        device: another one than the run's own.
        steps: optimiser iterations in all, in the place of the run's own number.

    Raises:
        ConfigError: fewer `steps` than are done.
        DreamfusionError: of every kind that a run can have.
    """
    run = find_run(reference, runs)
    config = run.config()
    if device is not None:
        config = config.model_copy(update={"device": device})
    done = max((checkpoint.step_of(path) for path in checkpoint.listing(run.checkpoints)), default=0)
    unmeasured = config.data is not None and not is_measured(run)
    changed = steps is not None and steps != config.training.steps
    if steps is not None and changed:
        config = _with_steps(config, steps, done)
        from dreamfusion.training.trainer import check_normals

        check_normals(config)  # a loss may begin in the new steps; nothing is written before
    if done >= config.training.steps and not unmeasured and not changed:
        told = f"{run.path} is finished already: {done} steps; --steps N trains it further"
        result(told, event="finished", run=run.path, step=done)
        return
    if config.data is None:
        _check_model(config)
    elif config.data.truth is not None:
        read_truth(Path(config.data.truth))
    from dreamfusion.doctor import choose_device

    chosen = choose_device(config.device)
    if config.data is None:
        # What is free may be another amount than when the run began.
        config = _planned(config, chosen)
    train_run(run, config, chosen, resume=True)


def _with_steps(config: ExperimentConfig, steps: int, done: int) -> ExperimentConfig:
    """The config with another number of steps; no schedule changes, so the steps up to there stay what they were."""
    before = config.training.steps
    if steps < done:
        raise ConfigError("--steps", expected=f"{done} or more, for {done} are done", got=str(steps))
    notice(
        f"training.steps {before} -> {steps}; schedules stay as they are: those that end before that keep their last value"
    )
    return config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})})


# --------------------------------------------------------------------------------------------- what is run


def _config(request: TrainRequest, prompt: str) -> ExperimentConfig:
    options = {**request.options, "prompt": prompt}
    if request.config is not None:
        return load_config(request.config, request.overrides, options)
    _fits_some_preset(request.overrides, options)
    name, model, reason = choose_preset(_said(request, "device") or "auto")
    other = "stable-diffusion" if name == "miniature" else "miniature"
    notice(f"preset {name}: {reason}; another: --config {other}")
    if model is not None and _said(request, "guidance.model") is None:
        options["guidance.model"] = model
    return load_config(name, request.overrides, options)


def absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """The config as a run holds it: files are named so that they are found from every folder.

    `init` is not among them: it may be a run's number, and `find_start` says which path is meant.
    """
    from dreamfusion.config_paths import with_absolute_paths
    from dreamfusion.guidance.models import is_alias
    from dreamfusion.guidance.side_models import CLIP_NAMES

    def is_name(marker: NamesFile, value: str) -> bool:
        return (marker.instead == "model" and is_alias(value)) or (
            marker.instead == "clip" and value in CLIP_NAMES
        )

    return with_absolute_paths(config, is_name)


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
        return "miniature", None, f"the device is to be {device}"
    why_not = why_no_cuda()
    if why_not is not None:
        return "miniature", None, why_not
    from dreamfusion.guidance.models import available_stable_diffusion

    model = available_stable_diffusion() or available_stable_diffusion(probe_hub=True)
    if model is None:
        return "miniature", None, "no Stable Diffusion in the cache or within reach"
    return "stable-diffusion", model, f"a CUDA device and {model} are there"


def _check_model(config: ExperimentConfig, own_files: bool = True) -> None:
    from dreamfusion.guidance.models import find_model

    readers, guidance = _readers(config), config.guidance
    own: tuple[str, ...] = ()  # a dry run may name files that are still to be made
    if guidance.model in readers:
        find_model(guidance.model, True, guidance.single_file_config)
        own = check_own_files(guidance) if own_files else ()
    tell_unknown_words(config.prompt, *readers, own=own)


def _readers(config: ExperimentConfig) -> list[str]:
    """The models that the prompt is read by."""
    if config.clip is None:
        return [config.guidance.model]
    mixes = config.clip.mixes(config.training.steps)
    return [config.clip.model, *([config.guidance.model] if mixes else [])]


def _check_parts(config: ExperimentConfig) -> None:
    """CLIP, example pictures, tiny autoencoder: whether they are there, before a run is made.

    What must fit a diffusion model that is still to be fetched is looked at after it.
    """
    from dreamfusion.guidance.families import family_of
    from dreamfusion.guidance.models import find_model
    from dreamfusion.guidance.side_models import check_clip, tiny_autoencoder_directory

    guidance = config.guidance
    if config.clip is not None:
        check_clip(config.clip)
        if not config.clip.mixes(config.training.steps):
            return
    directory = find_model(guidance.model, single_file_config=guidance.single_file_config).directory
    if directory is not None:
        family = family_of(directory)
        tiny_autoencoder_directory(guidance, family, directory)


def print_plan(config: ExperimentConfig, device: str = "cpu") -> None:
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
    if config.data is None:
        _print_cost(config, device)


def _planned(config: ExperimentConfig, device: str) -> ExperimentConfig:
    """The config as it fits into the memory that is there, or that `--vram` names; says what is given up for it.

    Raises:
        OutOfMemoryError: it cannot be made to fit.
    """
    if config.vram_gb is None and device != "cuda":
        return config
    if config.clip is not None and not config.clip.mixes(config.training.steps):
        return config
    from dreamfusion.guidance.models import find_model

    model = find_model(config.guidance.model, single_file_config=config.guidance.single_file_config)
    if model.directory is None:  # its settings come with the download
        notice(f"memory is not planned before {model.name} is here: {model.download_command}")
        return config
    import torch

    from dreamfusion.guidance.costs import GuidanceCost, guidance_cost, native_image_size
    from dreamfusion.training.footprint import RenderFootprint, expected_bytes, render_footprint
    from dreamfusion.training.memory import available_bytes, plan

    free = available_bytes(torch.device(device)) if config.vram_gb is None else config.vram_gb * 2**30
    directory = model.directory

    # Each rung of the ladder changes one of the two.
    @cache
    def of_guidance(guidance: GuidanceConfig, views: int) -> GuidanceCost:
        return guidance_cost(guidance, directory, views, device)

    @cache
    def of_render(rendering: RenderingConfig, cameras: CameraConfig) -> RenderFootprint:
        return render_footprint(config.model_copy(update={"rendering": rendering, "cameras": cameras}))

    def needed(tried: ExperimentConfig) -> int:
        # Frozen models have a hash, which pydantic makes at run time.
        guidance = of_guidance(tried.guidance, tried.cameras.views_per_step)  # pyright: ignore[reportArgumentType]
        render = of_render(tried.rendering, tried.cameras)  # pyright: ignore[reportArgumentType]
        return expected_bytes(guidance, render)

    size = config.guidance.image_size or native_image_size(directory)
    with busy("planning the memory"):
        planned, given_up = plan(config, size, int(free or 0), needed)
        told = needed(planned)
    notice(f"memory: {told / 2**30:.1f} GiB expected of {(free or 0) / 2**30:.1f}")
    for text in given_up:
        notice(f"memory: {text}")
    return planned


def _print_cost(config: ExperimentConfig, device: str) -> None:
    """Work and memory of a step, as comments; needs the model's settings on this machine, not its weights."""
    from dreamfusion.guidance.models import find_model

    if config.clip is not None and not config.clip.mixes(config.training.steps):
        return
    model = find_model(config.guidance.model, single_file_config=config.guidance.single_file_config)
    if model.directory is None:
        print(f"# guidance: its cost is known once `{model.download_command}` has fetched it")
        return
    from dreamfusion.guidance.costs import guidance_cost
    from dreamfusion.training.footprint import expected_bytes, render_footprint

    cost = guidance_cost(config.guidance, model.directory, config.cameras.views_per_step, device)
    render = render_footprint(config)
    print(f"# guidance: {cost.unet_rows} rows of the UNet a step, {cost.flop / 1e12:.3g} TFLOP")
    gib = {"weights": cost.weights_bytes, "guidance": cost.peak_bytes - cost.weights_bytes,
           "render": max(render.peak_bytes, render.kept_bytes), "scene": render.scene_bytes}  # fmt: skip
    parts = ", ".join(f"{name} {value / 2**30:.1f}" for name, value in gib.items())
    print(f"# memory expected: {expected_bytes(cost, render) / 2**30:.1f} GiB; at their peaks: {parts}")


PROBE_STEPS = 10


def _print_probe(config: ExperimentConfig, device: str) -> None:
    """Steps per second and memory, from ten steps that are thrown away."""
    import statistics

    from dreamfusion.training.trainer import Trainer

    with busy(f"loading {config.guidance.model}"):
        trainer = Trainer(config, device)
    with Bar("probe", unit="step") as bar:
        metrics = []
        for done in range(1, PROBE_STEPS + 1):
            metrics.append(trainer.train_step())
            bar(done, PROBE_STEPS)
    # The first steps pay for what is set up once.
    rate = statistics.median(told.cost.steps_per_second for told in metrics[2:])
    peak = metrics[-1].cost.peak_memory_mb
    memory = "" if peak is None else f", {peak / 1024:.1f} GiB at most"
    hours = config.training.steps / rate / 3600
    print(
        f"# probe: {rate:.2f} steps/s on {device}{memory}; {config.training.steps} steps take about {hours:.1f} h"
    )


# ------------------------------------------------------------------------------------------------ training


def train_run(
    run: RunDirectory,
    config: ExperimentConfig,
    device: str,
    *,
    resume: bool = False,
    dataset: PosedDataset | None = None,
) -> None:
    """Train `run` to its end; what photographs were fitted in is measured then.

    Args:
        dataset: of `config.data`, if it is read already.

    Raises:
        KeyboardInterrupt: it was stopped, and saved.
        DreamfusionError: of every kind that a run can have.
    """
    notice(f"run {run.path} on {device}")
    from dreamfusion.runs.session import Observer, run_training
    from dreamfusion.training.memory import is_out_of_memory
    from dreamfusion.training.photographs import Photographs
    from dreamfusion.training.trainer import Trainer

    trainers: list[Trainer] = []

    def load(config: ExperimentConfig, device: str) -> Trainer:
        event(event="started", run=run.path, prompt=config.prompt, device=device, steps=config.training.steps)
        with busy(f"loading {config.guidance.model if config.data is None else config.data.path}"):
            photographs = None
            if dataset is not None and config.data is not None:
                photographs = Photographs(dataset, config.data.rays_per_step)
            try:
                trainers.append(Trainer(config, device, photographs=photographs))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemoryError(
                    "the model and the scene do not fit into memory",
                    hint="take a smaller model (`dreamfusion models list`) or a smaller scene.field",
                ) from error
        if config.data is not None:
            forget_measurement(run)
        if config.init is not None and not checkpoint.listing(run.checkpoints):
            start_from(trainers[0], config.init)
        return trainers[0]

    class Shown(Observer):
        def on_step(self, metrics: StepMetrics, steps: int) -> None:
            bar(metrics.step, steps, _shown(metrics))

        def on_preview(self, path: Path) -> None:
            event(event="preview", path=path)

        def on_notice(self, text: str) -> None:
            notice(text)

    with interruptible() as stop, Bar("train", report_every_s=REPORT_EVERY_S) as bar:
        outcome = run_training(
            run, config, device, resume=resume, observer=Shown(), stop=stop.is_set, make_trainer=load
        )
    if outcome.status == "finished" and trainers[0].photographs is not None:
        assert config.data is not None
        try:
            measure_fit(run, trainers[0].renderer, trainers[0].photographs.dataset, config.data.truth)
        except KeyboardInterrupt:
            notice(f"trained, but not measured; measure with:\n{outcome.resume_command}")
            raise
    _tell(run, outcome)
    if outcome.status == "stopped":
        raise KeyboardInterrupt


def _shown(metrics: StepMetrics) -> dict[str, float | str]:
    """What means something while one waits; the surrogate loss does not."""
    psnr = metrics.losses.get("psnr")
    told = {"grad": metrics.sds_gradient_norm} if psnr is None else {"psnr": psnr}
    numbers: dict[str, float | str] = {**told, "opacity": metrics.opacity}
    if metrics.cost.peak_memory_mb is not None:
        numbers["mem"] = f"{metrics.cost.peak_memory_mb / 1024:.1f}G"
    if metrics.skipped_steps:
        numbers["skipped"] = metrics.skipped_steps
    return numbers


def _tell(run: RunDirectory, outcome: Outcome) -> None:
    where = shlex.quote(str(run.path))
    if outcome.status == "finished":
        sentence = (
            f"{run.path}  {outcome.step} steps in {outcome.seconds:.0f} s\n"
            f"next: dreamfusion export {where} --mesh\n"
            f"      dreamfusion render {where} --video"
        )
    else:
        sentence = f"stopped and saved at step {outcome.step} of {outcome.steps}; go on with:\n{outcome.resume_command}"
    result(
        sentence,
        event=outcome.status,
        run=run.path,
        step=outcome.step,
        steps=outcome.steps,
        checkpoint=outcome.checkpoint,
        seconds=round(outcome.seconds, 1),
        skipped=outcome.skipped,
        resume=outcome.resume_command if outcome.status == "stopped" else None,
    )


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that a step is finished and saved; the second stops at once.

    So does SIGHUP, of a terminal that was closed or a connection that broke, unless `nohup` has it ignored.
    """
    stop = threading.Event()
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def on_hangup(_number: int, _frame: FrameType | None) -> None:
        # System and shell may both send it, and some send SIGTERM before it: however often, nobody insists.
        for stream in terminals:
            silence(stream)
        stop.set()

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Not by a plain write: in `train 2>&1 | tee log` the same Ctrl-C has ended the reader.
        notice("finishing the step and saving; Ctrl-C again to leave at once")

    # Only the main thread may take signals; elsewhere (tests, notebooks) Ctrl-C is somebody else's.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # SIGTERM is what schedulers, containers and `kill` send before they lose patience.
    before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        before[hangup] = signal.signal(hangup, on_hangup)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
