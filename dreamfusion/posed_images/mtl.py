"""How a Wavefront material file names a texture: options come before the file's name, which may have spaces."""

from __future__ import annotations

from dataclasses import dataclass

# Options and how many words they take; those of a vector take one to three numbers.
_ONE = {"-blendu", "-blendv", "-boost", "-texres", "-clamp", "-bm", "-imfchan", "-cc", "-type", "-colorspace"}
_TWO = {"-mm"}
_VECTOR = {"-o": 0.0, "-s": 1.0, "-t": 0.0}


@dataclass(frozen=True)
class TextureStatement:
    """What follows `map_Kd`.

    Attributes:
        name: of the file, as it is written.
        offset, scale: coordinates are multiplied by the one and moved by the other.
        clamp: texels beyond [0, 1] are those of the border instead of repeated.
        unused: further options, which nothing here follows.
    """

    name: str
    offset: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    clamp: bool = False
    unused: tuple[str, ...] = ()


def texture_statement(text: str) -> TextureStatement:
    """Parse the words after `map_Kd` (Wavefront, "MTL material format", texture map options)."""
    rest = text.strip()
    vectors: dict[str, tuple[float, float]] = {}
    clamp, unused = False, []
    while True:
        word, _, after = rest.partition(" ")
        option = word.lower()
        if option in _VECTOR:
            numbers, rest = _numbers(after)
            numbers += [_VECTOR[option]] * (2 - len(numbers))
            vectors[option] = (numbers[0], numbers[1])
            if option == "-t" and any(numbers):
                unused.append(option)
        elif option in _ONE or option in _TWO:
            words = after.split(None, 1 if option in _ONE else 2)
            taken, rest = words[: 1 if option in _ONE else 2], "".join(words[1 if option in _ONE else 2 :])
            clamp = taken[:1] == ["on"] if option == "-clamp" else clamp
            if option == "-mm" and [_number(word) for word in taken] != [0.0, 1.0]:
                unused.append(option)
        else:
            break
        rest = rest.strip()
    name = rest.strip('"')
    return TextureStatement(
        name, vectors.get("-o", (0.0, 0.0)), vectors.get("-s", (1.0, 1.0)), clamp, tuple(unused)
    )


def _numbers(text: str) -> tuple[list[float], str]:
    """Up to three numbers at the beginning, and what follows them; a file's name may be a number, too, and is last."""
    found: list[float] = []
    rest = text.strip()
    while len(found) < 3:
        word, _, after = rest.partition(" ")
        value = _number(word)
        if value is None or not after.strip():
            break
        found.append(value)
        rest = after.strip()
    return found, rest


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
