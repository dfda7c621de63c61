"""Score finished objects of held-out prompts: runs of `dreamfusion train`, ranked among captions and compared with the truth.

    python scripts/evaluate_miniature.py [--jobs 2]                              # the core world: 20 prompts, 100 captions
    python scripts/evaluate_miniature.py --world wide --prompts 50 --captions 300

Each prompt is a run of its own, so that an interrupted evaluation goes on where it stopped, and a run that is there is kept. Seen
from eight azimuths at 30 degrees of elevation, as `dreamfusion eval` sees (docs/evaluation.md), and judged by the CLIP that
guides nothing and by the one that guides. The true scene of each prompt is judged beside it: what the judge can know at best.
Writes `results.json`, `table.md` and sheets of all renders, a row for each prompt with its ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dreamfusion.evaluation.text_scores import Renders
    from dreamfusion.guidance.clip import ClipJudge
    from dreamfusion.miniature.ground_truth import World

# Prompts and captions of each world.
COUNTS = {"core": (20, 100), "wide": (50, 300)}
LIST_SEED = 20
TRUE_SCENES = 64
# A run is lost when it is empty, full, or judged below this rank among 100 captions or more.
LOST_RANK = 50
JUDGES = {"judge": "judge", "guiding": "miniature"}


def held_out_prompts(
    world: World | None = None, prompts: int = COUNTS["core"][0], captions: int = COUNTS["core"][1]
) -> tuple[list[str], list[str]]:
    """The prompts, and the captions that they are ranked among; the same on every machine (with the same meshes).

    "a peacock on a surfboard"; of the others half are pairs of things that were never together, half things in a colour that
    they never had. The other captions are drawn from the whole world, so that each prompt has near neighbours.
    """
    from dreamfusion.miniature.captions import plain_caption
    from dreamfusion.miniature.ground_truth import open_world

    world = world or open_world("core")
    rng = np.random.default_rng(LIST_SEED)
    chosen = ["a peacock on a surfboard"]
    pairs = (prompts - 1) // 2
    wanted = {1: prompts - 1 - pairs, 2: pairs}
    while any(wanted.values()):
        spec = world.sample_spec(rng, "held_out")
        text = plain_caption(spec)
        # A mesh that training never showed does not make its words new.
        new = world.is_held_out(world.lexicon.parse(text))
        if new and text not in chosen and wanted[len(spec.things)]:
            chosen.append(text)
            wanted[len(spec.things)] -= 1
    found = list(chosen)
    while len(found) < captions:
        text = plain_caption(world.sample_spec(rng, "held_out" if rng.random() < 0.5 else "train"))
        if text not in found:
            found.append(text)
    return chosen, found


def without_colours(world: World, caption: str) -> str:
    """What plaster can show of a caption."""
    from dreamfusion.miniature.captions import plain_caption

    return plain_caption(world.lexicon.parse(caption).uncoloured())


# ------------------------------------------------------------------------------------------------ training


def known_run(prompt: str, output: Path) -> Any:
    """The newest run of a prompt, or None."""
    from dreamfusion.runs import directory

    found = [info for info in directory.listing(output) if info.prompt == prompt] if output.exists() else []
    return found[-1] if found else None


def train(prompt: str, number: int, output: Path, extra: list[str]) -> None:
    """Make the run of one prompt, or finish it, unless it is there already. One that collapses is left as it is."""
    found = known_run(prompt, output)
    if found is not None and found.status in ("finished", "collapsed"):
        return
    tool = [sys.executable, "-m", "dreamfusion"]
    if found is not None:
        command = [*tool, "resume", str(found.run.path), "--output", str(output)]
    else:
        command = [*tool, "train", prompt, "--config", "miniature", "--output", str(output)]
        command += ["--name", f"held-out-{number:02d}", *extra]
    # One thread each: two runs side by side are faster than two threads in one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    found = known_run(prompt, output)
    if done.returncode and (found is None or found.status != "collapsed"):
        raise SystemExit(f"{prompt}: {done.stderr.strip().splitlines()[-1:]}")
    print(f"  {found.status}: {prompt}", flush=True)


# ------------------------------------------------------------------------------------------------- judging


def verdicts(
    judges: dict[str, ClipJudge], seen: Renders, captions: Sequence[str], prompt: str, plain: dict[str, str]
) -> dict[str, Any]:
    """Ranks by each judge in colour and in plaster, and in plaster among captions that name no colour (`plain`)."""
    from dreamfusion.evaluation.r_precision import judge_renders

    row: dict[str, Any] = {}
    for name, clip in judges.items():
        colour = judge_renders(clip, seen.colour, captions, prompt)
        row |= {f"{name}_rank": colour.rank, f"{name}_views_first": colour.hits}
        row[f"{name}_taken_for"] = captions[colour.best]
        if seen.geometry is not None:
            geometry = judge_renders(clip, seen.geometry, captions, prompt)
            uncoloured = judge_renders(
                clip, seen.geometry, list(dict.fromkeys(plain.values())), plain[prompt]
            )
            row |= {f"{name}_rank_geometry": geometry.rank, f"{name}_rank_uncoloured": uncoloured.rank}
    return row


def look_at_run(prompt: str, output: Path) -> tuple[Renders | None, float, tuple[float, float]]:
    """A run's renders (None if it left nothing), the mean opacity of its ball, and the cameras' distance and fovy_deg."""
    import torch

    from dreamfusion.cameras import turntable_cameras
    from dreamfusion.evaluation.text_scores import ELEVATION_DEG, SIZE, VIEWS, renders
    from dreamfusion.rendering.marching import intersect_ball
    from dreamfusion.runs import checkpoint
    from dreamfusion.training.trainer import load_renderer

    run = known_run(prompt, output).run
    config = run.config()
    camera = (sum(config.cameras.distance) / 2, sum(config.cameras.fovy_deg) / 2)
    if not checkpoint.listing(run.checkpoints):
        return None, 0.0, camera
    renderer = load_renderer(config, *checkpoint.load(run.latest_checkpoint()))
    seen = renders(renderer, *camera)
    rays_o, rays_d = turntable_cameras(VIEWS, ELEVATION_DEG, *camera, SIZE).rays()
    near, far = intersect_ball(
        rays_o.expand_as(rays_d).reshape(-1, 3), rays_d.reshape(-1, 3), config.scene.radius
    )
    return seen, float(torch.as_tensor(seen.opacity.flatten()[far > near]).mean()), camera


def is_lost(ball_opacity: float, rank: int) -> bool:
    """Whether a run diverged: empty, full, or taken for at least `LOST_RANK` other captions."""
    from dreamfusion.training.collapse import EMPTY_BELOW, SOLID_ABOVE

    return ball_opacity < EMPTY_BELOW or ball_opacity > SOLID_ABOVE or rank > LOST_RANK


def evaluate(
    options: argparse.Namespace, world: World, prompts: list[str], captions: list[str]
) -> dict[str, Any]:
    """Every prompt's numbers for its run and for its true scene; writes the sheets."""
    import torch

    from dreamfusion.cameras import turntable_cameras
    from dreamfusion.evaluation.ground_truth import silhouette_iou, silhouettes, true_renders
    from dreamfusion.evaluation.text_scores import ELEVATION_DEG, SIZE, VIEWS
    from dreamfusion.guidance.clip import load_clip

    with torch.no_grad():
        judges = {
            name: load_clip(options.judge if name == "judge" else path) for name, path in JUDGES.items()
        }
        plain = {caption: without_colours(world, caption) for caption in captions}
        rows: dict[str, list[dict[str, Any]]] = {"run": [], "truth": []}
        pictures: dict[str, list[Any]] = {"run": [], "truth": []}
        for prompt in prompts:
            seen, ball, camera = look_at_run(prompt, options.output)
            # One scene more than the run is compared with: it stands for a perfect run.
            scenes = world.scenes(world.lexicon.parse(prompt), options.scenes + 1)
            masks = silhouettes(scenes, turntable_cameras(VIEWS, ELEVATION_DEG, *camera, SIZE))
            truth = true_renders(scenes[-1], *camera)
            for kind, of in (("run", seen), ("truth", truth)):
                row: dict[str, Any] = {"prompt": prompt}
                if of is None:
                    row |= {f"{name}_rank": len(captions) for name in judges} | {"iou": 0.0, "lost": True}
                    of = replace(truth, colour=torch.ones_like(truth.colour), geometry=None)
                else:
                    row |= verdicts(judges, of, captions, prompt, plain)
                    mask = masks[-1] if kind == "truth" else of.opacity > 0.5
                    row["iou"] = round(float(silhouette_iou(mask, masks[:-1]).max()), 4)
                    row["lost"] = is_lost(ball if kind == "run" else 0.5, row["judge_rank"])
                rows[kind].append(row)
                pictures[kind].append(of)
            run = rows["run"][-1]
            print(
                f"{run['judge_rank']:4d}  IoU {run['iou']:.2f}  {prompt:45s} -> {run.get('judge_taken_for')}",
                flush=True,
            )
        for kind in rows:
            write_sheets(options.output, kind, rows[kind], pictures[kind])
        return rows


