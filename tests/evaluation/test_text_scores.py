"""Faces and agreement on features that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dreamfusion.evaluation import text_scores
from dreamfusion.evaluation.r_precision import retrieve
from dreamfusion.evaluation.text_scores import consistency, janus_score, score
from dreamfusion.guidance.clip import ClipJudge

FRONT, SIDE, BACK = torch.eye(3)
DIRECTIONS = torch.stack([FRONT, SIDE, BACK])


def views(*names: torch.Tensor) -> torch.Tensor:
    return torch.stack(names)


def test_an_honest_object_has_one_face_and_janus_has_more() -> None:
    honest = views(FRONT, FRONT, SIDE, SIDE, BACK, SIDE, SIDE, FRONT)
    assert janus_score(honest, DIRECTIONS) == 0.0
    # Azimuths 90 to 270 are away from the front: five of eight views.
    assert janus_score(FRONT.expand(8, 3), DIRECTIONS) == 1.0
    two_faces = views(FRONT, SIDE, SIDE, FRONT, FRONT, SIDE, SIDE, SIDE)
    assert janus_score(two_faces, DIRECTIONS) == pytest.approx(2 / 5)


def test_views_agree_with_their_neighbours_all_the_way_round() -> None:
    assert consistency(FRONT.expand(8, 3) * 7) == pytest.approx(1.0)
    assert consistency(views(FRONT, FRONT, SIDE, SIDE)) == pytest.approx(0.5)
    assert consistency(views(FRONT, SIDE)) == pytest.approx(0.0)


def test_each_number_comes_from_its_own_pictures_and_texts(
    tiny_judge: Callable[[], ClipJudge], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, captions = tiny_judge(), ["a car", "a duck", "a green tree"]
    generator = torch.Generator().manual_seed(4)
    colour, plaster = torch.rand(2, 8, 16, 16, 3, generator=generator)
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(text_scores, "janus_score", lambda *of: asked.extend(of) or 0.375)
    found = score(judge, colour, plaster, captions, "a duck")
    texts, features = judge.text_features(captions), judge.image_features(colour)
    assert found.colour == retrieve(features, texts, 1)
    assert found.geometry == retrieve(judge.image_features(plaster), texts, 1) != found.colour
    assert found.consistency == consistency(features)
    directions = judge.text_features([f"a duck, {view} view" for view in ("front", "side", "back")])
    assert not torch.equal(directions[0], directions[2])
    assert found.janus == 0.375 and torch.equal(asked[0], features) and torch.equal(asked[1], directions)
    assert score(judge, colour, None, captions, "a duck").geometry is None
