"""What a world's scenes can be called: its nouns, synonyms, relations and ways of putting a caption.

`core()` is the world of `world.py`, in the words of `captions.py`; `wide()` the one of `wide.py`, which the shipped weights were
trained on. Neither needs a mesh.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from dreamfusion.errors import PromptError
from dreamfusion.miniature import captions
from dreamfusion.miniature.meshes.catalogue import catalogue
from dreamfusion.miniature.nouns import NOUNS
from dreamfusion.miniature.nouns_builder import COLORS
from dreamfusion.miniature.world import Relation, SceneSpec, Thing

# Words that other nouns of the wide world are called by themselves, or more exactly.
NOT_SYNONYMS = {"table": ("desk",), "cube": ("box",)}
WIDE_RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "on": ("on", "on top of", "standing on", "sitting on", "resting on", "atop"),
    "next to": ("next to", "beside", "and", "near"),
    "under": ("under", "below", "underneath", "beneath"),
    "wearing": ("wearing", "with"),
    "in": ("in", "inside", "sitting in"),
}
WIDE_COLOR_WORDS: dict[str, tuple[str, ...]] = {
    **captions.COLOR_WORDS,
    "red": ("red", "crimson"),
    "blue": ("blue", "navy"),
    "yellow": ("yellow", "golden"),
    "gray": ("gray", "grey", "silver"),
}
WIDE_PREFIXES = (
    "a photo of",
    "a 3d render of",
    "a dslr photo of",
    "a picture of",
    "an image of",
    "a rendering of",
    "a zoomed out dslr photo of",
    "a 3d model of",
)
DROPPED_WORD_SHARE = 0.05
PLURAL_SHARE = 0.04
# As captions.py has them, a little more of each.
PREFIX_SHARE, VIEW_SHARE, SYNONYM_SHARE, NO_ARTICLE_SHARE, THE_SHARE = 0.45, 0.8, 0.3, 0.1, 0.04


@dataclass(frozen=True)
class Lexicon:
    """Names for everything in a world: each table maps the plain name to all that people say, the plain name first."""

    name: str
    nouns: dict[str, tuple[str, ...]]
    colors: dict[str, tuple[str, ...]]
    relations: dict[str, tuple[str, ...]]

    def caption(self, spec: SceneSpec, view: str | None, rng: np.random.Generator) -> str:
        """One of many ways to say `spec` as seen from `view`."""
        if self.name == "core":
            return captions.caption(spec, view, rng)
        return _wide_caption(self, spec, view, rng)

    def parse(self, text: str) -> SceneSpec:
        """The scene that a caption without view words means: the inverse of `captions.plain_caption`, synonyms allowed.

        Raises:
            PromptError: for words that are no scene of this world.
        """
        said = re.sub(r"\s+", " ", text.strip().lower())
        for start in sorted({*captions.PREFIXES, *WIDE_PREFIXES}, key=len, reverse=True):
            said = said.removeprefix(f"{start} ")
        things = self._things
        if alone := things.get(_bare(said)):
            return SceneSpec((alone,))
        splits = list(self._splits(said))
        for relation, first, second in splits:
            if (a := things.get(_bare(first))) and (b := things.get(_bare(second))):
                return SceneSpec((a, b), relation)
        unknown = next((part for _, *both in splits for part in both if _bare(part) not in things), said)
        near = difflib.get_close_matches(" ".join(unknown.split()[-1:]), _said(self.nouns), n=3)
        raise PromptError(
            f"the {self.name} world has no scene for {text!r}",
            expected="[colour] noun, or two of them and " + ", ".join(self.relations),
            got=repr(unknown),
            hint=f"did you mean {' or '.join(near)}?" if near else None,
        )

    @cached_property
    def _things(self) -> dict[str, Thing]:
        """Every phrase without its article."""
        colors = {word: color for color, words in self.colors.items() for word in words}
        return {
            f"{word} {said}".strip(): Thing(noun, color)
            for noun, words in self.nouns.items()
            for said in words
            for word, color in [("", None), *colors.items()]
        }

    def _splits(self, said: str) -> Iterator[tuple[Relation, str, str]]:
        """Every place where a relation can part the text."""
        for word, name in [(word, name) for name, words in self.relations.items() for word in words]:
            for found in re.finditer(f"(?= {word} )", said):
                relation: Any = name
                yield relation, said[: found.start()], said[found.start() + len(word) + 2 :]

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a caption can hold, lower case, sorted."""
        if self.name == "core":
            return captions.vocabulary()
        texts = ["a", "an", "the", "side", "view", *captions.VIEWS, *WIDE_PREFIXES]
        for table in (self.nouns, self.colors, self.relations):
            texts += [word for words in table.values() for word in words]
        texts += [plural(words[0]) for words in self.nouns.values()]
        return tuple(sorted(_words(texts)))

    def longest_caption(self) -> int:
        """The most tokens that a caption can have where every known word is one token, start and end among them."""
        phrase = 1 + max(map(count_tokens, _said(self.colors))) + max(map(count_tokens, _said(self.nouns)))
        relation = max(map(count_tokens, _said(self.relations)))
        prefixes = captions.PREFIXES if self.name == "core" else WIDE_PREFIXES
        return 2 + max(map(count_tokens, prefixes)) + 2 * phrase + relation + count_tokens(", overhead view")


