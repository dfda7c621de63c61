from __future__ import annotations

import math

import pytest
import torch

from dreamfusion.cameras import orbit_cameras, random_cameras
from dreamfusion.config import ShadingConfig
from dreamfusion.config_files import load_config
from dreamfusion.rendering.shading import ShadingSample, lights_outside, sample_shading, shade


def _unit(*values):
    return torch.nn.functional.normalize(torch.tensor([values]), dim=-1)


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 60.0, 90.0, 120.0, 180.0])
def test_lambert_cosine_law(angle_deg):
    position = torch.tensor([[0.2, -0.1, 0.4]])
    normal = torch.tensor([[0.0, 0.0, 1.0]])
    angle = math.radians(angle_deg)
    light = position + 3.0 * torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]])
    albedo = torch.tensor([[0.2, 0.5, 0.9]])
    expected = 0.1 + 0.9 * max(0.0, math.cos(angle))
    torch.testing.assert_close(shade(albedo, normal, position, light, 0.1, 0.9), albedo * expected)
    textureless = shade(albedo, normal, position, light, 0.1, 0.9, textureless=True)
    torch.testing.assert_close(textureless, torch.full((1, 3), expected), atol=1e-6, rtol=1e-6)


def test_a_point_light_has_no_fall_off_but_its_own_direction_at_each_point():
    normals = torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3)
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    light = torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3)
    lit = shade(torch.ones(2, 3), normals, positions, light, 0.0, 1.0)
    torch.testing.assert_close(lit[:, 0], torch.tensor([1.0, math.sqrt(0.5)]))


def test_albedo_out_of_range_is_clamped():
    lit = shade(
        torch.tensor([[-1.0, 0.5, 7.0]]),
        _unit(0.0, 0.0, 1.0),
        torch.zeros(1, 3),
        torch.tensor([[0.0, 0.0, 2.0]]),
        0.1,
        0.9,
    )
    torch.testing.assert_close(lit, torch.tensor([[0.0, 0.5, 1.0]]))


def test_gradient_reaches_albedo_and_normals(generator):
    albedo, normals, positions, light = torch.rand(4, 6, 3, generator=generator, dtype=torch.float64)
    inputs = (albedo * 0.8 + 0.1, normals, positions, light + 2.0)
    for tensor in inputs:
        tensor.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, n, p, light: shade(a, n, p, light, 0.1, 0.9), inputs)


def test_only_albedo_at_the_start():
    generator = torch.Generator().manual_seed(0)
    cameras = orbit_cameras(0.0, 0.0, 1.3, 50.0, 8)
    kinds = {sample_shading(ShadingConfig(), cameras, step, generator).kind for step in range(0, 1000, 7)}
    assert kinds == {"albedo"}


def test_later_the_kinds_come_in_the_papers_shares():
    generator = torch.Generator().manual_seed(0)
    cameras = orbit_cameras(0.0, 0.0, 1.3, 50.0, 8)
    count = 1500
    samples = [sample_shading(ShadingConfig(), cameras, 1000 + step, generator) for step in range(count)]
    for kind, share in {"albedo": 0.25, "lambertian": 0.375, "textureless": 0.375}.items():
        found = sum(sample.kind == kind for sample in samples) / count
        # Four standard deviations.
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / count)
    assert all((s.ambient, s.diffuse) == (0.1, 0.9) for s in samples if s.kind != "albedo")


def _lights(views=64, draws=40, **changes):
    config = ShadingConfig(albedo_steps=0, shaded_probability=1.0, **changes)
    generator = torch.Generator().manual_seed(1)
    cameras = orbit_cameras(torch.linspace(-180, 170, views), 20.0, 1.4, 50.0, 8)
    lights = [sample_shading(config, cameras, 0, generator).light_position for _ in range(draws)]
    return torch.stack([light for light in lights if light is not None]), cameras.positions


def test_light_distances_are_uniform_in_the_range():
    lights, _ = _lights(light_distance=(0.8, 1.5))
    distances = lights.norm(dim=-1).flatten().sort().values
    expected = torch.linspace(0.8, 1.5, len(distances))
    # Kolmogorov-Smirnov at far below one in a thousand, in units of the range.
    assert ((distances - expected).abs().max() / 0.7) < 2.0 / math.sqrt(len(distances))


