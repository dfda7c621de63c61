"""The atlas: every face has a place of its own, whoever made it, and nobody is waited for for ever."""

from __future__ import annotations

import subprocess
import time

import numpy as np
import pytest
import trimesh

from dreamfusion.assets import atlas as atlas_module
from dreamfusion.assets.atlas import Atlas, box_atlas, unwrap
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.raster import rasterise

SIZE = 256


def owners(atlas: Atlas, size: int) -> np.ndarray:
    """How many faces cover each texel, edges not counted."""
    counts = np.zeros(size * size, dtype=int)
    for hits in rasterise(atlas.uvs[atlas.faces] * size, size, size):
        np.add.at(counts, hits.pixels[hits.weights.min(1) > 1e-6], 1)
    return counts


def helix() -> trimesh.Trimesh:
    """A ramp that winds three times around the y axis: every projection along y covers itself."""
    turns = np.linspace(0, 6 * np.pi, 121)
    inner = np.stack([0.3 * np.cos(turns), turns / 10, 0.3 * np.sin(turns)], -1)
    outer = np.stack([np.cos(turns), turns / 10, np.sin(turns)], -1)
    k = np.arange(120)
    faces = np.concatenate([np.stack([k, k + 1, k + 121], -1), np.stack([k + 1, k + 122, k + 121], -1)])
    return trimesh.Trimesh(np.concatenate([inner, outer]), faces, process=False)


@pytest.fixture
def head(toys):
    return extract_mesh(toys.head(), 1.0, resolution=40, threshold=50.0, faces=1500)[0]


@pytest.mark.parametrize("kind", ["xatlas", "boxes"])
def test_each_face_has_a_place_of_its_own_with_the_right_corners(head, kind):
    atlas = unwrap(head, SIZE) if kind == "xatlas" else box_atlas(head, SIZE)
    assert atlas.method == kind
    # The same triangles, in the same order, by way of the atlas's own vertices.
    assert np.array_equal(atlas.vertices[atlas.faces], head.faces)
    assert atlas.uvs.min() >= 0 and atlas.uvs.max() <= 1
    counts = owners(atlas, SIZE)
    assert (counts > 1).sum() <= 0.001 * counts.size
    # A third of the square at least is used: what is not is memory for nothing.
    assert (counts > 0).mean() > 0.33
    corners = atlas.uvs[atlas.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert (np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) > 0).mean() > 0.99


def test_charts_of_the_boxes_keep_a_gutter(head):
    atlas = box_atlas(head, SIZE)
    margin = atlas_module.GUTTER / SIZE
    assert atlas.uvs.min() >= margin - 1e-9 and atlas.uvs.max() <= 1 - margin + 1e-9


def test_what_covers_itself_in_every_projection_is_taken_apart():
    mesh = helix()
    atlas = box_atlas(mesh, SIZE)
    assert np.array_equal(atlas.vertices[atlas.faces], mesh.faces)
    assert (owners(atlas, SIZE) > 1).sum() == 0


def test_the_boxes_take_triangles_without_any_order():
    # Nothing closed, nothing manifold: a hundred triangles thrown into a heap.
    points = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    mesh = trimesh.Trimesh(points, np.arange(300).reshape(-1, 3), process=False)
    atlas = box_atlas(mesh, SIZE)
    assert (owners(atlas, SIZE) > 1).sum() == 0 and len(atlas.faces) == 100


def test_an_unwrap_that_hangs_is_ended_and_says_so(head, monkeypatch, capsys):
    sleep = ["-c", "import time; time.sleep(60)"]
    run = subprocess.run
    monkeypatch.setattr(atlas_module.subprocess, "run", lambda command, **kw: run([command[0], *sleep], **kw))
    started = time.monotonic()
    atlas = unwrap(head, SIZE, timeout_s=0.5)
    assert time.monotonic() - started < 20 and atlas.method == "boxes"
    assert "did not unwrap" in capsys.readouterr().err


def test_an_unwrap_that_crashes_is_replaced_and_says_so(head, monkeypatch, capsys):
    run = subprocess.run
    crash = ["-c", "import os; os.abort()"]
    monkeypatch.setattr(atlas_module.subprocess, "run", lambda command, **kw: run([command[0], *crash], **kw))
    assert unwrap(head, SIZE).method == "boxes"
    assert "xatlas failed" in capsys.readouterr().err


def test_without_xatlas_the_boxes_are_taken_and_say_so(head, monkeypatch, capsys):
    monkeypatch.setattr(atlas_module.importlib.util, "find_spec", lambda name: None)
    assert unwrap(head, SIZE).method == "boxes"
    assert "pip install" in capsys.readouterr().err
