"""Each part of an export at its defaults: 128 cells, 40,000 faces, a texture of 1024; and whether it looks right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import trimesh

from dreamfusion.assets.atlas import Atlas, box_atlas, unwrap
from dreamfusion.assets.check import check_cameras, compare
from dreamfusion.assets.cleaning import decimated
from dreamfusion.assets.formats import write_mesh
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.texture import Texture, bake, split_at_seams

FACES, SIZE, LIMIT_S = 40_000, 1024, 30.0


@dataclass
class Export:
    mesh: trimesh.Trimesh
    atlas: Atlas
    split: trimesh.Trimesh
    texture: Texture


def extracted(fitted, resolution: int = 128, faces: int | None = FACES) -> trimesh.Trimesh:
    field = fitted.renderer.scene.field
    return extract_mesh(field, 1.0, resolution=resolution, renderer=fitted.renderer, faces=faces)[0]


def baked(fitted, mesh: trimesh.Trimesh, atlas: Atlas) -> Export:
    split = split_at_seams(mesh, atlas)
    return Export(mesh, atlas, split, bake(fitted.renderer.scene.field, split, atlas, SIZE, 1.0))


@pytest.fixture(scope="module")
def export(fitted) -> Export:
    mesh = extracted(fitted)
    return baked(fitted, mesh, box_atlas(mesh, SIZE))


def test_surface_128(benchmark, fitted):
    """Marching cubes with the threshold found by silhouettes."""
    mesh = benchmark.pedantic(lambda: extracted(fitted, faces=None), rounds=2)
    benchmark.extra_info["faces"] = len(mesh.faces)


def test_decimation(benchmark, fitted):
    """From 256 cells, so that there is something to do."""
    mesh = extracted(fitted, 256, faces=None)
    benchmark.extra_info["faces"] = len(mesh.faces)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces).astype(np.int64)
    benchmark.pedantic(lambda: decimated(vertices, faces, FACES), rounds=2)


def test_box_atlas(benchmark, export):
    benchmark.pedantic(lambda: box_atlas(export.mesh, SIZE), rounds=2)


def test_xatlas(benchmark, export):
    """With the command's time limit; `method` says whether xatlas made it."""
    atlas = benchmark.pedantic(lambda: unwrap(export.mesh, SIZE, LIMIT_S), rounds=1)
    benchmark.extra_info["method"] = atlas.method


def test_bake(benchmark, fitted, export):
    benchmark.pedantic(lambda: baked(fitted, export.mesh, export.atlas), rounds=2)


def test_whole_export(benchmark, fitted, tmp_path):
    """To stay under a minute on two free cores, of which xatlas's time limit is the half."""

    def whole():
        mesh = extracted(fitted)
        made = baked(fitted, mesh, unwrap(mesh, SIZE, LIMIT_S))
        return write_mesh(made.split, tmp_path / "mesh.glb", texture=made.texture)

    path = benchmark.pedantic(whole, rounds=1)
    benchmark.extra_info["bytes"] = path.stat().st_size


def test_check(benchmark, fitted, export, tmp_path):
    """The file from eight views, which is to look like the NeRF: 25 dB, and silhouettes that agree to 0.95."""
    path = write_mesh(export.split, tmp_path / "mesh.glb", texture=export.texture)
    cameras = fitted.config.cameras
    views = check_cameras(cameras.distance[1], sum(cameras.fovy_deg) / 2)
    low, high = export.mesh.bounds[:, 1].tolist()
    found, _ = benchmark.pedantic(lambda: compare(path, fitted.renderer, views, (low, high)), rounds=1)
    benchmark.extra_info |= {"psnr_db": float(np.mean(found.psnr_db)), "iou": float(np.mean(found.iou))}
    assert found.good, found
