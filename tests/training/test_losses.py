"""Each loss against its formula written out slowly, its limits, and the direction in which it pushes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamfusion.config import LossConfig
from dreamfusion.rendering.marching import PackedSamples
from dreamfusion.rendering.renderer import RenderOutput
from dreamfusion.training.losses import (
    convexity_loss,
    entropy_loss,
    needs_normals,
    opacity_loss,
    orientation_loss,
    total_loss,
    transmittance_loss,
    weighted_losses,
    z_variance_loss,
)

POSE = torch.eye(4)[None]


def samples(generator: torch.Generator, n: int = 40, rays: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = torch.rand(n, generator=generator, dtype=torch.float64)
    normals = torch.nn.functional.normalize(
        torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    rays_d = torch.nn.functional.normalize(
        torch.randn(rays, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    ray_indices = (
        torch.randint(0, rays - 1, (n,), generator=generator).sort().values
    )  # the last ray has no sample
    return weights, normals, rays_d, ray_indices


def test_orientation_against_its_formula(generator: torch.Generator) -> None:
    weights, normals, rays_d, ray_indices = samples(generator)
    expected = 0.0
    for ray in range(len(rays_d)):
        for i in range(len(weights)):
            if ray_indices[i] == ray:
                cosine = sum(float(normals[i, k] * rays_d[ray, k]) for k in range(3))
                expected += float(weights[i]) * max(0.0, cosine) ** 2
    got = orientation_loss(weights, normals, rays_d, ray_indices)
    assert got.item() == pytest.approx(expected / len(rays_d), rel=1e-12)


def test_orientation_is_zero_for_a_ball_seen_from_outside_and_not_from_inside() -> None:
    rays_d = torch.tensor([[0.0, 0.0, -1.0]])
    towards_camera = torch.tensor([[0.0, 0.6, 0.8]])
    one = torch.ones(1)
    index = torch.zeros(1, dtype=torch.int64)
    assert orientation_loss(one, towards_camera, rays_d, index).item() == 0.0
    assert orientation_loss(one, -towards_camera, rays_d, index).item() == pytest.approx(0.64)


def test_orientation_turns_normals_and_leaves_weights_alone(generator: torch.Generator) -> None:
    weights, normals, rays_d, ray_indices = samples(generator)
    for each in (weights, normals):
        each.requires_grad_()
    orientation_loss(weights, normals, rays_d, ray_indices).backward()
    assert weights.grad is None
    assert normals.grad is not None and normals.grad.abs().sum() > 0


def test_orientation_gradcheck(generator: torch.Generator) -> None:
    weights, normals, rays_d, ray_indices = samples(generator, n=8)
    normals.requires_grad_()
    assert torch.autograd.gradcheck(lambda n: orientation_loss(weights, n, rays_d, ray_indices), (normals,))


def test_opacity_against_its_formula_and_its_ends(generator: torch.Generator) -> None:
    opacity = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = sum(math.sqrt(o * o + 0.01) for o in opacity.flatten().tolist()) / 50
    assert opacity_loss(opacity).item() == pytest.approx(expected, rel=1e-12)
    assert opacity_loss(torch.zeros(3)).item() == pytest.approx(0.1)
    assert torch.autograd.gradcheck(opacity_loss, (opacity,))


def test_entropy_is_in_bits_symmetric_and_finite_at_the_ends(generator: torch.Generator) -> None:
    opacity = torch.rand(50, generator=generator, dtype=torch.float64)
    expected = sum(-o * math.log2(o) - (1 - o) * math.log2(1 - o) for o in opacity.tolist()) / 50
    assert entropy_loss(opacity).item() == pytest.approx(expected, rel=1e-9)
    assert entropy_loss(1 - opacity).item() == pytest.approx(expected, rel=1e-9)
    assert entropy_loss(torch.full((3,), 0.5)).item() == pytest.approx(1.0)
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    entropy_loss(ends).backward()
    assert entropy_loss(ends).item() < 1e-3
    assert ends.grad is not None and bool(ends.grad.isfinite().all())


def test_entropy_pushes_away_from_one_half() -> None:
    opacity = torch.tensor([0.3, 0.7], requires_grad=True)
    entropy_loss(opacity).backward()
    assert opacity.grad is not None and opacity.grad[0] > 0 > opacity.grad[1]


def rendered(generator: torch.Generator, with_normals: bool) -> RenderOutput:
    image = torch.rand(1, 2, 3, 3, generator=generator)
    weights = torch.rand(9, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator), dim=-1)
    rays_d = torch.nn.functional.normalize(torch.randn(1, 2, 3, 3, generator=generator), dim=-1)
    packed = PackedSamples(torch.arange(9) // 2, torch.zeros(9), torch.ones(9), 6)
    plane = image[..., 0]
    return RenderOutput(
        rgb=image,
        foreground_rgb=image,
        opacity=plane,
        distance=plane,
        depth=plane,
        background=image,
        normals=None,
        rays_d=rays_d,
        samples=packed,
        weights=weights,
        sigmas=weights,
        sample_normals=normals if with_normals else None,
    )


def test_only_losses_with_a_weight_at_this_step_are_computed(generator: torch.Generator) -> None:
    config = LossConfig.model_validate(
        {"opacity": {"kind": "linear", "start": 0, "end": 2, "steps": 10}, "entropy": 0.5}
    )
    output = rendered(generator, with_normals=False)
    assert weighted_losses(config, output, POSE, 0).keys() == {"entropy"}
    found = weighted_losses(config, output, POSE, 5)
    assert {name: weight for name, (weight, _) in found.items()} == {"opacity": 1.0, "entropy": 0.5}
    expected = 3.0 + opacity_loss(output.opacity) + 0.5 * entropy_loss(output.opacity)
    assert total_loss(torch.tensor(3.0), found).item() == pytest.approx(expected.item())
    assert total_loss(torch.tensor(3.0), {}).item() == 3.0


def test_orientation_uses_each_samples_own_ray(generator: torch.Generator) -> None:
    config = LossConfig.model_validate({"orientation": 0.1})
    output = rendered(generator, with_normals=True)
    assert output.weights is not None and output.sample_normals is not None and output.samples is not None
    weight, loss = weighted_losses(config, output, POSE, 0)["orientation"]
    flat = output.rays_d.reshape(-1, 3)
    cosines = (output.sample_normals * flat[output.samples.ray_indices]).sum(-1).clamp(min=0)
    assert weight == 0.1
    assert loss.item() == pytest.approx((output.weights * cosines**2).sum().item() / 6, rel=1e-5)
    with pytest.raises(ValueError, match="with_normals"):
        weighted_losses(config, rendered(generator, with_normals=False), POSE, 0)


def test_light_is_wanted_up_to_the_target_and_no_further() -> None:
    opacity = torch.full((4, 4), 0.7, requires_grad=True)
    loss = transmittance_loss(opacity, 0.5)
    assert loss.item() == pytest.approx(-0.3)
    loss.backward()
    assert opacity.grad is not None
    torch.testing.assert_close(opacity.grad, torch.full((4, 4), 1 / 16))
    clear = torch.full((4, 4), 0.1, requires_grad=True)
    loss = transmittance_loss(clear, 0.5)
    assert loss.item() == pytest.approx(-0.5)
    loss.backward()
    assert clear.grad is not None and clear.grad.abs().max() == 0
    # It is the mean over all rays that has a target, and not each ray: half of them are dark here.
    assert transmittance_loss(torch.tensor([0.0, 1.0]), 0.4).item() == pytest.approx(-0.4)


def bulge(side: int, depth: float, height: int = 0) -> Tensor:
    """Normals in the camera's frame of z = depth (1 - x^2 - y^2) / 2: with depth below 0 a hollow."""
    rows, columns = height or side, side
    y, x = torch.meshgrid(
        1 - 2 * (torch.arange(rows) + 0.5) / rows, 2 * (torch.arange(columns) + 0.5) / columns - 1, indexing="ij"
    )  # fmt: skip
    normals = torch.stack([depth * x, depth * y, torch.ones_like(x)], dim=-1).double()
    return torch.nn.functional.normalize(normals, dim=-1)[None]


