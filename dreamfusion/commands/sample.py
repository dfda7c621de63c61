"""`dreamfusion sample`: what the frozen model itself draws for a prompt, over views, seeds and guidance scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.commands.finished import check_folder, check_writable_file
from dreamfusion.commands.lists import integers, numbers, words
from dreamfusion.commands.own_files import changed_guidance, check_own_files
from dreamfusion.commands.prompts import check_prompt, tell_unknown_words
from dreamfusion.config import SIDES, VIEWS, ExperimentConfig, GuidanceConfig, ViewPromptConfig
from dreamfusion.errors import ConfigError, OutputError
from dreamfusion.progress import Bar, busy, result

SIDE = 256
"""Pixels of a picture on the sheet at most; the single files have the model's own size."""
SMALLEST = 128
"""And at least, so that a small model's pictures can be seen."""
COUNT = 4
LARGEST = 1024
"""Pictures of one call at most: a slip of the finger should not run for a day."""
USED = ("single_file_config", "loras", "embeddings", "negative_prompt", "image_size", "dtype", "slices")
"""What `--set guidance.KEY` can change here."""


@dataclass(frozen=True)
class SampleRequest:
    """What the user asked for; see `dreamfusion sample --help`.

    `guidance` has the model and what is added to it, by dotted config keys as in `train`; None values are left out.
    """

    prompt: str
    view: str
    seed: str
    guidance_scale: str
    guidance_above: int | None
    count: int | None
    steps: int
    scheduler: str
    guidance: Mapping[str, Any]
    overrides: tuple[str, ...]
    output: Path | None


@dataclass(frozen=True)
class Grid:
    """Every combination of these is one picture; `none` among the views is the prompt without view words."""

    views: list[str]
    scales: list[float]
    seeds: list[int]

    def rows(self) -> Iterator[tuple[int, int, str]]:
        """Indices of the view and the scale, and the words beside the sheet's row."""
        for i, view in enumerate(self.views):
            for j, scale in enumerate(self.scales):
                yield i, j, f"s = {_text(scale)}" if view == "none" else f"{view}, s = {_text(scale)}"

    def file_name(self, i: int, j: int, k: int) -> str:
        view = "" if self.views[i] == "none" else f"{self.views[i]}-"
        return f"{view}s{_text(self.scales[j])}-seed{self.seeds[k]}.png"


def _text(scale: float) -> str:
    """All its digits: scales that differ must not give files of one name."""
    return str(scale).removesuffix(".0")


def sample(request: SampleRequest, device: str) -> None:
    """Draw the pictures, write them one by one and on one sheet, and say where they are.

    Raises:
        ConfigError, PromptError, ModelNotFoundError, ModelUnsupportedError, DeviceError, OutputError.
    """
    from dreamfusion.guidance.schedulers import check_scheduler

    grid, scheduler = _grid(request), check_scheduler(request.scheduler)
    prompt = check_prompt(request.prompt)
    from dreamfusion.guidance.models import find_model
    from dreamfusion.runs.directory import slug

    config = changed_guidance(ExperimentConfig(), request.overrides, dict(request.guidance), USED, "sample")
    find_model(config.model, True, config.single_file_config)
    tell_unknown_words(prompt, config.model, own=check_own_files(config))
    parts = [
        slug(prompt),
        *(v for v in grid.views if v != "none"),
        *([scheduler] if scheduler != "DDIM" else []),
    ]
    path = request.output or Path("outputs") / "samples" / f"{'-'.join(parts)}.png"
    folder = path.with_suffix("")
    _check_output(path, folder)
    images, texts = _draw(request, config, grid, scheduler, prompt, device)
    single = _write(images, grid, path, folder)
    number = "1 image" if len(single) == 1 else f"{len(single)} images"
    result(
        f"{path}  {number} of {', '.join(repr(text) for text in texts)}; one by one in {folder}",
        event="sample",
        path=path,
        images=single,
        texts=dict(zip(grid.views, texts, strict=True)),
        model=config.model,
        loras=[lora.model_dump() for lora in config.loras],
        embeddings=[embedding.model_dump() for embedding in config.embeddings],
        negative_prompt=config.negative_prompt,
        scheduler=scheduler,
        steps=request.steps,
        guidance_scales=grid.scales,
        guidance_above=_guidance_above(request, config.model),
        seeds=grid.seeds,
    )


