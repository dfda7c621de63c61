"""What a CLIP says of a finished object: R-Precision in colour and in geometry, likeness, several faces, agreement of the views.

All look from `VIEWS` azimuths at 30 degrees of elevation (DreamFusion, arXiv 2209.14988, sec. 4.1).
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
def renders(
    renderer: Renderer, distance: float, fovy_deg: float, size: int = SIZE
) -> tuple[Float[Tensor, "views h w 3"], Float[Tensor, "views h w 3"] | None]:
    """The views in colour, and as white plaster lit from the camera (None for a scene without normals)."""
    cameras = turntable_cameras(VIEWS, ELEVATION_DEG, distance, fovy_deg, size)
    cameras = cameras.to(next(renderer.scene.parameters()).device)
    colour = renderer.render_image(cameras).rgb.clamp(0, 1)
    if renderer.scene.normals_config.kind == "none":
        return colour, None
    light = ShadingSample("textureless", cameras.positions, ambient=0.1, diffuse=0.9)
    return colour, renderer.render_image(cameras, light).rgb.clamp(0, 1)


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