def tilted() -> Tensor:
    """A camera that looks from above and from the side, rolled: no axis of its own is one of the world's."""
    rotation = torch.linalg.qr(draws(3, 3, seed=3)).Q
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = rotation * torch.linalg.det(rotation).sign()
    return c2w[None]


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("depth", [0.7, -0.7])
def test_convexity_against_its_formula_from_any_side(depth: float) -> None:
    c2w, opacity = tilted(), draws(1, 8, 8, seed=4).sigmoid()
    in_camera = bulge(8, depth)
    world = in_camera @ c2w[0, :3, :3].T
    n = [[opacity[0, i, j] * in_camera[0, i, j] for j in range(8)] for i in range(8)]
    # Around the camera's up axis from left to right, around its right axis from top to bottom.
    turns = [
        float(sum(n[i][j][2] * n[i][j + 1][0] - n[i][j][0] * n[i][j + 1][2] for i in range(8) for j in range(7))),
        float(sum(n[i][j][1] * n[i + 1][j][2] - n[i][j][2] * n[i + 1][j][1] for i in range(7) for j in range(8))),
    ]  # fmt: skip
    got = convexity_loss(world, opacity, c2w)
    assert got.item() == pytest.approx(-sum(turns) / 56, rel=1e-9)
    assert got.item() * depth < 0


