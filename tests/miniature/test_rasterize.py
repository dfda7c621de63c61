"""The rasteriser against what is known exactly: the ray caster's sphere, a plane's depth, areas, and laws."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh

from dreamfusion.cameras import orbit_cameras
from dreamfusion.miniature import raycast
from dreamfusion.miniature.nouns_builder import Builder
from dreamfusion.miniature.pictures import Lights
from dreamfusion.miniature.rasterize import (
    Triangles,
    merge_triangles,
    no_triangles,
    pack_triangles,
    render,
    surface,
)
from dreamfusion.miniature.solids import Solids, pack


def triangles_of(mesh: trimesh.Trimesh, rgb: tuple[float, float, float], smooth: bool = True) -> Triangles:
    corners = torch.tensor(mesh.vertices[mesh.faces], dtype=torch.float32)
    flat = torch.tensor(mesh.face_normals, dtype=torch.float32)[:, None].expand(-1, 3, 3)
    normals = torch.tensor(mesh.vertex_normals[mesh.faces], dtype=torch.float32) if smooth else flat.clone()
    albedo = torch.tensor(rgb).expand_as(corners).clone()
    return Triangles(corners, normals, albedo, torch.zeros(len(corners), dtype=torch.int64))


def sphere_solid(rgb: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> Solids:
    import numpy as np

    builder = Builder(np.random.default_rng(0), rgb)
    builder.sphere(centre, 0.5, rgb)
    return builder.solids()


def three_cameras(size: int = 48):
    azimuth, elevation = torch.tensor([0.0, 130.0, -60.0]), torch.tensor([0.0, 40.0, 90.0])
    return orbit_cameras(azimuth, elevation, 2.5, 43.0, size)


def lights_of(cameras) -> Lights:
    n = len(cameras)
    return Lights(
        cameras.positions + torch.tensor([0.5, 0.8, 0.2]), torch.full((n,), 0.4), torch.full((n,), 0.6)
    )


def test_a_sphere_of_triangles_looks_like_the_ray_casters_sphere() -> None:
    cameras, rgb = three_cameras(), (0.8, 0.3, 0.2)
    background = torch.full((3, 48, 48, 3), 0.9)
    mesh = triangles_of(trimesh.creation.icosphere(subdivisions=5, radius=0.5), rgb)
    ours = render(None, pack_triangles([mesh] * 3), cameras, background, lights_of(cameras), 2, True)
    exact = raycast.render(pack([sphere_solid(rgb)] * 3), cameras, background, lights_of(cameras), 2, True)
    assert ours.depth is not None and exact.depth is not None
    assert ours.normals is not None and exact.normals is not None
    # Only pixels on the outline may differ, by what a polygon lacks of a circle.
    assert (ours.opacity - exact.opacity).abs().mean() < 2e-3
    both = (ours.opacity == 1) & (exact.opacity == 1)
    assert both.sum() > 1000
    assert (ours.depth - exact.depth).abs()[both].max() < 3e-3
    assert (ours.normals * exact.normals).sum(-1)[both].min() > 0.998
    assert (ours.rgb - exact.rgb).abs()[both].max() < 0.02


def test_depth_and_position_of_a_tilted_plane_are_exact() -> None:
    corners = torch.tensor([[[-4.0, -3.0, -0.5], [4.0, -3.0, 0.5], [0.0, 5.0, 0.2]]])
    normal = torch.linalg.cross(corners[0, 1] - corners[0, 0], corners[0, 2] - corners[0, 0])
    normal = normal / normal.norm()
    plane = Triangles(
        corners, normal.expand(1, 3, 3).clone(), torch.rand(1, 3, 3), torch.zeros(1, dtype=torch.int64)
    )
    cameras = orbit_cameras(30.0, 20.0, 2.5, 30.0, 16)
    seen = surface(plane, cameras)
    assert len(seen.ray) == 16 * 16
    rays_o, rays_d = (v.reshape(-1, 3)[seen.ray] for v in cameras.rays())
    distance = ((corners[0, 0] - rays_o) @ normal) / (rays_d @ normal)
    expected = rays_o + distance[:, None] * rays_d
    torch.testing.assert_close(torch.stack(seen.positions, -1), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.depth, distance * (rays_d @ cameras.forward[0]), atol=1e-5, rtol=1e-5)
    # Perspective-correct: the colour is the barycentric mix at the point in space, not on the screen.
    shares = torch.linalg.solve(corners[0].double().T, expected.double().T)
    mixed = (shares.T @ plane.rgb[0].double()).float()
    torch.testing.assert_close(seen.albedo, mixed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", [[1, 2, 0], [0, 2, 1]])
def test_the_order_of_corners_changes_nothing_but_the_normals_sign(order: list[int]) -> None:
    mesh = triangles_of(trimesh.creation.box((0.7, 0.4, 0.9)), (0.2, 0.5, 0.9), smooth=False)
    sign = -1.0 if order == [0, 2, 1] else 1.0
    turned = Triangles(mesh.corners[:, order], sign * mesh.normals[:, order], mesh.rgb, mesh.scene)
    cameras, background = three_cameras(32), torch.zeros(3, 32, 32, 3)
    a, b = (
        render(None, pack_triangles([m] * 3), cameras, background, lights_of(cameras)) for m in (mesh, turned)
    )
    torch.testing.assert_close(a.rgb, b.rgb, atol=2e-3, rtol=0)
    torch.testing.assert_close(a.opacity, b.opacity, atol=0.26, rtol=0)
    assert (a.opacity - b.opacity).abs().mean() < 1e-3


def test_a_surface_seen_from_behind_is_lit_from_behind() -> None:
    square = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    sheet = triangles_of(square, (1.0, 1.0, 1.0), smooth=False)
    cameras = orbit_cameras(torch.tensor([0.0, 180.0]), 0.0, 3.0, 20.0, 8)
    lights = Lights(cameras.positions, torch.zeros(2), torch.ones(2))
    picture = render(None, pack_triangles([sheet] * 2), cameras, torch.zeros(2, 8, 8, 3), lights)
    assert picture.rgb.min() > 0.9


def test_coverage_is_the_projected_area() -> None:
    side = 0.8
    mesh = triangles_of(trimesh.creation.box((side, side, 1e-4)), (1.0, 1.0, 1.0))
    cameras = orbit_cameras(0.0, 0.0, 2.0, 40.0, 64)
    opacity = render(None, mesh, cameras, torch.zeros(1, 64, 64, 3), supersample=4).opacity
    width = side / (2 * 2.0 * math.tan(math.radians(20)))
    assert float(opacity.mean()) == pytest.approx(width**2, rel=0.01)


def test_no_pixel_is_missing_where_triangles_meet() -> None:
    # A fan and a grid over the whole view: every ray must hit one of them.
    grid = trimesh.creation.box((4.0, 4.0, 0.01)).subdivide().subdivide().subdivide().subdivide()
    mesh = triangles_of(grid, (0.5, 0.5, 0.5))
    cameras = orbit_cameras(torch.tensor([3.0, -20.0]), torch.tensor([7.0, 11.0]), 2.5, 43.0, 96)
    seen = surface(pack_triangles([mesh] * 2), cameras)
    assert len(seen.ray) == 2 * 96 * 96


def test_the_nearer_of_a_solid_and_a_mesh_is_seen() -> None:
    red, blue = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
    behind = sphere_solid(red, (0.0, 0.0, -0.4))
    ball = triangles_of(trimesh.creation.icosphere(subdivisions=4, radius=0.25), blue)
    front = ball.moved(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.4], [0, 0, 0, 1]]))
    cameras = orbit_cameras(torch.tensor([0.0, 180.0]), 0.0, 2.5, 43.0, 33)
    rgb = render(pack([behind] * 2), pack_triangles([front] * 2), cameras, torch.ones(2, 33, 33, 3)).rgb
    torch.testing.assert_close(rgb[0, 16, 16], torch.tensor(blue))
    torch.testing.assert_close(rgb[1, 16, 16], torch.tensor(red))
    # Around the small ball the large one is still there, and the background around both.
    assert (rgb[0, 16, 9] - torch.tensor(red)).abs().max() < 1e-5
    assert (rgb[0, 0, 0] == 1).all()


def test_with_no_triangles_the_picture_is_the_ray_casters_bit_for_bit() -> None:
    cameras, background = three_cameras(24), torch.rand(3, 24, 24, 3)
    solids, lights = pack([sphere_solid((0.3, 0.6, 0.2))] * 3), lights_of(three_cameras(24))
    alone = raycast.render(solids, cameras, background, lights).rgb
    assert torch.equal(render(solids, no_triangles(3), cameras, background, lights).rgb, alone)


def test_a_scene_does_not_leak_into_another_and_mirrors_keep_their_light() -> None:
    ball = triangles_of(trimesh.creation.icosphere(subdivisions=3, radius=0.5), (0.7, 0.7, 0.7))
    cameras, background = three_cameras(24), torch.zeros(3, 24, 24, 3)
    single = render(None, ball, cameras[1:2], background[:1], None).rgb
    batch = render(
        None, pack_triangles([no_triangles(), ball, no_triangles()]), cameras, background, None
    ).rgb
    assert torch.equal(batch[1:2], single) and batch[0].max() == 0 and batch[2].max() == 0
    mirrored = ball.moved(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))
    lights = lights_of(cameras)
    a, b = (render(None, pack_triangles([m] * 3), cameras, background, lights).rgb for m in (ball, mirrored))
    assert (a - b).abs().mean() < 2e-3
    assert len(merge_triangles([ball, mirrored])) == 2 * len(ball)


def test_wrong_numbers_of_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="scenes"):
        render(None, no_triangles(2), three_cameras(8), torch.zeros(3, 8, 8, 3))