def _bare(phrase: str) -> str:
    return re.sub(r"^(an?|the) ", "", phrase)


def _said(table: dict[str, tuple[str, ...]]) -> list[str]:
    return [word for words in table.values() for word in words]


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}


def count_tokens(text: str) -> int:
    """Tokens of a text all of whose words are known, cut as CLIP's pattern cuts."""
    return len(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower()))


@cache
def core() -> Lexicon:
    """The 55 procedural nouns."""
    return Lexicon(
        "core",
        {name: captions.NOUN_WORDS.get(name, (name,)) for name in NOUNS},
        {color: captions.COLOR_WORDS.get(color, (color,)) for color in COLORS},
        captions.RELATION_WORDS,
    )


@cache
def wide() -> Lexicon:
    """The procedural nouns and those of `objects.yaml`."""
    objects = catalogue().nouns
    taken = set(objects) | set(NOUNS)
    nouns: dict[str, tuple[str, ...]] = {}
    for name in [*NOUNS, *(name for name in objects if name not in NOUNS)]:
        usual = captions.NOUN_WORDS.get(name, (name,))[1:]
        more = objects[name].synonyms if name in objects else ()
        banned = NOT_SYNONYMS.get(name, ())
        others = [word for word in (*usual, *more) if word not in taken and word not in banned]
        nouns[name] = (name, *dict.fromkeys(others))
    colors = {color: WIDE_COLOR_WORDS.get(color, (color,)) for color in COLORS}
    return Lexicon("wide", nouns, colors, WIDE_RELATION_WORDS)


def lexicon(name: str) -> Lexicon:
    """`core` or `wide`.

    Raises:
        ValueError: for another name.
    """
    if name not in ("core", "wide"):
        raise ValueError(f"the worlds are core and wide, got {name!r}")
    return core() if name == "core" else wide()


def plural(noun: str) -> str:
    """ "cats", "glasses", "cherries"; a slip people make where the scene shows one."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun if noun.endswith("s") else f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def _wide_caption(lexicon: Lexicon, spec: SceneSpec, view: str | None, rng: np.random.Generator) -> str:
    style = rng.random()
    phrases = [_phrase(lexicon, thing, style, rng) for thing in spec.things]
    text = phrases[0]
    if spec.relation is not None:
        words = lexicon.relations[spec.relation]
        # The verbs of "on" are as good as the word itself; the other relations have a usual word.
        even = spec.relation == "on"
        relation = words[int(rng.integers(len(words)))] if even else _chosen(rng, words)
        text = f"{phrases[0]} {relation} {phrases[1]}"
    if style >= NO_ARTICLE_SHARE and rng.random() < PREFIX_SHARE:
        text = f"{WIDE_PREFIXES[int(rng.integers(len(WIDE_PREFIXES)))]} {text}"
    words = text.split()
    kept = [word for word in words if rng.random() >= DROPPED_WORD_SHARE]
    text = " ".join(kept or words)
    if view is not None and rng.random() < VIEW_SHARE:
        text += captions.said_view(view, rng)
    return text


def _phrase(lexicon: Lexicon, thing: Thing, style: float, rng: np.random.Generator) -> str:
    noun = _chosen(rng, lexicon.nouns[thing.noun])
    slip = noun == thing.noun and rng.random() < PLURAL_SHARE
    noun = plural(noun) if slip else noun
    color = _chosen(rng, lexicon.colors[thing.color]) if thing.color else None
    phrase = f"{color} {noun}" if color else noun
    if slip or style < NO_ARTICLE_SHARE:
        return phrase
    return f"the {phrase}" if style < NO_ARTICLE_SHARE + THE_SHARE else captions.with_article(phrase)


def _chosen(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    plain, *others = words
    if others and rng.random() < SYNONYM_SHARE:
        return others[int(rng.integers(len(others)))]
    return plain
