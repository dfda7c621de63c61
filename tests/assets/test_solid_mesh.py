# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""What is inside is known for boxes and balls, whole, broken, inside out, doubled and inside each other."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from dreamfusion.assets import solid_mesh
from dreamfusion.assets.inside import inside_cells
from dreamfusion.assets.solid_mesh import SolidMesh, occupancy_grid, surface_cells
from dreamfusion.errors import MeshError


def test_a_box_off_the_middle_fills_its_cells_and_no_other() -> None:
    box = trimesh.creation.box(bounds=[[-0.51, 0.13, -0.26], [0.24, 0.76, 0.49]])
    grid = occupancy_grid(np.asarray(box.triangles), 1.0, 32)
    middles = (np.arange(32) + 0.5) / 16 - 1
    x, y, z = np.meshgrid(middles, middles, middles, indexing="ij")
    wanted = (x > -0.51) & (x < 0.24) & (y > 0.13) & (y < 0.76) & (z > -0.26) & (z < 0.49)
    np.testing.assert_array_equal(grid, wanted)


def test_a_hole_in_the_surface_does_no_harm() -> None:
    ball = trimesh.creation.icosphere(4, radius=0.7)
    whole = occupancy_grid(np.asarray(ball.triangles), 1.0, 48)
    assert whole.mean() * 8 == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)
    open_one = np.asarray(ball.triangles)[ball.triangles_center[:, 1] < 0.66]
    damaged = occupancy_grid(open_one, 1.0, 48)
    assert (damaged != whole).mean() < 0.005


def test_colours_are_those_of_the_nearest_surface() -> None:
    box = trimesh.creation.box((0.8, 0.8, 0.8))
    box.visual.face_colors = np.where(box.triangles_center[:, :1] > 0.39, [255, 0, 0, 255], [0, 0, 255, 255])
    solid = SolidMesh(box, 1.0, resolution=32)
    assert not solid.moved
    found = solid.colours(np.array([[0.39, 0.05, 0.0], [-0.39, 0.05, 0.0]]))
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 1]])
    assert solid.inside(np.array([[0.0, 0, 0], [0.5, 0, 0]])).tolist() == [True, False]


def test_what_is_inside_leans_to_no_side() -> None:
    middle = np.array([0.11, -0.07, 0.05])
    body = trimesh.creation.icosphere(4, radius=0.6).apply_translation(middle)
    cells = np.argwhere(occupancy_grid(np.asarray(body.triangles), 1.0, 32))
    # In cells; half of one is what a line's wrong beginning costs.
    np.testing.assert_allclose(cells.mean(axis=0) + 0.5, (middle + 1) * 16, atol=0.1)


def test_large_faces_keep_their_colours_beside_many_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solid_mesh, "COLOUR_SAMPLES", 4000)
    box, knob = trimesh.creation.box((0.8, 0.8, 0.8)), trimesh.creation.icosphere(4, radius=0.05)
    box.visual.face_colors = np.where(box.triangles_center[:, :1] > 0.39, [255, 0, 0, 255], [0, 0, 255, 255])
    knob.visual.face_colors = [0, 0, 255, 255]
    solid = SolidMesh(trimesh.util.concatenate([box, knob]), 1.0, resolution=32)
    places = np.linspace(-0.3, 0.3, 5)
    front = np.array([[0.39, y, z] for y in places for z in places])
    np.testing.assert_array_equal(solid.colours(front), [[1, 0, 0]] * 25)
    np.testing.assert_array_equal(solid.colours(front[:, [1, 0, 2]] - [0.05, 0, 0]), [[0, 0, 1]] * 25)


@pytest.mark.parametrize("factor", [0.01, 50.0])
def test_a_mesh_of_any_unit_comes_into_the_ball(factor: float) -> None:
    mesh = trimesh.creation.icosphere(3, radius=factor).apply_translation([3 * factor, 0, 0])
    solid = SolidMesh(mesh, 2.0, resolution=32)
    assert solid.moved
    share = solid.occupancy.mean() * 4**3
    assert share == pytest.approx(4 / 3 * np.pi * 1.6**3, rel=0.05)


def test_a_sheet_has_no_inside() -> None:
    sheet = trimesh.Trimesh([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.5, 0.1]], [[0, 1, 2]])
    # A plate may well be closed: what it lacks is a cell's thickness.
    for mesh in (sheet, trimesh.creation.box((0.8, 0.8, 1e-3))):
        with pytest.raises(MeshError, match=r"no inside: expected .* more than a cell of 1/128"):
            SolidMesh(mesh, 1.0)


def test_the_surface_lies_where_the_kind_changes() -> None:
    occupancy = np.zeros((6, 6, 6), dtype=bool)
    occupancy[2:5, 2:5, 2:5] = True
    cells = surface_cells(occupancy)
    # 27 - 1 inside, and the six faces' neighbours outside.
    assert len(cells) == 26 + 6 * 9


# ------------------------------------------------------------------------------------------------ parts and cavities


def ball(radius: float, x: float = 0.0, inverted: bool = False, subdivisions: int = 4) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions, radius=radius).apply_translation([x, 0, 0])
    if inverted:
        mesh.invert()
    return mesh


