"""Dream Fields against DreamFusion: the same prompts, the same steps, one judge; a table of R-Precision in colour and geometry.

    python scripts/compare_guidance.py prompts.txt --judge path/to/another-clip --output outputs/comparison

The judge should be a CLIP that guided neither, such as one that `scripts/train_miniature.py --stage clip` makes anew.
Interrupted, it goes on: each batch is `dreamfusion eval --prompts`, which keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

METHODS = {"Dream Fields": "dream-fields", "DreamFusion": "miniature"}


def batch(config: str, options: argparse.Namespace) -> dict[str, float | None]:
    """Train and judge all prompts under one preset; the means that `dreamfusion eval` tells."""
    command = [sys.executable, "-m", "dreamfusion", "eval", "--prompts", str(options.prompts), "--config", config,
               "--clip", options.judge, "--output", str(options.output / config)]  # fmt: skip
    if options.captions is not None:
        command += ["--captions", str(options.captions)]
    for text in [*([f"training.steps={options.steps}"] if options.steps else []), *options.set]:
        command += ["--set", text]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
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
    parser.add_argument("prompts", type=Path, help="one a line")
    parser.add_argument("--captions", type=Path, help="more captions to rank among")
    parser.add_argument(
        "--judge", default="miniature", help="directory or hub id of a CLIP that guided neither"
    )
    parser.add_argument("--steps", type=int, help="of each run; the presets' own if left out")
    parser.add_argument("--set", action="append", default=[], help="passed on to both")
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison"))
    options = parser.parse_args()
    found = {method: batch(config, options) for method, config in METHODS.items()}
    text = table(found)
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
