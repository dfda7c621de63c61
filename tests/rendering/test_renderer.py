from __future__ import annotations

import itertools
import math

import pytest
import torch

from dreamfusion.cameras import Cameras, orbit_cameras, turntable_cameras
from dreamfusion.config import (
    EnvironmentBackgroundConfig,
    GridsFieldConfig,
    NormalsConfig,
    RandomBackgroundConfig,
    RenderingConfig,
    SceneConfig,
)
from dreamfusion.errors import ConfigError
from dreamfusion.rendering.marching import march
from dreamfusion.rendering.renderer import Renderer
from dreamfusion.rendering.shading import ShadingSample
from dreamfusion.scene.scene import make_scene

NO_SKIPPING = {"occupancy": {"enabled": False}, "termination": 0.0}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _warm(renderer, updates=3):
    """Let the occupancy grid look until it skips."""
    for _ in range(updates):
        renderer.occupancy.update(
            renderer.scene.field, 16 * renderer.config.occupancy.warmup_steps, _generator()
        )
    return renderer


def _light(cameras, *position):
    return torch.tensor([position]).expand(len(cameras), 3)


def _double(cameras: Cameras) -> Cameras:
    return Cameras(
        cameras.c2w.double(),
        cameras.fovy_deg.double(),
        cameras.height,
        cameras.width,
        cameras.azimuth_deg.double(),
        cameras.elevation_deg.double(),
        cameras.distance.double(),
    )


def _closest(cameras):
    """Per pixel, where along the ray its line is closest to the origin, and the squared distance there."""
    rays_o, rays_d = cameras.rays()
    along = -(rays_o * rays_d).sum(-1)
    squared = (rays_o + along[..., None] * rays_d).square().sum(-1)
    return along, squared


# ------------------------------------------------------------------------------------ against closed forms


def test_an_opaque_ball_has_the_analytic_silhouette_distance_and_depth(make_renderer, shapes):
    renderer = make_renderer(shapes.ball(0.5, sigma=1e4), samples_per_ray=256, **NO_SKIPPING)
    cameras = orbit_cameras(torch.tensor([0.0, 130.0]), 25.0, 2.0, 45.0, 32)
    seen = renderer.render_image(cameras)
    along, squared = _closest(cameras)
    inside, outside = squared < 0.48**2, squared > 0.5**2
    assert inside.any() and outside.any()
    torch.testing.assert_close(seen.opacity[inside], torch.ones(int(inside.sum())))
    assert (seen.opacity[outside] == 0).all() and (seen.distance[outside] == 0).all()
    distance = (along - (0.25 - squared).clamp(min=0).sqrt())[inside]
    # A sample speaks for its interval, 2 / 256 long.
    assert (seen.distance[inside] - distance).abs().max() < 2 / 256
    rays_o, rays_d = cameras.rays()
    points = rays_o + seen.distance[..., None] * rays_d
    in_camera = torch.einsum("bji,bhwj->bhwi", cameras.c2w[:, :3, :3], points - rays_o)
    torch.testing.assert_close(seen.depth[inside], -in_camera[..., 2][inside], atol=1e-5, rtol=0)
    assert (seen.depth[inside] <= seen.distance[inside]).all() and (seen.depth < seen.distance)[inside].any()


@pytest.mark.parametrize("samples", [2, 3, 16, 65])
def test_haze_of_constant_density_follows_beer_and_lambert(make_renderer, shapes, samples):
    renderer = make_renderer(shapes.constant(0.7), samples_per_ray=samples, **NO_SKIPPING)
    cameras = orbit_cameras(40.0, 10.0, 1.8, 80.0, 24)
    _, squared = _closest(cameras)
    chord = 2 * (1 - squared).clamp(min=0).sqrt()
    seen = renderer.render(cameras, rays_generator=_generator())
    torch.testing.assert_close(seen.opacity, 1 - torch.exp(-0.7 * chord), atol=2e-6, rtol=0)


