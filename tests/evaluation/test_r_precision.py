"""R-Precision on features whose ranking is known, and on a tiny real CLIP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamfusion.evaluation.r_precision import (
    judge_renders,
    r_precision,
    r_precision_per_view,
    retrieve,
    similarities,
)
from dreamfusion.guidance.clip import ClipJudge

CAPTIONS = torch.eye(4)


def features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), views=st.integers(1, 5), n=st.integers(2, 9))
def test_the_rank_is_that_of_a_sorted_list(seed: int, views: int, n: int):
    images, captions = features(seed, views, 6), features(seed + 1, n, 6)
    true_index = seed % n
    result = retrieve(images, captions, true_index)
    unit = [v / v.norm() for v in captions]
    scores = [sum(float(i @ c / i.norm()) for i in images) / views for c in unit]
    ranking = sorted(range(n), key=lambda index: -scores[index])
    assert result.rank == ranking.index(true_index) + 1
    assert result.best == ranking[0]
    assert result.similarity == pytest.approx(scores[true_index], abs=1e-5)
    others = [s for index, s in enumerate(scores) if index != true_index]
    assert result.margin == pytest.approx(scores[true_index] - max(others), abs=1e-5)
    assert (result.margin > 0) == (result.rank == 1)


def test_views_are_averaged_before_ranking_and_counted_one_by_one():
    # Two views slightly prefer caption 1, one view strongly prefers caption 0.
    views = torch.tensor([[0.69, 0.72, 0, 0], [0.69, 0.72, 0, 0], [1.0, 0, 0, 0]])
    result = retrieve(views, CAPTIONS, 0)
    assert result.rank == 1
    assert result.hits == pytest.approx(1 / 3)


def test_length_of_features_does_not_matter():
    images, captions = features(1, 3, 4), features(2, 5, 4)
    scaled = similarities(images * torch.tensor([[1.0], [50.0], [0.1]]), captions * 7)
    torch.testing.assert_close(scaled, similarities(images, captions))
    assert similarities(images, captions).abs().max() <= 1.0 + 1e-6


def test_a_tie_is_no_success():
    result = retrieve(torch.ones(1, 4), CAPTIONS, 2)
    assert result.rank == 4
    assert result.hits == 0.0
    assert result.best != 2


def test_r_precision_counts_first_places():
    good, bad = retrieve(CAPTIONS[:1], CAPTIONS, 0), retrieve(CAPTIONS[:1], CAPTIONS, 1)
    assert r_precision([good, good, good, bad]) == 0.75
    assert r_precision_per_view([good, bad]) == 0.5


def test_renders_are_judged_by_their_features(tiny_judge: Callable[[], ClipJudge]):
    judge, captions = tiny_judge(), ["a duck", "a car", "a green tree"]
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(4))
    expected = retrieve(judge.image_features(images), judge.text_features(captions), 1)
    assert judge_renders(judge, images, captions, "a car") == expected


@pytest.mark.parametrize("captions", [["a duck"], ["a car", "a car", "a duck"]])
def test_the_true_caption_must_be_there_once(captions: list[str], tiny_judge: Callable[[], ClipJudge]):
    with pytest.raises(ValueError, match="a car"):
        judge_renders(tiny_judge(), torch.rand(1, 16, 16, 3), captions, "a car")
