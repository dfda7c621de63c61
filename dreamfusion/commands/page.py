"""What a page about a run shows, gathered from the run's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamfusion.runs import metrics
from dreamfusion.runs.directory import RunDirectory


def previews_of(run: RunDirectory) -> list[tuple[int, Path]]:
    """Step and file of at most 60 of the run's previews, in order."""
    from dreamfusion.assets.page import MAX_PREVIEWS, thinned

    found = sorted(p for p in run.previews.glob("*.png") if p.stem.isdecimal())
    return thinned([(int(p.stem), p) for p in found], MAX_PREVIEWS)


def page_data(run: RunDirectory, mesh: Any, live: bool) -> dict[str, Any]:
    """The page's data.

    Args:
        mesh: a `MeshOnPage`, or None.
        live: pictures stay files that the server hands out; else they are put into the data.
    """
    from dreamfusion.assets.page import curves, mesh_data, png_address

    info = run.info()
    return {
        "prompt": info.prompt,
        "run": run.path.name,
        "step": info.step,
        "steps": info.steps,
        "status": info.status,
        "settings": run.config_path.read_text(encoding="utf-8"),
        "curves": curves(list(metrics.read(run.metrics_path))),
        "previews": [
            {"step": step, "src": f"previews/{path.name}" if live else png_address(path.read_bytes())}
            for step, path in previews_of(run)
        ],
        "mesh": mesh_data(mesh),
        "live": live,
    }
