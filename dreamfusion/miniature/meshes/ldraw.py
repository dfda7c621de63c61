"""A small reader of LDraw parts: triangles, quadrilaterals, sub-files, colours and winding (ldraw.org's file format 1.0.2,
its BFC extension and its colour definitions).

Lines and conditional lines are drawing aids and are left out. LDraw's y axis points down; what is returned has y up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature.nouns_builder import Rgb

MAIN_COLOUR, EDGE_COLOUR = 16, 24
# What a direct colour (0x2RRGGBB) starts from.
DIRECT = 0x2000000
# (x, y, z) of LDraw is (x, -y, -z) here: a half turn about x, which keeps the winding.
TO_Y_UP = np.array([1.0, -1.0, -1.0])
DEEPEST = 30


@dataclass
class Part:
    """A part's triangles: `corners` float64 "f 3 3" (y up, LDraw units of 0.4 mm), counter-clockwise as seen from outside
    where its files are certified, and each triangle's colour code; the author and licence of its own file."""

    corners: np.ndarray
    codes: np.ndarray
    title: str = ""
    author: str = ""
    licence: str = ""


@dataclass
class _File:
    faces: list[tuple[int, np.ndarray]] = field(default_factory=list)  # (code, "k 3" corners)
    children: list[tuple[int, np.ndarray, np.ndarray, str, bool]] = field(default_factory=list)
    title: str = ""
    author: str = ""
    licence: str = ""


class Library:
    """A parts library's folder, as it is shipped: `parts`, `parts/s`, `p`, `p/48` below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, _File] = {}
        # Names in references are written in any case and with either slash.
        self._paths = {
            str(path.relative_to(base)).replace("\\", "/").lower(): path
            for base in (root / "models", root / "p", root / "parts")
            for path in sorted(base.rglob("*"))
            if path.suffix.lower() in (".dat", ".ldr")
        }
        if not self._paths:
            raise DreamfusionError(
                f"{root} holds no LDraw parts", expected="folders parts and p with .dat files"
            )

    def load(self, name: str) -> Part:
        """The part `name` ("3001.dat") with all its sub-files.

        Raises:
            DreamfusionError: if it or one of its sub-files is missing, or a line is no LDraw.
        """
        corners: list[np.ndarray] = []
        codes: list[int] = []
        self._collect(name, np.eye(3), np.zeros(3), MAIN_COLOUR, False, corners, codes, 0)
        top = self._read(name)
        made = np.stack(corners) if corners else np.zeros((0, 3, 3))
        return Part(made * TO_Y_UP, np.array(codes, dtype=np.int64), top.title, top.author, top.licence)

    def files_of(self, name: str) -> dict[str, tuple[str, str]]:
        """(author, licence) of the part and of every file below it, by name."""
        found: dict[str, tuple[str, str]] = {}
        waiting = [name]
        while waiting:
            key = waiting.pop().replace("\\", "/").lower()
            if key not in found:
                file = self._read(key)
                found[key] = (file.author, file.licence)
                waiting += [child for _, _, _, child, _ in file.children]
        return found

    def _collect(
        self,
        name: str,
        matrix: np.ndarray,
        shift: np.ndarray,
        code: int,
        inverted: bool,
        corners: list[np.ndarray],
        codes: list[int],
        depth: int,
    ) -> None:
        if depth > DEEPEST:
            raise DreamfusionError(f"LDraw file {name} holds itself")
        file = self._read(name)
        for own, points in file.faces:
            placed = points @ matrix.T + shift
            if inverted:
                placed = placed[::-1]
            for k in range(1, len(placed) - 1):
                corners.append(placed[[0, k, k + 1]])
                codes.append(code if own == MAIN_COLOUR else own)
        for own, inner, offset, child, invert_next in file.children:
            # A mirror turns the winding over, INVERTNEXT does, and both together do not.
            turned = inverted ^ invert_next ^ bool(np.linalg.det(inner) < 0)
            below = code if own == MAIN_COLOUR else own
            self._collect(
                child, matrix @ inner, matrix @ offset + shift, below, turned, corners, codes, depth + 1
            )

    def _read(self, name: str) -> _File:
        key = name.replace("\\", "/").lower()
        if key not in self._files:
            path = self._paths.get(key)
            if path is None:
                raise DreamfusionError(f"LDraw part {name} is not in {self.root}")
            try:
                self._files[key] = parse(path.read_text(encoding="utf-8", errors="replace"))
            except (ValueError, IndexError) as error:
                raise DreamfusionError(f"{path} is no LDraw file: {error}") from error
        return self._files[key]


def parse(text: str) -> _File:
    """One file's own faces, counter-clockwise, and its references."""
    file, clockwise, invert_next = _File(), False, False
    for number, line in enumerate(text.splitlines()):
        words = line.split()
        if not words:
            continue
        kind = words[0]
        if kind == "0":
            if number == 0:
                file.title = " ".join(words[1:])
            elif words[1:2] == ["Author:"]:
                file.author = " ".join(words[2:])
            elif words[1:2] == ["!LICENSE"]:
                file.licence = " ".join(words[2:])
            elif words[1:2] == ["BFC"]:
                clockwise = _winding(words[2:], clockwise)
                invert_next = invert_next or "INVERTNEXT" in words
        elif kind == "1":
            values = np.array([float(v) for v in words[2:14]])
            child = " ".join(words[14:])
            file.children.append((_code(words[1]), values[3:].reshape(3, 3), values[:3], child, invert_next))
            invert_next = False
        elif kind in "34":
            count = int(kind)
            points = np.array([float(v) for v in words[2 : 2 + 3 * count]]).reshape(count, 3)
            file.faces.append((_code(words[1]), points[::-1] if clockwise else points))
    return file


def _winding(words: list[str], clockwise: bool) -> bool:
    for word in words:
        if word in ("CW", "CCW"):
            clockwise = word == "CW"
    return clockwise


def _code(word: str) -> int:
    return int(word, 16) if word.lower().startswith("0x") else int(word)


def read_colours(path: Path) -> dict[int, Rgb]:
    """Colour codes of an LDConfig file, sRGB in [0, 1]."""
    colours: dict[int, Rgb] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if words[:2] == ["0", "!COLOUR"]:
            value = words[words.index("VALUE") + 1].lstrip("#")
            code = int(words[words.index("CODE") + 1])
            r, g, b = (int(value[i : i + 2], 16) / 255 for i in (0, 2, 4))
            colours[code] = (r, g, b)
    return colours


def colour_of(code: int, colours: dict[int, Rgb], main: Rgb) -> Rgb:
    """The colour of a code: `main` for 16 and for codes that the configuration does not know."""
    if code >= DIRECT:
        return (((code >> 16) & 255) / 255, ((code >> 8) & 255) / 255, (code & 255) / 255)
    return colours.get(code, main) if code not in (MAIN_COLOUR, EDGE_COLOUR) else main
