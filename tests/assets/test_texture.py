"""The baked texture against a field whose colour is known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.raster import rasterise
from dreamfusion.assets.texture import bake, split_at_seams

SIZE = 128


def by_direction(positions: torch.Tensor) -> torch.Tensor:
    """A colour that changes along the surface of a centred ball and not across it."""
    return (torch.nn.functional.normalize(positions, dim=-1) + 1) / 2


@pytest.fixture
def baked(toys):
    field = toys.Solid(toys.ball(0.5), by_direction)
    mesh, _ = extract_mesh(field, 1.0, resolution=32, threshold=50.0, faces=800)
    atlas = box_atlas(mesh, SIZE)
    split = split_at_seams(mesh, atlas)
    return mesh, atlas, split, bake(field, split, atlas, SIZE, 1.0)


def test_every_texel_has_the_colour_of_its_place(baked):
    _, atlas, split, texture = baked
    worst, seen = 0.0, 0
    for hits in rasterise(atlas.uvs[atlas.faces] * SIZE, SIZE, SIZE):
        places = np.einsum("nk,nkc->nc", hits.weights, split.vertices[atlas.faces[hits.triangles]])
        expected = by_direction(torch.from_numpy(places)).numpy() * 255
        found = texture.image.reshape(-1, 3)[hits.pixels]
        worst, seen = max(worst, np.abs(found - expected).max()), seen + len(places)
    # The colour is gathered along the interpolated normal, which on a mesh this coarse leans a little.
    assert worst < 6 and seen > 0.3 * SIZE**2


def test_colours_run_on_beyond_the_seams(baked):
    _, atlas, _, texture = baked
    filled = np.zeros((SIZE, SIZE), dtype=bool)
    for hits in rasterise(atlas.uvs[atlas.faces] * SIZE, SIZE, SIZE):
        filled.reshape(-1)[hits.pixels] = True
    rows, columns = np.nonzero(~filled[1:-1, 1:-1])
    # A texel beside a chart has one of its neighbours' colours, and nothing is left black.
    for row, column in list(zip(rows + 1, columns + 1, strict=True))[::37]:
        around = [
            (row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if filled[row + i, column + j]
        ]
        if around:
            assert any((texture.image[row, column] == texture.image[place]).all() for place in around)
    assert texture.image.sum(-1).min() > 100


def test_the_split_mesh_is_the_same_surface_with_the_closed_meshs_normals(baked):
    mesh, atlas, split, _ = baked
    assert np.allclose(split.triangles, mesh.triangles)
    assert np.array_equal(split.vertex_normals, mesh.vertex_normals[atlas.vertices])
    assert len(split.vertices) > len(mesh.vertices)


def test_progress_ends_at_its_total(toys):
    field = toys.Solid(toys.ball(0.5))
    mesh, _ = extract_mesh(field, 1.0, resolution=16, threshold=50.0)
    atlas = box_atlas(mesh, 64)
    seen: list[tuple[int, int]] = []
    bake(field, split_at_seams(mesh, atlas), atlas, 64, 1.0, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 1000
