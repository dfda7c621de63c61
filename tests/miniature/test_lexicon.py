"""Names of things: captions of the wide world, its words, and that they fit a text tower's tokens."""

from __future__ import annotations

import numpy as np
import pytest

from dreamfusion.miniature import captions
from dreamfusion.miniature.lexicon import core, count_tokens, lexicon, plural, wide
from dreamfusion.miniature.training.models import MAX_TOKENS
from dreamfusion.miniature.world import SceneSpec, Thing

SPEC = SceneSpec((Thing("armchair", "blue"), Thing("ping pong table", "red")), "on")


def many(spec: SceneSpec, count: int = 600) -> list[str]:
    rng = np.random.default_rng(0)
    return [wide().caption(spec, "front", rng) for _ in range(count)]


def test_the_core_lexicon_says_what_captions_say() -> None:
    assert core().vocabulary() == captions.vocabulary()
    spec = SceneSpec((Thing("duck", "red"), Thing("table")), "on")
    a, b = (np.random.default_rng(5) for _ in range(2))
    assert [core().caption(spec, "side", a) for _ in range(20)] == [
        captions.caption(spec, "side", b) for _ in range(20)
    ]


def test_every_caption_fits_the_text_tower() -> None:
    for words in (core(), wide()):
        assert words.longest_caption() <= MAX_TOKENS
    longest = max(2 + count_tokens(text) for text in many(SPEC))
    assert 15 < longest <= wide().longest_caption()


def test_every_word_of_a_caption_is_in_the_vocabulary() -> None:
    known = set(wide().vocabulary())
    rng = np.random.default_rng(1)
    nouns, relations, colors = list(wide().nouns), list(wide().relations), list(wide().colors)
    for _ in range(1500):
        things = tuple(
            Thing(nouns[rng.integers(len(nouns))], colors[rng.integers(len(colors))]) for _ in range(2)
        )
        spec = SceneSpec(things, relations[rng.integers(len(relations))])  # pyright: ignore[reportArgumentType]
        text = wide().caption(spec, "overhead", rng)
        assert set(text.replace(",", "").split()) <= known, text


def test_captions_say_things_in_many_ways() -> None:
    said = many(SPEC)
    assert any("easy chair" in text for text in said) and any("navy" in text for text in said)
    assert any(text.startswith("a 3d render of") for text in said)
    assert any("armchairs" in text for text in said) and any(text.startswith("blue") for text in said)
    full = "a blue armchair on a red ping pong table, front view"
    assert full in said
    # Words are missing here and there, never all of them.
    assert any("blue armchair on red" in text or "armchair a red" in text for text in said)
    assert all(text.split(",")[0] for text in said)


def test_no_name_stands_for_two_things() -> None:
    names = [name for said in wide().nouns.values() for name in said]
    assert len(names) == len(set(names))
    assert len(wide().nouns) >= 400
    assert list(wide().nouns)[: len(core().nouns)] == list(core().nouns)


@pytest.mark.parametrize(
    ("one", "many"), [("cat", "cats"), ("torch", "torches"), ("cherry", "cherries"), ("glasses", "glasses"), ("key", "keys"),
     ("box", "boxes"), ("brush", "brushes"), ("shoe", "shoes"), ("horse", "horses"), ("boy", "boys"), ("lady", "ladies")]
)  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_other_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="core and wide"):
        lexicon("middle")


@pytest.mark.parametrize(
    ("noun", "said"),
    [("scissors", "scissors"), ("bus", "a bus"), ("wine glass", "a wine glass"), ("octopus", "an octopus")],
)
def test_what_comes_in_pairs_has_no_article(noun: str, said: str) -> None:
    assert captions.plain_caption(SceneSpec((Thing(noun),))) == said
