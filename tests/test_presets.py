"""Presets against what they name as their source: each number, or the formula that it comes from, stated here anew.

Numbers of threestudio and of SDI's public code are those of threestudio at commit 28d9d80 (dreamfusion-sd.yaml,
dreamfusion-if.yaml, sdi.yaml), where `[start step, start, end, end step]` is a straight line.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from dreamfusion.cameras import Cameras, random_cameras, sample_elevation_deg, sample_fovy_deg
from dreamfusion.config import CameraConfig, ExperimentConfig, HashGridFieldConfig
from dreamfusion.config_files import dump_config, load_config
from dreamfusion.errors import ConfigError
from dreamfusion.rendering.rays import intersect_ball
from dreamfusion.scene.fields import HashGridField
from dreamfusion.training.losses import convexity_loss, entropy_loss

STEPS = range(0, 10_000, 10)


def line(step: int, start: float, end: float, steps: int) -> float:
    return start + (end - start) * min(step / steps, 1.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov at the 0.1 % level."""
    count = len(values)
    places = ((values.double() - low) / (high - low)).sort().values
    assert (places - (torch.arange(count) + 0.5) / count).abs().max() < 1.95 / math.sqrt(count)


# ---------------------------------------------------------------------------------------------- threestudio


def test_hash_levels_come_in_when_threestudios_do() -> None:
    config = load_config("stable-diffusion").scene.field
    assert isinstance(config, HashGridFieldConfig)
    field = HashGridField(config.model_copy(update={"log2_table_size": 8}), 2.0, seeded(0))
    for step in range(10_000):
        assert field.levels_at(step) == min(8 + max(step - 2000, 0) // 500, 16)


@pytest.mark.parametrize(
    ("preset", "values"), [("stable-diffusion", 64 * 64 * 4), ("low-vram", 64 * 64 * 4), ("if", 64 * 64 * 3)]
)
def test_losses_weigh_as_much_as_beside_threestudios_sum(preset: str, values: int) -> None:
    losses = load_config(preset).losses
    for step in STEPS:
        assert losses.orientation.at(step) * values == pytest.approx(line(step, 10.0, 1000.0, 5000), rel=1e-4)
        assert losses.opacity.at(step) * values == pytest.approx(1.0, rel=1e-4)
        assert losses.entropy.at(step) == losses.convexity.at(step) == losses.z_variance.at(step) == 0.0


def test_shading_and_lights_are_threestudios() -> None:
    shading = load_config("stable-diffusion").rendering.shading
    assert shading.albedo_steps == 2001
    assert (shading.shaded_probability, shading.textureless_probability) == (0.75, 0.5)
    assert (shading.ambient, shading.diffuse) == (0.1, 0.9)
    assert (shading.light_distance, shading.light_jitter) == ((0.8, 1.5), 1.0)


@pytest.mark.parametrize("preset", ["stable-diffusion", "fast"])
def test_what_a_shorter_run_scales_keeps_its_share_of_the_run(preset: str) -> None:
    config, whole = load_config(preset), load_config("stable-diffusion")
    assert isinstance(config.scene.field, HashGridFieldConfig)
    assert isinstance(whole.scene.field, HashGridFieldConfig)
    share = config.training.steps / whole.training.steps
    assert config.scene.field.level_from == 2500 * share
    assert config.scene.field.level_every == 500 * share
    assert config.rendering.shading.albedo_steps == pytest.approx(2000 * share, abs=1)
    for step in STEPS:
        here = config.losses.orientation.at(round(step * share))
        assert here == pytest.approx(whole.losses.orientation.at(step), rel=1e-9)


def test_the_fast_presets_timesteps_are_hifas() -> None:
    """One timestep, at 0.98 - (0.98 - 0.3) sqrt(elapsed share): both ends fall together."""
    config = load_config("fast")
    for step in range(config.training.steps):
        expected = 0.3 + (0.98 - 0.3) * (1.0 - math.sqrt(step / config.training.steps))
        ends = config.guidance.timestep_min.at(step), config.guidance.timestep_max.at(step)
        assert ends == pytest.approx((expected, expected), abs=1e-12)


# ---------------------------------------------------------------------------------------- SDI's public code


def test_the_quality_presets_weights_are_sdis() -> None:
    config = load_config("quality")
    assert config.training.steps == 10_000
    for step in STEPS:
        losses = config.losses
        assert losses.orientation.at(step) == 0.1
        assert losses.opacity.at(step) == pytest.approx(line(step, 0.15, 0.0, 3000), abs=1e-12)
        assert losses.z_variance.at(step) == 1.0
        assert losses.convexity.at(step) == pytest.approx(0.3 * line(step, 1.0, 0.1, 4000), rel=1e-9)
        timestep = line(step, 0.98, 0.25, 10_000)
        ends = config.guidance.timestep_min.at(step), config.guidance.timestep_max.at(step)
        assert ends == pytest.approx((timestep, timestep), abs=1e-12)
    shading = config.rendering.shading
    assert shading.albedo_steps == 1000
    assert (shading.shaded_probability, shading.textureless_probability) == (0.3, 0.75)
    assert (shading.light_distance, shading.light_jitter) == ((0.8, 1.5), 1.0)
    guidance = config.guidance
    assert guidance.perp_neg and guidance.weighting == "denoised" and guidance.guidance_scale == 7.5
    assert guidance.objective.kind == "sdi"
    assert (guidance.objective.inversion_steps, guidance.objective.eta) == (10, 0.3)


def test_the_quality_presets_entropy_is_sdis_in_bits() -> None:
    opacity = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    there = 0.1 * F.binary_cross_entropy(opacity, opacity)
    here = load_config("quality").losses.entropy.at(0) * entropy_loss(opacity)
    assert here.item() == pytest.approx(there.item(), rel=1e-3)


def ball_normals(cameras: Cameras, radius: float) -> tuple[Tensor, Tensor]:
    rays_o, rays_d = cameras.rays()
    near, far = intersect_ball(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3), radius)
    hit = (far > near).view(rays_d.shape[:3]).float()
    points = rays_o + near.view(rays_d.shape[:3])[..., None] * rays_d
    return F.normalize(points, dim=-1) * hit[..., None], hit


