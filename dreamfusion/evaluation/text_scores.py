"""What a CLIP says of a finished object: R-Precision in colour and in geometry, likeness, several faces, agreement of the views.

All look from `VIEWS` azimuths at 30 degrees of elevation (DreamFusion, arXiv 2209.14988, App. A.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.cameras import turntable_cameras
from dreamfusion.evaluation.r_precision import Retrieval, retrieve, similarities
from dreamfusion.guidance.clip import ClipJudge
from dreamfusion.rendering.renderer import Renderer
from dreamfusion.rendering.shading import ShadingSample

VIEWS = 8
ELEVATION_DEG = 30.0
SIZE = 128
DIRECTIONS = ("front", "side", "back")
_FRONT_HALFWIDTH_DEG = 45.0
BACKDROPS = (0.75, 0.5, 1.0)
"""The grays that a judged object can be seen before, the usual one first."""
CONTRAST = 0.15
"""A colour is near a backdrop when no channel differs by more."""


@dataclass(frozen=True)
class Renders:
    """One object's views, each kind before its own backdrop.

    Attributes:
        colour: with the object's colours, nothing shaded.
        geometry: white plaster lit from the camera; None for a scene without normals.
        opacity: of the object, in [0, 1].
    """

    colour: Float[Tensor, "views h w 3"]
    geometry: Float[Tensor, "views h w 3"] | None
    opacity: Float[Tensor, "views h w"]


@dataclass(frozen=True)
class TextScores:
    """One object's.

    Attributes:
        colour: ranking of the captions by renders with the object's colours.
        geometry: by renders of white plaster lit from the camera; None for a scene without normals.
        janus: share of the views away from the front that the CLIP still calls "front" rather than side or back; 0 is best.
        consistency: mean cosine similarity of neighbouring views' features, at most 1.
    """

    colour: Retrieval
    geometry: Retrieval | None
    janus: float
    consistency: float


@torch.no_grad()
def renders(renderer: Renderer, distance: float, fovy_deg: float, size: int = SIZE) -> Renders:
    """The views of an object, whatever it was trained before, before a backdrop on which it can be seen."""
    cameras = turntable_cameras(VIEWS, ELEVATION_DEG, distance, fovy_deg, size)
    cameras = cameras.to(next(renderer.scene.parameters()).device)
    seen = renderer.render_image(cameras)
    colour = before_backdrop(seen.foreground_rgb, seen.opacity)
    if renderer.scene.normals_config.kind == "none":
        return Renders(colour, None, seen.opacity)
    light = ShadingSample("textureless", cameras.positions, ambient=0.1, diffuse=0.9)
    plaster = renderer.render_image(cameras, light)
    return Renders(colour, before_backdrop(plaster.foreground_rgb, plaster.opacity), seen.opacity)


def before_backdrop(
    foreground: Float[Tensor, "views h w 3"], opacity: Float[Tensor, "views h w"]
) -> Float[Tensor, "views h w 3"]:
    """All views of one object in [0, 1] before one gray: of `BACKDROPS` the one that the least of the object is near to.

    White things before white are nothing to a judge. Shares are compared in tenths and of equal ones the first gray is
    taken, so that nearly all objects have the same.

    Args:
        foreground: colours times opacity.
    """
    seen = opacity >= 0.5
    rgb = foreground[seen] / opacity[seen][:, None]

    def share_near(gray: float) -> float:
        near = (rgb - gray).abs().amax(dim=-1) <= CONTRAST
        return round(near.sum().item() / max(len(rgb), 1), 1)

    # min takes the first of equals.
    gray = min(BACKDROPS, key=share_near)
    return (foreground + (1.0 - opacity)[..., None] * gray).clamp(0, 1)


@torch.no_grad()
def score(
    clip: ClipJudge,
    colour: Float[Tensor, "views h w 3"],
    geometry: Float[Tensor, "views h w 3"] | None,
    captions: Sequence[str],
    prompt: str,
) -> TextScores:
    """Judge one object's renders, which `renders` made.

    Args:
        captions: at least two, the prompt among them once.
    """
    caption_features, true_index = clip.text_features(captions), list(captions).index(prompt)
    features = clip.image_features(colour)
    plaster = None if geometry is None else clip.image_features(geometry)
    directions = clip.text_features([f"{prompt}, {direction} view" for direction in DIRECTIONS])
    return TextScores(
        colour=retrieve(features, caption_features, true_index),
        geometry=None if plaster is None else retrieve(plaster, caption_features, true_index),
        janus=janus_score(features, directions),
        consistency=consistency(features),
    )


def janus_score(features: Float[Tensor, "views d"], directions: Float[Tensor, "3 d"]) -> float:
    """Share of the views more than 45 degrees from the front whose nearest text is the front's.

    Args:
        features: of views at equal steps of azimuth, the first at the front.
        directions: features of the texts for front, side and back, in this order.
    """
    azimuth_deg = torch.arange(len(features)) * (360.0 / len(features))
    away = torch.minimum(azimuth_deg, 360.0 - azimuth_deg) > _FRONT_HALFWIDTH_DEG
    called_front = similarities(features, directions).argmax(dim=1).cpu() == 0
    return called_front[away].float().mean().item()


def consistency(features: Float[Tensor, "views d"]) -> float:
    """Mean cosine similarity of each view and the next, the last one's next being the first."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    return (unit * unit.roll(-1, dims=0)).sum(dim=-1).mean().item()
