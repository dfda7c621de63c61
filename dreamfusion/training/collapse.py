"""A watchdog that stops a run which can no longer become an object, and says what to change."""

from __future__ import annotations

import math
from typing import Any

from dreamfusion.config import TrainingConfig
from dreamfusion.errors import CollapseError

EMPTY_BELOW = 2e-3
"""Mean opacity of the rays through the scene's ball under which nothing is left to see."""
SOLID_ABOVE = 0.98
"""Mean opacity of the rays through the scene's ball above which it is filled to its edge."""


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
            hint="try a smaller optimizer.lr, optimizer.max_grad_norm=1, or guidance.dtype=float32",
        )

    def state_dict(self) -> dict[str, Any]:
        return {"empty": self.empty, "solid": self.solid, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.empty, self.solid, self.skipped = (int(state[key]) for key in ("empty", "solid", "skipped"))
