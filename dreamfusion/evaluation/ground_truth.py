"""Renders compared with what their caption truly means in the miniature's world: silhouettes, and the side they are seen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dreamfusion.cameras import Cameras, turntable_cameras
from dreamfusion.evaluation.text_scores import ELEVATION_DEG, SIZE, VIEWS, Renders, before_backdrop
from dreamfusion.miniature.captions import view_word
from dreamfusion.miniature.dataset import PLASTER_AMBIENT, draw, random_lights, random_views, whitened
from dreamfusion.miniature.ground_truth import Scene, World
from dreamfusion.miniature.pictures import Lights
from dreamfusion.miniature.world import SceneSpec

# The pictures of a thing are compared at this size, cut out and scaled to fill it.
THUMBNAIL = 24
# From the border's colour: less is background, more by the second number is the thing.
BORDER_NOISE, BORDER_CONTRAST = 0.06, 0.1
BANK_SCENES, BANK_VIEWS = 10, 40


# --------------------------------------------------------------------------------------------- silhouettes


def silhouette_iou(
    mask: Bool[Tensor, "views h w"], truths: Bool[Tensor, "n views h w"]
) -> Float[Tensor, " n"]:
    """Intersection over union with each of n true scenes, the mean over the views; a view empty in both counts as equal."""
    both, either = (mask & truths).sum((-2, -1)), (mask | truths).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).mean(-1)


def silhouettes(scenes: Sequence[Scene], cameras: Cameras) -> Bool[Tensor, "n views h w"]:
    """What of each pixel's centre each scene covers, through all cameras."""
    height, width = cameras.height, cameras.width
    nothing = torch.zeros(len(cameras), height, width, 3)
    return torch.stack(
        [draw([scene] * len(cameras), cameras, nothing, supersample=1).opacity > 0.5 for scene in scenes]
    )


def true_renders(scene: Scene, distance: float, fovy_deg: float, size: int = SIZE) -> Renders:
    """The scene itself as `text_scores.renders` shows a finished object: what a judge can know at best."""
    cameras = turntable_cameras(VIEWS, ELEVATION_DEG, distance, fovy_deg, size)
    nothing = torch.zeros(VIEWS, size, size, 3)
    lamp = Lights(
        cameras.positions, torch.full((VIEWS,), PLASTER_AMBIENT), torch.full((VIEWS,), 1.0 - PLASTER_AMBIENT)
    )
    colour = draw([scene] * VIEWS, cameras, nothing)
    plaster = draw([whitened(scene)] * VIEWS, cameras, nothing, lamp)
    return Renders(
        before_backdrop(colour.rgb, colour.opacity),
        before_backdrop(plaster.rgb, plaster.opacity),
        colour.opacity,
    )


# ---------------------------------------------------------------------------------------------------- views


@dataclass(frozen=True)
class ViewBank:
    """True pictures of one caption's scenes as thumbnails of what they show, with the view word of each."""

    thumbnails: Float[Tensor, "n 4 s s"]
    words: tuple[str, ...]

    def views_seen(self, images: Float[Tensor, "b h w 3"]) -> list[str]:
        """From which side each picture shows its thing: as its nearest true picture, thing by thing.

        Neither place, size and brightness of the thing nor a plain background matter.
        """
        seen = thumbnails(images, foreground(images))
        nearest = torch.cdist(seen.flatten(1), self.thumbnails.flatten(1)).argmin(dim=1)
        return [self.words[index] for index in nearest.tolist()]


def view_bank(
    world: World, spec: SceneSpec, scenes: int = BANK_SCENES, views: int = BANK_VIEWS, seed: int = 0
) -> ViewBank:
    """True pictures from all sides, lit as the training's are."""
    rng = np.random.default_rng([seed, scenes])
    made, words = [], []
    for scene in world.scenes(spec, scenes, seed):
        cameras = random_views(rng, views)
        lights = random_lights(rng, cameras)
        nothing = torch.zeros(views, cameras.height, cameras.width, 3)
        picture = draw([scene] * views, cameras, nothing, lights)
        made.append(thumbnails(picture.rgb.clamp(0, 1), picture.opacity))
        angles = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
        words += [view_word(azimuth, elevation) for azimuth, elevation in angles]
    return ViewBank(torch.cat(made), tuple(words))


def foreground(images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b h w"]:
    """How far each pixel is the thing and not the background, which both ends of its row show (plain or a vertical gradient)."""
    ends = torch.cat([images[:, :, :2], images[:, :, -2:]], dim=2)
    away = (images - ends.median(dim=2, keepdim=True).values).abs().amax(dim=-1)
    return ((away - BORDER_NOISE) / BORDER_CONTRAST).clamp(0, 1)


def thumbnails(images: Float[Tensor, "b h w 3"], opacity: Float[Tensor, "b h w"]) -> Float[Tensor, "b 4 s s"]:
    """What each picture shows, cut out: colours at equal mean brightness, and opacity; zeros where it shows nothing."""
    return torch.stack([_thumbnail(image, mask) for image, mask in zip(images, opacity, strict=True)])


def _thumbnail(image: Float[Tensor, "h w 3"], opacity: Float[Tensor, "h w"]) -> Float[Tensor, "4 s s"]:
    rows, columns = torch.nonzero(opacity > 0.5, as_tuple=True)
    if not len(rows):
        return torch.zeros(4, THUMBNAIL, THUMBNAIL)
    height, width = opacity.shape
    (top, bottom), (left, right) = ((int(v.min()), int(v.max()) + 1) for v in (rows, columns))
    side = max(bottom - top, right - left)
    colours = image * opacity[..., None]
    brightness = (colours.sum() / (3 * opacity.sum())).clamp(min=0.05)
    planes = torch.cat([(0.5 / brightness * colours).permute(2, 0, 1), opacity[None]])
    across, down = (left + right) / width - 1.0, (top + bottom) / height - 1.0
    theta = torch.tensor([[side / width, 0.0, across], [0.0, side / height, down]])
    grid = F.affine_grid(theta[None], [1, 4, THUMBNAIL, THUMBNAIL], align_corners=False)
    return F.grid_sample(planes[None], grid, align_corners=False)[0]
