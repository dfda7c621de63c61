"""Schedules against their formulas, and the limits of what can be set."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dreamfusion.config import (
    ClipConfig,
    ConstantSchedule,
    ExperimentConfig,
    LinearSchedule,
    OptimizerConfig,
    Schedule,
    SqrtSchedule,
    WarmupCosineSchedule,
)

numbers = st.floats(-10, 10)
spans = st.integers(1, 10_000)


@given(numbers, numbers, spans, st.integers(0, 20_000))
def test_linear_is_linear_then_constant(start: float, end: float, steps: int, step: int) -> None:
    value = LinearSchedule(start=start, end=end, steps=steps).at(step)
    share = step / steps if step < steps else 1.0
    assert value == pytest.approx((1 - share) * start + share * end, abs=1e-9)


@given(numbers, numbers, spans)
def test_sqrt_has_gone_half_way_at_a_quarter_of_the_time(start: float, end: float, steps: int) -> None:
    schedule = SqrtSchedule(start=start, end=end, steps=4 * steps)
    assert schedule.at(0) == start
    assert schedule.at(steps) == pytest.approx((start + end) / 2, abs=1e-9)
    assert schedule.at(4 * steps) == schedule.at(9 * steps) == pytest.approx(end, abs=1e-9)


def test_warmup_cosine_meets_its_corners() -> None:
    schedule = WarmupCosineSchedule(start=1e-9, peak=1e-4, end=1e-6, warmup_steps=3000, steps=15000)
    assert (schedule.at(0), schedule.at(3000)) == (1e-9, pytest.approx(1e-4))
    assert schedule.at(1500) == pytest.approx((1e-9 + 1e-4) / 2)
    assert schedule.at(9000) == pytest.approx((1e-4 + 1e-6) / 2)  # the cosine is half-way at half-time
    third = 1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi / 3)) / 2
    assert schedule.at(7000) == pytest.approx(third)
    assert schedule.at(15000) == schedule.at(99999) == pytest.approx(1e-6)


def test_a_number_is_a_constant_schedule() -> None:
    assert OptimizerConfig.model_validate({"lr": "1e-3"}).lr == ConstantSchedule(value=0.001)
    with pytest.raises(ValidationError):
        OptimizerConfig.model_validate({"lr": True})


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": {"kind": "linear", "start": 1, "end": 0}},
        {"lr": {"kind": "linear", "start": 1, "end": 0, "steps": 0}},
        {"lr": {"kind": "warmup_cosine", "start": 0, "peak": 1, "end": 0, "warmup_steps": 9, "steps": 9}},
        {"lr": float("inf")},
        {"lr": -1e-3},
        {"lr": {"kind": "linear", "start": 1, "end": -1, "steps": 9}},
        {"betas": [0.9, 1.5]},
        {"betas": [0.9, 1.0]},
        {"momentum": 0.9},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig.model_validate(wrong)


LATE_SQRT = {"kind": "sqrt", "start": 0.1, "end": 0.9, "steps": 100}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cameras": {"distance": [0, 1]}}, "greater than 0"),
        ({"cameras": {"distance": [-2, -1]}}, "greater than 0"),
        ({"cameras": {"elevation_deg": [-10, 91]}}, "less than or equal to 90"),
        ({"cameras": {"fovy_deg": [40, 180]}}, "less than 180"),
        ({"rendering": {"shading": {"light_distance": [-1, 1]}}}, "greater than 0"),
        ({"guidance": {"timestep_min": 0.99}}, "at step 0 they are 0.99 and 0.98"),
        ({"guidance": {"timestep_max": 1.5}}, "at step 0 they are 0.02 and 1.5"),
        # Right at both ends: the square root is ahead of the straight line in between.
        (
            {"guidance": {"timestep_min": LATE_SQRT, "timestep_max": {**LATE_SQRT, "kind": "linear"}}},
            r"at step \d+ they are",
        ),
        ({"guidance": {"view_prompts": {"template": "{promt}, {view} view"}}}, "a text with {prompt} in it"),
        ({"scene": {"field": {"kind": "hashgrid", "max_resolution": 8}}}, "at least base_resolution"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ExperimentConfig.model_validate(wrong)


def test_a_config_cannot_be_changed_behind_the_runs_back() -> None:
    with pytest.raises(ValidationError):
        ExperimentConfig().seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_json_brings_back_the_same_config() -> None:
    config = ExperimentConfig(prompt="a duck")
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("kind", ["constant", "linear", "sqrt", "warmup_cosine"])
def test_a_schedule_says_whether_it_ever_acts_as_all_its_steps_do(kind: str) -> None:
    """All corners of all kinds: what is 0 at the start, the middle and the end may act between them."""
    values = (0.0, -0.5, 2.0)
    adapter: TypeAdapter[Schedule] = TypeAdapter(Schedule)
    for start, peak, end, warmup, length in itertools.product(values, values, values, (1, 3, 7), (8, 1000)):
        fields: dict[str, object] = {
            "constant": {"value": start},
            "linear": {"start": start, "end": end, "steps": length},
            "sqrt": {"start": start, "end": end, "steps": length},
            "warmup_cosine": {
                "start": start,
                "peak": peak,
                "end": end,
                "warmup_steps": warmup,
                "steps": length,
            },
        }[kind]
        schedule = adapter.validate_python({"kind": kind} | fields)
        mixed = ClipConfig(sds_weight=schedule)
        for steps in range(1, 16):
            expected = any(schedule.at(step) != 0.0 for step in range(steps))
            assert schedule.acts_within(steps) == expected, (fields, steps)
            assert mixed.mixes(steps) == expected, (fields, steps)
