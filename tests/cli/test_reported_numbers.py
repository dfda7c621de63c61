"""Numbers in the results of `export --check` and `fit --truth`: each under its own name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreamfusion.assets import check
from dreamfusion.assets import mesh as meshes
from dreamfusion.commands import export, fit
from dreamfusion.evaluation import geometry
from dreamfusion.runs.directory import RunDirectory


def test_the_check_tells_each_mean_and_each_lowest_value(
    fresh_run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = SimpleNamespace(psnr_db=(30.0, 26.0), object_psnr_db=(22.0, 17.0), iou=(0.9, 0.75), good=False)
    monkeypatch.setattr(check, "compare", lambda *_: (found, None))
    unused: Any = None
    export._tell_agreement(Path("a.glb"), unused, fresh_run, (-1.0, 1.0))
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    expected = {
        "psnr_db": 28.0, "lowest_psnr_db": 26.0, "object_psnr_db": 19.5, "lowest_object_psnr_db": 17.0,
        "iou": 0.825, "lowest_iou": 0.75, "good": False, "views": 8, "path": "a.glb", "event": "check",
    }  # fmt: skip
    assert {name: said[name] for name in expected} == expected
    assert "does not look like the NeRF" in captured.err
    found.good = True
    export._tell_agreement(Path("a.glb"), unused, fresh_run, (-1.0, 1.0))
    assert "does not look like" not in capsys.readouterr().err


def test_the_geometry_of_a_fit_has_each_number_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, truth = object(), object()
    agreement = SimpleNamespace(chamfer=0.5, accuracy=0.25, completeness=0.125, normal_consistency=0.75)

    def compared(mesh: object, true_mesh: object) -> Any:
        assert mesh is mine and true_mesh is truth
        return agreement

    moves: list[object] = []
    moved = SimpleNamespace(apply_transform=lambda matrix: moves.append(matrix) or truth)
    monkeypatch.setattr(fit, "read_truth", lambda path: moved)
    monkeypatch.setattr(meshes, "extract_mesh", lambda *_, **__: (mine, None))
    monkeypatch.setattr(geometry, "surface_agreement", compared)
    renderer: Any = SimpleNamespace(scene=SimpleNamespace(field=None, radius=1.0))
    dataset: Any = SimpleNamespace(from_dataset="to the run's world")
    assert fit._measure_geometry(renderer, dataset, Path("truth.ply")) == vars(agreement)
    assert moves == ["to the run's world"]
