"""What the meshes are called: the nouns of `objects.yaml`, their synonyms, and what each thing can do. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

OBJECTS = Path(__file__).parent / "objects.yaml"
FLAGS = ("round", "holds", "hat", "wears", "shelters")


@dataclass(frozen=True)
class ObjectNoun:
    """A noun that has meshes; the fields are explained at the top of `objects.yaml`."""

    name: str
    category: str
    meshes: tuple[str, ...]
    synonyms: tuple[str, ...]
    size: float | int
    paint: bool
    support: float | int
    natural: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Catalogue:
    """`nouns` by name; `turns`: how a mesh is turned so that it stands upright and its front faces +Z, as "x90 y180"."""

    nouns: dict[str, ObjectNoun]
    turns: dict[str, str]

    def noun_of(self, mesh: str) -> ObjectNoun | None:
        """The noun that a mesh belongs to."""
        return self._by_mesh().get(mesh)

    def _by_mesh(self) -> dict[str, ObjectNoun]:
        return {mesh: noun for noun in self.nouns.values() for mesh in noun.meshes}


def parse_catalogue(content: dict[str, Any]) -> Catalogue:
    """The catalogue from what `objects.yaml` holds.

    Raises:
        ValueError: for a key, category or flag that is not known, or a mesh with two nouns.
    """
    nouns: dict[str, ObjectNoun] = {}
    owner: dict[str, str] = {}
    for category, entries in content["nouns"].items():
        usual = content["categories"][category]
        for name, entry in entries.items():
            unknown = set(entry) - {"meshes", "also", "is", "natural", *usual}
            flags = frozenset(str(entry.get("is", "")).split())
            if unknown or not flags <= set(FLAGS) or name in nouns:
                raise ValueError(
                    f"noun {name!r}: unknown {sorted(unknown) or sorted(flags - set(FLAGS))}, or twice"
                )
            meshes = tuple(entry["meshes"].split())
            for mesh in meshes:
                if owner.setdefault(mesh, name) != name:
                    raise ValueError(f"mesh {mesh} is a {owner[mesh]} and a {name}")
            nouns[name] = ObjectNoun(
                name,
                category,
                meshes,
                tuple(word for word in str(entry.get("also", "")).split("/") if word),
                entry.get("size", usual["size"]),
                entry.get("paint", usual["paint"]),
                entry.get("support", usual["support"]),
                tuple(str(entry.get("natural", "")).split()),
                flags,
            )
    return Catalogue(nouns, dict(content.get("turns") or {}))


@cache
def catalogue() -> Catalogue:
    """The shipped catalogue."""
    return parse_catalogue(yaml.safe_load(OBJECTS.read_text(encoding="utf-8")))
