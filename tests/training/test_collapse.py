"""The watchdog bites when a scene stays empty, solid or not finite, and at nothing else."""

from __future__ import annotations

import math

import pytest

from dreamfusion.config import TrainingConfig
from dreamfusion.errors import CollapseError
from dreamfusion.training.collapse import EMPTY_BELOW, SOLID_ABOVE, CollapseWatch

CONFIG = TrainingConfig(collapse_patience=10, max_skipped_steps=4)


def feed(watch: CollapseWatch, opacities: list[float], skipped: bool = False) -> None:
    for step, opacity in enumerate(opacities, start=1):
        watch.observe(step, opacity, skipped)


@pytest.mark.parametrize(
    ("opacity", "word", "advice"), [(0.0, "empty", "--seed"), (1.0, "solid", r"losses\.opacity")]
)
def test_it_bites_at_the_patience_and_not_a_step_before(opacity: float, word: str, advice: str) -> None:
    watch = CollapseWatch(CONFIG)
    feed(watch, [opacity] * 9)
    with pytest.raises(CollapseError, match=rf"{word}.*10 steps.*{advice}"):
        watch.observe(10, opacity, skipped=False)


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_one_good_view_starts_the_count_again(opacity: float) -> None:
    watch = CollapseWatch(CONFIG)
    feed(watch, ([opacity] * 9 + [0.3]) * 5)


def test_a_thin_object_and_one_that_fills_the_view_are_no_collapse() -> None:
    feed(CollapseWatch(CONFIG), [2 * EMPTY_BELOW] * 100)
    feed(CollapseWatch(CONFIG), [SOLID_ABOVE - 0.01] * 100)


def test_skipped_steps_stop_a_run_only_in_a_row() -> None:
    watch = CollapseWatch(CONFIG)
    for _ in range(10):
        feed(watch, [0.3] * 3, skipped=True)
        feed(watch, [0.3])
    with pytest.raises(CollapseError, match=r"last 4 steps were not finite.*optimizer\.lr"):
        feed(watch, [0.3] * 4, skipped=True)


def test_a_scene_of_nan_is_told_apart() -> None:
    with pytest.raises(CollapseError, match="NaN for 4 steps"):
        feed(CollapseWatch(CONFIG), [math.nan] * 4, skipped=True)


def test_a_resumed_watch_bites_at_the_same_step() -> None:
    watch = CollapseWatch(CONFIG)
    feed(watch, [0.0] * 7)
    resumed = CollapseWatch(CONFIG)
    resumed.load_state_dict(watch.state_dict())
    feed(resumed, [0.0] * 2)
    with pytest.raises(CollapseError):
        feed(resumed, [0.0])
