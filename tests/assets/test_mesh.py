"""The mesh against solids whose surface is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from dreamfusion.assets import mesh as mesh_module
from dreamfusion.assets import sampling, surface
from dreamfusion.assets.cleaning import decimated, keep_large_solids
from dreamfusion.assets.formats import vertex_colors
from dreamfusion.assets.mesh import extract_mesh
from dreamfusion.assets.sampling import sample_density
from dreamfusion.errors import ConfigError, NoSurfaceError

CENTRE = (0.1, -0.05, 0.2)


def test_a_ball_comes_out_at_its_centre_with_its_radius_far_below_a_cell(toys):
    field = toys.Solid(toys.ball(0.5, CENTRE))
    mesh, info = extract_mesh(field, 1.0, resolution=32, threshold=50.0)
    distances = np.linalg.norm(mesh.vertices - CENTRE, axis=1)
    cell = 2 / 32
    assert np.abs(distances - 0.5).max() < 5e-3 * cell
    # The faces cut the corners of the ball: chords of a cell's length lose about (cell / radius)^2 / 8 of the radius.
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.01)
    assert np.allclose(mesh.bounds, np.array(CENTRE) + np.array([[-0.5], [0.5]]), atol=0.05 * cell)
    assert info.vertices == len(mesh.vertices) and info.faces == len(mesh.faces)
    assert info.density_range[0] < 1e-6 and info.density_range[1] == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.5])
def test_world_coordinates_do_not_depend_on_the_scene_ball_or_resolution(toys, radius):
    field = toys.Solid(toys.ball(0.3, (0.0, 0.1, 0.0)))
    for resolution in (37, 64):
        mesh, _ = extract_mesh(field, radius, resolution=resolution, threshold=50.0)
        assert np.abs(np.linalg.norm(mesh.vertices - [0.0, 0.1, 0.0], axis=1) - 0.3).max() < 1e-3


def test_each_axis_keeps_its_own_coordinate(toys):
    mesh, _ = extract_mesh(toys.head(), 1.0, resolution=64, threshold=50.0)
    low, high = mesh.bounds
    assert np.allclose(high, [0.6, 0.7, 0.7], atol=0.01)  # ear on +X, hat on +Y, nose on +Z
    assert np.allclose(low, [-0.4, -0.4, -0.4], atol=0.01)


def test_normals_point_outwards(toys):
    mesh, _ = extract_mesh(toys.Solid(toys.ball(0.5, CENTRE)), 1.0, resolution=32, threshold=50.0)
    outward = (mesh.vertices - CENTRE) / 0.5
    assert np.einsum("ij,ij->i", mesh.vertex_normals, outward).min() > 0.95
    face_outward = mesh.triangles_center - CENTRE
    assert np.einsum("ij,ij->i", mesh.face_normals, face_outward).min() > 0


def test_an_inside_out_mesh_never_leaves(toys, monkeypatch):
    marching_cubes = surface.measure.marching_cubes

    def inside_out(volume, level, **options):
        vertices, faces, *_ = marching_cubes(volume, level, **options)
        return vertices, faces[:, ::-1]

    monkeypatch.setattr(surface.measure, "marching_cubes", inside_out)
    monkeypatch.setattr(mesh_module, "keep_large_solids", lambda v, f, share: (v, f, 0, 0))
    with pytest.raises(AssertionError, match="inside out"):
        extract_mesh(toys.Solid(toys.ball(0.5)), 1.0, resolution=16, threshold=50.0)


def test_what_leaves_the_scene_ball_is_closed_on_the_ball(toys):
    field = toys.Solid(toys.box((2.0, 0.3, 2.0)))
    mesh, _ = extract_mesh(field, 1.0, resolution=48, threshold=50.0)
    assert mesh.is_watertight
    distances = np.linalg.norm(mesh.vertices, axis=1)
    assert distances.max() < 1 + 1e-3
    on_wall = np.abs(mesh.vertices[:, 1]) < 0.25
    assert np.abs(distances[on_wall] - 1).max() < 1e-3
    h = 0.3
    slab = 2 * math.pi * (h - h**3 / 3)
    assert mesh.volume == pytest.approx(slab, rel=0.01)


def test_rough_densities_give_a_closed_mesh_without_degenerate_faces(toys):
    table = torch.rand(24, 24, 24, generator=torch.Generator().manual_seed(3)) * 2

    class Rough(toys.Solid):
        def density(self, positions):
            cells = ((positions + 1) / 2 * 24).long().clamp(0, 23)
            return table[cells[:, 0], cells[:, 1], cells[:, 2]]

    mesh, info = extract_mesh(Rough(toys.ball(1)), 1.0, resolution=40, threshold=1.0, min_component_share=0.0)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert info.cavities > 0
    assert mesh.area_faces.min() > 0
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)
    assert (np.sort(mesh.faces, 1)[:, :-1] != np.sort(mesh.faces, 1)[:, 1:]).all()


def test_floaters_go_and_parts_stay(toys):
    body, part, floater = toys.ball(0.5), toys.ball(0.2, (0.75, 0, 0)), toys.ball(0.07, (0, 0.8, 0))
    field = toys.Solid(toys.union(body, part, floater), sharpness=200)
    mesh, info = extract_mesh(field, 1.0, resolution=64, threshold=50.0)
    # In volume the part is 6 % of the body and the floater 0.3 %.
    assert info.floaters == 1 and len(mesh.split(only_watertight=False)) == 2
    assert mesh.bounds[1][0] == pytest.approx(0.95, abs=0.01)
    assert mesh.bounds[1][1] == pytest.approx(0.5, abs=0.01)
    everything, info = extract_mesh(field, 1.0, resolution=64, threshold=50.0, min_component_share=0.0)
    assert info.floaters == 0 and everything.bounds[1][1] == pytest.approx(0.87, abs=0.01)
    alone, _ = extract_mesh(field, 1.0, resolution=64, threshold=50.0, min_component_share=0.5)
    assert alone.bounds[1][0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, 4), (1 / 64, 4), (0.02, 3), (0.125, 3), (0.13, 2), (1.0, 2)]
)
def test_a_piece_is_measured_by_the_largest_and_not_by_all(share, kept):
    boxes = [
        trimesh.creation.box([side] * 3).apply_translation([3 * place, 0, 0])
        for place, side in enumerate((1.0, 1.0, 0.5, 0.25))
    ]
    mesh = trimesh.util.concatenate(boxes)
    assert isinstance(mesh, trimesh.Trimesh)
    vertices, faces, floaters, cavities = keep_large_solids(mesh.vertices, mesh.faces, share)
    assert (len(faces), floaters, cavities) == (12 * kept, 4 - kept, 0) and len(vertices) == 8 * kept


def test_closed_hollows_are_filled(toys):
    shell = toys.Solid(lambda p: 0.08 - (p.norm(dim=-1) - 0.5).abs(), sharpness=200)
    mesh, info = extract_mesh(shell, 1.0, resolution=48, threshold=50.0)
    assert info.cavities == 1 and info.floaters == 0
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.58**3, rel=0.01)


def test_colours_are_the_albedo_of_the_surface(toys):
    # A colour that changes along the surface and not across it: the same for every way to look at the skin.
    def by_direction(positions):
        return (
            (positions - torch.tensor(CENTRE)) / (positions - torch.tensor(CENTRE)).norm(dim=-1, keepdim=True)
            + 1
        ) / 2

    field = toys.Solid(toys.ball(0.5, CENTRE), by_direction)
    mesh, _ = extract_mesh(field, 1.0, resolution=24, threshold=50.0)
    expected = by_direction(torch.from_numpy(mesh.vertices.copy()).float()).numpy() * 255
    colours = vertex_colors(mesh)
    assert colours.dtype == np.uint8 and (colours[:, 3] == 255).all()
    assert np.abs(colours[:, :3] - expected).max() <= 1.5


def test_colours_below_a_thin_skin_show_through_as_much_as_in_a_render(toys):
    # Red grows with the depth s below the surface of a ball of constant density 30: seen from outside it is the integral
    # of 30 exp(-30 s) c(s) over the depth looked at, divided by the opacity of that depth.
    def red_inside(positions):
        depth = 0.5 - positions.norm(dim=-1)
        return torch.stack([8 * depth, 0 * depth, 0 * depth + 1], -1).clamp(0, 1)

    field = toys.Solid(toys.ball(0.5), red_inside, peak=30.0, sharpness=3000)
    mesh, _ = extract_mesh(field, 1.0, resolution=32, threshold=15.0)
    colours = vertex_colors(mesh)
    s = np.linspace(0, sampling.SKIN[1], 10001)
    weights = 30 * np.exp(-30 * s)
    expected = (weights * 8 * s).sum() / weights.sum()
    assert np.abs(colours[:, 0] / 255 - expected).max() < 0.02
    assert expected > 0.15 and (colours[:, 1] == 0).all() and (colours[:, 2] == 255).all()


def test_no_surface_says_the_range_and_the_threshold(toys):
    field = toys.Solid(toys.ball(0.5))
    with pytest.raises(NoSurfaceError, match=r"250.*range .* to 100"):
        extract_mesh(field, 1.0, resolution=16, threshold=250.0)
    constant = toys.Solid(lambda p: torch.zeros_like(p[:, 0]))
    with pytest.raises(NoSurfaceError, match="50 to 50"):
        extract_mesh(constant, 1.0, resolution=16, threshold=10.0)


def test_densities_that_are_not_finite_are_an_error_and_no_hole(toys):
    class Broken(toys.Solid):
        def density(self, positions):
            return torch.where(positions[:, 0] > 0.2, torch.nan, super().density(positions))

    with pytest.raises(NoSurfaceError, match="not finite"):
        extract_mesh(Broken(toys.ball(0.5)), 1.0, resolution=16, threshold=50.0)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 4},
        {"resolution": 4096},
        {"threshold": -1.0},
        {"threshold": 0.0},
        {"threshold": math.nan},
        {"threshold": "best"},
        {"min_component_share": 2.0},
    ],
)
def test_options_out_of_range_are_refused_before_the_field_is_asked(toys, options):
    field = toys.Solid(toys.ball(0.5))
    with pytest.raises(ConfigError):
        extract_mesh(field, 1.0, **{"resolution": 16, "threshold": 50.0, **options})
    assert field.asked == 0


def test_the_field_is_asked_in_bounded_blocks_and_never_outside_the_ball(toys, monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK", 1000)

    class Watching(toys.Solid):
        def density(self, positions):
            assert len(positions) <= 1000
            assert positions.norm(dim=-1).max() < 0.8 + 1e-6
            return super().density(positions)

    layers: list[int] = []
    field = Watching(toys.ball(0.5))
    in_blocks = sample_density(field, 0.8, 24, layers.append)
    assert layers == list(range(1, 28))
    monkeypatch.setattr(sampling, "BLOCK", 1 << 20)
    at_once = sample_density(toys.Solid(toys.ball(0.5)), 0.8, 24)
    assert np.allclose(in_blocks.sigmas, at_once.sigmas, rtol=1e-4)


def test_the_same_field_gives_the_same_mesh(toys):
    first, _ = extract_mesh(toys.head(), 1.0, resolution=32, threshold=50.0)
    second, _ = extract_mesh(toys.head(), 1.0, resolution=32, threshold=50.0)
    assert np.array_equal(first.vertices, second.vertices) and np.array_equal(first.faces, second.faces)


def test_vertices_are_exact_where_density_is_far_from_linear(toys):
    # A factor of a million over one cell: linear interpolation of the grid's densities would be off by half a cell.
    class Steep(toys.Solid):
        def density(self, positions):
            return torch.exp(200 * self.inside(positions))

    mesh, _ = extract_mesh(Steep(toys.ball(0.4, CENTRE)), 1.0, resolution=28, threshold=1.0)
    assert np.abs(np.linalg.norm(mesh.vertices - CENTRE, axis=1) - 0.4).max() < 0.05 * 2 / 28


@pytest.mark.parametrize("threshold", [50.0, "auto"])
def test_progress_grows_to_its_total(toys, monkeypatch, threshold):
    monkeypatch.setattr(sampling, "BLOCK", 1000)
    seen: list[tuple[int, int]] = []
    field = toys.Solid(toys.ball(0.5))
    renderer = toys.SlowRenderer(field)
    renderer.samples = 16
    extract_mesh(
        field,
        1.0,
        resolution=12,
        threshold=threshold,
        renderer=renderer,
        progress=lambda done, total: seen.append((done, total)),
    )
    done, totals = [list(column) for column in zip(*seen, strict=True)]
    assert done == sorted(done) and len(set(totals)) == 1 and done[-1] == totals[-1]
    assert len(done) > 3


def test_blocks_join_without_a_seam(toys, monkeypatch):
    whole, _ = extract_mesh(toys.head(), 1.0, resolution=40, threshold=50.0)
    for layers in (1, 3, 17):
        monkeypatch.setattr(surface, "BLOCK_POINTS", layers * 43**2)
        blocks, _ = extract_mesh(toys.head(), 1.0, resolution=40, threshold=50.0)
        assert np.array_equal(blocks.vertices, whole.vertices)
        assert np.array_equal(np.sort(np.sort(blocks.faces, 1), 0), np.sort(np.sort(whole.faces, 1), 0))


def test_a_found_threshold_above_the_coarse_grid_gives_the_fine_surface(toys, monkeypatch):
    field = toys.Solid(toys.ball(0.5))
    renderer = toys.SlowRenderer(field)
    renderer.samples = 32
    monkeypatch.setattr(mesh_module, "THRESHOLD_RESOLUTION", 24)
    seen: list[tuple[int, int]] = []
    mesh, info = extract_mesh(
        field,
        1.0,
        resolution=48,
        renderer=renderer,
        progress=lambda done, total: seen.append((done, total)),
    )
    same, _ = extract_mesh(field, 1.0, resolution=48, threshold=info.threshold)
    assert np.array_equal(mesh.vertices, same.vertices) and (info.silhouette_iou or 0) > 0.9
    done = [part[0] for part in seen]
    assert done == sorted(done) and seen[-1] == (seen[-1][1],) * 2


def test_holes_are_closed_where_asked(toys):
    def pierced(positions):  # a ball with a hole of radius 0.05 along the x axis
        return torch.minimum(toys.ball(0.5)(positions), positions[:, 1:].norm(dim=-1) - 0.05)

    field = toys.Solid(pierced, sharpness=300)
    mesh, _ = extract_mesh(field, 1.0, resolution=48, threshold=50.0)
    assert mesh.euler_number == 0  # a torus: 2 - 2 genus
    closed, info = extract_mesh(field, 1.0, resolution=48, threshold=50.0, close_holes=3)
    assert closed.euler_number == 2 and info.watertight
    distances = np.linalg.norm(closed.vertices, axis=1)
    assert distances.max() < 0.51 and closed.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.02)


def test_closing_stays_in_the_ball(toys):
    field = toys.Solid(toys.box((2.0, 0.3, 2.0)))
    closed, _ = extract_mesh(field, 1.0, resolution=32, threshold=50.0, close_holes=2)
    assert closed.is_watertight and np.linalg.norm(closed.vertices, axis=1).max() < 1 + 2 / 32


def test_smoothing_takes_the_roughness_and_keeps_the_volume(toys):
    def rough(positions):
        wave = torch.sin(60 * positions).prod(dim=-1)
        return toys.ball(0.5)(positions) + 0.02 * wave

    field = toys.Solid(rough)
    plain, _ = extract_mesh(field, 1.0, resolution=64, threshold=50.0)
    smooth, _ = extract_mesh(field, 1.0, resolution=64, threshold=50.0, smooth=10)

    def roughness(mesh):
        return np.linalg.norm(mesh.vertices, axis=1).std()

    assert roughness(smooth) < 0.6 * roughness(plain)
    assert smooth.volume == pytest.approx(plain.volume, rel=0.01)
    assert np.array_equal(smooth.faces, plain.faces)


def test_decimation_keeps_the_shape_and_the_mesh_closed(toys):
    mesh, info = extract_mesh(toys.head(), 1.0, resolution=64, threshold=50.0, faces=3000)
    full, _ = extract_mesh(toys.head(), 1.0, resolution=64, threshold=50.0)
    assert len(full.faces) == info.marched_faces > 7000
    assert 2500 <= len(mesh.faces) <= 3000
    assert info.watertight and mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(full.volume, rel=5e-3)
    assert np.allclose(mesh.bounds, full.bounds, atol=0.01)
    # A flat side needs few faces: decimation by quadric error leaves nearly none of them there.
    assert mesh.area_faces.max() > 8 * full.area_faces.max()
    # Its colours are those at its own vertices.
    nose = mesh.vertices[:, 2] > 0.6
    assert (vertex_colors(mesh)[nose, 0] > 200).all() and (vertex_colors(mesh)[nose, 1] < 50).all()


def test_a_rough_surface_too_comes_down_to_the_number_of_faces_that_is_asked_for():
    """The most careful level keeps this one closed, with 15,000 faces: the number counts first."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(24, 24, 24)), 1.0)
    noise = np.pad(noise[1:-1, 1:-1, 1:-1], 1, constant_values=-1.0)
    vertices, faces, _, _ = marching_cubes(noise, 0.02)
    assert len(faces) > 15_000
    _, fewer = decimated(vertices.astype(float), faces.astype(np.int64), 600)
    assert 400 < len(fewer) <= 660


def test_without_the_library_decimation_says_how_to_get_it(toys, monkeypatch):
    monkeypatch.setattr("dreamfusion.assets.cleaning.can_decimate", lambda: False)
    with pytest.raises(ConfigError, match=r"fast-simplification.*Run pip install"):
        extract_mesh(toys.head(), 1.0, resolution=32, threshold=50.0, faces=500)
    whole, _ = extract_mesh(toys.head(), 1.0, resolution=16, threshold=50.0, faces=100_000)
    assert whole.is_watertight


@pytest.mark.parametrize("options", [{"close_holes": -1}, {"smooth": 1000}, {"faces": 10}])
def test_counts_out_of_range_are_refused(toys, options):
    with pytest.raises(ConfigError):
        extract_mesh(toys.head(), 1.0, resolution=16, threshold=50.0, **options)