def test_a_gaussian_blob_has_the_analytic_opacity(make_renderer, shapes):
    # The opacity of a gaussian blob along a ray is known: sigma std sqrt(2 pi) exp(-b^2 / 2 std^2), tails included. For
    # a gaussian the midpoint rule converges faster than any power of the step, so the error is gone at once.
    cameras = _double(orbit_cameras(20.0, 30.0, 2.0, 30.0, 6))
    sigma, std = 3.0, 0.17
    _, squared = _closest(cameras)
    tau = sigma * std * math.sqrt(2 * math.pi) * torch.exp(-squared / (2 * std**2))
    renderer = make_renderer(shapes.soft_blob(sigma, std), samples_per_ray=32, **NO_SKIPPING)
    renderer.scene.double()
    assert (renderer.render(cameras).opacity - (1 - torch.exp(-tau))).abs().max() < 1e-6


def test_the_colours_error_falls_with_the_square_of_the_step(make_renderer, shapes):
    cameras = _double(orbit_cameras(20.0, 30.0, 2.0, 30.0, 6))

    def picture(samples):
        renderer = make_renderer(shapes.soft_blob(6.0, 0.3), samples_per_ray=samples, **NO_SKIPPING)
        renderer.scene.double()
        return renderer.render(cameras).foreground_rgb

    exact = picture(4096)
    errors = [(picture(samples) - exact).abs().max().item() for samples in (32, 64, 128)]
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(1.8 < slope < 2.2 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("kind", ["analytic", "finite_difference"])
def test_normals_of_a_ball_are_radial_and_face_the_camera(make_renderer, shapes, kind):
    renderer = make_renderer(
        shapes.ball(0.5, sigma=1e3, width=0.01), normals=kind, samples_per_ray=256, **NO_SKIPPING
    )
    cameras = orbit_cameras(torch.tensor([0.0, 75.0]), 20.0, 2.0, 45.0, 24)
    seen = renderer.render_image(cameras, with_normals=True)
    assert seen.normals is not None
    rays_o, rays_d = cameras.rays()
    _, squared = _closest(cameras)
    inside, outside = squared < 0.45**2, squared > 0.8**2
    radial = torch.nn.functional.normalize(rays_o + seen.distance[..., None] * rays_d, dim=-1)
    cosine = (seen.normals * radial).sum(-1)[inside]
    assert cosine.min() > math.cos(math.radians(1.5))
    assert (seen.normals * rays_d).sum(-1)[inside].max() < 0
    torch.testing.assert_close(seen.normals[inside].norm(dim=-1), torch.ones(int(inside.sum())))
    assert outside.any() and seen.normals[outside].abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["lambertian", "textureless"])
def test_a_lit_ball_follows_lambert(make_renderer, shapes, kind):
    renderer = make_renderer(shapes.ball(0.5, sigma=1e3, width=0.01), samples_per_ray=256, **NO_SKIPPING)
    cameras = orbit_cameras(torch.tensor([0.0, 75.0]), 20.0, 2.0, 45.0, 24)
    lights = torch.tensor([[0.2, 0.6, 1.4], [-0.5, 1.2, 0.8]])
    seen = renderer.render(cameras, ShadingSample(kind, lights, 0.1, 0.9))
    rays_o, rays_d = cameras.rays()
    points = rays_o + seen.distance[..., None] * rays_d
    to_light = torch.nn.functional.normalize(lights[:, None, None] - points, dim=-1)
    cosine = (torch.nn.functional.normalize(points, dim=-1) * to_light).sum(-1).clamp(min=0)
    albedo = torch.cat([0.5 + 0.25 * points[..., :2], torch.full_like(points[..., :1], 0.75)], -1)
    if kind == "textureless":
        albedo = torch.ones_like(albedo)
    expected = albedo * (0.1 + 0.9 * cosine)[..., None]
    _, squared = _closest(cameras)
    inside = squared < 0.45**2
    assert (seen.rgb - expected)[inside].abs().max() < 0.02
    assert (cosine[inside] == 0).any() and (cosine[inside] > 0.9).any()


# -------------------------------------------------------------------------- what must not change a picture


