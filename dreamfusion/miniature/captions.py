"""Captions of the procedural world's scenes, and the words that the miniature can know."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dreamfusion.miniature.world import SceneSpec, Thing

# What a picture is labelled with; a caption may also say "side" of either side.
VIEWS = ("front", "left", "right", "back", "overhead")
OVERHEAD_ELEVATION_DEG = 60.0
FRONT_HALFWIDTH_DEG = 45.0
BACK_HALFWIDTH_DEG = 45.0

NOUN_WORDS: dict[str, tuple[str, ...]] = {
    "car": ("car", "automobile"),
    "rabbit": ("rabbit", "bunny"),
    "sofa": ("sofa", "couch"),
    "cat": ("cat", "kitty"),
    "dog": ("dog", "puppy"),
    "mushroom": ("mushroom", "toadstool"),
    "house": ("house", "cottage"),
    "rocket": ("rocket", "rocket ship"),
    "mug": ("mug", "cup"),
    "cube": ("cube", "box"),
    "airplane": ("airplane", "plane"),
    "boat": ("boat", "ship"),
    "truck": ("truck", "lorry"),
    "ball": ("ball", "sphere"),
    "tree": ("tree",),
    "bear": ("bear", "teddy bear"),
    "ice cream": ("ice cream", "ice cream cone"),
    "pig": ("pig", "piglet"),
    "table": ("table", "desk"),
    "turtle": ("turtle", "tortoise"),
}
COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "gray": ("gray", "grey"),
    "turquoise": ("turquoise", "teal"),
    "purple": ("purple", "violet"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "on": ("on", "on top of", "standing on", "sitting on"),
    "next to": ("next to", "beside", "and"),
    "under": ("under", "below"),
    "wearing": ("wearing", "with"),
}
PREFIXES = ("a photo of", "a 3d render of", "a dslr photo of")

# Shares of the ways in which a caption is put; what a synonym is not, is the plain word.
PREFIX_SHARE = 0.4
VIEW_SHARE = 0.85
SYNONYM_SHARE = 0.3
EITHER_SIDE_SHARE = 0.3
NO_ARTICLE_SHARE = 0.08
THE_SHARE = 0.04


def view_word(azimuth_deg: float | int, elevation_deg: float | int) -> str:
    """Which of `VIEWS` a camera sees: "overhead" above 60 degrees, else by azimuth; +90 is the thing's own left side."""
    if elevation_deg > OVERHEAD_ELEVATION_DEG:
        return "overhead"
    azimuth = (azimuth_deg + 180.0) % 360.0 - 180.0
    if abs(azimuth) < FRONT_HALFWIDTH_DEG:
        return "front"
    if abs(azimuth) > 180.0 - BACK_HALFWIDTH_DEG:
        return "back"
    return "left" if azimuth > 0 else "right"


def said_view(view: str, rng: np.random.Generator) -> str:
    """The view as a caption has it: ", left view", or at times ", side view" for it."""
    if view in ("left", "right") and rng.random() < EITHER_SIDE_SHARE:
        view = "side"
    return f", {view} view"


def with_article(phrase: str) -> str:
    """ "a red car", "an orange cat"; "red scissors", which come in pairs, take none."""
    word = phrase.split()[-1]
    # Ends that are not a plural's: glass, cactus, tennis, triceratops.
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "ops")) and " of " not in phrase:
        return phrase
    return f"{'an' if phrase.startswith(tuple('aeiou')) else 'a'} {phrase}"


def _plain_phrase(thing: Thing) -> str:
    return f"{thing.color} {thing.noun}" if thing.color else thing.noun


def plain_caption(spec: SceneSpec) -> str:
    """The canonical text of a scene, e.g. "a red car on a blue table"."""
    phrases = [with_article(_plain_phrase(thing)) for thing in spec.things]
    return phrases[0] if spec.relation is None else f" {spec.relation} ".join(phrases)


def _chosen(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    plain, *others = words
    if others and rng.random() < SYNONYM_SHARE:
        return others[int(rng.integers(len(others)))]
    return plain


def caption(spec: SceneSpec, view: str | None, rng: np.random.Generator) -> str:
    """One of many ways to say `spec`; ", front view" and its like is added most times that `view` is known."""
    style = rng.random()
    phrases = []
    for thing in spec.things:
        noun = _chosen(rng, NOUN_WORDS.get(thing.noun, (thing.noun,)))
        color = _chosen(rng, COLOR_WORDS.get(thing.color, (thing.color,))) if thing.color else None
        phrase = f"{color} {noun}" if color else noun
        if style < NO_ARTICLE_SHARE:
            phrases.append(phrase)
        elif style < NO_ARTICLE_SHARE + THE_SHARE:
            phrases.append(f"the {phrase}")
        else:
            phrases.append(with_article(phrase))
    text = phrases[0]
    if spec.relation is not None:
        words = RELATION_WORDS[spec.relation]
        # The verbs of "on" are as good as the word itself; the other relations have a usual word.
        relation = words[int(rng.integers(len(words)))] if spec.relation == "on" else _chosen(rng, words)
        text = f"{phrases[0]} {relation} {phrases[1]}"
    if style >= NO_ARTICLE_SHARE and rng.random() < PREFIX_SHARE:
        text = f"{PREFIXES[int(rng.integers(len(PREFIXES)))]} {text}"
    if view is not None and rng.random() < VIEW_SHARE:
        text += said_view(view, rng)
    return text


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can hold, lower case, sorted."""
    from dreamfusion.miniature.nouns import NOUNS
    from dreamfusion.miniature.nouns_builder import COLORS

    texts = ["a", "an", "the", "side", "view", *VIEWS, *PREFIXES, *NOUNS, *COLORS]
    for table in (NOUN_WORDS, COLOR_WORDS, RELATION_WORDS):
        texts += [word for words in table.values() for word in words]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}))
