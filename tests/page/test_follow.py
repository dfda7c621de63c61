"""`dreamfusion view` in a real browser, beside a `dreamfusion train` that is training: both are processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SMALL = ["training.preview_every=2", "training.checkpoint_every=4", "training.preview_size=32"]
PATIENCE_S = 600.0


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "dreamfusion", *words]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def event(process: subprocess.Popen[str], kind: str) -> dict[str, str]:
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if told["event"] == kind:
            return told
    raise AssertionError(f"the command ended without {kind}")


def test_the_page_follows_a_run_that_trains(browser, tmp_path):
    options = [word for text in SMALL for word in ("--set", text)]
    words = [
        "train",
        "a red ball",
        "--config",
        "miniature",
        "--device",
        "cpu",
        "--steps",
        "100000",
        "--name",
        "ball",
    ]
    with started(tmp_path, *words, *options) as training:
        event(training, "preview")
        with started(tmp_path, "view", "--port", "0") as serving:
            browser.open(event(serving, "serving")["url"])

            def seen(script: str) -> float:
                return float(browser.evaluate(script))

            scripts = {
                "step": "data.step",
                "previews": "data.previews.length",
                "points on a curve": "Math.max(0, ...data.curves.map((c) => c.values.length))",
                "newest mesh": "data.mesh ? Number(data.mesh.version) : -1",
            }
            first = {name: seen(script) for name, script in scripts.items()}
            until = time.monotonic() + PATIENCE_S
            growing = set(scripts)
            while growing:
                growing = {name for name in growing if seen(scripts[name]) <= first[name]}
                assert training.poll() is None and serving.poll() is None
                assert time.monotonic() < until, f"{growing} did not grow"
                time.sleep(0.2)
            # What the page holds is what it shows.
            browser.wait_for(
                "document.getElementById('status').textContent.includes(`step ${data.step} of 100000`)"
            )
            browser.wait_for("mesh !== null && document.getElementById('message').textContent === ''")
            browser.wait_for("document.getElementById('preview').naturalWidth > 0")
            assert browser.evaluate("document.querySelectorAll('.curve path').length") > 3
            assert (browser.picture() < 200).any(-1).mean() > 0.01
            assert all(
                a.startswith(("http://127.0.0.1:", "blob:")) for a in browser.requested if a != "about:blank"
            )
            assert browser.logged == []
