"""Every noun of the procedural world: how it is sculpted, its natural colours, its size beside the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dreamfusion.miniature import nouns_animals as animals
from dreamfusion.miniature import nouns_things as things
from dreamfusion.miniature import nouns_vehicles as vehicles
from dreamfusion.miniature.nouns_builder import COLORS, Builder, jittered


@dataclass(frozen=True)
class Noun:
    """One noun.

    `natural`: colours it has without a colour word, none for things that come in any colour. `size`: its greatest
    extent beside other nouns, in toy-box proportions. `support`: how often others are put on it (0 = never);
    `wears`: it can wear a hat; `shelters`: others fit underneath.
    """

    name: str
    build: Callable[[Builder], None]
    natural: tuple[str, ...] = ()
    size: float = 1.0
    support: float = 0.2
    wears: bool = False
    shelters: bool = False


_NOUNS = (
    Noun("peacock", animals.peacock, ("blue",), 1.0, 0.1, wears=True),
    Noun("duck", animals.duck, ("yellow", "white"), 0.75, wears=True),
    Noun("snowman", animals.snowman, ("white",), 1.1, 0.1, wears=True),
    Noun("cat", animals.cat, ("orange", "gray", "black", "brown"), 0.85, wears=True),
    Noun("surfboard", vehicles.surfboard, (), 1.75, 1.0),
    Noun("car", vehicles.car, (), 1.3, 0.7),
    Noun("rocket", vehicles.rocket, ("white", "gray"), 1.3, 0.0),
    Noun("chair", things.chair, ("brown",), 1.1, 0.8),
    Noun("table", things.table, ("brown",), 1.3, 1.0, shelters=True),
    Noun("mushroom", things.mushroom, ("red", "brown"), 0.85, 0.6),
    Noun("tree", things.tree, ("green",), 1.5, 0.1),
    Noun("house", things.house, ("white", "yellow", "gray"), 1.6, 0.3),
    Noun("mug", things.mug, (), 0.65, 0.3),
    Noun("cube", things.cube, (), 0.9, 1.0),
    Noun("hat", things.hat, ("black", "brown"), 0.65, 0.4),
)

NOUNS: dict[str, Noun] = {noun.name: noun for noun in _NOUNS}


def sculpt(name: str, color: str, rng: np.random.Generator, natural: bool) -> Builder:
    """The thing `name` whose main part has `color`; `natural` when no colour word was said.

    Raises:
        KeyError: for a noun or colour that the world does not have.
    """
    builder = Builder(rng, jittered(rng, COLORS[color]), natural)
    NOUNS[name].build(builder)
    return builder
