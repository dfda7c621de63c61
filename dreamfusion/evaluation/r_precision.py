"""CLIP R-Precision: is the true caption ranked first among many, given renders of the object?

The measure of Dream Fields (Jain et al., arXiv 2112.01455, sec. 4) and of DreamFusion (arXiv 2209.14988, App. A.3),
which averages over azimuths at 30 degrees of elevation. Two averages are in use and both are given: the captions'
similarities averaged over the views and then ranked (one answer an object), and the share of the views that are each
ranked right on their own (the papers' number).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.guidance.clip import ClipJudge


@dataclass(frozen=True)
class Retrieval:
    """How one object's renders are ranked against captions.

    Args:
        rank: place of the true caption by the mean similarity over views, 1 is first.
        hits: share of the views, each alone, that rank the true caption first, in [0, 1].
        similarity: mean cosine similarity of the views and the true caption, in [-1, 1].
        margin: that minus the best other caption's; positive exactly when `rank` is 1.
        best: index of the caption that came first.
    """

    rank: int
    hits: float
    similarity: float
    margin: float
    best: int


def similarities(
    image_features: Float[Tensor, "views d"], caption_features: Float[Tensor, "n d"]
) -> Float[Tensor, "views n"]:
    """Cosine similarity of each view and each caption; features need not have unit norm."""
    return torch.nn.functional.normalize(image_features, dim=-1) @ (
        torch.nn.functional.normalize(caption_features, dim=-1).T
    )


def retrieve(
    image_features: Float[Tensor, "views d"], caption_features: Float[Tensor, "n d"], true_index: int
) -> Retrieval:
    """Rank `n` >= 2 captions for one object seen in `views` >= 1 renders.

    A tie counts against the object: a caption as similar as the true one is ranked before it.
    """
    per_view = similarities(image_features, caption_features)
    mean = per_view.mean(dim=0)
    others = torch.arange(len(mean), device=mean.device) != true_index
    # `>=`: features that cannot tell two captions apart have not found the true one.
    rank = 1 + int((mean[others] >= mean[true_index]).sum())
    hits = (per_view[:, true_index] > per_view[:, others].amax(dim=1)).float().mean().item()
    best = true_index if rank == 1 else int(mean.masked_fill(~others, -torch.inf).argmax())
    margin = (mean[true_index] - mean[others].amax()).item()
    return Retrieval(rank, hits, mean[true_index].item(), margin, best)


def r_precision(retrievals: Sequence[Retrieval]) -> float:
    """Share of the objects whose caption is ranked first by the mean over their views, in [0, 1]."""
    return sum(retrieval.rank == 1 for retrieval in retrievals) / len(retrievals)


def r_precision_per_view(retrievals: Sequence[Retrieval]) -> float:
    """Mean over objects of the share of views ranked right: the papers' number when all have as many views."""
    return sum(retrieval.hits for retrieval in retrievals) / len(retrievals)


@torch.no_grad()
def judge_renders(
    clip: ClipJudge, images: Float[Tensor, "views h w 3"], captions: Sequence[str], true_caption: str
) -> Retrieval:
    """Rank the captions for one object's renders in [0, 1]; the true caption must be among them.

    Raises ValueError when it is not, or is there twice.
    """
    if list(captions).count(true_caption) != 1:
        raise ValueError(f"the captions must hold {true_caption!r} exactly once")
    return retrieve(
        clip.image_features(images), clip.text_features(captions), list(captions).index(true_caption)
    )