def _ball(radius, sigma=100.0):
    return lambda positions: sigma * (positions.norm(dim=-1) < radius)


def _distances(lights, density, radius=1.4):
    return lights_outside(lights.reshape(-1, 3), density, radius).norm(dim=-1)


def test_a_light_inside_something_solid_is_moved_out_of_it_and_no_other():
    lights, _ = _lights(light_distance=(0.8, 1.5))
    before = lights.reshape(-1, 3)
    after = lights_outside(before, _ball(1.0), 1.4)
    inside = before.norm(dim=-1) < 1.0
    assert torch.equal(after[~inside], before[~inside]) and 0.2 < inside.float().mean() < 0.4
    moved = after[inside].norm(dim=-1)
    assert moved.min() >= 1.0 and moved.max() <= 1.0 + 1.4 / 64 + 1e-5
    torch.testing.assert_close(
        torch.nn.functional.normalize(after, dim=-1), torch.nn.functional.normalize(before, dim=-1)
    )


def test_a_light_in_a_hollow_object_is_moved_past_its_shell():
    def shell(positions):
        return 100.0 * ((positions.norm(dim=-1) - 1.2).abs() < 0.05)

    distances = _distances(torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.0, -1.3]]), shell)
    assert 1.25 <= distances[0] < 1.25 + 1.4 / 64
    assert distances[1] == pytest.approx(1.3)


@pytest.mark.parametrize(("fraction", "moves"), [(0.45, False), (0.55, True)])
@pytest.mark.parametrize("radius", [0.5, 1.4, 2.0])
def test_solid_is_what_takes_half_of_the_light_over_a_tenth_of_the_radius(radius, fraction, moves):
    density = _ball(radius, -math.log(1.0 - fraction) / (0.1 * radius))
    light = torch.tensor([[0.6 * radius, 0.0, 0.0]])
    assert (_distances(light, density, radius).item() > 0.9 * radius) == moves


def test_the_papers_lights_are_as_far_away_as_in_the_paper():
    """Nothing of the range is cut off by the ball of radius 1.4 that the scene is in."""
    config = load_config("paper")
    assert config.scene.radius == 1.4
    shading = config.rendering.shading.model_copy(update={"albedo_steps": 0, "shaded_probability": 1.0})
    generator = torch.Generator().manual_seed(2)
    cameras = random_cameras(config.cameras, generator, views=2000)
    lights = sample_shading(shading, cameras, 0, generator).light_position
    assert lights is not None
    distances = ((lights.norm(dim=-1) - 0.8) / 0.7).sort().values
    # Kolmogorov-Smirnov at the 0.1 % level.
    assert (distances - (torch.arange(2000) + 0.5) / 2000).abs().max() < 1.95 / math.sqrt(2000)


def test_the_light_is_around_the_camera_as_far_as_jittered():
    lights, positions = _lights(light_jitter=0.0)
    directions = torch.nn.functional.normalize(lights, dim=-1)
    torch.testing.assert_close(
        directions, torch.nn.functional.normalize(positions, dim=-1).expand_as(directions)
    )
    spread, _ = _lights(light_jitter=1.0)
    cosine = (torch.nn.functional.normalize(spread, dim=-1) * directions).sum(dim=-1)
    # E over x ~ N((1.4, 0, 0), I) of x_0 / |x|, from 20 million draws: 0.6245.
    assert abs(cosine.mean().item() - 0.6245) < 0.02


def test_each_view_has_its_own_light_and_all_the_same_kind():
    lights, _ = _lights()
    assert lights.shape == (40, 64, 3)
    assert (lights[0, 0] - lights[0, 1]).norm() > 1e-3


def test_the_kind_drawn_does_not_change_later_draws():
    after = []
    for probability, albedo_steps in ((0.0, 0), (1.0, 0), (1.0, 100)):
        generator = torch.Generator().manual_seed(3)
        config = ShadingConfig(albedo_steps=albedo_steps, shaded_probability=probability)
        sample_shading(config, orbit_cameras(0.0, 0.0, 1.3, 50.0, 8), 5, generator)
        after.append(generator.get_state())
    assert all(torch.equal(after[0], state) for state in after[1:])


def test_shading_without_a_light_is_refused():
    with pytest.raises(ValueError, match="lambertian"):
        ShadingSample("lambertian")