def public_turn_across(normals: Tensor, opacity: Tensor) -> float:
    """SDI's convexity from left to right: normals as colours, picked at 8x8 places, around the vertical axis."""
    colours = (0.5 * (normals + 1.0) * opacity[..., None]).permute(0, 3, 1, 2)
    picked = F.interpolate(colours, (8, 8), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    return torch.linalg.cross(picked[:, :, :-1], picked[:, :, 1:])[..., 1].mean().item()


@pytest.mark.parametrize("radius", [0.3, 0.5, 0.8])
def test_convexity_weighs_as_much_as_sdis_on_a_ball(radius: float) -> None:
    config = load_config("quality")
    # Views of one batch stand all around: what colours add to the turn, for they lean to one side, cancels.
    cameras = random_cameras(config.cameras, seeded(4), views=400, resolution=64)
    normals, opacity = ball_normals(cameras, radius)
    there = 1.0 * public_turn_across(normals, opacity)
    # Half of it: from top to bottom a ball turns as much, which the public code hardly sees.
    here = -0.5 * config.losses.convexity.at(0) * convexity_loss(normals, opacity, cameras.c2w).item()
    assert 1.0 < here / there < 1.3


# ------------------------------------------------------------------------------------------------ the paper


def paper_cameras(count: int) -> tuple[CameraConfig, Cameras]:
    config = load_config("paper").cameras
    return config, random_cameras(config, seeded(1), views=count)


def test_the_papers_focal_length_is_uniform_in_image_widths() -> None:
    _, cameras = paper_cameras(20_000)
    focal = 0.5 / torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)
    assert_uniform(focal, 0.7, 1.35)
    # The mean of 2 atan(1 / (2 f)) over 0.7 to 1.35 is 53.27 degrees; that of a uniform field of view would be 56.
    assert cameras.fovy_deg.mean().item() == pytest.approx(53.27, abs=0.3)


