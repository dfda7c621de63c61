"""Comparisons with true scenes: silhouettes, backdrops, and the side that a picture shows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dreamfusion.cameras import orbit_cameras, turntable_cameras
from dreamfusion.evaluation.ground_truth import (
    foreground,
    silhouette_iou,
    silhouettes,
    thumbnails,
    true_renders,
    view_bank,
)
from dreamfusion.evaluation.text_scores import BACKDROPS, CONTRAST, before_backdrop
from dreamfusion.miniature.dataset import draw
from dreamfusion.miniature.ground_truth import World, open_world


@pytest.fixture(scope="module")
def world() -> World:
    return open_world("core")


# --------------------------------------------------------------------------------------------- silhouettes


def test_iou_is_meaned_over_views_and_finds_the_nearest() -> None:
    def rows(first: int, last: int) -> torch.Tensor:
        mask = torch.zeros(10, 10, dtype=torch.bool)
        mask[first:last] = True
        return mask

    mask = torch.stack([rows(0, 4), rows(0, 6)])
    truths = torch.stack([torch.stack([rows(0, 4), rows(3, 9)]), torch.stack([rows(4, 8), rows(0, 0)]), mask])
    torch.testing.assert_close(silhouette_iou(mask, truths), torch.tensor([(1 + 3 / 9) / 2, 0.0, 1.0]))
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(silhouette_iou(nothing, nothing[None]), torch.ones(1))


def test_silhouettes_are_what_the_pictures_cover(world: World) -> None:
    scenes = world.scenes(world.lexicon.parse("a duck on a table"), 2)
    cameras = turntable_cameras(3, 30.0, 2.5, 43.5, 48)
    masks = silhouettes(scenes, cameras)
    fine = draw([scenes[1]] * 3, cameras, torch.zeros(3, 48, 48, 3), supersample=4).opacity
    assert masks.shape == (2, 3, 48, 48) and not torch.equal(masks[0], masks[1])
    sure = (fine < 0.1) | (fine > 0.9)
    assert torch.equal(masks[1][sure], (fine > 0.5)[sure])
    # The same things in other proportions are nearer than another thing.
    other = silhouettes(world.scenes(world.lexicon.parse("a lighthouse"), 1), cameras)
    assert silhouette_iou(masks[0], masks[1:])[0] > silhouette_iou(masks[0], other)[0] + 0.2


# ----------------------------------------------------------------------------------------------- backdrops


def test_the_backdrop_is_a_gray_that_the_object_is_not() -> None:
    opacity = torch.zeros(2, 8, 8)
    opacity[:, 2:6, 2:6] = 1.0
    usual, darker, white = BACKDROPS

    def behind(rgb: tuple[float, ...], share: float = 1.0) -> float:
        foreground = torch.zeros(2, 8, 8, 3)
        foreground[:, 2:6, 2:6] = torch.tensor([0.9, 0.1, 0.1])
        foreground[:, 2 : 2 + round(4 * share), 2:6] = torch.tensor(rgb)
        seen = before_backdrop(foreground, opacity)
        corners = seen[opacity == 0]
        assert (corners == corners[0, 0]).all()
        torch.testing.assert_close(seen[opacity == 1], foreground[opacity == 1])
        return float(corners[0, 0])

    assert behind((0.95, 0.95, 0.95)) == usual  # white things, which white would swallow
    assert behind((0.9, 0.1, 0.1)) == usual
    assert behind((usual + CONTRAST / 2,) * 3) == darker
    # Half in each of the first two: the third.
    both = torch.full((2, 8, 8, 3), usual)
    both[:, 4:] = darker
    assert float(before_backdrop(both * opacity[..., None], opacity)[0, 0, 0, 0]) == white
    # One channel that differs is enough.
    assert behind((usual, usual, 0.2)) == usual
    assert behind((usual,) * 3, share=0.25) == darker
    # What is half seen through has its own colour all the same.
    thin = 0.6 * opacity
    assert float(before_backdrop(usual * thin[..., None].expand(2, 8, 8, 3), thin)[0, 0, 0, 0]) == darker
    haze = before_backdrop(torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4))
    assert (haze == usual).all()


def test_true_plaster_is_white_and_lit_from_the_camera(world: World) -> None:
    (ball,) = world.scenes(world.lexicon.parse("a red ball"), 1)
    seen = true_renders(ball, 2.5, 43.5, 64)
    assert seen.geometry is not None and seen.colour.shape == seen.geometry.shape == (8, 64, 64, 3)
    middle, covered = seen.geometry[:, 30:34, 30:34], seen.opacity == 1
    torch.testing.assert_close(middle, torch.ones_like(middle), atol=0.03, rtol=0)
    # At the rim the light grazes it: 0.1 is left.
    assert 0.1 <= float(seen.geometry[covered].min()) < 0.45
    assert (seen.geometry[covered].std(-1) < 1e-6).all()
    assert (seen.colour[:, 30:34, 30:34, 0] > seen.colour[:, 30:34, 30:34, 1] + 0.3).float().mean() > 0.3


# --------------------------------------------------------------------------------------------------- views


def test_a_thumbnail_forgets_place_size_brightness_and_background(world: World) -> None:
    (scene,) = world.scenes(world.lexicon.parse("a robot"), 1)

    def picture(distance: float, gray: float) -> tuple[torch.Tensor, torch.Tensor]:
        cameras = orbit_cameras(torch.tensor([25.0]), torch.tensor([20.0]), distance, 43.5, 64)
        seen = draw([scene], cameras, torch.full((1, 64, 64, 3), gray), supersample=4)
        return seen.rgb, seen.opacity

    (near, mask), (far, _) = picture(2.5, 0.95), picture(3.3, 0.2)
    first = thumbnails(near, mask)
    assert first.shape == (1, 4, 24, 24)
    moved = torch.roll(near, (5, -6), (1, 2))
    for image in (near, moved, far, near * 0.8):
        second = thumbnails(image, foreground(image))
        cosine = F.cosine_similarity(first.flatten(1), second.flatten(1))
        assert float(cosine) > 0.97
    assert not thumbnails(near, torch.zeros_like(mask)).any()


def test_a_gradient_behind_is_background() -> None:
    column = torch.linspace(0.1, 0.9, 32)[None, :, None, None].expand(1, 32, 32, 3).clone()
    assert not foreground(column).any()
    column[:, 10:20, 10:20] = torch.tensor([0.9, 0.0, 0.3])
    seen = foreground(column)
    assert (seen[:, 10:20, 10:20] == 1).all() and float(seen.sum()) == 100


def test_the_nearest_true_picture_tells_the_side(world: World) -> None:
    spec = world.lexicon.parse("a robot")
    bank = view_bank(world, spec, scenes=4, views=40)
    assert len(bank.words) == len(bank.thumbnails) == 160
    azimuth = torch.tensor([0.0, 10.0, 90.0, 100.0, -90.0, -80.0, 180.0, 170.0, 30.0, 200.0])
    elevation = torch.tensor([10.0, 30, 10, 30, 10, 30, 10, 30, 80, 80])
    asked = ["front"] * 2 + ["left"] * 2 + ["right"] * 2 + ["back"] * 2 + ["overhead"] * 2
    cameras = orbit_cameras(azimuth, elevation, 2.6, 43.5, 64)
    scenes = world.scenes(spec, 2, seed=9)
    seen = draw([scenes[i % 2] for i in range(10)], cameras, torch.full((10, 64, 64, 3), 0.85)).rgb
    found = bank.views_seen(seen)
    assert sum(a == b for a, b in zip(found, asked, strict=True)) >= 9
