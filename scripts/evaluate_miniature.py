"""Score the embedded model on prompts that it was never trained on: 20 objects, ranked among 100 captions.

    python scripts/evaluate_miniature.py [--jobs 2] [--output outputs/evaluation]

Each prompt is a run of its own, made with `dreamfusion train`, so that an interrupted evaluation goes on where it stopped.
The judge is the small CLIP of the package, the similarities are averaged over eight views at 30 degrees of elevation (the
protocol of Dream Fields and DreamFusion). Writes `results.json` and a sheet of renders, a row for each prompt with its rank.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CAPTIONS = 100
VIEWS = 8
SINGLES, PAIRS = 10, 9
ELEVATION_DEG = 30.0
LIST_SEED = 20


def held_out_prompts() -> tuple[list[str], list[str]]:
    """The 20 prompts, and the 100 captions that they are ranked among; the same on every machine.

    "a peacock on a surfboard", nine pairs of things that were never together, ten things in a colour that they never had.
    The other captions are drawn from the whole world, so that each prompt has near neighbours.
    """
    from dreamfusion.miniature.captions import plain_caption
    from dreamfusion.miniature.world import sample_spec

    rng = np.random.default_rng(LIST_SEED)
    prompts = ["a peacock on a surfboard"]
    wanted = {1: SINGLES, 2: PAIRS}
    while any(wanted.values()):
        spec = sample_spec(rng, "held_out")
        text = plain_caption(spec)
        if text not in prompts and wanted[len(spec.things)]:
            prompts.append(text)
            wanted[len(spec.things)] -= 1
    captions = list(prompts)
    while len(captions) < CAPTIONS:
        text = plain_caption(sample_spec(rng, "held_out" if rng.random() < 0.5 else "train"))
        if text not in captions:
            captions.append(text)
    return prompts, captions


def train(prompt: str, number: int, output: Path, extra: list[str]) -> None:
    """Make the run of one prompt, or finish it, unless it is there already."""
    from dreamfusion.runs import directory

    name = f"held-out-{number:02d}"
    found = (
        [info for info in directory.listing(output) if info.name.endswith(name)] if output.exists() else []
    )
    if found and found[0].status == "finished":
        return
    tool = [sys.executable, "-m", "dreamfusion"]
    if found:
        command = [*tool, "resume", str(found[0].run.path), "--output", str(output)]
    else:
        command = [
            *tool,
            "train",
            prompt,
            "--config",
            "miniature",
            "--output",
            str(output),
            "--name",
            name,
            *extra,
        ]
    # One thread each: two runs side by side are faster than two threads in one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"  trained: {prompt}", flush=True)


def look(prompts: list[str], captions: list[str], output: Path) -> tuple[list[dict[str, object]], np.ndarray]:
    """Each run's renders ranked against the captions, and the sheet of the renders."""
    import torch

    from dreamfusion.assets.images import to_uint8
    from dreamfusion.assets.sheets import labelled_sheet
    from dreamfusion.cameras import turntable_cameras
    from dreamfusion.evaluation.r_precision import judge_renders
    from dreamfusion.guidance.clip import load_clip
    from dreamfusion.runs import checkpoint, directory
    from dreamfusion.training.trainer import load_renderer

    torch.set_grad_enabled(False)
    clip = load_clip()
    runs = {info.name: info.run for info in directory.listing(output)}
    results, rows = [], []
    for number, prompt in enumerate(prompts):
        run = next(run for name, run in runs.items() if name.endswith(f"held-out-{number:02d}"))
        config = run.config()
        renderer = load_renderer(config, *checkpoint.load(run.latest_checkpoint()))
        distance = sum(config.cameras.distance) / 2
        fovy_deg = sum(config.cameras.fovy_deg) / 2
        images = renderer.render_image(turntable_cameras(VIEWS, ELEVATION_DEG, distance, fovy_deg, 128)).rgb
        verdict = judge_renders(clip, images, captions, prompt)
        results.append(
            {
                "prompt": prompt,
                "rank": verdict.rank,
                "views_first": verdict.hits,
                "similarity": round(verdict.similarity, 4),
                "taken_for": captions[verdict.best],
            }
        )
        print(f"{verdict.rank:4d}  {prompt:45s} -> {captions[verdict.best]}", flush=True)
        rows.append(to_uint8(images))
    labels = [f"{result['rank']:3d}  {result['prompt']}" for result in results]
    azimuths = [f"{360 * view // VIEWS} deg" for view in range(VIEWS)]
    return results, labelled_sheet(np.stack(rows), labels, azimuths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--count", type=int, default=1 + SINGLES + PAIRS, help="only the first prompts")
    parser.add_argument("--list", action="store_true", help="print the prompts and leave")
    parser.add_argument("--set", action="append", default=[], help="passed on to `dreamfusion train`")
    options = parser.parse_args()
    prompts, captions = held_out_prompts()
    prompts = prompts[: options.count]
    if options.list:
        print("\n".join(prompts))
        return
    extra = [part for item in options.set for part in ("--set", item)]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda item: train(item[1], item[0], options.output, extra), enumerate(prompts)))
    results, sheet = look(prompts, captions, options.output)
    right = sum(result["rank"] == 1 for result in results)
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    from PIL import Image

    Image.fromarray(sheet).save(options.output / "sheet.png")
    print(f"{right} of {len(results)} ranked first among {len(captions)} captions")


if __name__ == "__main__":
    main()
