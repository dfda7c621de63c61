"""Which text counts for which camera."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamfusion.config import ViewPromptConfig
from dreamfusion.errors import PromptError
from dreamfusion.guidance.prompts import ViewPrompts

RULES = ("none", "nearest", "threestudio", "interpolate")


def prompts(rule: str, **options) -> ViewPrompts:
    return ViewPrompts("a duck", ViewPromptConfig.model_validate({"rule": rule, **options}))


def chosen(view_prompts: ViewPrompts, azimuth: float, elevation: float = 10.0) -> str:
    row = view_prompts.weights(torch.tensor([float(azimuth)]), torch.tensor([elevation]))[0]
    assert row.max() == 1.0
    return view_prompts.views[int(row.argmax())]


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(RULES),
    azimuth=st.floats(-1000, 1000),
    elevation=st.floats(-90, 90),
    halfwidth=st.floats(1, 90),
)
def test_rows_sum_to_one_and_are_not_negative(rule, azimuth, elevation, halfwidth):
    view_prompts = prompts(rule, front_halfwidth_deg=halfwidth)
    weights = view_prompts.weights(torch.tensor([azimuth] * 2), torch.tensor([elevation] * 2))
    assert weights.shape == (2, len(view_prompts.texts()))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


@settings(max_examples=60, deadline=None)
@given(rule=st.sampled_from(RULES), azimuth=st.integers(-180, 180), elevation=st.floats(-90, 90))
def test_left_equals_right_and_a_turn_changes_nothing(rule, azimuth, elevation):
    view_prompts = prompts(rule)
    azimuths = torch.tensor([azimuth, -azimuth, azimuth + 360.0, azimuth - 720.0])
    weights = view_prompts.weights(azimuths, torch.full((4,), elevation))
    torch.testing.assert_close(weights, weights[:1].expand_as(weights))


@pytest.mark.parametrize(
    ("azimuth", "view"),
    [(0, "front"), (44, "front"), (-44, "front"), (46, "side"), (-90, "side"), (134, "side"), (136, "back"), (-180, "back")],
)  # fmt: skip
def test_nearest_chooses_the_closest_view(azimuth, view):
    assert chosen(prompts("nearest"), azimuth) == view
    # The nearest view does not depend on another rule's setting.
    assert chosen(prompts("nearest", front_halfwidth_deg=10), azimuth) == view


@pytest.mark.parametrize(
    ("azimuth", "view"),
    [(0, "front"), (-44, "front"), (46, "left"), (134, "left"), (-46, "right"), (270, "right"), (-180, "back")],
)  # fmt: skip
def test_split_sides_are_the_things_left_and_right(azimuth, view):
    assert chosen(prompts("nearest", split_sides=True), azimuth) == view
    assert chosen(prompts("nearest", split_sides=True), azimuth, 70.0) == "overhead"


@settings(max_examples=60, deadline=None)
@given(rule=st.sampled_from(RULES), azimuth=st.integers(-180, 180), elevation=st.floats(-90, 90))
def test_both_sides_together_weigh_what_the_side_weighs(rule, azimuth, elevation):
    plain, split = prompts(rule), prompts(rule, split_sides=True)
    angles = torch.tensor([float(azimuth)]), torch.tensor([elevation])
    by_view = dict(zip(split.views, split.weights(*angles)[0].tolist(), strict=True))
    sides = by_view.pop("left", 0.0) + by_view.pop("right", 0.0)
    expected = dict(zip(plain.views, plain.weights(*angles)[0].tolist(), strict=True))
    assert sides == expected.pop("side", 0.0) and by_view == expected


def test_split_sides_share_what_is_given_for_the_side():
    view_prompts = prompts("nearest", split_sides=True, side="a duck's flank", negative={"side": "beak"})
    assert list(view_prompts.texts()) == ["front", "left", "right", "back", "overhead"]
    assert view_prompts.texts()["left"] == view_prompts.texts()["right"] == "a duck's flank"
    assert prompts("nearest", split_sides=True).texts()["right"] == "a duck, right view"
    negatives = view_prompts.negatives("")
    assert negatives["left"] == negatives["right"] == "beak" and negatives["front"] == ""


@pytest.mark.parametrize(
    ("azimuth", "view"), [(29, "front"), (31, "side"), (149, "side"), (151, "back"), (-29, "front")]
)
def test_threestudio_switches_at_its_half_width(azimuth, view):
    assert chosen(prompts("threestudio", front_halfwidth_deg=30), azimuth) == view


@pytest.mark.parametrize("rule", ["nearest", "threestudio"])
def test_overhead_is_above_its_elevation_from_every_side(rule):
    view_prompts = prompts(rule, overhead_elevation_deg=55)
    assert [chosen(view_prompts, azimuth, 56.0) for azimuth in (0, 90, 180)] == ["overhead"] * 3
    assert chosen(view_prompts, 0, 54.0) == "front"


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [(0, (1, 0, 0)), (45, (0.5, 0.5, 0)), (-90, (0, 1, 0)), (120, (0, 2 / 3, 1 / 3)), (180, (0, 0, 1))],
)
def test_interpolation_is_linear_in_the_azimuth(azimuth, expected):
    weights = prompts("interpolate").weights(torch.tensor([float(azimuth)]), torch.tensor([89.0]))
    torch.testing.assert_close(weights[0], torch.tensor(expected, dtype=torch.float32))


def test_texts_come_from_the_template_or_the_overrides():
    view_prompts = prompts("nearest", template="{view} of {prompt}", back="the tail of a duck")
    assert view_prompts.texts() == {
        "front": "front of a duck",
        "side": "side of a duck",
        "back": "the tail of a duck",
        "overhead": "overhead of a duck",
    }
    assert list(view_prompts.texts()) == list(view_prompts.views)
    assert prompts("none").texts() == {"any": "a duck"}
    assert list(prompts("interpolate").texts()) == ["front", "side", "back"]


def test_braces_in_a_prompt_are_left_alone():
    texts = ViewPrompts("a {strange} {view}", ViewPromptConfig()).texts()
    assert texts["front"] == "a {strange} {view}, front view"


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(PromptError):
        ViewPrompts(prompt, ViewPromptConfig())


def test_a_view_may_have_no_negative_prompt_where_the_others_have_one():
    view_prompts = prompts("nearest", negative={"front": "", "back": "face"})
    assert view_prompts.negatives("red") == {"front": "", "side": "red", "back": "face", "overhead": "red"}
    assert prompts("none", negative={"front": ""}).negatives("red") == {"any": "red"}
