"""Ctrl-C for a real `dreamfusion` at moments that are told by the imports that it reports (`-X importtime`)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dreamfusion.runs.directory import RunDirectory


def interrupted_after(module: str, words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout, and stderr without the imports, of a command that got SIGINT when `module` had been loaded."""
    command = [sys.executable, "-X", "importtime", "-m", "dreamfusion", *words]
    said, outs = "", []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        stdout, stderr = process.stdout, process.stderr
        assert stdout is not None and stderr is not None
        reader = threading.Thread(target=lambda: outs.append(stdout.read()))
        reader.start()
        pressed = False
        for line in stderr:
            if not pressed and line.rpartition("|")[2].strip() == module:
                process.send_signal(signal.SIGINT)
                pressed = True
            if not line.startswith("import time:"):
                said += line
        reader.join()
        assert pressed, f"{module} was not loaded"
    return process.returncode, outs[0], said


# The first of them is what typer needs; then a library before torch, torch's own middle and end, scipy under trimesh (which
# catches every exception around it), and what comes last.
@pytest.mark.parametrize(
    "module",
    ["typer.core", "yaml", "numpy", "torch.nn", "scipy.sparse", "trimesh", "trimesh.exchange.obj", "skimage"],
)
def test_an_export_that_still_loads_its_libraries_ends_at_once(
    module: str, run_with_checkpoint: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(run_with_checkpoint.path.rglob("*"))
    code, out, said = interrupted_after(module, ["export", "--resolution", "24"])
    assert code == 130
    assert "mesh.glb" not in out and "Traceback" not in said and "Error" not in said
    assert sorted(run_with_checkpoint.path.rglob("*")) == before


@pytest.mark.parametrize(
    "words", [["render", "--image"], ["runs"], ["doctor"], ["train", "a duck", "--dry-run"]]
)
def test_every_command_has_it_from_its_first_library_on(
    words: list[str], run_with_checkpoint: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, said = interrupted_after("typer.core", words)
    assert (code, out, said) == (130, "", "")
