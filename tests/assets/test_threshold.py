"""The automatic threshold against real silhouettes of real meshes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.sampling import sample_density
from dreamfusion.assets.threshold import (
    best_threshold,
    max_density_along_rays,
    ring_cameras,
    silhouette_threshold,
)
from dreamfusion.errors import NoSurfaceError


def rasterised(mesh, camera) -> np.ndarray:
    """Which pixels' centres the mesh covers, by testing each face against the pixel centres around it."""
    c2w = camera.c2w[0].double().numpy()
    view = (mesh.vertices - c2w[:3, 3]) @ c2w[:3, :3]
    scale = 1 / math.tan(math.radians(float(camera.fovy_deg[0])) / 2)
    size = camera.height
    columns = (view[:, 0] / -view[:, 2] * scale + 1) / 2 * size
    rows = (1 - view[:, 1] / -view[:, 2] * scale) / 2 * size
    corners = np.stack([columns, rows], -1)[mesh.faces]
    covered = np.zeros((size, size), dtype=bool)
    first = np.floor(corners.min(1)).astype(int)
    window = int(np.ceil((corners.max(1) - first).max())) + 1
    for dy in range(window):
        for dx in range(window):
            pixel = first + np.array([dx, dy])
            centre = pixel + 0.5
            sides = []
            for k in range(3):
                a, b = corners[:, k], corners[:, (k + 1) % 3]
                sides.append(
                    (b[:, 0] - a[:, 0]) * (centre[:, 1] - a[:, 1])
                    - (b[:, 1] - a[:, 1]) * (centre[:, 0] - a[:, 0])
                )
            s = np.stack(sides)
            hit = (s >= 0).all(0) | (s <= 0).all(0)
            hit &= ((pixel >= 0) & (pixel < size)).all(1)
            covered[pixel[hit, 1], pixel[hit, 0]] = True
    return covered


def mesh_iou(mesh, renderer, radius) -> float:
    cameras = ring_cameras(radius)
    both = either = 0
    for i in range(len(cameras)):
        opaque = renderer.render_image(cameras[i : i + 1]).opacity[0].numpy() > 0.5
        covered = rasterised(mesh, cameras[i : i + 1])
        both, either = both + (opaque & covered).sum(), either + (opaque | covered).sum()
    return both / either


def test_the_ring_holds_the_whole_ball():
    cameras = ring_cameras(1.7)
    sines = 1.7 / cameras.distance
    assert (torch.rad2deg(torch.asin(sines)) <= cameras.fovy_deg / 2 + 1e-3).all()
    assert len(set(cameras.azimuth_deg.tolist())) == len(cameras)


def test_the_highest_density_along_a_ray_is_that_of_the_field(toys):
    # A gaussian's largest value along a line is at the point nearest to its centre.
    centre = torch.tensor([0.2, -0.1, 0.15])

    class Gaussian(toys.Solid):
        def density(self, positions):
            return torch.exp(-((positions - centre) ** 2).sum(-1) / (2 * 0.3**2))

    camera = ring_cameras(1.0)[3:4]
    grid = sample_density(Gaussian(toys.ball(1)), 1.0, 48)
    rays_o, rays_d = camera.rays()
    t = ((centre - rays_o) * rays_d).sum(-1, keepdim=True)
    nearest = rays_o + t * rays_d
    expected = torch.exp(-((nearest - centre) ** 2).sum(-1) / (2 * 0.3**2))
    well_inside = nearest.norm(dim=-1) < 0.9
    found = max_density_along_rays(grid, camera)
    assert torch.allclose(found[well_inside], expected[well_inside], atol=1e-2)
    origin_distance = (rays_o - (rays_o * rays_d).sum(-1, keepdim=True) * rays_d).norm(dim=-1)
    assert (found[origin_distance > 1] == 0).all()


def test_the_best_threshold_is_the_best_of_all(generator):
    rng = np.random.default_rng(5)
    highest = np.round(rng.exponential(size=400), 1)  # rounded: many equal values
    opaque = (highest + rng.normal(size=400) * 0.5) > 0.8
    threshold, iou = best_threshold(highest, opaque)

    def agreement(t):
        return ((highest > t) & opaque).sum() / ((highest > t) | opaque).sum()

    brute = max(agreement(t) for t in np.unique(highest))
    assert iou == pytest.approx(agreement(threshold))
    assert iou >= brute - 0.0031


def test_a_hard_edge_puts_the_threshold_into_the_gap():
    highest = np.array([80.0, 90.0, 85.0, 0.2, 0.1, 0.0])
    threshold, iou = best_threshold(highest, highest > 50)
    # The gap reaches from 0.2 to 80, of which no more than a hundredth of 80 counts; 8 is its geometric middle.
    assert iou == 1 and threshold == pytest.approx(8.0)


@pytest.mark.parametrize("sharpness", [15.0, 60.0])
def test_auto_is_the_density_where_a_soft_ball_turns_half_opaque(toys, sharpness):
    field = toys.Solid(toys.ball(0.5), peak=40.0, sharpness=sharpness)
    renderer = toys.SlowRenderer(field)
    grid = sample_density(field, 1.0, 48)
    threshold, iou = silhouette_threshold(grid, renderer)
    # Closed form: the impact parameter at which the optical depth of a line through the ball is log 2.
    line = torch.linspace(-1, 1, 4001, dtype=torch.float64)

    def tau(b: float) -> float:
        points = torch.stack([torch.full_like(line, b), torch.zeros_like(line), line], -1)
        inside = points.norm(dim=-1) < 1
        with torch.no_grad():
            return float((field.density(points) * inside).sum() * (line[1] - line[0]))

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tau(middle) > math.log(2) else (low, middle)
    mesh, info = extract_mesh(field, 1.0, resolution=48, threshold="auto", renderer=renderer)
    assert info.threshold == threshold and info.silhouette_iou == iou > 0.97
    found = float(np.linalg.norm(mesh.vertices, axis=1).mean())
    pixel = 2 / 64
    assert found == pytest.approx(low, abs=pixel)


def test_auto_agrees_with_the_silhouettes_of_the_real_mesh_and_beats_others(toys):
    # A ball with a thin fin and a thin pole: too high a threshold loses them, too low a one swells everything.
    solid = toys.union(toys.ball(0.35), toys.box((0.02, 0.6, 0.25)), toys.box((0.6, 0.04, 0.04)))
    field = toys.Solid(solid, peak=60.0, sharpness=40.0)
    renderer = toys.SlowRenderer(field)
    mesh, info = extract_mesh(field, 1.0, resolution=48, threshold="auto", renderer=renderer)
    real = mesh_iou(mesh, renderer, 1.0)
    assert info.silhouette_iou == pytest.approx(real, abs=0.03)
    assert real > 0.9
    assert mesh.bounds[1][1] > 0.5 and mesh.bounds[1][0] > 0.5  # the thin parts are there
    for factor in (0.15, 5.0):
        other, _ = extract_mesh(field, 1.0, resolution=48, threshold=info.threshold * factor)
        assert mesh_iou(other, renderer, 1.0) < real - 0.01


def test_a_haze_has_no_surface(toys):
    field = toys.Solid(toys.ball(0.5), peak=0.1)
    with pytest.raises(NoSurfaceError, match="haze"):
        extract_mesh(field, 1.0, resolution=16, threshold="auto", renderer=toys.SlowRenderer(field))


def test_auto_without_a_renderer_is_a_programming_error(toys):
    with pytest.raises(ValueError, match="renderer"):
        extract_mesh(toys.Solid(toys.ball(0.5)), 1.0, resolution=16, threshold="auto")