def union(*parts: trimesh.Trimesh) -> np.ndarray:
    return np.concatenate([np.asarray(part.triangles) for part in parts])


def volume(triangles: np.ndarray, resolution: int = 64) -> float:
    return occupancy_grid(triangles, 1.0, resolution).mean() * 8


def of_ball(radius: float) -> float:
    return 4 / 3 * np.pi * radius**3


def lens(radius: float, distance: float) -> float:
    """Where two balls overlap whose middles are `distance` apart."""
    return np.pi * (4 * radius + distance) * (2 * radius - distance) ** 2 / 12


PAIR = 2 * of_ball(0.5) - lens(0.5, 0.5)
# Whole cells of a grid of 64.
BOX = trimesh.creation.box((0.8125, 0.625, 0.6875))
BODIES = {
    "one": ([ball(0.6)], of_ball(0.6)),
    "inside out": ([ball(0.6, inverted=True)], of_ball(0.6)),
    "overlapping": ([ball(0.5, -0.25), ball(0.5, 0.25)], PAIR),
    "overlapping, one inside out": ([ball(0.5, -0.25), ball(0.5, 0.25, inverted=True)], PAIR),
    "overlapping, both inside out": ([ball(0.5, -0.25, True), ball(0.5, 0.25, True)], PAIR),
    "twice at one place": ([ball(0.6), ball(0.6)], of_ball(0.6)),
    "three times": ([ball(0.6)] * 3, of_ball(0.6)),
    "two-sided": ([ball(0.6), ball(0.6, inverted=True)], of_ball(0.6)),
    "two-sided, inner side first": ([ball(0.6, inverted=True), ball(0.6)], of_ball(0.6)),
    "one in another": ([ball(0.6), ball(0.3)], of_ball(0.6)),
    "a hollow ball": ([ball(0.6), ball(0.4, inverted=True)], of_ball(0.6) - of_ball(0.4)),
    "a hollow ball inside out": ([ball(0.6, inverted=True), ball(0.4)], of_ball(0.6) - of_ball(0.4)),
    "a ball in a hollow ball": (
        [ball(0.6), ball(0.45, inverted=True), ball(0.25)], of_ball(0.6) - of_ball(0.45) + of_ball(0.25)
    ),
    "the same inside out": (
        [ball(0.6, inverted=True), ball(0.45), ball(0.25, inverted=True)],
        of_ball(0.6) - of_ball(0.45) + of_ball(0.25),
    ),
    "two cavities": (
        [ball(0.7), ball(0.2, -0.3, True), ball(0.2, 0.3, True)], of_ball(0.7) - 2 * of_ball(0.2)
    ),
    "a hollow ball beside one inside out": (
        [ball(0.3, -0.4), ball(0.2, -0.4, True), ball(0.3, 0.4, True)], 2 * of_ball(0.3) - of_ball(0.2)
    ),
    "a box": ([BOX], 0.8125 * 0.625 * 0.6875),
    "boxes with the same faces in common": (
        [
            BOX.copy().apply_translation([-0.40625, 0, 0]),
            BOX.copy().apply_translation([-0.40625, 0, 0]).apply_transform(np.diag([-1.0, 1, 1, 1])),
        ],
        1.625 * 0.625 * 0.6875,
    ),
    "boxes with a wall in common": (
        [BOX.copy().apply_translation([-0.40625, 0, 0]), BOX.copy().apply_translation([0.40625, 0, 0])], 1.625 * 0.625 * 0.6875
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
def test_parts_are_joined_and_cavities_stay(what: str) -> None:
    parts, wanted = BODIES[what]
    found = inside_cells(union(*parts), 1.0, 64)
    assert found.cells.mean() * 8 == pytest.approx(wanted, rel=0.02)
    assert found.doubtful == 0
    # The order of faces means nothing, nor does splitting them at seams.
    triangles = np.random.default_rng(0).permutation(union(*parts))
    if "two-sided" not in what:
        assert np.array_equal(occupancy_grid(triangles, 1.0, 64), found.cells)
    else:
        assert volume(triangles) == pytest.approx(wanted, rel=0.02)


def test_a_wall_in_common_leaves_no_gap_and_a_two_sided_top_closes_a_box() -> None:
    parts, _ = BODIES["boxes with a wall in common"]
    grid = occupancy_grid(union(*parts), 1.0, 64)
    assert grid[32 - 20 : 32 + 20, 32, 32].all()
    top = np.asarray(BOX.triangles)[BOX.triangles_center[:, 1] > 0.29]
    assert len(top) == 2
    assert volume(np.concatenate([np.asarray(BOX.triangles), top[:, ::-1]])) == pytest.approx(
        BOX.volume, rel=0.01
    )


def test_a_part_that_crosses_itself_is_full_where_it_is_wound_right() -> None:
    """A ring tube with a radius larger than its hole: a spindle torus, one closed skin that overlaps itself."""
    spindle = trimesh.creation.torus(0.2, 0.4, major_sections=96, minor_sections=48)
    x = (np.arange(64) + 0.5) / 32 - 1
    grid = np.meshgrid(x, x, x, indexing="ij")
    wanted = (np.hypot(grid[0], grid[1]) - 0.2) ** 2 + grid[2] ** 2 < 0.4**2
    # Parity would leave the lens in its middle empty.
    found = occupancy_grid(np.asarray(spindle.triangles), 1.0, 64)
    assert (found != wanted).mean() < 0.02


def shuffled(mesh: trimesh.Trimesh) -> np.ndarray:
    """Nearly a third of the faces turned over."""
    triangles = np.asarray(mesh.triangles).copy()
    chosen = np.random.default_rng(0).random(len(triangles)) < 0.3
    triangles[chosen] = triangles[chosen][:, ::-1]
    return triangles


def test_faces_that_contradict_each_other_count_by_parity() -> None:
    assert volume(shuffled(ball(0.6))) == pytest.approx(of_ball(0.6), rel=0.02)
    pair = np.concatenate([shuffled(ball(0.5, -0.25)), union(ball(0.5, 0.25))])
    assert volume(pair) == pytest.approx(PAIR, rel=0.02)
    shells = np.concatenate([shuffled(ball(radius)) for radius in (0.7, 0.5, 0.3)])
    assert volume(shells) == pytest.approx(of_ball(0.7) - of_ball(0.5) + of_ball(0.3), rel=0.02)


@pytest.mark.parametrize(("missing", "least_doubt"), [(1, 0.05), (2, 0.05)])
def test_open_parts_are_filled_by_the_sides_that_they_have_and_the_doubt_is_told(
    missing: int, least_doubt: float
) -> None:
    sides = [BOX.triangles_center[:, 1] > 0.29, BOX.triangles_center[:, 1] < -0.29]
    kept = ~np.any(sides[:missing], axis=0)
    found = inside_cells(np.asarray(BOX.triangles)[kept], 1.0, 64)
    assert found.cells.mean() * 8 == pytest.approx(0.8125 * 0.625 * 0.6875, rel=0.04)
    assert found.doubtful > least_doubt


def test_a_floor_below_an_object_is_no_half_space() -> None:
    floor = np.array(
        [[[-1, -0.7, -1], [-1, -0.7, 1], [1, -0.7, 1]], [[-1, -0.7, -1], [1, -0.7, 1], [1, -0.7, -1]]]
    )
    for way in (1, -1):
        assert volume(np.concatenate([floor[:, ::way], union(ball(0.6))])) == pytest.approx(
            of_ball(0.6), rel=0.02
        )


# ------------------------------------------------------------------------------------------------ size and work


def test_small_is_small_wherever_it_lies() -> None:
    """By the radius around its own centre, not by the distance of its corners from the origin."""
    for height in (0.0, 0.5, 0.85):
        solid = SolidMesh(
            trimesh.creation.icosphere(3, radius=0.1).apply_translation([0, height, 0]), 1.0, 64
        )
        assert solid.moved and solid.occupancy.mean() * 8 == pytest.approx(of_ball(0.8), rel=0.03)
    for height, moved in ((0.0, False), (0.3, False), (0.7, True)):
        mesh = trimesh.creation.icosphere(3, radius=0.4).apply_translation([0, height, 0])
        solid = SolidMesh(mesh, 1.0, 64)
        assert solid.moved == moved
        wanted = of_ball(0.8) if moved else of_ball(0.4)
        assert solid.occupancy.mean() * 8 == pytest.approx(wanted, rel=0.03)
        middle = np.array([[0.0, height, 0.0], [0.0, 0.0, 0.0]])
        assert solid.inside(middle)[0 if not moved else 1]


def test_vertices_of_no_face_do_not_count_for_the_size() -> None:
    mesh = ball(0.5)
    far = trimesh.Trimesh(np.concatenate([mesh.vertices, [[50, 0, 0]]]), mesh.faces, process=False)
    assert not SolidMesh(far, 1.0, 32).moved


def test_a_point_has_no_size() -> None:
    with pytest.raises(MeshError, match="no size"):
        SolidMesh(trimesh.Trimesh(np.ones((3, 3)), [[0, 1, 2]], process=False), 1.0)


def test_nearest_points_are_searched_for_cells_at_the_surface_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Counting(solid_mesh.KDTree):
        def query(self, x, *args, **kwargs):
            asked.append(len(x))
            return super().query(x, *args, **kwargs)

    monkeypatch.setattr(solid_mesh, "KDTree", Counting)
    mesh = ball(0.8)
    mesh.visual.face_colors = np.where(mesh.triangles_center[:, :1] > 0, [255, 0, 0, 255], [0, 0, 255, 255])
    solid = SolidMesh(mesh, 1.0, resolution=64)
    # The sphere's area in cells is 4 pi r^2; on both sides of it, and a staircase has half as much again.
    assert sum(asked) < 2 * 1.6 * 4 * np.pi * (0.8 * 32) ** 2 < 0.5 * solid.occupancy.sum()
    # The middle has a colour all the same, that of the side that it is nearer to.
    found = solid.colours(np.array([[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0], [0.95, 0.95, 0.95]]))
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5]])
