"""A page that shows a run: the object to turn, its training as a time-lapse, its numbers. One file, no network."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dreamfusion.assets.files import atomic_path
from dreamfusion.errors import printable

MAX_PREVIEWS = 60
MAX_POINTS = 400
_PARTS = ("page.html", "style.css", "viewer.js")


@dataclass(frozen=True)
class MeshOnPage:
    """The object: either the bytes of a GLB that go into the page, or the address that the page fetches it from.

    Attributes:
        version: changes with the content.
    """

    faces: int
    version: str
    glb: bytes | None = None
    src: str | None = None


def thinned(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def curves(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every number that the lines of metrics have, as `name`, `steps`, `values`; nested names are joined by a dot.

    A step's `cost` is not shown but for its speed: the rest is of interest to those who read the file.
    """
    kept = thinned(lines, MAX_POINTS)
    flat = [_flat(line) for line in kept]
    names = list(dict.fromkeys(name for line in flat for name in line))
    steps = [line["step"] for line in kept]
    return [{"name": n, "steps": steps, "values": [line.get(n) for line in flat]} for n in names]


def _flat(line: Mapping[str, Any]) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {}
    for name, value in line.items():
        if name in ("step", "cost") or isinstance(value, str | bool | list):
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": v for key, v in value.items() if isinstance(v, int | float | None)}
        else:
            found[name] = value
    cost = line.get("cost")
    if isinstance(cost, Mapping) and isinstance(cost.get("steps_per_second"), int | float):
        found["steps_per_second"] = cost["steps_per_second"]
    return found


def png_address(content: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def mesh_data(mesh: MeshOnPage | None) -> dict[str, Any] | None:
    """What the page's script wants to know of the mesh."""
    if mesh is None:
        return None
    found: dict[str, Any] = {"faces": mesh.faces, "version": mesh.version}
    if mesh.glb is not None:
        found["base64"] = base64.b64encode(mesh.glb).decode()
    if mesh.src is not None:
        found["src"] = mesh.src
    return found


def page_html(data: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        data: `prompt`, `run`, `step`, `steps`, `status`, `settings` (text), `curves`, `previews` (each a `step` and a
            `src`), `mesh` (see `mesh_data`), and `live`: whether the page is to ask for `data.json` again and again.
    """
    viewer = files("dreamfusion.assets").joinpath("viewer")
    page, style, script = (viewer.joinpath(name).read_text(encoding="utf-8") for name in _PARTS)
    filled = {
        "style": style,
        "script": script,
        "title": html.escape(printable(str(data["prompt"]))),
        # Inside a script element nothing is markup but its own end.
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    # In one pass, so that nothing is filled into what was filled in: a prompt may read "{{script}}".
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: filled[slot[1]], page)


def write_page(data: Mapping[str, Any], path: Path) -> Path:
    """Writes the page; it appears only when it is complete.

    Raises:
        OutputError: the file cannot be written.
    """
    text = page_html(data)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
