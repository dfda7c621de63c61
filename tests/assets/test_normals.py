"""The normal map in closed form on a square, and as a viewer sees it from the file: nearer to the dense mesh than without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.assets.atlas import Atlas, box_atlas
from dreamfusion.assets.check import check_cameras, draw
from dreamfusion.assets.formats import write_mesh
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.normals import bake_normals, tangents, unit_normals
from dreamfusion.assets.read_back import Shape
from dreamfusion.assets.texture import Texture, split_at_seams
from tests.assets.test_formats import parse_glb

CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
SQUARE = trimesh.Trimesh(CORNERS, [[0, 1, 2], [0, 2, 3]], process=False)
X, Y = CORNERS[:, 0], CORNERS[:, 1]


def leaning(normal: tuple[float, float, float], z: float = 0.0) -> trimesh.Trimesh:
    """A fine square in the same place whose normals all say the same."""
    side = np.linspace(0, 1, 12)
    points = np.stack(np.meshgrid(side, side, [z], indexing="ij"), axis=-1).reshape(-1, 3)
    # The faces do not matter: normals are given.
    return trimesh.Trimesh(
        points, [[0, 1, 2]], vertex_normals=np.tile(normal, (len(points), 1)), process=False
    )


# How u and v run, and where the picture's right and up are then. v grows downwards.
CHARTS = {
    "upright": ((X, 1 - Y), (1, 0, 0), (0, 1, 0)),
    "mirrored": ((1 - X, 1 - Y), (-1, 0, 0), (0, 1, 0)),
    "upside down": ((X, Y), (1, 0, 0), (0, -1, 0)),
    "turned": ((Y, X), (0, 1, 0), (-1, 0, 0)),
}


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_tangents_run_right_and_the_sign_makes_green_run_up(chart, scale):
    uv, right, up = CHARTS[chart]
    mesh = SQUARE.copy()
    mesh.apply_scale(scale)
    found = tangents(mesh, np.stack(uv, axis=-1))
    assert np.allclose(found[:, :3], right)
    assert np.allclose(np.cross(unit_normals(mesh), found[:, :3]) * found[:, 3:], up)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_lean_is_red_to_the_right_and_green_up(chart):
    uv, right, up = CHARTS[chart]
    atlas = Atlas(np.arange(4), np.asarray(SQUARE.faces), np.stack(uv, axis=-1), "boxes")
    for lean in ((0.6, 0.0, 0.8), (0.0, -0.6, 0.8)):
        image = bake_normals(SQUARE, atlas, leaning(lean), 16)
        parts = [np.dot(lean, axis) for axis in (right, up, (0, 0, 1))]
        assert np.abs(image - (np.array(parts) + 1) / 2 * 255).max() <= 1


def test_a_vertex_without_a_place_in_the_picture_gets_some_tangent():
    found = tangents(SQUARE, np.zeros((4, 2)))
    assert np.allclose(np.linalg.norm(found[:, :3], axis=1), 1) and (found[:, 3] == 1).all()
    assert np.allclose((found[:, :3] * unit_normals(SQUARE)).sum(1), 0)


def test_the_far_side_of_a_thin_plate_is_not_taken_for_the_near_one():
    # Not quite opposite: walls of a real object seldom are.
    near, far = leaning((0.6, 0.0, 0.8), z=-0.02), leaning((0.28, 0.0, -0.96), z=0.01)
    both = trimesh.Trimesh(
        np.concatenate([near.vertices, far.vertices]),
        [[0, 1, 2]],
        vertex_normals=np.concatenate([near.vertex_normals, far.vertex_normals]),
        process=False,
    )
    atlas = Atlas(np.arange(4), np.asarray(SQUARE.faces), np.stack([X, 1 - Y], axis=-1), "boxes")
    assert np.abs(bake_normals(SQUARE, atlas, both, 16).astype(int) - [204, 127, 229]).max() <= 1


# ------------------------------------------------------------------------------------------ as a viewer sees it


@pytest.fixture(scope="module")
def bumpy():
    """Dense and decimated meshes of a ball with bumps, and the decimated one's atlas and normal map."""
    from tests.assets.conftest import Solid

    def inside(positions: torch.Tensor) -> torch.Tensor:
        return 0.55 - positions.norm(dim=-1) + 0.03 * torch.sin(14 * positions).prod(dim=-1)

    mesh, info = extract_mesh(Solid(inside), 1.0, resolution=64, threshold=50.0, faces=800)
    assert info.dense is not None and len(info.dense.faces) == info.marched_faces > 8000
    atlas = box_atlas(mesh, 256)
    split = split_at_seams(mesh, atlas)
    return info.dense, split, atlas, bake_normals(split, atlas, info.dense, 256)


