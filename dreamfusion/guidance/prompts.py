"""View-dependent prompts: which words are added for which camera (DreamFusion, arXiv 2209.14988, sec. 3.2).

Three rules in use, and none:

    nearest       the view closest to the camera's azimuth (front 0, side +-90, back 180), overhead above an elevation
                  (DreamFusion: "the text embedding closest to the sampled azimuth worked well")
    threestudio   front within `front_halfwidth_deg` of azimuth 0, back within as much of 180, else side; overhead
                  above an elevation
    interpolate   embeddings mixed linearly over the azimuth, front to side to back; no overhead (stable-dreamfusion)
    none          the prompt as it is

With `split_sides` the side of a rule is the thing's left side for azimuths above 0 and its right side below: to a model that
knows the difference, "side view" is the mean of two pictures that face opposite ways.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import SIDES, VIEWS, ViewPromptConfig
from dreamfusion.errors import PromptError


class ViewPrompts:
    """The texts of one prompt, one a view, and how much each counts for a camera.

    Raises PromptError when the prompt is empty.
    """

    def __init__(self, prompt: str, config: ViewPromptConfig) -> None:
        if not prompt.strip():
            raise PromptError(
                "the prompt is empty", hint='say what to make, such as "a peacock on a surfboard"'
            )
        self.prompt, self.config = prompt.strip(), config

    @property
    def views(self) -> tuple[str, ...]:
        """The views that the rule tells apart, in the order of the weights' columns."""
        match self.config.rule:
            case "none":
                return ("any",)
            case "interpolate":
                plain = VIEWS[:3]
            case "nearest" | "threestudio":
                plain = VIEWS
        if not self.config.split_sides:
            return plain
        return tuple(view for word in plain for view in (SIDES if word == "side" else (word,)))

    def text(self, view: str) -> str:
        """The text of a view: the one given for it in the config, or the template's."""
        override = getattr(self.config, view_key(view))
        if override is not None:
            return override
        # Not str.format: a prompt may hold braces of its own.
        return self.config.template.replace("{view}", view).replace("{prompt}", self.prompt)

    def texts(self) -> dict[str, str]:
        """View -> text, in the order of `weights`' columns."""
        if self.config.rule == "none":
            return {"any": self.prompt}
        return {view: self.text(view) for view in self.views}

    def weights(
        self, azimuth_deg: Float[Tensor, " b"], elevation_deg: Float[Tensor, " b"]
    ) -> Float[Tensor, "b views"]:
        """How much each view's text counts for each camera; rows sum to 1. Any azimuth is wrapped to one turn."""
        # 0 at the front, 180 at the back, the same to the left and to the right.
        from_front = (torch.remainder(azimuth_deg + 180.0, 360.0) - 180.0).abs()
        match self.config.rule:
            case "none":
                return torch.ones_like(from_front)[:, None]
            case "interpolate":
                front = (1.0 - from_front / 90.0).clamp(min=0.0)
                back = (from_front / 90.0 - 1.0).clamp(min=0.0)
                weights = torch.stack([front, 1.0 - front - back, back], dim=-1)
            case "nearest":
                weights = self._switch(from_front, elevation_deg, halfwidth_deg=45.0)
            case "threestudio":
                weights = self._switch(from_front, elevation_deg, self.config.front_halfwidth_deg)
        return self._sided(weights, azimuth_deg)

    def negatives(self, default: str) -> dict[str, str]:
        """View -> negative prompt, in the order of `weights`' columns: the one given for the view, or the default."""
        given = {view: getattr(self.config.negative, view_key(view), None) for view in self.texts()}
        # An empty text is one too: a view of which nothing is to be kept away.
        return {view: default if text is None else text for view, text in given.items()}

    def perp_neg(
        self, azimuth_deg: Float[Tensor, " b"], elevation_deg: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b views"], tuple[Float[Tensor, "b views"], ...], Float[Tensor, "b 2"]]:
        """Perp-Neg's texts for each camera (arXiv 2304.04968, with the constants that threestudio has).

        Between front and side the two texts are mixed by the azimuth and either is pushed away as the camera leaves it;
        between side and back those two are mixed, and side and front pushed away. Overhead nothing is.

        Returns:
            How much each view's text counts in the text that is wanted, which two views are pushed away (one-hot rows),
            and their coefficients, 0 or less.
        """
        from_front = (torch.remainder(azimuth_deg + 180.0, 360.0) - 180.0).abs()
        near_front = from_front < 90.0
        # 1 at the front and 0 at the side; then 1 at the side and 0 at the back.
        front_share, side_share = 1.0 - from_front / 90.0, 2.0 - from_front / 90.0
        count = 3 if self.config.rule == "interpolate" else len(VIEWS)
        front, side, back = (one_hot(VIEWS.index(v), count).to(from_front) for v in VIEWS[:3])

        def mix(share: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return share[:, None] * a + (1.0 - share)[:, None] * b

        def choose(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(near_front[:, None], a, b)

        wanted = choose(mix(front_share, front, side), mix(side_share, side, back))
        first, second = choose(front, side), choose(side, front)
        coefficients = choose(
            torch.stack([_decay(4.0, -2.426, front_share), _decay(4.0, -2.426, 1.0 - front_share)], dim=1),
            torch.stack([_decay(1.0, -0.606, side_share), _decay(1.0, 0.967, side_share)], dim=1),
        )
        if count == len(VIEWS):
            overhead = (elevation_deg > self.config.overhead_elevation_deg)[:, None]
            above = one_hot(VIEWS.index("overhead"), count).to(from_front)
            wanted, coefficients = torch.where(overhead, above, wanted), coefficients * ~overhead
        wanted, first, second = (self._sided(rows, azimuth_deg) for rows in (wanted, first, second))
        return wanted, (first, second), coefficients

    def _sided(self, weights: Float[Tensor, "b plain"], azimuth_deg: Float[Tensor, " b"]) -> Tensor:
        # The column of the side becomes two, of which the side that the camera is not on gets nothing.
        if not self.config.split_sides:
            return weights
        left = torch.remainder(azimuth_deg, 360.0) < 180.0
        before, side, after = weights[:, :1], weights[:, 1], weights[:, 2:]
        return torch.cat([before, torch.stack([side * left, side * ~left], dim=-1), after], dim=-1)

    def _switch(
        self, from_front: Float[Tensor, " b"], elevation_deg: Float[Tensor, " b"], halfwidth_deg: float
    ) -> Float[Tensor, "b 4"]:
        overhead = elevation_deg > self.config.overhead_elevation_deg
        front = (from_front < halfwidth_deg) & ~overhead
        back = (from_front > 180.0 - halfwidth_deg) & ~overhead
        side = ~(front | back | overhead)
        return torch.stack([front, side, back, overhead], dim=-1).to(from_front)


def view_key(view: str) -> str:
    """What a view is called in the config, where both sides are one."""
    return "side" if view in SIDES else view


def one_hot(index: int, size: int) -> Float[Tensor, " size"]:
    """1 at `index`, else 0."""
    return torch.eye(size)[index]


def _decay(a: float, c: float, share: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    # -(a exp(-b r) + c) with b = 0.5 throughout; at most 0, but for the rounding of the printed constants.
    return -(a * torch.exp(-0.5 * share) + c).clamp(min=0.0)