def _trained_scene(shapes, thin=True):
    """Dense grids that hold thin parts: nodes inside are dense, nodes outside empty."""
    scene = make_scene(SceneConfig(field=GridsFieldConfig(resolutions=(64,), blob_density=0.0)), _generator())
    axis = torch.linspace(-1, 1, 65)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    solid = shapes.thin_parts(torch.stack([x, y, z], -1).view(-1, 3)).view(65, 65, 65) > 0
    assert 300 < solid.sum() < 10000
    with torch.no_grad():
        grid = scene.field.density_grids[0]  # type: ignore[index]
        grid.copy_(torch.where(solid, 60.0, -20.0)[None] / scene.field.config.density_gain)  # type: ignore[union-attr]
    return scene


def test_skipping_and_ending_rays_changes_nothing_visible_not_even_thin_parts(shapes):
    scene = _trained_scene(shapes)
    cameras = turntable_cameras(3, 25.0, 2.3, 45.0, 48)
    plain = Renderer(scene, RenderingConfig(**NO_SKIPPING)).render(cameras, rays_generator=_generator())
    renderer = _warm(Renderer(scene, RenderingConfig()), updates=1)
    assert renderer.occupancy.occupied_share < 0.3
    skipped = renderer.render(cameras, rays_generator=_generator())
    assert plain.samples is not None and skipped.samples is not None
    assert len(skipped.samples) < 0.3 * len(plain.samples)
    assert plain.opacity.max() > 0.99
    assert (plain.rgb - skipped.rgb).abs().max() < 5e-3
    assert (plain.opacity - skipped.opacity).abs().max() < 5e-3


def test_a_picture_equals_the_differentiable_render(shapes):
    scene = _trained_scene(shapes)
    renderer = _warm(Renderer(scene, RenderingConfig()), updates=1)
    cameras = turntable_cameras(2, 25.0, 2.3, 45.0, 40)
    shading = ShadingSample("lambertian", _light(cameras, 0.5, 1.0, 0.8), 0.1, 0.9)
    for kind in (None, shading):
        rendered, image = renderer.render(cameras, kind), renderer.render_image(cameras, kind)
        assert (rendered.rgb - image.rgb).abs().max() < 2e-3
        assert not image.rgb.requires_grad and image.samples is None


def test_a_picture_trusts_the_field_and_not_what_the_grid_remembers_as_solid(make_renderer, shapes):
    renderer = make_renderer(shapes.constant(0.7), samples_per_ray=16)
    renderer.occupancy.least_densities.fill_(1e3)
    cameras = orbit_cameras(40.0, 10.0, 1.8, 80.0, 8)
    _, squared = _closest(cameras)
    chord = 2 * (1 - squared).clamp(min=0).sqrt()
    seen = renderer.render_image(cameras)
    torch.testing.assert_close(seen.opacity, 1 - torch.exp(-0.7 * chord), atol=1e-3, rtol=0)
    trained = renderer.render(cameras, rays_generator=_generator())
    assert trained.opacity.max() < 0.5 * seen.opacity.max()


def _beside_a_core(sigma):
    """A ball of this density, and a small core that is as good as solid beside it."""
    core = torch.tensor([0.0, 0.75, 0.0])

    def formula(positions):
        thin = sigma * (positions.norm(dim=-1) < 0.6).to(positions)
        return thin + 2e3 * ((positions - core).norm(dim=-1) < 0.12).to(positions)

    return formula


def _fog(sigma):
    return lambda positions: torch.full_like(positions[:, 0], sigma)


def _smoke(sigma):
    """Thick in the middle of each of many waves, next to nothing between them."""
    return lambda positions: sigma * torch.exp(4 * (torch.cos(9 * positions).sum(dim=-1) - 3))