def shown(vertices: Any, faces: Any, values: Any, camera: Any) -> np.ndarray:
    """Values at the vertices as a camera sees them, and in the last channel whether there is anything."""
    found, covered = draw(Shape(np.asarray(vertices), np.asarray(faces), colors=values), camera)
    return np.concatenate([found, covered[..., None]], axis=-1)


def error_deg(found: np.ndarray, truth: np.ndarray) -> float:
    both = (found[..., 3] > 0) & (truth[..., 3] > 0)
    a, b = (v[both][:, :3] / np.linalg.norm(v[both][:, :3], axis=-1, keepdims=True) for v in (found, truth))
    return float(np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1))).mean())


def mapped_normals(path: Any, camera: Any) -> np.ndarray:
    """What glTF's formula says of the file, and of nothing else."""
    _, arrays = parse_glb(path)
    (mesh,) = list[Any](trimesh.load_scene(path, process=False).geometry.values())
    picture = np.asarray(mesh.visual.material.normalTexture.convert("RGB")) / 255.0 * 2 - 1
    faces = arrays["indices"].reshape(-1, 3)
    buffers = [
        shown(arrays["POSITION"].astype(float), faces, values.astype(float), camera)
        for values in (
            arrays["NORMAL"],
            arrays["TANGENT"][:, :3],
            np.c_[arrays["TEXCOORD_0"], arrays["TANGENT"][:, 3]],
        )
    ]
    normal, tangent, place = (buffer[..., :3] for buffer in buffers)
    size = len(picture)
    columns, rows = (np.clip((place[..., k] * size).astype(int), 0, size - 1) for k in (0, 1))
    parts = picture[rows, columns]
    up = np.cross(normal, tangent) * place[..., 2:]
    seen = parts[..., :1] * tangent + parts[..., 1:2] * up + parts[..., 2:] * normal
    return np.concatenate([seen, buffers[0][..., 3:]], axis=-1)


def test_the_file_with_its_map_is_nearer_to_the_dense_mesh_than_without(bumpy, tmp_path):
    dense, split, atlas, image = bumpy
    texture = Texture(atlas.uvs, np.full((8, 8, 3), 200, dtype=np.uint8), atlas.method, image)
    path = write_mesh(split, tmp_path / "a.glb", texture=texture)
    cameras = check_cameras(3.0, 40.0, views=3, size=96)
    for view in range(3):
        camera = cameras[view : view + 1]
        truth = shown(dense.vertices, dense.faces, unit_normals(dense), camera)
        without = shown(split.vertices, split.faces, unit_normals(split), camera)
        assert error_deg(mapped_normals(path, camera), truth) < 0.4 * error_deg(without, truth)


def test_the_map_is_flat_where_nothing_was_taken_away(bumpy):
    dense, *_ = bumpy
    atlas = box_atlas(dense, 256)
    image = bake_normals(split_at_seams(dense, atlas), atlas, dense, 256).astype(int)
    assert np.median(np.abs(image - [128, 128, 255]).max(-1)) <= 6


def test_nothing_is_kept_where_nothing_was_taken_away(toys):
    mesh, info = extract_mesh(toys.Solid(toys.ball(0.5)), 1.0, resolution=16, threshold=50.0, faces=10**6)
    assert info.dense is None and len(mesh.faces) == info.marched_faces
