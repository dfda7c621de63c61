# trimesh's and usd-core's annotations are narrower, or wider, than what they return.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""Distances between surfaces that are known by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import trimesh

from dreamfusion.evaluation import geometry
from dreamfusion.evaluation.geometry import surface_agreement


@pytest.fixture
def medium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "SIDE", 80)
    monkeypatch.setattr(geometry, "SAMPLES", 25_000)


@pytest.mark.usefixtures("medium")
def test_concentric_spheres_are_their_radii_apart() -> None:
    small, large = (trimesh.creation.icosphere(4, radius=radius) for radius in (0.9, 1.0))
    agreement = surface_agreement(small, large)
    assert agreement.accuracy == pytest.approx(0.1, abs=0.003)
    assert agreement.completeness == pytest.approx(0.1, abs=0.003)
    assert agreement.normal_consistency > 0.99


@pytest.mark.usefixtures("medium")
def test_what_is_missing_and_what_is_too_much_are_told_apart() -> None:
    ball = trimesh.creation.icosphere(3, radius=0.5)
    far = trimesh.creation.icosphere(3, radius=0.5).apply_translation([5.0, 0, 0])
    both = trimesh.util.concatenate([ball, far])
    extra = surface_agreement(both, ball)
    lacking = surface_agreement(ball, both)
    # About half of the points lie on the other ball, 4.5 or a little more away.
    assert extra.accuracy == pytest.approx(lacking.completeness, rel=0.05)
    assert 2.1 < extra.accuracy < 2.6 and extra.completeness < 0.03
    assert extra.chamfer == pytest.approx((extra.accuracy + extra.completeness) / 2)


@pytest.mark.usefixtures("medium")
def test_a_box_turned_by_a_right_angle_is_itself_and_by_half_of_one_is_not() -> None:
    box = trimesh.creation.box((1, 1, 1))
    turn = trimesh.transformations.rotation_matrix
    same = surface_agreement(box.copy().apply_transform(turn(1.5707963, [0, 1, 0])), box)
    other = surface_agreement(box.copy().apply_transform(turn(0.785398, [0, 1, 0])), box)
    assert same.chamfer < 0.015 and same.normal_consistency > 0.97
    assert other.chamfer > 3 * same.chamfer and other.normal_consistency < 0.9


@pytest.mark.usefixtures("medium")
def test_what_lies_inside_and_cannot_be_seen_does_not_count() -> None:
    ball, core = trimesh.creation.icosphere(3, radius=1.0), trimesh.creation.icosphere(3, radius=0.5)
    hollow = surface_agreement(trimesh.util.concatenate([ball, core]), ball)
    assert hollow.chamfer < 0.015


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "SIDE", 48)
    monkeypatch.setattr(geometry, "SAMPLES", 10_000)


@pytest.mark.usefixtures("coarse")
def test_a_thin_plate_agrees_with_itself() -> None:
    """The nearest sample may lie on the plate's other side, whose normal is the opposite one: that is agreement."""
    plate = trimesh.creation.box((1.0, 1.0, 1e-4))
    for other in (plate.copy(), plate.copy().apply_translation([0, 0, 3e-4])):
        found = surface_agreement(plate, other)
        assert found.normal_consistency == pytest.approx(1.0, abs=3e-3)
        assert found.chamfer < 0.02


@pytest.mark.usefixtures("coarse")
def test_a_body_is_seen_from_all_sides() -> None:
    """Every half of a ball is missed where only the other one is there, wherever the ball lies."""
    ball = trimesh.creation.icosphere(3, radius=0.7)
    for axis, sign in itertools.product(range(3), (1, -1)):
        half = ball.submesh([np.flatnonzero(sign * ball.triangles_center[:, axis] > 0)], append=True)
        for mesh in (half, whole := ball.copy()):
            mesh.apply_translation([3.0, -2.0, 5.0])
        found = surface_agreement(half, whole)
        assert found.completeness > 0.1 and found.accuracy < 0.03
        assert found.chamfer == pytest.approx((found.completeness + found.accuracy) / 2)


@pytest.mark.usefixtures("coarse")
def test_the_seed_alone_chooses_the_samples() -> None:
    ball = trimesh.creation.icosphere(3)
    assert surface_agreement(ball, ball, seed=1) == surface_agreement(ball, ball, seed=1)
    assert surface_agreement(ball, ball, seed=1) != surface_agreement(ball, ball, seed=2)
