"""Faces and agreement on features that are known."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.evaluation.text_scores import consistency, janus_score

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