def test_half_of_the_papers_cameras_are_uniform_on_the_upper_half_sphere() -> None:
    config, count = load_config("paper").cameras, 20_000
    elevation = sample_elevation_deg(config, count, seeded(2))
    below = (elevation < 0).float().mean().item()
    # Half of the cameras are uniform in angle, a tenth of them below the horizon.
    assert below == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / count))
    assert elevation.min() >= -10.0 and elevation.max() <= 90.0
    area = config.model_copy(update={"uniform_area_probability": 1.0})
    assert_uniform(torch.sin(torch.deg2rad(sample_elevation_deg(area, count, seeded(3)))), 0.0, 1.0)
    angle = config.model_copy(update={"uniform_area_probability": 0.0})
    assert_uniform(sample_elevation_deg(angle, count, seeded(3)), -10.0, 90.0)


def test_the_papers_other_cameras_are_uniform() -> None:
    config = load_config("paper").cameras
    still = config.model_copy(update={"position_jitter": 0.0})
    cameras = random_cameras(still, seeded(5), views=5000)
    assert_uniform(cameras.distance, 1.0, 1.5)
    assert_uniform(cameras.azimuth_deg, -180.0, 180.0)
    assert (config.position_jitter, config.target_jitter, config.up_jitter) == (0.1, 0.2, 0.02)


# ------------------------------------------------------------------------------------- the new camera keys


def test_without_the_new_keys_cameras_are_as_they_were() -> None:
    config = CameraConfig.model_validate({"elevation_deg": [-20, 50], "fovy_deg": [30, 50]})
    old = seeded(7)
    by_angle = -20.0 + 70.0 * torch.rand(9, generator=old)
    low, high = math.sin(math.radians(-20.0)), math.sin(math.radians(50.0))
    by_area = torch.rad2deg(torch.asin(low + (high - low) * torch.rand(9, generator=old)))
    expected = torch.where(torch.rand(9, generator=old) < 0.5, by_area, by_angle)
    new = seeded(7)
    torch.testing.assert_close(sample_elevation_deg(config, 9, new), expected)
    torch.testing.assert_close(sample_fovy_deg(config, 9, new), 30.0 + 20.0 * torch.rand(9, generator=old))


def test_both_kinds_of_lens_draw_as_many_numbers() -> None:
    after = []
    for lens in ({"focal_length": [0.7, 1.35]}, {"fovy_deg": [40, 50]}):
        generator = seeded(1)
        random_cameras(CameraConfig.model_validate(lens), generator, views=3)
        after.append(generator.get_state())
    assert torch.equal(*after)


def test_the_field_of_view_follows_from_the_focal_length_and_survives_the_runs_file(tmp_path) -> None:
    config = load_config("paper")
    low, high = config.cameras.fovy_deg
    assert 0.5 / math.tan(math.radians(low) / 2) == pytest.approx(1.35)
    assert 0.5 / math.tan(math.radians(high) / 2) == pytest.approx(0.7)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file) == config


@pytest.mark.parametrize("change", ["cameras.fovy_deg=[40, 50]", "cameras.focal_length=[2.0, 1.0]"])
def test_two_fields_of_view_are_refused_by_name(change: str) -> None:
    with pytest.raises(ConfigError, match="focal_length"):
        load_config("paper", [change])


def test_either_lens_can_be_taken_in_the_others_place() -> None:
    own = load_config("paper", ["cameras.focal_length=null", "cameras.fovy_deg=[40, 50]"])
    assert (own.cameras.fovy_deg, own.cameras.focal_length) == ((40.0, 50.0), None)
    with pytest.raises(ConfigError, match="fovy_deg and focal_length"):
        load_config("stable-diffusion", ["cameras.focal_length=[1, 1]"])
    focal = load_config("stable-diffusion", ["cameras.fovy_deg=null", "cameras.focal_length=[1, 1]"])
    assert focal.cameras.fovy_deg == pytest.approx((53.13, 53.13), abs=0.01)


@pytest.mark.parametrize(
    "cameras",
    [
        {"focal_length": [0.0, 1.0]},
        {"focal_length": [1.0]},
        {"focal_length": 1.0},
        {"focal_length": ["a", "b"]},
        {"focal_length": [1.0, 1.0], "fovy_deg": 40.0},
        {"fovy_deg": None},
        {"uniform_area_elevation_deg": [10.0, 100.0]},
    ],
)
def test_broken_lenses_are_told_at_their_place(cameras: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as error:
        ExperimentConfig.model_validate({"cameras": cameras})
    assert next(iter(cameras)) in str(error.value) or "fovy_deg" in str(error.value)
