"""Dream Fields against DreamFusion: the same prompts, the same steps, one judge; a table of R-Precision in colour and geometry.

    python scripts/train_miniature.py --stage judge,export --shards 8    # once: a second CLIP, which guides nothing
    python scripts/compare_guidance.py --output outputs/comparison

The prompts are the 20 that `scripts/evaluate_miniature.py` scores, ranked among its 100 captions, unless a file names others.
Interrupted, it goes on: each batch is `dreamfusion eval --prompts`, which keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

METHODS = {"Dream Fields": "dream-fields", "DreamFusion": "miniature"}


def world_lists(output: Path) -> tuple[Path, Path]:
    """Files of the miniature world's held-out prompts and of all captions."""
    from evaluate_miniature import held_out_prompts

    files = output / "prompts.txt", output / "captions.txt"
    output.mkdir(parents=True, exist_ok=True)
    for file, lines in zip(files, held_out_prompts(), strict=True):
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def batch(config: str, options: argparse.Namespace) -> dict[str, float | None]:
    """Train and judge all prompts under one preset; the means that `dreamfusion eval` tells."""
    command = [sys.executable, "-m", "dreamfusion", "eval", "--prompts", str(options.prompts), "--config", config,
               "--clip", options.judge, "--output", str(options.output / config)]  # fmt: skip
    if options.captions is not None:
        command += ["--captions", str(options.captions)]
    for text in [*([f"training.steps={options.steps}"] if options.steps else []), *options.set]:
        command += ["--set", text]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, float | None]]) -> str:
    """Markdown: a row a method, shares in per cent."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    columns = ("r_precision", "r_precision_geometry", "r_precision_views", "r_precision_views_geometry")
    lines = [
        "| method | colour | geometry | colour, views | geometry, views | similarity |",
        "|---|---|---|---|---|---|",
    ]
    for method, means in found.items():
        cells = [percent(means[column]) for column in columns]
        lines.append(f"| {method} | " + " | ".join([*cells, str(means["similarity"])]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", type=Path, nargs="?", help="one a line; the world's 20 if left out")
    parser.add_argument("--captions", type=Path, help="more captions to rank among")
    parser.add_argument("--judge", default="judge", help="directory or hub id of a CLIP that guided neither")
    parser.add_argument("--steps", type=int, help="of each run; the presets' own if left out")
    parser.add_argument("--set", action="append", default=[], help="passed on to both")
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison"))
    options = parser.parse_args()
    if options.prompts is None:
        options.prompts, captions = world_lists(options.output)
        options.captions = options.captions or captions
    found = {method: batch(config, options) for method, config in METHODS.items()}
    text = table(found)
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
