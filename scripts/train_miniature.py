"""Trains the miniature from nothing, or goes on with it: `python scripts/train_miniature.py`.

Every stage can be run alone (`--stage diffusion --minutes 60`), stopped at any moment (Ctrl-C, SIGTERM, a kill) and
started again: it goes on from its last checkpoint in the work folder. Sample sheets appear in `sheets/` there.

`--stage judge` trains a second CLIP on pictures of its own (it renders `--shards` of them); `all` leaves it out. Nothing is
guided by it, `dreamfusion eval` judges with it.

To train while the world is still being rendered, give each a process: `--stage world`, `--stage feed`, and, once the first shard
is ready, `--stage diffusion --follow`.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

DEFAULT_MINUTES = {"autoencoder": 12.0, "clip": 45.0, "diffusion": 100.0, "judge": 45.0}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", default="all", help="all, or one, or several with commas")
    parser.add_argument("--minutes", type=float, help="budget of each training stage asked for")
    parser.add_argument("--steps", type=int, help="last step of each training stage asked for")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--work", type=Path, default=Path(".cache/miniature"), help="where checkpoints lie")
    parser.add_argument(
        "--package", type=Path, help="where --stage export writes; the package itself by default"
    )
    parser.add_argument("--from-shipped", action="store_true", help="start from the shipped weights")
    parser.add_argument("--text-tower", default="joint", choices=["joint", "clip-frozen", "clip-tuned"])
    parser.add_argument(
        "--world",
        default="core",
        choices=["core", "wide"],
        help="which nouns; each world has its own work folder",
    )
    parser.add_argument(
        "--meshes", type=Path, default=Path(".cache/meshes"), help="cache of scripts/fetch_training_meshes.py"
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=20,
        help="training shards to render; the wide world adds a quarter as many of the core one",
    )
    parser.add_argument("--shard-size", type=int, default=8192, help="pictures a shard")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0 is torch's own choice")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--muon", action="store_true", help="Muon instead of AdamW, but for the autoencoder")
    parser.add_argument(
        "--fall",
        type=float,
        default=0.0,
        help="last share of the budget in which the learning rate falls to nothing",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="take in shards that --stage feed, in another process, makes ready meanwhile",
    )
    parser.add_argument("--sheet-minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the stages asked for; an error of the user's is one line."""
    options = parse(argv)
    import torch

    from dreamfusion.errors import DreamfusionError
    from dreamfusion.miniature.training.export import PACKAGE
    from dreamfusion.miniature.training.loop import Budget
    from dreamfusion.miniature.training.plan import Plan, pick_device, say, settle_world
    from dreamfusion.miniature.training.stages import RUNNERS, STAGES

    if options.threads:
        torch.set_num_threads(options.threads)
    stages = STAGES if options.stage == "all" else tuple(options.stage.split(","))
    try:
        for stage in stages:
            if stage not in RUNNERS:
                raise DreamfusionError(f"no stage {stage!r}", expected=", ".join(RUNNERS))
        device = pick_device(options.device)
        # Every step has the same shapes: worth a second's search for the fastest way.
        torch.backends.cudnn.benchmark = True
        for stage in stages:
            minutes = options.minutes
            if minutes is None:
                minutes = math.inf if options.steps else DEFAULT_MINUTES.get(stage, math.inf)
            budget = Budget(
                minutes=minutes,
                steps=options.steps or math.inf,
                sheet_seconds=options.sheet_minutes * 60,
                fall=options.fall,
            )
            say(f"stage {stage} on {device}")
            plan = Plan(
                work=options.work,
                device=device,
                budget=budget,
                seed=options.seed,
                shards=options.shards,
                shard_size=options.shard_size,
                workers=options.workers,
                from_shipped=options.from_shipped,
                text_tower=options.text_tower,
                batch_size=options.batch_size,
                learning_rate=options.learning_rate,
                muon=options.muon,
                follow=options.follow,
                package=options.package or PACKAGE,
                world=options.world,
                meshes=options.meshes,
            )
            settle_world(plan)
            RUNNERS[stage](plan)
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
