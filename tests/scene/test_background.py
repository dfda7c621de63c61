from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dreamfusion.config import (
    AugmentedBackgroundConfig,
    EnvironmentBackgroundConfig,
    RandomBackgroundConfig,
    SolidBackgroundConfig,
)
from dreamfusion.scene.background import _blurred, make_background


def _rays(generator: torch.Generator, views: int = 3) -> torch.Tensor:
    rays_d = torch.randn(views, 4, 5, 3, generator=generator)
    return rays_d / rays_d.norm(dim=-1, keepdim=True)


def test_solid_is_its_colour_everywhere(generator):
    background = make_background(SolidBackgroundConfig(rgb=(0.1, 0.5, 1.0)), generator)
    for drawn in (generator, None):
        rgb = background(_rays(generator), drawn)
        assert rgb.shape == (3, 4, 5, 3)
        torch.testing.assert_close(rgb, torch.tensor([0.1, 0.5, 1.0]).expand(3, 4, 5, 3))
    assert background.parameter_groups() == [] and background.state_dict() == {}


def test_random_is_one_colour_per_view_and_another_per_step(generator):
    config = RandomBackgroundConfig(low=0.2, high=0.7, eval_rgb=(0.0, 0.25, 0.5))
    background, rays_d = make_background(config, generator), _rays(generator, 64)
    drawn = torch.Generator().manual_seed(1)
    first, second = background(rays_d, drawn), background(rays_d, drawn)
    assert torch.equal(first, first[:, :1, :1].expand_as(first))
    assert not torch.equal(first, second)
    assert len(first[:, 0, 0].unique(dim=0)) == 64
    assert first.min() >= 0.2 and first.max() <= 0.7
    assert first.min() < 0.25 and first.max() > 0.65
    assert torch.equal(background(rays_d, torch.Generator().manual_seed(1)), first)


def test_random_is_fixed_in_evaluation(generator):
    background = make_background(RandomBackgroundConfig(eval_rgb=(0.0, 0.25, 0.5)), generator)
    rgb = background(_rays(generator), None)
    torch.testing.assert_close(rgb, torch.tensor([0.0, 0.25, 0.5]).expand_as(rgb))


def test_environment_depends_on_the_direction_alone_and_learns(generator):
    background = make_background(EnvironmentBackgroundConfig(width=16), generator)
    rays_d = _rays(generator)
    rgb = background(rays_d, generator)
    assert (rgb > 0).all() and (rgb < 1).all() and rgb.std() > 1e-3
    assert torch.equal(background(rays_d, None), rgb)
    torch.testing.assert_close(background(rays_d.flip(1), None), rgb.flip(1))
    (group,) = background.parameter_groups()
    assert group["lr_scale_key"] == "background"
    optimizer = torch.optim.Adam(background.parameters(), lr=3e-2)
    # A sky that is blue above and green below.
    target = torch.where(rays_d[..., 1:2] > 0, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0]))
    for _ in range(80):
        optimizer.zero_grad()
        loss = (background(rays_d, generator) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize(
    "config", [EnvironmentBackgroundConfig(), RandomBackgroundConfig(), SolidBackgroundConfig()]
)
def test_same_seed_gives_the_same_weights(config):
    first, second = (make_background(config, torch.Generator().manual_seed(5)) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_an_augmented_background_is_one_of_three_and_white_in_pictures() -> None:
    config = AugmentedBackgroundConfig(blur_std=0.0, squares=4)
    background = make_background(config, torch.Generator().manual_seed(0))
    rays_d = torch.nn.functional.normalize(torch.ones(30, 16, 16, 3), dim=-1)
    textures = background(rays_d, torch.Generator().manual_seed(1))
    assert textures.shape == rays_d.shape and textures.min() >= 0 and textures.max() <= 1
    colours = [len(torch.unique(texture.reshape(-1, 3), dim=0)) for texture in textures]
    boards = [texture for texture, count in zip(textures, colours, strict=True) if count == 2]
    assert 3 <= len(boards) <= 20
    # Squares of four pixels, alternating.
    board = boards[0]
    assert torch.equal(board[0, 0], board[3, 3]) and torch.equal(board[0, 0], board[4, 4])
    assert not torch.equal(board[0, 0], board[0, 4])
    # Of the others, white noise jumps from pixel to pixel, and the Fourier textures do not.
    jumps = [(t[1:] - t[:-1]).abs().mean().item() for t, c in zip(textures, colours, strict=True) if c > 2]
    assert min(jumps) < 0.2 < 0.28 < max(jumps)
    blurred = make_background(AugmentedBackgroundConfig(), torch.Generator())
    smooth = blurred(rays_d, torch.Generator().manual_seed(1))
    assert (smooth[:, 1:] - smooth[:, :-1]).abs().mean() < 0.3 * (
        textures[:, 1:] - textures[:, :-1]
    ).abs().mean()
    assert torch.equal(background(rays_d, None), torch.ones_like(rays_d))
    assert background.parameter_groups() == []


def test_each_texture_is_blurred_by_its_own_gaussian_over_repeated_edges() -> None:
    """The slow twin is one 15 x 15 convolution in float64."""
    textures = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(2))
    stds = torch.tensor([0.0, 1.5, 8.0])
    blurred = _blurred(textures, stds, 15)
    assert torch.equal(blurred[0], textures[0])
    for index in (1, 2):
        offsets = torch.arange(-7, 8).double()
        line = torch.exp(-offsets.square() / (2 * stds[index].double() ** 2))
        kernel = line[:, None] * line
        padded = F.pad(textures[index, :, None].double(), [7] * 4, mode="replicate")
        wanted = F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]
        torch.testing.assert_close(blurred[index], wanted.float())
