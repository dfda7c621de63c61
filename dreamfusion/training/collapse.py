"""A watchdog that stops a run which can no longer become an object, and says what to change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from dreamfusion.config import TrainingConfig
from dreamfusion.errors import CollapseError

EMPTY_BELOW = 2e-3
"""Mean opacity of the rays through the scene's ball under which nothing is left to see."""
SOLID_ABOVE = 0.98
"""Mean opacity of the rays through the scene's ball above which it is filled to its edge."""
LARGEST_PARAMETER = 1e8
"""No learning rate that teaches anything gets a parameter there; squares of what is above soon overflow."""
_FINITE_HINT = "try a smaller optimizer.lr or guidance.guidance_scale, optimizer.max_grad_norm=1, or guidance.dtype=float32"


def check_parameters(parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
    """See that a scene's parameters, by name, are numbers that something can be rendered from.

    Raises:
        CollapseError: one is not finite, or absurdly large.
    """
    for name, value in parameters:
        largest = value.detach().abs().max().item() if value.numel() else 0.0
        if not largest <= LARGEST_PARAMETER:  # NaN is not either
            raise CollapseError(
                f"the scene's parameters are no usable numbers at step {step}",
                expected=f"values of at most {LARGEST_PARAMETER:g}",
                got=f"{largest:g} in {name}",
                hint=_FINITE_HINT,
            )


class CollapseWatch:
    """Counts steps in a row in which the scene was empty, solid, or had gradients that are not finite.

    One bad view is nothing: a camera may look past a small object. All state is in `state_dict`.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.patience, self.max_skipped = config.collapse_patience, config.max_skipped_steps
        self.empty = self.solid = self.skipped = 0

    def observe(self, step: int, ball_opacity: float, skipped: bool) -> None:
        """Take note of one step.

        Args:
            step: the optimiser iteration, for the message.
            ball_opacity: mean opacity of the rays that pass the scene's ball, 0 .. 1 or NaN.
            skipped: whether the step was not taken because a gradient was not finite.

        Raises:
            CollapseError: one of the three has lasted too long.
        """
        self.skipped = self.skipped + 1 if skipped else 0
        self.empty = self.empty + 1 if ball_opacity < EMPTY_BELOW else 0
        self.solid = self.solid + 1 if ball_opacity > SOLID_ABOVE else 0
        if self.skipped >= self.max_skipped:
            self._stop_for_gradients(step, ball_opacity)
        if self.empty >= self.patience:
            raise CollapseError(
                f"the scene has been empty for {self.empty} steps, at step {step}",
                expected=f"a mean opacity of at least {EMPTY_BELOW:g}",
                got=f"{ball_opacity:.2g}",
                hint="try another --seed, a smaller optimizer.lr, or smaller losses.opacity and losses.entropy",
            )
        if self.solid >= self.patience:
            raise CollapseError(
                f"the scene has been solid to its edge for {self.solid} steps, at step {step}",
                expected=f"a mean opacity of at most {SOLID_ABOVE:g}",
                got=f"{ball_opacity:.4g}",
                hint="try a larger losses.opacity (1e-3 .. 5e-3 in the paper), another --seed, or a smaller optimizer.lr",
            )

    def _stop_for_gradients(self, step: int, ball_opacity: float) -> None:
        if math.isnan(ball_opacity):
            what = f"the scene has rendered to NaN for {self.skipped} steps, at step {step}"
        else:
            what = f"the gradients of the last {self.skipped} steps were not finite, at step {step}"
        raise CollapseError(
            what,
            expected="finite numbers",
            hint=_FINITE_HINT,
        )

    def check_outcome(self, steps: int, skipped: int) -> None:
        """Look at the whole run at its end; a short one ends before patience does.

        Args:
            steps: of the run.
            skipped: how many of them were not taken.

        Raises:
            CollapseError: most steps were skipped, or the scene was empty or solid during most, the last ones included.
        """
        if 2 * skipped > steps:
            raise CollapseError(
                f"{skipped} of {steps} steps were skipped: their gradients were not finite",
                expected="most steps to be taken",
                hint=_FINITE_HINT,
            )
        for count, what in ((self.empty, "empty"), (self.solid, "solid to its edge")):
            if 2 * count > steps:
                raise CollapseError(
                    f"the scene was {what} during the last {count} of {steps} steps",
                    expected="an object",
                    hint="try a smaller optimizer.lr, or another --seed",
                )

    def state_dict(self) -> dict[str, Any]:
        return {"empty": self.empty, "solid": self.solid, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.empty, self.solid, self.skipped = (int(state[key]) for key in ("empty", "solid", "skipped"))
