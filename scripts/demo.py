"""The whole way in three commands: train a prompt on the embedded model, export the mesh, render the turntable.

python scripts/demo.py "a peacock on a surfboard"
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from dreamfusion.runs.directory import find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("prompt", nargs="?", default="a peacock on a surfboard")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the runs")
    options = parser.parse_args()
    started = time.monotonic()
    command("train", options.prompt, "--config", "miniature", "--output", str(options.output))
    run = find(None, options.output).path
    command("export", str(run), "--mesh")
    command("render", str(run), "--video")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print(f"\nmesh   {run / 'mesh.glb'}\nvideo  {run / 'turntable.mp4'}\ntime   {minutes} min {seconds} s")


def command(*words: str) -> None:
    """One dreamfusion command, as it would be typed; ends this program with its exit code if it fails."""
    print("\n$ dreamfusion " + " ".join(f"'{word}'" if " " in word else word for word in words), flush=True)
    code = subprocess.run([sys.executable, "-m", "dreamfusion", *words], check=False).returncode
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    main()
