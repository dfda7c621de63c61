"""Captions: they say what is there, in words that the vocabulary knows, and name the view that the camera has."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamfusion.cameras import orbit_cameras
from dreamfusion.miniature import captions
from dreamfusion.miniature.captions import caption, plain_caption, view_word, vocabulary
from dreamfusion.miniature.dataset import render_specs
from dreamfusion.miniature.nouns import NOUNS
from dreamfusion.miniature.nouns_builder import COLORS
from dreamfusion.miniature.world import RELATION_SHARES, SceneSpec, Thing, sample_spec

RED_CAR, BLUE_TABLE = Thing("car", "red"), Thing("table", "blue")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (SceneSpec((RED_CAR, BLUE_TABLE), "on"), "a red car on a blue table"),
        (SceneSpec((Thing("umbrella"),)), "an umbrella"),
        (SceneSpec((Thing("umbrella", "red"),)), "a red umbrella"),
        (SceneSpec((Thing("cat"), Thing("hat", "orange")), "wearing"), "a cat wearing an orange hat"),
        (SceneSpec((Thing("peacock"), Thing("surfboard")), "on"), "a peacock on a surfboard"),
    ],
)
def test_the_plain_caption(spec, text):
    assert plain_caption(spec) == text


def said(word: str, text: str, table: dict[str, tuple[str, ...]]) -> bool:
    return any(re.search(rf"\b{re.escape(w)}\b", text) for w in table.get(word, (word,)))


def test_every_caption_names_all_things_their_colours_and_the_relation():
    rng = np.random.default_rng(0)
    for _ in range(300):
        spec = sample_spec(rng)
        text = caption(spec, "front", rng)
        for thing in spec.things:
            assert said(thing.noun, text, captions.NOUN_WORDS), (spec, text)
            if thing.color:
                assert said(thing.color, text, captions.COLOR_WORDS), (spec, text)
        if spec.relation:
            assert said(spec.relation, text, captions.RELATION_WORDS), (spec, text)
        else:
            assert not re.search(r"\b(on|under|wearing|and|beside)\b", text), text


def test_each_colour_stands_before_its_own_noun():
    rng = np.random.default_rng(1)
    spec = SceneSpec((Thing("car", "red"), Thing("table", "blue")), "on")
    for _ in range(100):
        text = caption(spec, None, rng)
        assert re.search(r"red (car|automobile)\b.* blue (table|desk)$", text), text


def test_articles_fit():
    rng = np.random.default_rng(2)
    for _ in range(300):
        text = caption(sample_spec(rng), None, rng)
        assert not re.search(r"\ba [aeiou]", text) and not re.search(r"\ban [^aeiou]", text), text


def test_the_view_is_said_in_one_form_and_as_often_as_stated():
    rng = np.random.default_rng(3)
    spec = SceneSpec((RED_CAR,))
    texts = [caption(spec, "side", rng) for _ in range(2000)]
    assert all(text.endswith(", side view") for text in texts if "view" in text)
    assert np.mean(["view" in text for text in texts]) == pytest.approx(captions.VIEW_SHARE, abs=0.03)
    prefixed = np.mean([" of a" in text for text in texts])
    assert prefixed == pytest.approx(captions.PREFIX_SHARE * (1 - captions.NO_ARTICLE_SHARE), abs=0.04)
    assert not any("view" in caption(spec, None, rng) for _ in range(200))


def test_many_phrasings():
    rng = np.random.default_rng(4)
    spec = SceneSpec((RED_CAR, BLUE_TABLE), "on")
    assert len({caption(spec, "front", rng) for _ in range(500)}) > 60


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [
        (0, 0, "front"),
        (44.9, 0, "front"),
        (-44.9, 59, "front"),
        (45.1, 0, "left"),
        (90, 10, "left"),
        (-90, 10, "right"),
        (135, 0, "left"),
        (-135, 0, "right"),
        (135.1, 0, "back"),
        (180, 0, "back"),
        (-180, 0, "back"),
        (0, 60, "front"),
        (0, 60.1, "overhead"),
        (170, 80, "overhead"),
    ],
)
def test_view_words(azimuth, elevation, view):
    assert view_word(azimuth, elevation) == view


@given(st.floats(-720, 720), st.floats(-90, 90))
def test_view_words_turn_with_the_circle_and_a_mirror_swaps_left_and_right(azimuth, elevation):
    assert view_word(azimuth, elevation) in captions.VIEWS
    wrapped = (azimuth + 180.0) % 360.0 - 180.0
    # Off the borders, where rounding may decide.
    if all(abs(abs(wrapped) - border) > 1e-6 for border in (45.0, 135.0)):
        mirrored = {"left": "right", "right": "left"}
        view = view_word(azimuth, elevation)
        assert view_word(-azimuth, elevation) == mirrored.get(view, view)
        assert view_word(azimuth + 360.0, elevation) == view


def test_the_left_view_shows_a_thing_that_looks_to_the_pictures_left():
    # A duck's orange beak is what is furthest ahead; seen from its own left, ahead is left in the picture.
    spec = SceneSpec((Thing("duck", "blue"),))
    for azimuth, left in ((90.0, True), (-90.0, False)):
        cameras = orbit_cameras(torch.tensor([azimuth]), 10.0, 2.5, 43.0, 64)
        images, _ = render_specs([spec], np.random.default_rng(1), cameras)
        orange = images[0][..., 0].astype(int) - images[0][..., 2] > 120
        body = images[0][..., 2].astype(int) - images[0][..., 0] > 60
        assert orange.sum() > 5
        top = np.argwhere(orange)[:, 0].min()
        beak = np.argwhere(orange[: top + 6])[:, 1].mean()
        assert (beak < np.argwhere(body)[:, 1].mean()) == left
        assert (view_word(azimuth, 10.0) == "left") == left


def test_either_side_is_at_times_just_the_side():
    rng = np.random.default_rng(6)
    spec = SceneSpec((RED_CAR,))
    texts = [caption(spec, "left", rng) for _ in range(2000)]
    sides = sum(text.endswith(", side view") for text in texts)
    assert 0.25 < sides / sum(text.endswith(" view") for text in texts) < 0.35
    assert not any("right" in text for text in texts)
    assert not any("side" in caption(spec, "back", rng) for _ in range(200))


def test_the_vocabulary_holds_every_word_that_is_ever_said():
    words = set(vocabulary())
    rng = np.random.default_rng(5)
    for _ in range(700):
        text = caption(sample_spec(rng), captions.VIEWS[int(rng.integers(5))], rng)
        assert set(re.findall(r"[a-z0-9]+", text)) <= words
        assert text == text.lower()
    assert {"peacock", "surfboard", "turquoise", "overhead", "bunny", "cream", "3d", "grey"} <= words
    assert list(vocabulary()) == sorted(words)


def test_tables_of_synonyms_belong_to_the_world():
    assert set(captions.NOUN_WORDS) <= set(NOUNS) and set(captions.COLOR_WORDS) <= set(COLORS)
    assert set(captions.RELATION_WORDS) == set(RELATION_SHARES)
    # No word means two nouns.
    words = [w for noun in NOUNS for w in captions.NOUN_WORDS.get(noun, (noun,))]
    assert len(words) == len(set(words))
    assert all(captions.NOUN_WORDS[noun][0] == noun for noun in captions.NOUN_WORDS)
