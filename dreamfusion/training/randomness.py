"""One generator for each purpose, all from one seed, so that one more draw somewhere changes nothing elsewhere."""

from __future__ import annotations

import hashlib

from jaxtyping import UInt8
from torch import Generator, Tensor

PURPOSES = ("init", "cameras", "rays", "occupancy", "shading", "background", "noise", "timesteps")


def make_generators(seed: int) -> dict[str, Generator]:
    """A CPU generator for each of `PURPOSES`; the same seed gives the same draws on every machine and device."""
    return {purpose: Generator().manual_seed(_derived(seed, purpose)) for purpose in PURPOSES}


def generator_states(generators: dict[str, Generator]) -> dict[str, UInt8[Tensor, " bytes"]]:
    """Where each generator stands, by purpose."""
    return {purpose: generator.get_state() for purpose, generator in generators.items()}


def restore_generators(generators: dict[str, Generator], states: dict[str, UInt8[Tensor, " bytes"]]) -> None:
    """Put each generator where it stood; KeyError for a missing purpose."""
    for purpose, generator in generators.items():
        generator.set_state(states[purpose])


def _derived(seed: int, purpose: str) -> int:
    # Seeds that differ by a little must not give generators that do: hence a hash and no sum.
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
