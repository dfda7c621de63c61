"""The page's data and its file, without a browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from dreamfusion.assets.page import MeshOnPage, curves, mesh_data, page_html, thinned, write_page
from dreamfusion.errors import OutputError


def data(**more):
    base = {
        "prompt": 'a </script><b>duck</b> & "friend"',
        "run": "0001-a-duck",
        "step": 3,
        "steps": 10,
        "status": "running",
        "settings": "seed: 0\n",
        "curves": [],
        "previews": [],
        "mesh": None,
        "live": False,
    }
    return {**base, **more}


def test_nothing_in_the_data_can_end_the_script_or_name_another_server():
    page = page_html(data())
    (held,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert json.loads(held)["prompt"] == 'a </script><b>duck</b> & "friend"'
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "http://" not in page and "https://" not in page and "{{" not in page


def test_curves_of_all_numbers_with_gaps_where_a_step_has_none():
    lines = [
        {"step": 1, "a": 1.0, "losses": {"x": 2}, "shading": "albedo", "timesteps": [1], "skipped": False},
        {"step": 2, "a": None, "cost": {"steps_per_second": 7.0, "seconds": {"render": 1}}},
    ]
    found = {curve["name"]: curve for curve in curves(lines)}
    assert set(found) == {"a", "losses.x", "steps_per_second"}
    assert found["a"]["values"] == [1.0, None] and found["losses.x"]["values"] == [2, None]
    assert found["a"]["steps"] == [1, 2]


def test_thinned_curves_keep_each_value_at_its_step():
    (found,) = curves([{"step": step, "a": 2.0 * step} for step in range(1, 3001)])
    assert len(found["steps"]) == len(found["values"]) == 400
    assert found["values"] == [2.0 * step for step in found["steps"]] and found["steps"][-1] == 3000


@pytest.mark.parametrize("count", [2, 7, 60])
def test_thinning_keeps_the_ends_and_spreads_evenly(count):
    kept = thinned(range(1000), count)
    assert len(kept) == count and kept[0] == 0 and kept[-1] == 999
    assert np.ptp(np.diff(kept)) <= 1 and thinned([1, 2], count) == [1, 2]


def test_a_mesh_is_inside_or_elsewhere():
    inside = mesh_data(MeshOnPage(5, "1", glb=b"abc"))
    assert inside is not None and inside["base64"] == "YWJj"
    assert mesh_data(MeshOnPage(5, "1", src="mesh.glb")) == {"faces": 5, "version": "1", "src": "mesh.glb"}
    assert mesh_data(None) is None


def test_the_file_appears_whole_or_not_at_all(tmp_path):
    assert write_page(data(), tmp_path / "new" / "page.html").read_text(encoding="utf-8") == page_html(data())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_page(data(), tmp_path / "file" / "page.html")
