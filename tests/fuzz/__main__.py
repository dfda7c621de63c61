"""`python tests/fuzz`: hostile inputs at every surface, each answered in time, in one line, and never by silence.

The same seed gives the same inputs. Prints the counts by surface and every fault; ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from cases import judge
from stage import Stage
from surfaces import CHEAP, IN_PROCESSES, WITH_A_MODEL, WITH_A_RUN


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="surfaces whose name contains this")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        os.chdir(folder)
        return fuzz(Stage(folder), options.count, options.seed, options.only)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def fuzz(stage: Stage, count: int, seed: int, only: str = "") -> int:
    """Try `count` inputs and print what came of them; the exit code."""
    surfaces = [
        surface for surface in (*CHEAP, *WITH_A_RUN, *WITH_A_MODEL, *IN_PROCESSES) if only in surface.__name__
    ]
    counts: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    slowest = (0.0, "")
    for number in range(count):
        case = surfaces[number % len(surfaces)](stage, random.Random(seed * 1_000_003 + number))
        began = time.monotonic()
        fault = judge(case)
        slowest = max(slowest, (time.monotonic() - began, str(case)))
        counts[case.surface] += 1
        if fault is not None:
            kinds[fault.partition(":")[0]] += 1
            print(f"#{number} {case}\n    {fault}\n", flush=True)
    for surface, tried in sorted(counts.items()):
        print(f"{tried:5d}  {surface}")
    named = ("traceback", "hang", "silent acceptance")
    told = ", ".join(f"{kinds.pop(kind, 0)} {kind}s" for kind in named)
    others = sum(kinds.values())
    print(
        f"{count} inputs, seed {seed}: {told}, {others} other faults; slowest {slowest[0]:.1f} s ({slowest[1][:100]})"
    )
    return int(others > 0 or not told.startswith("0 ") or ", 0 hangs, 0 silent" not in told)


if __name__ == "__main__":
    sys.exit(main())