@pytest.mark.parametrize("samples", [64, 512, 4096])
@pytest.mark.parametrize("sigma", [1e-4, 1e-2, 0.1, 0.3, 1.2, 6.0, 40.0, 1e3])
@pytest.mark.parametrize("shape", [_fog, _beside_a_core, _smoke])
def test_an_image_equals_the_training_render_from_fog_to_solid(make_renderer, shape, sigma, samples):
    renderer = make_renderer(
        shape(sigma), normals="finite_difference", samples_per_ray=samples, occupancy={"resolution": 8}
    )
    size = 24 if samples == 64 else 8
    _warm(renderer, updates=2)
    cameras = orbit_cameras(30.0, 20.0, 2.2, 50.0, size)
    assert renderer._shares_for_images(cameras) is not None
    shading = ShadingSample("lambertian", _light(cameras, 0.5, 1.0, 0.8), 0.1, 0.9)
    lit = {"shading": shading, "with_normals": True} if samples == 512 else {}
    with torch.no_grad():
        rendered, image = renderer.render(cameras, **lit), renderer.render_image(cameras, **lit)
    for name in ("rgb", "foreground_rgb", "opacity"):
        assert (getattr(rendered, name) - getattr(image, name)).abs().max() < 2e-3, name
    # Where next to nothing is seen it may be seen elsewhere: what counts is how much that moves.
    moved = ((rendered.depth - image.depth) * rendered.opacity).abs().max()
    assert moved < 2e-3
    visible = rendered.opacity > 0.05
    assert ((rendered.depth - image.depth)[visible].abs() < 2e-2).all()


@pytest.mark.parametrize("samples", [64, 512, 4096])
@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.3, 1.2, 40.0])
def test_beer_and_lambert_hold_for_images_of_any_fog_with_any_number_of_samples(
    make_renderer, sigma, samples
):
    renderer = make_renderer(_fog(sigma), samples_per_ray=samples, occupancy={"resolution": 8})
    cameras = orbit_cameras(40.0, 10.0, 1.8, 80.0, 24 if samples == 64 else 8)
    _, squared = _closest(cameras)
    opacity = 1 - torch.exp(-sigma * 2 * (1 - squared).clamp(min=0).sqrt())
    seen = _warm(renderer).render_image(cameras)
    assert (seen.opacity - opacity).abs().max() < 1e-3


def test_images_end_rays_later_than_training_may(make_renderer, shapes):
    """Whoever lets training end rays early for speed still gets whole images."""
    cameras = orbit_cameras(30.0, 20.0, 2.2, 50.0, 16)
    hasty = make_renderer(shapes.soft_blob(9.0), termination=0.2).render_image(cameras)
    whole = make_renderer(shapes.soft_blob(9.0), **NO_SKIPPING).render_image(cameras)
    for name in ("rgb", "opacity", "depth"):
        assert (getattr(hasty, name) - getattr(whole, name)).abs().max() < 2e-3, name


def test_what_is_lit_does_not_depend_on_the_number_of_samples(make_renderer, shapes):
    """Each of many samples is faint, and together they are lit by their normals as few are."""
    cameras = orbit_cameras(30.0, 20.0, 2.2, 50.0, 8)
    shading = ShadingSample("textureless", _light(cameras, 0.2, 1.0, -0.8), 0.1, 0.9)
    few, many = (
        make_renderer(shapes.soft_blob(2.0), samples_per_ray=samples, **NO_SKIPPING).render_image(
            cameras, shading
        )
        for samples in (64, 2048)
    )
    assert (few.rgb - many.rgb).abs().max() < 0.01


@pytest.mark.parametrize("samples", [64, 512])
def test_training_sees_in_the_mean_what_images_show_and_can_grow_all_of_it(make_renderer, samples):
    """Thin matter is sampled, not skipped: no bias in the optical depth, and a gradient everywhere in time."""
    renderer = make_renderer(_beside_a_core(0.1), samples_per_ray=samples)
    _warm(renderer)
    cameras = orbit_cameras(30.0, 20.0, 2.2, 40.0, 12)
    exact = renderer.render(cameras).opacity.detach().double()
    generator, used = _generator(), 0
    total, squares = torch.zeros_like(exact), torch.zeros_like(exact)
    draws = 150
    with torch.no_grad():
        for _ in range(draws):
            seen = renderer.render(cameras, rays_generator=generator)
            depth = -torch.log1p(-seen.opacity.double().clamp(max=1 - 1e-7))
            total, squares, used = total + depth, squares + depth**2, used + len(seen.samples)
    thin = (exact > 0.05) & (exact < 0.2)
    assert thin.sum() > 40
    mean = total / draws
    error = ((squares / draws - mean**2) / draws).sqrt()
    deviation = ((mean + torch.log1p(-exact)) / error.clamp(min=3e-4))[thin]
    assert deviation.abs().max() < 5 and deviation.mean().abs() < 1
    everything = renderer.render(cameras).samples
    assert used / draws < 0.5 * len(everything)


