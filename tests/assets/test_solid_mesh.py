# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""What is inside is known for boxes and balls; a start from a mesh or a field ends where it should."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

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


@pytest.mark.parametrize("factor", [0.01, 50.0])
def test_a_mesh_of_any_unit_comes_into_the_ball(factor: float) -> None:
    mesh = trimesh.creation.icosphere(3, radius=factor).apply_translation([3 * factor, 0, 0])
    solid = SolidMesh(mesh, 2.0, resolution=32)
    assert solid.moved
    share = solid.occupancy.mean() * 4**3
    assert share == pytest.approx(4 / 3 * np.pi * 1.6**3, rel=0.05)


def test_a_sheet_has_no_inside() -> None:
    sheet = trimesh.Trimesh([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.5, 0.1]], [[0, 1, 2]])
    with pytest.raises(MeshError, match="no inside"):
        SolidMesh(sheet, 1.0)


def test_the_surface_lies_where_the_kind_changes() -> None:
    occupancy = np.zeros((6, 6, 6), dtype=bool)
    occupancy[2:5, 2:5, 2:5] = True
    cells = surface_cells(occupancy)
    # 27 - 1 inside, and the six faces' neighbours outside.
    assert len(cells) == 26 + 6 * 9
