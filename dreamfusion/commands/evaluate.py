"""`dreamfusion eval`: runs judged by a CLIP; a file of prompts becomes a batch of runs first, and a batch goes on."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion import documents
from dreamfusion.commands.finished import find_run, load_view
from dreamfusion.commands.fit import EVALUATION
from dreamfusion.commands.starting import find_start
from dreamfusion.commands.train import absolute_paths
from dreamfusion.errors import CollapseError, ConfigError, DreamfusionError, RunNotFoundError
from dreamfusion.progress import notice, result
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.runs.files import write_atomically

COLUMNS: tuple[str, ...] = (
    "run", "prompt", "rank", "views_first", "rank_geometry", "views_first_geometry", "similarity", "taken_for",
    "janus", "consistency", "psnr", "ssim",
)  # fmt: skip


MAX_PROMPTS_BYTES = 16 * documents.MIB


@dataclass(frozen=True)
class EvalRequest:
    """What the user asked for; see `dreamfusion eval --help`.

    Attributes:
        clip: the judge; None leaves the choice to `_judge_name`.
    """

    references: tuple[str, ...]
    prompts: Path | None
    captions: Path | None
    clip: str | None
    config: str | None
    overrides: tuple[str, ...]
    output: Path


def evaluate(request: EvalRequest, device: str) -> None:
    """Train what is still to be trained, judge all, and write `scores.csv` and `scores.png` into the folder of the runs.

    Raises:
        DreamfusionError: of every kind that training, a finished run or a CLIP can have.
        KeyboardInterrupt: a run was stopped, and saved; the same command goes on with it.
    """
    from dreamfusion.runs.directory import check_writable

    check_writable(request.output)
    _check_used(request)
    judge = _judge_name(request)
    extra = [] if request.captions is None else read_lines(request.captions)
    if request.prompts is not None:
        if request.references:
            raise ConfigError("runs and --prompts", expected="one of them", got=request.references[0])
        prompts = read_lines(request.prompts)
        # Said now, and not after hours of training.
        _captions(prompts, extra)
        _load_judge(judge, "cpu")
        runs = [_trained(request, number, prompt, device) for number, prompt in enumerate(prompts)]
    elif request.references:
        runs = [find_run(reference, request.output) for reference in request.references]
    else:
        runs = [info.run for info in directory.listing(request.output) if info.has_checkpoint]
        if not runs:
            raise RunNotFoundError(f"there is no run with a checkpoint in {request.output}")
    texts = [run.config().prompt for run in runs]
    # Fits have no text, and nothing to be ranked by.
    captions = _captions(texts, extra) if any(texts) else []
    rows, sheet = _judge(judge, runs, captions, device)
    _write(request.output, rows, sheet)


def _check_used(request: EvalRequest) -> None:
    """Settings are for runs that are to be made: those that are there keep their own."""
    given = ("--config", request.config), ("--set", next(iter(request.overrides), None))
    for option, value in given:
        if value is not None and request.prompts is None:
            raise ConfigError(
                f"{option} is for the runs that --prompts makes", got=value, hint="leave it out"
            )


def _captions(prompts: list[str], extra: list[str]) -> list[str]:
    captions = list(dict.fromkeys([prompt for prompt in prompts if prompt] + extra))
    if len(captions) < 2:
        raise ConfigError(
            "R-Precision ranks captions against each other",
            expected="two or more",
            got=str(len(captions)),
            hint="name more runs, or a file with --captions",
        )
    return captions


def _judge_name(request: EvalRequest) -> str:
    from dreamfusion.guidance.clip import default_judge

    return request.clip or default_judge()


def _load_judge(name: str, device: str) -> Any:
    from dreamfusion.guidance.clip import load_clip

    return load_clip(name, device)


def read_lines(path: Path) -> list[str]:
    """Its lines with single spaces, without empty ones, comments (#) and repetitions.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    text = documents.read_text(path, error=ConfigError, max_bytes=MAX_PROMPTS_BYTES, name=f"the file {path}")
    lines = [" ".join(line.split()) for line in text.splitlines() if not line.strip().startswith("#")]
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise ConfigError(f"there is no prompt in {path}", expected="one a line")
    return found


def _trained(request: EvalRequest, number: int, prompt: str, device: str) -> RunDirectory:
    """The finished run of one prompt: found, gone on with, or made. One that collapsed is left as it is: the others go on."""
    from dreamfusion.commands.train import TrainRequest, resume, train

    known = _newest(request.output, prompt)
    if known is not None:
        _tell_other_settings(request, known.run)
        if known.status in ("finished", "collapsed"):
            return known.run
    try:
        if known is not None:
            resume(str(known.run.path), request.output, None)
        else:
            name, options = f"{number + 1:03d} {prompt}", {"device": device}
            train(
                TrainRequest(prompt, request.config, request.overrides, options, request.output, name, False)
            )
    except CollapseError as error:
        if _newest(request.output, prompt) is None:  # in its first step: the settings are wrong for all
            raise
        notice(f"'{prompt}' collapsed, and the batch goes on: {error}")
    made = _newest(request.output, prompt)
    assert made is not None
    return made.run


def _newest(output: Path, prompt: str) -> directory.RunInfo | None:
    """The newest run that a batch made for `prompt`, wherever in its file that stood."""
    known = [
        info
        for info in directory.listing(output)
        if info.prompt == prompt and re.fullmatch(r"\d{3,}(-.*)?", info.name)
    ]
    return known[-1] if known else None


def _tell_other_settings(request: EvalRequest, run: RunDirectory) -> None:
    """Say which `--set` does not hold for a run that is there already."""
    config = run.config()

    def changes(*texts: str) -> bool:
        try:
            asked = absolute_paths(run.config_with(texts))
            # A run's directory holds the path that a number or a relative path meant.
            if asked.init not in (None, config.init):
                asked = asked.model_copy(update={"init": find_start(asked.init, request.output)})
        except DreamfusionError:  # of another kind of field, say
            return True
        return asked != config

    # Of a key that is set twice the last counts: all together are looked at first.
    if not changes(*request.overrides):
        return
    if other := [text for text in request.overrides if changes(text)]:
        notice(f"{run.path} was made before, without {', '.join(other)}, and is kept as it is")


def _judge(
    judge: str, runs: list[RunDirectory], captions: list[str], device: str
) -> tuple[list[dict[str, Any]], Any]:
    """A row a run, and the sheet of all renders: in colour, and as plaster below."""
    import numpy as np

    from dreamfusion.assets.images import contact_sheet, to_uint8
    from dreamfusion.doctor import choose_device
    from dreamfusion.evaluation.text_scores import SIZE, VIEWS, renders, score

    if judge == "miniature" and captions:
        notice("the judge is the CLIP that --guidance clip is pulled by, and flatters what it guided")
    clip = _load_judge(judge, choose_device(device)) if captions else None
    rows, pictures = [], []
    for run in runs:
        config = run.config()
        if run.info().status == "collapsed" and not checkpoint.listing(run.checkpoints):
            rows.append(_nothing(run, config.prompt, len(captions)))
            pictures.append(np.full((VIEWS, SIZE, SIZE, 3), 255, np.uint8))
            continue
        renderer, _ = load_view(run, device)
        distance, fovy_deg = sum(config.cameras.distance) / 2, sum(config.cameras.fovy_deg) / 2
        seen = renders(renderer, distance, fovy_deg)
        row: dict[str, Any] = {"run": run.path.name, "prompt": config.prompt}
        if clip is not None and config.prompt:
            row |= _numbers(score(clip, seen.colour, seen.geometry, captions, config.prompt), captions)
        row |= _of_a_fit(run)
        ranked = (
            f"rank {row['rank']} of {len(captions)}  {row['taken_for']}" if "rank" in row else "no prompt"
        )
        notice(f"{row['run']}  {ranked}")
        rows.append(row)
        pictures += [to_uint8(part) for part in (seen.colour, seen.geometry) if part is not None]
    return rows, contact_sheet(np.concatenate(pictures), columns=VIEWS)


def _nothing(run: RunDirectory, prompt: str, last: int) -> dict[str, Any]:
    """The row of a run that collapsed before its first checkpoint: nothing to be seen is like no caption."""
    notice(f"{run.path.name}  collapsed, counts as rank {last} of {last}")
    ranks, shares = dict.fromkeys(("rank", "rank_geometry"), last), ("views_first", "views_first_geometry")
    return {"run": run.path.name, "prompt": prompt, **ranks, **dict.fromkeys(shares, 0.0)}


def _numbers(scores: Any, captions: list[str]) -> dict[str, Any]:
    colour, geometry = scores.colour, scores.geometry
    return {
        "rank": colour.rank,
        "views_first": round(colour.hits, 4),
        "rank_geometry": None if geometry is None else geometry.rank,
        "views_first_geometry": None if geometry is None else round(geometry.hits, 4),
        "similarity": round(colour.similarity, 4),
        "taken_for": captions[colour.best],
        "janus": round(scores.janus, 4),
        "consistency": round(scores.consistency, 4),
    }


def _of_a_fit(run: RunDirectory) -> dict[str, Any]:
    """PSNR and SSIM that a fit measured at its end."""
    try:
        found = documents.read_json(run.path / EVALUATION, error=RunNotFoundError, under=run.path)
    except RunNotFoundError:
        return {}
    return {key: found[key] for key in ("psnr", "ssim") if type(found.get(key)) in (int, float)}


def _write(output: Path, rows: list[dict[str, Any]], sheet: Any) -> None:
    from dreamfusion.assets.images import write_image

    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    path = output / "scores.csv"
    write_atomically(path, table.getvalue().encode())
    write_image(sheet, output / "scores.png")

    def mean(key: str) -> float | None:
        values = [row[key] for row in rows if row.get(key) is not None]
        return round(sum(values) / len(values), 4) if values else None

    def first(key: str) -> float | None:
        values = [row[key] == 1 for row in rows if row.get(key) is not None]
        return round(sum(values) / len(values), 4) if values else None

    means = {
        "r_precision": first("rank"),
        "r_precision_geometry": first("rank_geometry"),
        "r_precision_views": mean("views_first"),
        "r_precision_views_geometry": mean("views_first_geometry"),
        "similarity": mean("similarity"),
        "janus": mean("janus"),
        "consistency": mean("consistency"),
        "psnr": mean("psnr"),
        "ssim": mean("ssim"),
    }
    words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in means.items() if value is not None)
    result(f"{path}  {len(rows)} runs: {words}", event="eval", path=path, runs=len(rows), **means)