@pytest.mark.parametrize("chunk", [1, 50])
def test_the_chunk_size_does_not_change_the_picture(shapes, chunk):
    renderer = _warm(Renderer(_trained_scene(shapes), RenderingConfig()))
    cameras = turntable_cameras(2, 25.0, 2.3, 45.0, 16)
    shading = ShadingSample("lambertian", _light(cameras, 0.5, 1.0, 0.8), 0.1, 0.9)
    whole = renderer.render_image(cameras, shading, chunk=1 << 20)
    parts = renderer.render_image(cameras, shading, chunk=chunk)
    for name in ("rgb", "opacity", "distance", "depth", "normals", "background", "rays_d", "foreground_rgb"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), atol=1e-5, rtol=1e-5)


def test_views_of_a_batch_equal_single_views(shapes):
    renderer = _warm(Renderer(_trained_scene(shapes), RenderingConfig()))
    cameras = turntable_cameras(3, 25.0, 2.3, 45.0, 24)
    lights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [-1.0, 0.0, 1.0]])
    for render in (renderer.render, renderer.render_image):
        batch = render(cameras, ShadingSample("lambertian", lights, 0.1, 0.9))
        for view in range(3):
            alone = render(
                cameras[view : view + 1], ShadingSample("lambertian", lights[view : view + 1], 0.1, 0.9)
            )
            torch.testing.assert_close(batch.rgb[view], alone.rgb[0], atol=1e-5, rtol=1e-5)


def test_pictures_need_not_be_square(make_renderer, shapes):
    renderer = make_renderer(shapes.ball(0.5))
    cameras = orbit_cameras(0.0, 0.0, 2.0, 45.0, 32)
    wide = renderer.render_image(cameras.resized(32, 48))
    assert wide.rgb.shape == (1, 32, 48, 3)
    torch.testing.assert_close(wide.opacity[:, :, 8:40], renderer.render_image(cameras).opacity)


# ------------------------------------------------------------------------------- background and randomness


def test_background_shows_where_nothing_is_and_energy_is_kept(make_renderer, shapes):
    cameras = orbit_cameras(0.0, 0.0, 2.0, 45.0, 24)
    black, green = (
        make_renderer(shapes.soft_blob(3.0), background=rgb).render(cameras)
        for rgb in ((0.0, 0.0, 0.0), (0.2, 0.9, 0.3))
    )
    colour = torch.tensor([0.2, 0.9, 0.3])
    torch.testing.assert_close(green.rgb, black.rgb + (1 - black.opacity)[..., None] * colour)
    torch.testing.assert_close(green.foreground_rgb, black.rgb)
    torch.testing.assert_close(green.background, colour.expand_as(green.background))
    assert green.rgb.max() <= 1 and green.rgb.min() >= 0


