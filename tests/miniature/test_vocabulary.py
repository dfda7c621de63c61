"""A word that the embedded model never saw is named, with what it knows instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamfusion.errors import ModelNotFoundError
from dreamfusion.miniature import captions, vocabulary
from dreamfusion.miniature.lexicon import wide
from dreamfusion.miniature.nouns import NOUNS
from dreamfusion.miniature.nouns_builder import COLORS


@pytest.fixture(autouse=True)
def word_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The world's words in the file's format, whatever the shipped model was trained on."""
    path = tmp_path / "vocabulary.json"
    content = {
        "words": list(captions.vocabulary()),
        "nouns": {noun: list(captions.NOUN_WORDS.get(noun, (noun,))) for noun in NOUNS},
        "colors": {color: list(captions.COLOR_WORDS.get(color, (color,))) for color in COLORS},
        "relations": {name: list(words) for name, words in captions.RELATION_WORDS.items()},
    }
    path.write_text(json.dumps(content))
    monkeypatch.setattr(vocabulary, "VOCABULARY", path)
    return path


@pytest.mark.parametrize(
    "prompt",
    [
        "a peacock on a surfboard",
        "A GREEN duck, next to the grey teddy bear!",
        "a photo of an ice cream cone",
        "",
    ],
)
def test_the_worlds_own_words_are_known(prompt: str) -> None:
    assert vocabulary.unknown_words(prompt) == {}


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("goose", "duck"),
        ("wolf", "dog"),
        ("surfbord", "surfboard"),
        ("mugs", "mug"),
        ("boxes", "cube"),
        ("scarlet", "red"),
    ],
)
def test_an_unknown_word_is_named_with_a_near_one(word: str, near: str) -> None:
    found = vocabulary.unknown_words(f"a red {word} on a table, and another {word}")
    assert list(found) == [word, "another"]
    assert near in found[word] and len(found[word]) <= 3


def test_what_is_near_to_nothing_is_named_alone() -> None:
    assert vocabulary.unknown_words("a qwrtzx") == {"qwrtzx": ()}


def test_every_suggestion_is_known_and_no_known_word_is_in_the_table() -> None:
    known = {name for names in vocabulary.known_words().values() for name in names}
    wider = {*wide().nouns, *wide().colors, *wide().relations}
    for name, others in vocabulary._NEAR_IN_MEANING.items():
        assert name in wider
        assert not set(others.split()) & known
    assert set(vocabulary.known_words()) == {"nouns", "colors", "relations"}


def test_a_missing_list_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vocabulary, "VOCABULARY", tmp_path / "none.json")
    with pytest.raises(ModelNotFoundError, match=r"none\.json"):
        vocabulary.unknown_words("a duck")


def test_a_model_of_the_wide_world_offers_its_own_words(word_list: Path) -> None:
    from dreamfusion.miniature.training.export import write_vocabulary

    assert vocabulary.nearest("pony") == ()
    write_vocabulary(word_list, wide())
    vocabulary._content.cache_clear()
    assert len(vocabulary.known_words()["nouns"]) >= 400
    unknown = vocabulary.unknown_words("a pony beside a violin on an armchare")
    assert {word: near[0] for word, near in unknown.items()} == {
        "pony": "horse",
        "violin": "guitar",
        "armchare": "armchair",
    }


def test_both_ends_of_a_plural_are_taken_off(word_list: Path) -> None:
    """In -es the word without both letters is meant where it is known, else the word without the s."""
    from dreamfusion.miniature.training.export import write_vocabulary

    write_vocabulary(word_list, wide())
    vocabulary._content.cache_clear()
    known = wide().nouns
    ends = {"torch": "torches", "box": "boxes", "brush": "brushes", "bus": "buses", "horse": "horses", "duck": "ducks",
            "house": "houses", "bench": "benches", "fox": "foxes", "glass": "glasses"}  # fmt: skip
    tried = {one: many for one, many in ends.items() if one in known and many not in known}
    assert sum(many.endswith("es") for many in tried.values()) >= 3
    for one, many in tried.items():
        assert vocabulary.nearest(many) == (one,), many
