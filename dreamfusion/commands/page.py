"""What a page about a run shows, gathered from the run's directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dreamfusion.documents import MIB, YAML, is_regular, read_bytes, read_text
from dreamfusion.errors import ConfigError, RunNotFoundError
from dreamfusion.progress import notice
from dreamfusion.runs import metrics
from dreamfusion.runs.directory import RunDirectory

# Four renders of at most 1024 pixels' side.
MAX_PREVIEW_BYTES = 32 * MIB
_PREVIEW = re.compile(r"[0-9]{1,12}")


def previews_of(run: RunDirectory) -> list[tuple[int, Path]]:
    """Step and file of at most 60 of the run's previews, in order."""
    from dreamfusion.assets.page import MAX_PREVIEWS, thinned

    found = (p for p in run.previews.glob("*.png") if _PREVIEW.fullmatch(p.stem))
    # By number: from step 1,000,000 on, names are longer.
    regular = sorted((int(p.stem), p) for p in found if is_regular(p, run.path))
    return thinned(regular, MAX_PREVIEWS)


def read_preview(run: RunDirectory, path: Path) -> bytes:
    """One of the files of `previews_of`.

    Raises:
        RunNotFoundError: it is no PNG of the run's, or larger than any preview.
    """
    content = read_bytes(path, error=RunNotFoundError, under=run.path, max_bytes=MAX_PREVIEW_BYTES)
    if not content.startswith(b"\x89PNG"):
        raise RunNotFoundError(f"{path} is not a PNG")
    return content


def _previews(run: RunDirectory, live: bool) -> list[dict[str, Any]]:
    from dreamfusion.assets.page import png_address

    found = []
    for step, path in previews_of(run):
        if live:
            found.append({"step": step, "src": f"previews/{path.name}"})
            continue
        try:
            found.append({"step": step, "src": png_address(read_preview(run, path))})
        except RunNotFoundError as error:
            notice(f"left out of the page: {error}")
    return found


def page_data(run: RunDirectory, mesh: Any, live: bool) -> dict[str, Any]:
    """The page's data.

    Args:
        mesh: a `MeshOnPage`, or None.
        live: pictures stay files that the server hands out; else they are put into the data.
    """
    from dreamfusion.assets.page import curves, mesh_data

    info = run.info()
    return {
        "prompt": info.prompt,
        "run": run.path.name,
        "step": info.step,
        "steps": info.steps,
        "status": info.status,
        "settings": read_text(run.config_path, error=ConfigError, under=run.path, max_bytes=YAML.bytes),
        "curves": curves(list(metrics.read(run.metrics_path))),
        "previews": _previews(run, live),
        "mesh": mesh_data(mesh),
        "live": live,
    }