def test_convexity_looks_at_a_coarse_picture_and_wants_a_bulge(generator: torch.Generator) -> None:
    ones = torch.ones(1, 64, 64, dtype=torch.float64)
    # A bulge with fine ripples, which the average takes away.
    ripples = torch.zeros(1, 64, 64, 3, dtype=torch.float64)
    ripples[..., 0] = 0.5 * (-1.0) ** torch.arange(64)
    smooth = convexity_loss(bulge(64, 0.7), ones, POSE.double())
    assert convexity_loss(bulge(64, 0.7) + ripples, ones, POSE.double()) == pytest.approx(smooth.item())
    assert convexity_loss(bulge(64, 0.0), ones, POSE.double()).item() == pytest.approx(0.0, abs=1e-12)
    normals = bulge(16, 0.01).requires_grad_()
    opacity = torch.full((1, 16, 16), 0.5, dtype=torch.float64, requires_grad=True)
    loss = convexity_loss(normals, opacity, POSE.double())
    (downhill,) = torch.autograd.grad(loss, normals)
    assert convexity_loss(normals - 5 * downhill, opacity, POSE.double()) < loss
    assert not torch.autograd.grad(loss * opacity.sum() * 0 + loss, opacity, allow_unused=True)[0].any()


def test_convexity_needs_normals(generator: torch.Generator) -> None:
    config = LossConfig.model_validate({"convexity": {"kind": "linear", "start": 0, "end": 1, "steps": 10}})
    assert [needs_normals(config, step) for step in (0, 1)] == [False, True]
    assert needs_normals(LossConfig.model_validate({"orientation": 0.1}), 0)
    output = rendered(generator, with_normals=True)
    with pytest.raises(ValueError, match=r"convexity .*with_normals"):
        weighted_losses(config, output, POSE, 1)
    seen = replace(output, normals=torch.nn.functional.normalize(output.rgb, dim=-1))
    weight, loss = weighted_losses(config, seen, POSE, 1)["convexity"]
    assert weight == pytest.approx(0.1)
    assert seen.normals is not None
    assert loss == convexity_loss(seen.normals, seen.opacity, POSE)