def test_jitter_and_background_come_from_their_generators_alone():
    config = SceneConfig(field=GridsFieldConfig(resolutions=(16,)), background=RandomBackgroundConfig())
    renderer = Renderer(make_scene(config, _generator()), RenderingConfig())
    cameras = orbit_cameras(0.0, 0.0, 2.0, 45.0, 16)

    def rgb(rays, background):
        return renderer.render(
            cameras, rays_generator=_generator(rays), background_generator=_generator(background)
        ).rgb

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = rgb(1, 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    assert torch.equal(first, rgb(1, 2))
    assert not torch.equal(first, rgb(3, 2)) and not torch.equal(first, rgb(1, 3))
    assert torch.equal(renderer.render_image(cameras).rgb, renderer.render_image(cameras).rgb)


def test_gradients_reach_the_field_and_the_background():
    config = SceneConfig(
        field=GridsFieldConfig(resolutions=(16,)),
        background=EnvironmentBackgroundConfig(),
        normals=NormalsConfig(kind="analytic"),
    )
    scene = make_scene(config, _generator())
    renderer = _warm(Renderer(scene, RenderingConfig()))
    cameras = orbit_cameras(0.0, 20.0, 2.0, 45.0, 16)
    for shading in (None, ShadingSample("lambertian", _light(cameras, 0.5, 1.0, 0.8), 0.1, 0.9)):
        scene.zero_grad()
        renderer.render(cameras, shading).rgb.square().sum().backward()
        for name, parameter in scene.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_textureless_light_teaches_shape_through_the_normals():
    # Opacity is 1 all over and albedo plays no part: what is left of the gradient comes through the normals.
    scene = make_scene(
        SceneConfig(field=GridsFieldConfig(resolutions=(16,), blob_density=80.0)), _generator()
    )
    renderer = _warm(Renderer(scene, RenderingConfig()))
    cameras = orbit_cameras(0.0, 20.0, 1.2, 20.0, 8)
    shading = ShadingSample("textureless", _light(cameras, 0.5, 1.0, 0.8), 0.0, 1.0)
    seen = renderer.render(cameras, shading)
    assert seen.weights is not None
    assert seen.sample_normals is not None and seen.sample_normals.requires_grad
    (gradient,) = torch.autograd.grad(
        (seen.weights.detach()[:, None] * seen.sample_normals).sum(),
        scene.field.density_grids[0],  # type: ignore[index]
    )
    assert gradient.abs().sum() > 0


def test_gradient_equals_the_finite_difference(make_renderer, shapes):
    renderer = make_renderer(shapes.soft_blob(3.0), samples_per_ray=32)
    renderer.scene.double()
    field = renderer.scene.field
    cameras = _double(orbit_cameras(0.0, 20.0, 2.0, 45.0, 4))
    renderer.render(cameras).rgb.sum().backward()

    def value(scale):
        with torch.no_grad():
            field.scale.fill_(scale)
            return renderer.render(cameras).rgb.sum().item()

    expected = (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5
    assert field.scale.grad.item() == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------ edges of the use


def test_an_empty_scene_shows_its_background_and_still_has_a_gradient(make_renderer, shapes):
    renderer = make_renderer(shapes.constant(0.0), background=(0.1, 0.2, 0.3))
    cameras = orbit_cameras(0.0, 0.0, 2.0, 45.0, 8)
    shading = ShadingSample("lambertian", _light(cameras, 0.5, 1.0, 0.8), 0.1, 0.9)
    renderer.occupancy.occupied_cells.zero_()
    for kind in (None, shading):
        seen = renderer.render(cameras, kind, with_normals=True)
        torch.testing.assert_close(seen.rgb, torch.tensor([0.1, 0.2, 0.3]).expand_as(seen.rgb))
        assert (seen.opacity == 0).all() and (seen.depth == 0).all() and (seen.normals == 0).all()
        seen.rgb.sum().backward()
        assert renderer.scene.field.scale.grad.isfinite()
    assert (renderer.render_image(cameras, with_normals=True).opacity == 0).all()


def test_a_camera_inside_the_ball_sees_what_is_before_it(make_renderer, shapes):
    renderer = make_renderer(shapes.ball(0.3), **NO_SKIPPING)
    seen = renderer.render_image(orbit_cameras(0.0, 0.0, 0.8, 60.0, 9))
    assert seen.opacity[0, 4, 4] == pytest.approx(1.0)
    assert seen.distance[0, 4, 4].item() == pytest.approx(0.5, abs=2 / 64)


def test_shading_without_normals_is_refused(make_renderer, shapes):
    renderer = make_renderer(shapes.ball(0.5), normals="none")
    cameras = orbit_cameras(0.0, 0.0, 2.0, 45.0, 8)
    renderer.render(cameras)
    with pytest.raises(ConfigError, match=r"scene\.normals\.kind"):
        renderer.render(cameras, ShadingSample("lambertian", _light(cameras, 0.5, 1.0, 0.8), 0.1, 0.9))


def test_the_renderers_state_is_the_occupancy_grid_alone(make_renderer, shapes):
    renderer = _warm(make_renderer(shapes.ball(0.4)))
    assert set(renderer.state_dict()) == {
        f"occupancy.{name}" for name in ("densities", "found", "occupied_cells", "least_densities")
    }
    assert list(renderer.parameters()) == []
    other = make_renderer(shapes.ball(0.4))
    other.load_state_dict(renderer.state_dict())
    cameras = orbit_cameras(0.0, 0.0, 2.0, 45.0, 16)
    first, second = (r.render(cameras, rays_generator=_generator()) for r in (renderer, other))
    assert first.samples is not None and second.samples is not None
    assert len(first.samples) == len(second.samples)
    assert torch.equal(first.rgb, second.rgb)


def test_update_occupancy_follows_the_schedule(make_renderer, shapes):
    renderer = make_renderer(shapes.ball(0.4), occupancy={"warmup_steps": 32, "update_every": 8})
    done = [step for step in range(41) if renderer.update_occupancy(step, _generator())]
    assert done == [0, 8, 16, 24, 32, 40]
    assert renderer.occupancy.occupied_share < 0.3


# ------------------------------------------------------------------------------------------- finished scenes


@pytest.mark.parametrize("sigma", [0.3, 6.0, 1e3])
@pytest.mark.parametrize("shape", [_beside_a_core, _smoke])
def test_an_image_of_a_finished_scene_equals_the_training_render_from_fewer_samples(
    make_renderer, shape, sigma
):
    renderer = _warm(make_renderer(shape(sigma), samples_per_ray=512, occupancy={"resolution": 8}))
    cameras = orbit_cameras(30.0, 20.0, 2.2, 50.0, 12)
    trained = renderer._shares_for_images(cameras)
    finished = renderer.eval()._shares_for_images(cameras)
    assert trained is not None and finished is not None
    assert (trained.resolution, finished.resolution) == (8, 16)
    origins, directions = (part.reshape(-1, 3) for part in cameras.rays())
    few, many = (len(march(origins, directions, 1.0, 512, taken)) for taken in (finished, trained))
    assert few < 0.99 * many
    with torch.no_grad():
        rendered, image = renderer.render(cameras), renderer.render_image(cameras)
    for name in ("rgb", "opacity"):
        assert (getattr(rendered, name) - getattr(image, name)).abs().max() < 2e-3, name


def test_a_finished_scene_is_asked_about_once_for_all_frames(make_renderer, shapes):
    renderer = make_renderer(shapes.ball(0.4), samples_per_ray=512, occupancy={"resolution": 8}).eval()
    cameras = orbit_cameras(30.0, 20.0, 2.2, 50.0, 12)
    kept = renderer._shares_for_images(cameras)
    assert kept is renderer._shares_for_images(cameras)
    with torch.no_grad():
        renderer.scene.field.scale.mul_(2.0)
    after = renderer._shares_for_images(cameras)
    assert kept is not after
    assert after is not renderer.train()._shares_for_images(cameras)
    assert renderer.scene.training and not renderer.eval().scene.training


def test_images_of_a_finished_scene_follow_every_change_of_its_field():
    field = GridsFieldConfig(resolutions=(8, 16), blob_density=5.0)
    scene = make_scene(SceneConfig(field=field), _generator())
    other = make_scene(SceneConfig(field=field), _generator(1))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=_generator()), alpha=0.3)
    config = RenderingConfig.model_validate({"occupancy": {"resolution": 8}})
    cameras = orbit_cameras(30.0, 20.0, 2.2, 50.0, 48)
    expected = Renderer(other, config).eval().render_image(cameras).rgb
    renderer = Renderer(scene, config).eval()
    assert (renderer.render_image(cameras).rgb - expected).abs().max() > 0.1
    scene.load_state_dict(other.state_dict())
    assert torch.equal(renderer.render_image(cameras).rgb, expected)
    # A fused optimiser writes unseen, and training begins with `train()`.
    optimizer = torch.optim.Adam(renderer.train().scene.parameters(), lr=0.3, fused=True)
    renderer.render(cameras).rgb.sum().backward()
    optimizer.step()
    trained = renderer.eval().render_image(cameras).rgb
    assert (trained - expected).abs().max() > 0.1
    assert torch.equal(trained, Renderer(scene, config).eval().render_image(cameras).rgb)
