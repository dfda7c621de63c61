"""The picture maker: silhouettes against the oracle, closed forms, and the conventions of the world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dreamfusion.cameras import orbit_cameras
from dreamfusion.miniature import pictures, world
from dreamfusion.miniature.nouns_builder import Builder
from dreamfusion.miniature.raycast import Lights, render
from dreamfusion.miniature.solids import Solids, occupancy, pack, ray_intervals
from dreamfusion.rendering.shading import shade

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def sculpture() -> Builder:
    return Builder(np.random.default_rng(0), RED)


def everything() -> Solids:
    """All kinds of solids, turned and cut."""
    b = sculpture()
    b.sphere((0.3, 0.1, 0), (0.3, 0.2, 0.4), RED, turn=(20, 30, 40))
    b.sphere((-0.4, 0.2, 0.1), 0.35, BLUE, cut=0.2)
    b.box((0, -0.4, 0.2), (0.3, 0.1, 0.2), RED, turn=(10, 50, 0))
    b.cylinder((0.1, 0.5, -0.2), (0.2, 0.2, 0.1), BLUE, 0.3, turn=(0, 0, 30))
    b.cylinder((-0.3, -0.2, -0.3), (0.1, 0.2, 0.1), BLUE, 1.8)
    b.limb((0.5, -0.5, 0.0), (0.2, 0.0, 0.4), 0.05, 0.12, RED)
    b.roof((-0.4, -0.5, 0.3), 0.2, 0.3, 0.2, BLUE)
    return b.solids()


def gray(b: int, size: int) -> torch.Tensor:
    return torch.full((b, size, size, 3), 0.5)


def hit_by_marching(solids: Solids, cameras, steps: int = 260) -> torch.Tensor:
    rays_o, rays_d = cameras.rays()
    t = torch.linspace(1.2, 3.8, steps)
    hits = []
    for o, d in zip(rays_o.reshape(-1, 3).split(512), rays_d.reshape(-1, 3).split(512), strict=True):
        points = (o[:, None] + t[:, None] * d[:, None]).reshape(-1, 3)
        hits.append(occupancy(solids, points).reshape(-1, steps).any(1))
    return torch.cat(hits).reshape(rays_o.shape[:-1])


def test_silhouettes_are_those_of_the_inside_oracle():
    solids = everything()
    cameras = orbit_cameras(torch.tensor([20.0, 200.0]), torch.tensor([25.0, -5.0]), 2.5, 43.0, 24)
    picture = render(pack([solids, solids]), cameras, gray(2, 24), supersample=1)
    marched = hit_by_marching(solids, cameras)
    assert marched.float().mean() > 0.1
    # Marching can only miss what it steps over: the grazed rim.
    wrong = (picture.opacity > 0.5) != marched
    assert not (marched & (picture.opacity < 0.5)).any()
    assert wrong.float().mean() < 0.012


def test_no_solid_is_cut_off_by_its_box_on_the_screen():
    solids = everything()
    cameras = orbit_cameras(
        torch.tensor([33.0, 110.0, 250.0]), torch.tensor([60.0, 10.0, -40.0]), 2.3, 47.0, 48
    )
    picture = render(pack([solids] * 3), cameras, gray(3, 48), supersample=1)
    rays_o, rays_d = cameras.rays()
    t_in, _ = ray_intervals(solids, rays_o.reshape(-1, 3), rays_d.reshape(-1, 3))
    dense = torch.isfinite(t_in).any(0).reshape(3, 48, 48)
    assert ((picture.opacity > 0.5) != dense).sum() <= 2  # rounding at the rim


def test_a_solid_around_the_camera_s_plane_is_still_seen():
    b = sculpture()
    b.box((0, -0.6, 2.0), (5.0, 0.1, 5.0), RED)  # a floor that reaches behind the camera
    camera = orbit_cameras(0.0, 10.0, 2.5, 45.0, 16)
    opacity = render(b.solids(), camera, gray(1, 16), supersample=1).opacity[0]
    assert (opacity[-4:] == 1).all() and (opacity[:4] == 0).all()


def test_depth_and_normals_of_a_sphere_are_the_closed_form():
    b = sculpture()
    b.sphere((0, 0, 0), 0.5, RED)
    camera = orbit_cameras(40.0, 30.0, 2.5, 43.0, 33)
    picture = render(b.solids(), camera, gray(1, 33), supersample=1, with_geometry=True)
    assert picture.depth is not None and picture.normals is not None
    assert picture.depth[0, 16, 16].item() == pytest.approx(2.0, abs=1e-5)
    rays_o, rays_d = camera.rays()
    hit = picture.opacity[0] > 0
    distance = picture.depth[0] / (rays_d[0] @ camera.forward[0])
    points = rays_o[0] + distance[..., None] * rays_d[0]
    assert torch.allclose(points[hit].norm(dim=-1), torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(picture.normals[0][hit], points[hit] / 0.5, atol=1e-4)


def test_normals_of_a_cone_lean_up_by_its_slope():
    b = sculpture()
    b.cone((0, -0.5, 0), 0.5, 1.0, RED)
    camera = orbit_cameras(0.0, 0.0, 2.5, 43.0, 33)
    picture = render(b.solids(), camera, gray(1, 33), supersample=1, with_geometry=True)
    assert picture.normals is not None
    # The side falls by 1 over 0.5: the normal is (0, 1, 2) / sqrt(5) where it faces the camera.
    expected = torch.tensor([0.0, 1.0, 2.0]) / math.sqrt(5.0)
    assert torch.allclose(picture.normals[0, 16, 16], expected, atol=1e-4)


def test_normals_are_the_outward_gradient_of_the_inside(generator):
    solids = everything()
    camera = orbit_cameras(15.0, 35.0, 2.5, 43.0, 40)
    picture = render(solids, camera, gray(1, 40), supersample=1, with_geometry=True)
    assert picture.depth is not None and picture.normals is not None
    hit = torch.nonzero(picture.opacity[0] > 0)
    rays_o, rays_d = camera.rays()
    row, column = hit.unbind(-1)
    d = rays_d[0, row, column]
    normals = picture.normals[0, row, column]
    points = rays_o[0, row, column] + (picture.depth[0, row, column] / (d @ camera.forward[0]))[:, None] * d
    assert ((normals * d).sum(-1) < 1e-4).all()  # they face the camera
    # Just inside against the normal, just outside along it; edges may disagree.
    assert occupancy(solids, points - 4e-3 * normals).float().mean() > 0.97
    lone = occupancy(solids, points + 4e-3 * normals)
    assert lone.float().mean() < 0.05
    # A point moved across the normal stays near the surface: the mean of both sides is half inside.
    across = torch.nn.functional.normalize(
        torch.linalg.cross(normals, torch.randn(len(hit), 3, generator=generator)), dim=-1
    )
    for side in (-1, 1):
        shifted = points + side * 0.008 * across
        assert occupancy(solids, shifted - 6e-3 * normals).float().mean() > 0.93
        assert occupancy(solids, shifted + 6e-3 * normals).float().mean() < 0.10


def test_the_front_is_seen_from_azimuth_zero_and_the_left_from_ninety():
    b = sculpture()
    b.box((0, 0, 0), (0.4, 0.4, 0.4), (0.5, 0.5, 0.5))
    for centre, rgb in (((0, 0, 0.42), RED), ((0.42, 0, 0), (0, 1, 0)), ((0, 0.42, 0), BLUE)):
        b.sphere(centre, 0.1, rgb)
    views = torch.tensor([0.0, 90.0, 180.0, 0.0])
    cameras = orbit_cameras(views, torch.tensor([0.0, 0.0, 0.0, 90.0]), 2.5, 43.0, 33)
    centre = render(pack([b.solids()] * 4), cameras, gray(4, 33)).rgb[:, 16, 16]
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5], [0, 0, 1]])
    assert torch.allclose(centre, expected.float(), atol=1e-5)


def test_up_is_up_and_plus_x_is_right_from_the_front():
    b = sculpture()
    b.sphere((0.4, 0.5, 0), 0.1, RED)
    opacity = render(b.solids(), orbit_cameras(0.0, 0.0, 2.5, 43.0, 32), gray(1, 32)).opacity[0]
    rows, columns = torch.nonzero(opacity, as_tuple=True)
    assert rows.float().mean() < 12 and columns.float().mean() > 20


def test_the_nearer_solid_hides_the_farther():
    b = sculpture()
    b.sphere((0, 0, 0.5), 0.2, RED)
    b.box((0, 0, -0.3), (0.5, 0.5, 0.1), BLUE)
    cameras = orbit_cameras(torch.tensor([0.0, 180.0]), 0.0, 2.5, 43.0, 33)
    centre = render(pack([b.solids()] * 2), cameras, gray(2, 33)).rgb[:, 16, 16]
    assert torch.equal(centre, torch.tensor([RED, BLUE]))


def test_supersampling_is_the_mean_of_the_finer_picture():
    solids = everything()
    camera = orbit_cameras(20.0, 20.0, 2.5, 43.0, 24)
    coarse = render(solids, camera, gray(1, 24), supersample=3)
    fine = render(solids, camera.resized(72, 72), gray(1, 72), supersample=1)
    mean = fine.rgb.reshape(1, 24, 3, 24, 3, 3).mean((2, 4))
    assert torch.allclose(coarse.rgb, mean, atol=1e-5)


def test_light_follows_the_formula_of_the_radiance_field():
    solids = everything()
    camera = orbit_cameras(15.0, 35.0, 2.5, 43.0, 32)
    light = torch.tensor([[1.0, 2.0, 1.5]])
    lights = Lights(light, torch.tensor([0.4]), torch.tensor([0.6]))
    lit = render(solids, camera, gray(1, 32), lights, supersample=1)
    flat = render(solids, camera, gray(1, 32), supersample=1, with_geometry=True)
    assert flat.depth is not None and flat.normals is not None
    hit = flat.opacity[0] > 0
    rays_o, rays_d = camera.rays()
    points = rays_o[0] + (flat.depth[0] / (rays_d[0] @ camera.forward[0]))[..., None] * rays_d[0]
    n = int(hit.sum())
    expected = shade(flat.rgb[0][hit], flat.normals[0][hit], points[hit], light.expand(n, 3), 0.4, 0.6)
    assert torch.allclose(lit.rgb[0][hit], expected, atol=2e-5)
    assert (lit.rgb[0][hit] - flat.rgb[0][hit]).abs().max() > 0.1


def test_a_batch_is_its_scenes_one_by_one():
    rng = np.random.default_rng(3)
    scenes = [world.build_scene(world.sample_spec(rng), rng) for _ in range(4)]
    cameras = orbit_cameras(torch.arange(4) * 80.0, 20.0, 2.5, 43.0, 32)
    together = render(pack(scenes), cameras, gray(4, 32))
    for index, scene in enumerate(scenes):
        alone = render(scene, cameras[index : index + 1], gray(1, 32))
        assert torch.allclose(together.rgb[index], alone.rgb[0], atol=1e-5)


def test_chunks_change_nothing(monkeypatch):
    solids, camera = everything(), orbit_cameras(70.0, 20.0, 2.5, 43.0, 32)
    whole = render(solids, camera, gray(1, 32))
    monkeypatch.setattr(pictures, "PAIRS_PER_CHUNK", 300)
    assert torch.equal(render(solids, camera, gray(1, 32)).rgb, whole.rgb)


def test_an_empty_view_is_the_background():
    b = sculpture()
    b.sphere((50.0, 0, 0), 0.1, RED)
    picture = render(b.solids(), orbit_cameras(0.0, 0.0, 2.5, 43.0, 8), gray(1, 8), with_geometry=True)
    assert torch.equal(picture.rgb, gray(1, 8)) and not picture.opacity.any()
    assert picture.depth is not None and not picture.depth.any()


def test_scenes_and_cameras_must_be_as_many():
    with pytest.raises(ValueError, match="2 cameras"):
        render(everything(), orbit_cameras(torch.zeros(2), 0.0, 2.5, 43.0, 8), gray(2, 8))


def test_opacity_of_a_sphere_is_the_area_of_its_outline():
    b = sculpture()
    b.sphere((0, 0, 0), 0.6, RED)
    opacity = render(b.solids(), orbit_cameras(0.0, 0.0, 2.5, 43.0, 64), gray(1, 64)).opacity
    # The outline is a circle of radius tan(asin(r / d)) at unit depth.
    radius = math.tan(math.asin(0.6 / 2.5)) / math.tan(math.radians(43.0) / 2) * 32
    assert opacity.sum().item() == pytest.approx(math.pi * radius**2, rel=0.005)