def packed(generator: torch.Generator, rays: int = 6) -> tuple[Tensor, PackedSamples, Tensor]:
    """Samples of rays of which the last has none and the first little, with their weights and the rays' opacity."""
    indices = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4])
    starts = torch.rand(9, generator=generator, dtype=torch.float64)
    weights = torch.rand(9, generator=generator, dtype=torch.float64) * 0.2 + 0.3
    weights[indices == 0] *= 0.1
    opacity = torch.zeros(rays, dtype=torch.float64).index_add(0, indices, weights)
    return weights, PackedSamples(indices, starts, starts + 0.1, rays), opacity


def test_z_variance_against_its_formula(generator: torch.Generator) -> None:
    weights, samples, opacity = packed(generator)
    found = []
    for ray in range(6):
        own = [i for i in range(9) if samples.ray_indices[i] == ray]
        if float(opacity[ray]) <= 0.5:
            continue
        at = [float(samples.t_starts[i]) + 0.05 for i in own]
        shares = [float(weights[i] / opacity[ray]) for i in own]
        mean = sum(w * t for w, t in zip(shares, at, strict=True))
        found.append(sum(w * (t - mean) ** 2 for w, t in zip(shares, at, strict=True)))
    assert 1 < len(found) < 5
    got = z_variance_loss(weights, samples, opacity)
    assert got.item() == pytest.approx(sum(found) / len(found), rel=1e-9)
    assert z_variance_loss(weights, samples, 0.1 * opacity).item() == 0.0
    assert torch.autograd.gradcheck(
        lambda w: z_variance_loss(w, samples, torch.zeros(6).double().index_add(0, samples.ray_indices, w)),
        (weights.clone().requires_grad_(),),
    )


def test_z_variance_gathers_what_a_ray_sees_and_does_not_change_with_the_distance() -> None:
    weights = torch.tensor([0.4, 0.5], requires_grad=True)
    near, far = (
        z_variance_loss(
            weights,
            PackedSamples(
                torch.zeros(2, dtype=torch.int64), torch.tensor([d, d + 2.0]), torch.tensor([d, d + 2.0]), 1
            ),
            weights.sum()[None],
        )
        for d in (0.0, 5.0)
    )
    assert near.item() == pytest.approx(4.0 * 0.4 * 0.5 / 0.9**2)
    torch.testing.assert_close(near, far)
    near.backward()
    assert weights.grad is not None and weights.grad[0] > 0 > weights.grad[1]


def test_z_variance_is_computed_when_weighed(generator: torch.Generator) -> None:
    config = LossConfig.model_validate({"z_variance": 0.5})
    output = rendered(generator, with_normals=False)
    assert output.weights is not None and output.samples is not None
    weight, loss = weighted_losses(config, output, POSE, 0)["z_variance"]
    assert weight == 0.5 and loss == z_variance_loss(output.weights, output.samples, output.opacity)
    with pytest.raises(ValueError, match="z variance"):
        weighted_losses(config, replace(output, samples=None), POSE, 0)


def test_every_weight_and_the_target_are_those_of_the_step(generator: torch.Generator) -> None:
    rising = {"kind": "linear", "start": 0.0, "end": 1.0, "steps": 4}
    target = {"kind": "linear", "start": 0.0, "end": 0.2, "steps": 4}
    names = LossConfig.model_fields.keys() - {"transmittance_target"}
    config = LossConfig.model_validate(dict.fromkeys(names, rising) | {"transmittance_target": target})
    output = rendered(generator, with_normals=True)
    output = replace(
        output, normals=torch.nn.functional.normalize(output.rgb, dim=-1), opacity=0.1 * output.opacity
    )
    assert weighted_losses(config, output, POSE, 0) == {}
    for step in (1, 3, 4, 9):
        found = weighted_losses(config, output, POSE, step)
        assert {name: weight for name, (weight, _) in found.items()} == dict.fromkeys(
            names, min(step / 4, 1.0)
        )
        # Nine tenths of the light pass, so it is the target that counts.
        assert found["transmittance"][1].item() == pytest.approx(-0.2 * min(step / 4, 1.0))
