"""The words that the embedded model was trained on, and for any other word the nearest of them. No torch here.

The list is `vocabulary.json`, written beside the weights when they are exported: it says what the shipped model knows, and
not what the world of today could teach.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

from dreamfusion import documents
from dreamfusion.errors import ModelNotFoundError

VOCABULARY = Path(__file__).parent / "vocabulary.json"

# Words that people write and the world has not, by what comes nearest in shape.
_NEAR_IN_MEANING: dict[str, str] = {
    "peacock": "bird turkey pheasant parrot rooster phoenix",
    "duck": "bird goose swan chicken hen seagull pelican duckling",
    "penguin": "bird puffin",
    "owl": "bird eagle hawk raven crow",
    "cat": "kitten lion tiger leopard fox panther lynx",
    "dog": "wolf fox corgi poodle dachshund husky horse cow sheep goat deer",
    "rabbit": "hare kangaroo mouse squirrel hamster",
    "fish": "shark whale dolphin goldfish",
    "elephant": "mammoth rhino rhinoceros hippo",
    "giraffe": "horse camel llama zebra deer dinosaur",
    "turtle": "crab beetle ladybug frog",
    "snail": "slug worm snake",
    "pig": "boar hippo cow",
    "bear": "panda koala gorilla monkey",
    "robot": "person man woman boy girl human astronaut knight android statue",
    "snowman": "person man gnome santa",
    "surfboard": "board skateboard snowboard plank",
    "car": "taxi jeep van convertible racecar vehicle motorcycle bike bicycle",
    "truck": "van tractor pickup ambulance bulldozer tank",
    "bus": "van coach tram",
    "train": "locomotive tram wagon",
    "boat": "canoe kayak yacht sailboat submarine",
    "airplane": "jet helicopter aircraft glider dragon",
    "rocket": "spaceship missile spacecraft",
    "chair": "stool armchair bench throne",
    "table": "bench counter",
    "bed": "mattress crib hammock",
    "lamp": "light lantern",
    "umbrella": "parasol",
    "mug": "glass teacup bowl bucket",
    "bottle": "flask jar",
    "vase": "pot urn jug",
    "teapot": "kettle pot jug",
    "cake": "pie cupcake muffin donut burger hamburger",
    "candle": "torch",
    "apple": "pear peach cherry tomato strawberry fruit lemon",
    "carrot": "parsnip banana corn vegetable",
    "pineapple": "fruit",
    "tree": "pine palm oak bush plant",
    "cactus": "plant",
    "flower": "rose tulip daisy sunflower plant",
    "house": "hut cabin home building barn",
    "castle": "fort palace tower building",
    "lighthouse": "tower skyscraper",
    "cube": "brick block cuboid crate chest suitcase",
    "ball": "balloon globe marble planet moon egg",
    "barrel": "cask bin keg",
    "hat": "cap crown helmet",
    # Names that only the wide world has; a model that does not know one is not offered it.
    "armchair": "recliner rocker throne",
    "bookcase": "library",
    "cabinet": "furniture hutch sideboard",
    "television": "monitor screen display telly",
    "laptop": "notebook macbook chromebook",
    "smartphone": "iphone android cellphone mobile",
    "bathtub": "bathroom",
    "refrigerator": "icebox",
    "bowl": "basin dish saucer",
    "hamburger": "cheeseburger sandwich",
    "cupcake": "muffin brownie",
    "turkey": "duckling goose poultry",
    "horse": "pony donkey mule unicorn zebra camel",
    "deer": "moose elk antelope reindeer gazelle",
    "cow": "bull ox buffalo bison",
    "wolf": "coyote hyena jackal",
    "shark": "whale dolphin orca",
    "dragon": "wyvern monster beast",
    "dinosaur": "raptor trex godzilla",
    "crocodile": "lizard iguana gecko komodo",
    "frog": "toad salamander",
    "spider": "tarantula insect ant bug",
    "butterfly": "moth dragonfly bee",
    "crow": "magpie jackdaw blackbird",
    "woman": "queen princess witch ballerina nurse mother",
    "man": "king prince wizard soldier samurai pirate astronaut father",
    "motorcycle": "harley quad",
    "sports car": "ferrari porsche lamborghini roadster cabriolet",
    "rowboat": "gondola lifeboat raft",
    "palm": "coconut date",
    "sneakers": "footwear sandals heels",
    "backpack": "rucksack knapsack",
    "guitar": "violin cello banjo ukulele bass",
    "trumpet": "horn tuba trombone",
    "sword": "blade sabre saber excalibur",
    "bow": "archery",
    "crown": "diadem",
    "shed": "barn stable",
    "trash can": "wastebasket dumpster",
    "red": "scarlet crimson maroon ruby",
    "orange": "amber",
    "yellow": "gold golden",
    "green": "lime olive emerald",
    "blue": "navy azure",
    "turquoise": "cyan aqua",
    "purple": "magenta lavender",
    "pink": "rose",
    "brown": "tan beige wooden",
    "gray": "silver metal stone",
    "under": "beneath underneath",
    "on": "atop onto riding over upon",
    "next to": "near by alongside",
    "wearing": "in",
}


@cache
def _content(path: Path) -> dict[str, Any]:
    try:
        return documents.read_json(path, error=ModelNotFoundError)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"the embedded model's word list {path} cannot be read",
            got=error.what,
            hint="install dreamfusion again, or train the model with scripts/train_miniature.py",
        ) from error


def known_words() -> dict[str, tuple[str, ...]]:
    """What the model can be asked for: nouns, colors, relations, each under its plain name.

    Raises:
        ModelNotFoundError: the word list is not there.
    """
    content = _content(VOCABULARY)
    return {kind: tuple(content[kind]) for kind in ("nouns", "colors", "relations")}


def unknown_words(prompt: str) -> dict[str, tuple[str, ...]]:
    """The words of `prompt` that the model never saw, in order, each with up to three known ones that come nearest.

    Nearest in meaning first, from a small table; then in spelling; none if nothing comes near.

    Raises:
        ModelNotFoundError: the word list is not there.
    """
    known = set(_content(VOCABULARY)["words"])
    words = re.findall(r"[^\W_]+", prompt.lower())
    return {word: nearest(word) for word in dict.fromkeys(words) if word not in known}


def nearest(word: str) -> tuple[str, ...]:
    """Up to three names of `known_words` that are near to `word`."""
    content = _content(VOCABULARY)
    tables = [content[kind] for kind in ("nouns", "colors", "relations")]
    # A synonym's plain name is what the model saw most.
    plain = {said: name for table in tables for name, saying in table.items() for said in [name, *saying]}
    singular = [word[: -len(end)] for end in ("es", "s") if word.endswith(end)]
    for form in [word, *singular]:
        if form in plain:
            return (plain[form],)
    meant = [name for name, others in _NEAR_IN_MEANING.items() if {word, *singular} & set(others.split())]
    spelt = [plain[said] for said in difflib.get_close_matches(word, list(plain), n=3, cutoff=0.7)]
    return tuple(dict.fromkeys(name for name in [*meant, *spelt] if name in plain))[:3]