def write_sheets(output: Path, kind: str, rows: list[dict[str, Any]], pictures: list[Renders]) -> None:
    """All views in colour, and of plaster."""
    from PIL import Image

    from dreamfusion.assets.images import to_uint8
    from dreamfusion.assets.sheets import labelled_sheet

    labels = [f"{row['judge_rank']:3d}  {row['prompt']}" for row in rows]
    for suffix, name in (("", "colour"), ("-plaster", "geometry")):
        images = [getattr(seen, name) for seen in pictures]
        if any(image is None for image in images):
            continue
        azimuths = [f"{360 * view // len(images[0])} deg" for view in range(len(images[0]))]
        sheet = labelled_sheet(np.stack([to_uint8(image) for image in images]), labels, azimuths)
        Image.fromarray(sheet).save(output / f"{'sheet' if kind == 'run' else 'truth'}{suffix}.png")


def table(rows: dict[str, list[dict[str, Any]]], captions: int) -> str:
    """Markdown: what is asked for, of the runs and of the true scenes, shares in per cent."""

    def first(key: str, of: list[dict[str, Any]]) -> str:
        return f"{100 * sum(row.get(key) == 1 for row in of) / len(of):.0f} %"

    def mean(key: str, of: list[dict[str, Any]]) -> float:
        return sum(row.get(key, 0.0) for row in of) / len(of)

    lines = [
        f"| {len(rows['run'])} prompts, {captions} captions | runs | their true scenes |",
        "|---|---|---|",
    ]
    for label, key in (
        ("colour, ranked first by the judge", "judge_rank"),
        ("geometry (plaster), by the judge", "judge_rank_geometry"),
        ("geometry among captions without colours, by the judge", "judge_rank_uncoloured"),
        ("colour, by the CLIP that guides", "guiding_rank"),
        ("geometry, by the CLIP that guides", "guiding_rank_geometry"),
    ):
        lines.append(f"| {label} | {first(key, rows['run'])} | {first(key, rows['truth'])} |")
    views = [f"{100 * mean('judge_views_first', of):.0f} %" for of in rows.values()]
    lines.append(f"| colour, single views ranked first by the judge | {' | '.join(views)} |")
    lost = [f"{100 * mean('lost', of):.0f} %" for of in rows.values()]
    lines.append(f"| lost (empty, full, or below rank {LOST_RANK}) | {' | '.join(lost)} |")
    iou = [f"{mean('iou', of):.2f}" for of in rows.values()]
    lines.append(f"| silhouettes, nearest of the true scenes, mean IoU | {' | '.join(iou)} |")
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", default="core", choices=list(COUNTS))
    parser.add_argument("--meshes", type=Path, default=Path(".cache/meshes"), help="the wide world's meshes")
    parser.add_argument("--prompts", type=int, help="how many; 20 of the core world, 50 of the wide one")
    parser.add_argument(
        "--captions", type=int, help="to rank among; 100 of the core world, 300 of the wide one"
    )
    parser.add_argument("--judge", default="judge", help="directory or hub id of a CLIP that guides nothing")
    parser.add_argument("--scenes", type=int, default=TRUE_SCENES, help="true scenes for the silhouettes")
    parser.add_argument("--output", type=Path, help="of the runs; outputs/evaluation, or evaluation-wide")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--count", type=int, help="only the first of the prompts")
    parser.add_argument("--list", action="store_true", help="print the prompts and leave")
    parser.add_argument("--set", action="append", default=[], help="passed on to `dreamfusion train`")
    options = parser.parse_args(argv)
    options.output = options.output or Path(
        "outputs/evaluation" + ("-wide" if options.world == "wide" else "")
    )
    prompts, captions = COUNTS[options.world]
    options.prompts, options.captions = options.prompts or prompts, options.captions or captions
    return options


def main(argv: list[str] | None = None) -> int:
    """Trains what is still to be trained, and judges all; an error of the user's is one line."""
    options = parse(argv)
    from dreamfusion.errors import DreamfusionError
    from dreamfusion.miniature.ground_truth import open_world

    try:
        world = open_world(options.world, options.meshes)
        prompts, captions = held_out_prompts(world, options.prompts, options.captions)
        prompts = prompts[: options.count]
        if options.list:
            print("\n".join(prompts))
            return 0
        extra = [part for item in options.set for part in ("--set", item)]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda item: train(item[1], item[0], options.output, extra), enumerate(prompts)))
        rows = evaluate(options, world, prompts, captions)
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    (options.output / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = table(rows, len(captions))
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
