"""The readers of LDraw and of furniture libraries, and the baking, on small files in the real formats."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature.meshes import furniture
from dreamfusion.miniature.meshes.bake import Mesh, bake, bake_model, bake_part, crease_normals
from dreamfusion.miniature.meshes.ldraw import Library, colour_of, read_colours

# A tetrahedron, certified counter-clockwise, its four faces seen from outside.
TETRAHEDRON = """0 A tetrahedron
0 Author: Ada Example [ada]
0 !LICENSE Redistributable under CCAL version 2.0 : see CAreadme.txt
0 BFC CERTIFY CCW
3 16 0 0 0 0 1 0 1 0 0
3 16 0 0 0 1 0 0 0 0 1
3 16 0 0 0 0 0 1 0 1 0
3 4 1 0 0 0 1 0 0 0 1
"""


def volume(corners: np.ndarray) -> float:
    return float(np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def library(tmp_path: Path, **files: str) -> Library:
    for folder in ("p", "parts/s"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (tmp_path / "parts" / f"{name}.dat").write_text(text)
    return Library(tmp_path)


def test_ldraw_reads_faces_colours_and_who_made_it(tmp_path: Path) -> None:
    part = library(tmp_path, tetra=TETRAHEDRON).load("TETRA.dat")
    assert (part.title, part.author) == ("A tetrahedron", "Ada Example [ada]")
    assert "CCAL" in part.licence
    assert part.codes.tolist() == [16, 16, 16, 4]
    assert volume(part.corners) == pytest.approx(1 / 6)
    # y points up in what is returned.
    assert part.corners[..., 1].min() == -1 and part.corners[..., 1].max() == 0


@pytest.mark.parametrize(
    ("before", "matrix", "clockwise"),
    [
        ("", "1 0 0 0 1 0 0 0 1", False),
        ("", "-1 0 0 0 1 0 0 0 1", False),
        ("0 BFC INVERTNEXT\n", "1 0 0 0 1 0 0 0 -1", True),
        ("0 BFC INVERTNEXT\n", "1 0 0 0 1 0 0 0 1", True),
        ("", "0 2 0 2 0 0 0 0 2", False),
    ],
)
def test_ldraw_winding_survives_mirrors_and_inversions(
    tmp_path: Path, before: str, matrix: str, clockwise: bool
) -> None:
    top = f"0 top\n{before}1 2 5 0 0 {matrix} s\\tetra.dat\n"
    made = library(tmp_path, **{"s/tetra": TETRAHEDRON, "top": top}).load("top.dat")
    assert (volume(made.corners) < 0) == clockwise
    # The reference's colour replaces 16 and leaves the fixed colour.
    assert made.codes.tolist() == [2, 2, 2, 4]


def test_ldraw_clockwise_files_are_turned_over(tmp_path: Path) -> None:
    turned = TETRAHEDRON.replace("CERTIFY CCW", "CERTIFY CW")
    assert volume(library(tmp_path, tetra=turned).load("tetra.dat").corners) == pytest.approx(-1 / 6)


def test_ldraw_quadrilaterals_are_two_triangles(tmp_path: Path) -> None:
    part = library(tmp_path, q="0 q\n4 0x2FF8000 0 0 0 1 0 0 1 0 1 0 0 1\n2 24 0 0 0 1 1 1\n").load("q.dat")
    assert part.corners.shape == (2, 3, 3)
    assert colour_of(int(part.codes[0]), {}, (0, 0, 0)) == pytest.approx((1.0, 128 / 255, 0.0))


def test_ldraw_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    parts = library(tmp_path, a="0 a\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 b.dat\n", c="0 c\n3 16 0 0 zero\n")
    with pytest.raises(DreamfusionError, match=r"b\.dat is not in"):
        parts.load("a.dat")
    with pytest.raises(DreamfusionError, match="no LDraw file"):
        parts.load("c.dat")
    loop = library(tmp_path, loop="0 l\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 loop.dat\n")
    with pytest.raises(DreamfusionError, match="holds itself"):
        loop.load("loop.dat")
    with pytest.raises(DreamfusionError, match="no LDraw parts"):
        Library(tmp_path / "nowhere")


def test_ldraw_colours(tmp_path: Path) -> None:
    file = tmp_path / "LDConfig.ldr"
    file.write_text("0 // x\n0 !COLOUR Red  CODE   4   VALUE #C91A09   EDGE #333333\n")
    assert read_colours(file)[4] == pytest.approx((201 / 255, 26 / 255, 9 / 255))


OBJ = """mtllib thing.mtl
v 0 0 0
v 2 0 0
v 2 2 0
v 0 2 0
v 1 0 -1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl painted
f 1/1 2/2 3/3 4/4
usemtl plain
f -5 -1 -4
"""
MTL = "newmtl painted\nKd 1 1 1\nmap_Kd half.png\n\nnewmtl plain\nKd 0.2 0.4 0.6\nd 1.0\n"
CATALOGUE = """# a comment
id=Test
name#1=Picture \\u00e9
category#1=Office
creator#1=Ada Example
model#1=/made/thing/thing.obj
width#1=20
depth#1=10
height#1=20.0
"""


def furniture_file(tmp_path: Path, licence: str = "Creative Commons Attribution 3.0") -> Path:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8, 0], picture[:, 8:, 2] = 255, 255
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    path = tmp_path / "Test.sh3f"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(furniture.CATALOGUE, CATALOGUE)
        archive.writestr("made/thing/thing.obj", OBJ)
        archive.writestr("made/thing/thing.mtl", MTL)
        archive.writestr("made/thing/half.png", data.getvalue())
        archive.writestr("made/thing/BLENDSWAP_LICENSE.txt", licence)
    return path


def test_furniture_reads_catalogue_model_and_pictures(tmp_path: Path) -> None:
    lib = furniture.FurnitureLibrary(furniture_file(tmp_path))
    (entry,) = lib.entries()
    assert (entry.name, entry.creator, entry.size) == ("Picture é", "Ada Example", (20.0, 20.0, 10.0))
    model = lib.load(entry)
    assert model.corners.shape == (3, 3, 3) and len(model.materials) == 2
    mesh = bake_model(model)
    centre = mesh.vertices[mesh.faces].mean(1)
    painted = np.abs(mesh.normals[:, 0, 2]) > 0.99
    left, right = painted & (centre[:, 0] < -0.05), painted & (centre[:, 0] > 0.05)
    # The picture's left half is red, its right half blue, and both arrive at the right place.
    assert left.sum() > 20 and right.sum() > 20
    assert mesh.rgb[left].mean((0, 1)) == pytest.approx([1, 0, 0], abs=0.1)
    assert mesh.rgb[right].mean((0, 1)) == pytest.approx([0, 0, 1], abs=0.1)
    assert mesh.rgb[~painted].reshape(-1, 3) == pytest.approx(
        np.tile([0.2, 0.4, 0.6], (3 * int((~painted).sum()), 1)), abs=1e-6
    )
    assert mesh.free[painted].all() and not mesh.free[~painted].any()


@pytest.mark.parametrize("licence", ["CC BY-SA 3.0", "Attribution-NonCommercial", "GNU GPL", "Share Alike"])
def test_furniture_refuses_other_licences(tmp_path: Path, licence: str) -> None:
    lib = furniture.FurnitureLibrary(furniture_file(tmp_path, licence))
    assert lib.licence_of(lib.entries()[0].model) is not None
    free = furniture.FurnitureLibrary(furniture_file(tmp_path))
    assert free.licence_of(free.entries()[0].model) is None


def test_furniture_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sh3f"
    broken.write_bytes(b"no zip")
    with pytest.raises(DreamfusionError, match="no furniture library"):
        furniture.FurnitureLibrary(broken)


def test_baking_gives_a_unit_mesh_on_the_floor_with_few_faces() -> None:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=5, radius=7.0)
    corners = np.asarray(ball.vertices[ball.faces]) + np.array([100.0, 50.0, -3.0])
    mesh = bake(corners, np.full(corners.shape, 0.5), np.ones(len(corners), bool))
    assert len(ball.faces) > 20_000 and 1000 < len(mesh.faces) <= 6000
    assert mesh.vertices.min(0) == pytest.approx([-0.5, 0.0, -0.5], abs=0.02)
    assert mesh.vertices.max(0) == pytest.approx([0.5, 1.0, 0.5], abs=0.02)
    away = mesh.vertices[mesh.faces] - [0.0, 0.5, 0.0]
    outward = away / np.linalg.norm(away, axis=-1, keepdims=True)
    assert (outward * mesh.normals).sum(-1).min() > 0.97
    with pytest.raises(ValueError, match="no extent"):
        bake(np.zeros((1, 3, 3)), np.zeros((1, 3, 3)), np.ones(1, bool))


def test_normals_keep_a_cubes_edges_and_do_not_mind_windings() -> None:
    import trimesh

    cube = trimesh.creation.box()
    faces = np.asarray(cube.faces).copy()
    faces[::2] = faces[::2, ::-1]
    for triangles in (np.asarray(cube.faces), faces):
        normals = crease_normals(np.asarray(cube.vertices), triangles)
        assert np.sort(np.abs(normals), axis=-1)[..., 2].min() > 0.999


def test_recolouring_keeps_light_and_dark_and_leaves_the_rest() -> None:
    rgb = np.zeros((3, 3, 3), np.float32)
    rgb[0], rgb[1], rgb[2] = 0.8, 0.4, (0.1, 0.9, 0.1)
    vertices = np.random.default_rng(0).random((9, 3)).astype(np.float32)
    mesh = Mesh(
        vertices, np.arange(9).reshape(3, 3), np.zeros((3, 3, 3), np.float32), rgb, np.array([1, 1, 0], bool)
    )
    made = mesh.recoloured((0.8, 0.1, 0.1)).rgb
    assert made[0, 0, 0] > made[1, 0, 0] > made[1, 0, 1]
    assert (made[2] == rgb[2]).all()


def test_a_part_takes_its_main_colour(tmp_path: Path) -> None:
    part = library(tmp_path, tetra=TETRAHEDRON).load("tetra.dat")
    mesh = bake_part(part, {4: (0.7, 0.1, 0.1)}, (0.1, 0.2, 0.9))
    assert mesh.rgb[mesh.free] == pytest.approx(np.broadcast_to([0.1, 0.2, 0.9], (3, 3, 3)))
    assert mesh.rgb[~mesh.free] == pytest.approx(np.broadcast_to([0.7, 0.1, 0.1], (1, 3, 3)))
