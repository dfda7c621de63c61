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
    Noun("peacock", animals.peacock, ("blue",), 1.1, 0.1, wears=True),
    Noun("duck", animals.duck, ("yellow", "white"), 0.75, wears=True),
    Noun("cat", animals.cat, ("orange", "gray", "black", "brown"), 0.85, wears=True),
    Noun("dog", animals.dog, ("brown", "white", "black"), 0.9, wears=True),
    Noun("rabbit", animals.rabbit, ("white", "gray", "brown"), 0.85, 0.1, wears=True),
    Noun("fish", animals.fish, ("orange", "blue"), 0.85, 0.05),
    Noun("penguin", animals.penguin, ("black",), 0.95, 0.1, wears=True),
    Noun("elephant", animals.elephant, ("gray",), 1.3, 0.7, wears=True),
    Noun("giraffe", animals.giraffe, ("yellow",), 1.5, 0.2, wears=True),
    Noun("turtle", animals.turtle, ("green",), 0.95, 0.8, wears=True),
    Noun("snail", animals.snail, ("brown", "orange"), 0.8, wears=True),
    Noun("pig", animals.pig, ("pink",), 0.95, 0.5, wears=True),
    Noun("bear", animals.bear, ("brown",), 1.0, 0.1, wears=True),
    Noun("owl", animals.owl, ("brown", "gray"), 0.8, 0.05, wears=True),
    Noun("snowman", animals.snowman, ("white",), 1.1, 0.05, wears=True),
    Noun("robot", animals.robot, ("gray",), 1.1, 0.1, wears=True),
    Noun("surfboard", vehicles.surfboard, (), 1.45, 1.0),
    Noun("car", vehicles.car, (), 1.3, 0.8),
    Noun("truck", vehicles.truck, (), 1.5, 0.7),
    Noun("bus", vehicles.bus, ("yellow", "red"), 1.5, 0.7),
    Noun("train", vehicles.train, (), 1.5, 0.4),
    Noun("boat", vehicles.boat, (), 1.5, 0.5),
    Noun("airplane", vehicles.airplane, ("white", "gray"), 1.5, 0.3),
    Noun("rocket", vehicles.rocket, ("white", "gray"), 1.3, 0.0),
    Noun("chair", things.chair, ("brown",), 1.1, 0.9),
    Noun("table", things.table, ("brown",), 1.3, 1.2, shelters=True),
    Noun("sofa", things.sofa, (), 1.4, 0.9),
    Noun("bed", things.bed, (), 1.5, 0.9),
    Noun("lamp", things.lamp, (), 0.95, 0.0),
    Noun("umbrella", things.umbrella, (), 1.2, 0.05, shelters=True),
    Noun("mug", things.mug, (), 0.65, 0.2),
    Noun("bottle", things.bottle, ("green", "blue"), 0.85, 0.05),
    Noun("vase", things.vase, (), 0.85, 0.05),
    Noun("teapot", things.teapot, (), 0.8, 0.1),
    Noun("cake", things.cake, ("pink", "white", "brown"), 0.85, 0.2),
    Noun("candle", things.candle, ("white", "red"), 0.8, 0.0),
    Noun("apple", things.apple, ("red", "green"), 0.65, 0.1),
    Noun("carrot", things.carrot, ("orange",), 0.8, 0.05),
    Noun("pumpkin", things.pumpkin, ("orange",), 0.85, 0.4),
    Noun("pineapple", things.pineapple, ("yellow",), 0.9, 0.0),
    Noun("ice cream", things.ice_cream, ("pink", "white", "brown"), 0.8, 0.0),
    Noun("mushroom", things.mushroom, ("red", "brown"), 0.85, 0.7),
    Noun("tree", things.tree, ("green",), 1.5, 0.1),
    Noun("cactus", things.cactus, ("green",), 1.0, 0.0),
    Noun("flower", things.flower, ("red", "pink", "purple", "white"), 0.9, 0.0),
    Noun("house", things.house, ("white", "yellow", "gray"), 1.5, 0.2),
    Noun("castle", things.castle, ("gray",), 1.5, 0.05),
    Noun("lighthouse", things.lighthouse, ("white",), 1.5, 0.0),
    Noun("windmill", things.windmill, ("white", "brown"), 1.4, 0.0),
    Noun("tent", things.tent, ("orange", "green", "blue"), 1.3, 0.05),
    Noun("cube", things.cube, (), 0.9, 1.2),
    Noun("ball", things.ball, (), 0.75, 0.2),
    Noun("drum", things.drum, (), 0.85, 0.6),
    Noun("barrel", things.barrel, ("brown",), 0.95, 0.7),
    Noun("hat", things.hat, ("black", "brown"), 0.65, 0.3),
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