def _grid(request: SampleRequest) -> Grid:
    views = list(VIEWS) if request.view == "all" else words(
        "--view", request.view, (*VIEWS, *SIDES, "none", "all")
    )  # fmt: skip
    if "all" in views:
        raise ConfigError("--view", expected="'all' by itself", got=repr(request.view))
    scales = numbers("--guidance-scale", request.guidance_scale, 0, 1000, example="3,7.5")
    # What torch's generators take.
    seeds = integers("--seed", request.seed, 0, 2**63 - 1, example="0,7")
    if len(seeds) == 1:
        seeds = [seeds[0] + further for further in range(request.count or COUNT)]
    elif request.count is not None:
        raise ConfigError("--count goes with one seed", got=repr(request.seed), hint="leave --count out")
    pictures = len(views) * len(scales) * len(seeds)
    if pictures > LARGEST:
        raise ConfigError("the grid is too large", expected=f"{LARGEST} pictures at most", got=str(pictures))
    return Grid(views, scales, seeds)


def _guidance_above(request: SampleRequest, model: str) -> int:
    from dreamfusion.guidance.models import guidance_above

    return guidance_above(model) if request.guidance_above is None else request.guidance_above


def _check_output(path: Path, folder: Path) -> None:
    from dreamfusion.assets.files import STILLS, choose_format

    choose_format(path, None, STILLS)
    check_writable_file(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} cannot hold the single images", expected="a folder", got="a file")


def _draw(
    request: SampleRequest, config: GuidanceConfig, grid: Grid, scheduler: str, prompt: str, device: str
) -> tuple[Any, list[str]]:
    """The pictures, "views scales seeds h w 3" in [0, 1], and each view's text."""
    from dreamfusion.doctor import choose_device

    with busy(f"loading {config.model}"):
        chosen = choose_device(device)
        from dreamfusion.guidance.factory import make_guidance
        from dreamfusion.guidance.models import find_model
        from dreamfusion.guidance.prompts import ViewPrompts
        from dreamfusion.guidance.sampling import sample_images
        from dreamfusion.guidance.schedulers import load_sampler

        directory = find_model(config.model, single_file_config=config.single_file_config).directory
        if directory is not None:
            # Whether it can make these steps is known before a weight is read.
            load_sampler(directory, False, scheduler, request.steps)
        by_view = {"none": prompt}
        for split in (False, True):
            by_view |= ViewPrompts(prompt, ViewPromptConfig(split_sides=split)).texts()
        texts = [by_view[view] for view in grid.views]
        guidance = make_guidance(config, prompt, chosen)
    with Bar("sampling", unit="step") as bar:
        images = sample_images(
            guidance, texts, grid.seeds, grid.scales, request.steps, scheduler, config.negative_prompt,
            on_step=bar, guidance_above=_guidance_above(request, config.model),
        )  # fmt: skip
    return images, texts


def _write(images: Any, grid: Grid, path: Path, folder: Path) -> list[Path]:
    """The sheet, with a row for each view and scale and a column for each seed, and a file for each picture."""
    import numpy as np

    from dreamfusion.assets.images import to_uint8, write_image
    from dreamfusion.assets.sheets import cell, labelled_sheet

    check_folder(path)
    rows, labels, single = [], [], []
    for i, j, label in grid.rows():
        shown = images[i, j]
        rows.append(np.stack([cell(image, min(max(image.shape[0], SMALLEST), SIDE)) for image in shown]))
        labels.append(label)
        single += [
            write_image(to_uint8(image), folder / grid.file_name(i, j, k)) for k, image in enumerate(shown)
        ]
    write_image(labelled_sheet(np.stack(rows), labels, [f"seed {seed}" for seed in grid.seeds]), path)
    return single
