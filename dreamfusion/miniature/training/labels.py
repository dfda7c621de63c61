"""What a picture shows, as classes, and scenes that differ from it in one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dreamfusion.miniature.lexicon import Lexicon, core
from dreamfusion.miniature.world import SceneSpec, Thing

# What each picture shows, told to the judge's vision tower outright: it learns to see in a fraction of the pictures
# that the contrast alone would take. These heads are left behind on export.
HEADS = ("noun a", "color a", "relation", "noun b", "color b")


def _other(rng: np.random.Generator, names: Sequence[str], but: str | None) -> str:
    while True:
        name = names[int(rng.integers(len(names)))]
        if name != but:
            return name


def wrong_by_one(spec: SceneSpec, rng: np.random.Generator, lexicon: Lexicon | None = None) -> SceneSpec:
    """A scene that differs from `spec` in one noun, one colour, or in what belongs to what, in the words of the core world
    unless others are given."""
    lexicon = lexicon or core()
    things = list(spec.things)
    colors = [thing.color for thing in things]
    if len(things) == 2 and rng.random() < 0.5:
        if colors[0] != colors[1] and rng.random() < 0.6:
            return replace(spec, things=(Thing(things[0].noun, colors[1]), Thing(things[1].noun, colors[0])))
        if spec.relation != "next to" and things[0].noun != things[1].noun:
            return replace(spec, things=(things[1], things[0]))
    which = int(rng.integers(len(things)))
    thing = things[which]
    if thing.color is not None and rng.random() < 0.6:
        things[which] = Thing(thing.noun, _other(rng, list(lexicon.colors), thing.color))
    else:
        things[which] = Thing(_other(rng, list(lexicon.nouns), thing.noun), thing.color)
    return replace(spec, things=tuple(things))


def labels(spec: SceneSpec, lexicon: Lexicon | None = None) -> list[int]:
    """The class of each of `HEADS`; 0 stands for "none". Neighbours are put in alphabetical order."""
    things = list(spec.things)
    if spec.relation == "next to":
        things.sort(key=lambda thing: (thing.noun, thing.color or ""))
    lexicon = lexicon or core()
    nouns, colors, relations = list(lexicon.nouns), list(lexicon.colors), list(lexicon.relations)
    found = []
    for thing in [*things, None][:2]:
        noun = 0 if thing is None else 1 + nouns.index(thing.noun)
        color = 0 if thing is None or thing.color is None else 1 + colors.index(thing.color)
        found += [noun, color]
    relation = 0 if spec.relation is None else 1 + relations.index(spec.relation)
    return [*found[:2], relation, *found[2:]]
