"""Field query, ray marching, compositing, and pictures in each shading: `make bench`."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.config import GridsFieldConfig, HashGridFieldConfig, MLPFieldConfig
from dreamfusion.rendering.compositing import composite
from dreamfusion.rendering.marching import march
from dreamfusion.rendering.shading import ALBEDO, ShadingKind, ShadingSample
from dreamfusion.scene.fields import make_field

POINTS = 50_000


@pytest.mark.parametrize("kind", ["grids", "hashgrid", "mlp"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
def test_field_query(benchmark, kind, backward):
    config = {"grids": GridsFieldConfig(), "hashgrid": HashGridFieldConfig(), "mlp": MLPFieldConfig()}[kind]
    field = make_field(config, 1.0, torch.Generator().manual_seed(0))
    positions = 2 * torch.rand(POINTS, 3, generator=torch.Generator().manual_seed(1)) - 1

    def query():
        with torch.set_grad_enabled(backward):
            output = field(positions)
            if backward:
                (output.sigmas.sum() + output.albedo.sum()).backward()

    benchmark.extra_info["points"] = POINTS
    benchmark.pedantic(query, rounds=3, warmup_rounds=1)


def test_ray_marching(benchmark, fitted):
    rays_o, rays_d = (rays.flatten(0, 2) for rays in fitted.camera.rays())
    samples = benchmark(
        march,
        rays_o,
        rays_d,
        fitted.renderer.scene.radius,
        fitted.config.rendering.samples_per_ray,
        fitted.renderer.occupancy,
    )
    benchmark.extra_info["samples"] = len(samples)


def test_compositing(benchmark, fitted):
    rays_o, rays_d = (rays.flatten(0, 2) for rays in fitted.camera.rays())
    samples = march(rays_o, rays_d, fitted.renderer.scene.radius, fitted.config.rendering.samples_per_ray)
    sigmas = torch.rand(len(samples), generator=torch.Generator().manual_seed(0))
    benchmark.extra_info["samples"] = len(samples)
    benchmark(composite, sigmas, samples)


def _shading(kind: ShadingKind) -> ShadingSample:
    if kind == "albedo":
        return ALBEDO
    return ShadingSample(kind, torch.tensor([[1.0, 1.5, 1.5]]), ambient=0.1, diffuse=0.9)


@pytest.mark.parametrize("kind", ["albedo", "lambertian", "textureless"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
def test_render_64(benchmark, fitted, kind, backward):
    shading = _shading(kind)

    def render():
        with torch.set_grad_enabled(backward):
            output = fitted.renderer.render(
                fitted.camera, shading, rays_generator=torch.Generator().manual_seed(0)
            )
            if backward:
                output.rgb.sum().backward()

    benchmark.pedantic(render, rounds=15, warmup_rounds=2)


def test_picture_512(benchmark, fitted):
    camera = fitted.camera.resized(512, 512)
    benchmark.pedantic(fitted.renderer.render_image, (camera,), rounds=3, warmup_rounds=1)
