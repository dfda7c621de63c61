"""The cache of baked meshes: `manifest.json`, which says what each is and whose, and `meshes.safetensors` with all of them
packed one after the other. Both are made by `scripts/fetch_training_meshes.py`; neither is part of the package."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature.meshes.bake import Mesh

MANIFEST, MESHES = "manifest.json", "meshes.safetensors"
FORMAT = 1
HINT = "make it with python scripts/fetch_training_meshes.py"


@dataclass(frozen=True)
class Record:
    """One mesh of the manifest.

    `name` is what its package calls it, `noun` what people type. `up` and `front` are axes of its own file; in the cache every
    mesh stands on y = 0 with its front towards +Z. `size_m` is width, height and depth in metres as its package gives them,
    the longest side 1 in the cache. `author` lists everyone who has a part in it.
    """

    id: str
    name: str
    noun: str
    synonyms: tuple[str, ...]
    category: str
    source: str
    author: tuple[str, ...]
    licence: str
    up: str
    front: str
    size_m: tuple[float, ...]
    symmetric: bool
    recolourable: bool
    faces: int


def write_store(folder: Path, pairs: Sequence[tuple[Record, Mesh]]) -> None:
    """Writes manifest and meshes under temporary names, then renames."""
    folder.mkdir(parents=True, exist_ok=True)
    meshes = [mesh for _, mesh in pairs]

    def starts(lengths: Iterable[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(list(lengths))]).astype(np.int64)

    packed = {
        "vertices": np.concatenate([mesh.vertices for mesh in meshes]).astype(np.float32),
        "faces": np.concatenate([mesh.faces for mesh in meshes]).astype(np.int32),
        "normals": np.round(np.concatenate([mesh.normals for mesh in meshes]) * 127).astype(np.int8),
        "rgb": np.round(np.concatenate([mesh.rgb for mesh in meshes]) * 255).astype(np.uint8),
        "free": np.concatenate([mesh.free for mesh in meshes]).astype(np.uint8),
        "vertex_starts": starts(len(mesh.vertices) for mesh in meshes),
        "face_starts": starts(len(mesh.faces) for mesh in meshes),
    }
    content = {"format": FORMAT, "meshes": [asdict(record) for record, _ in pairs]}
    save_file(packed, folder / f".{MESHES}.tmp")
    (folder / f".{MANIFEST}.tmp").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name in (MESHES, MANIFEST):
        (folder / f".{name}.tmp").replace(folder / name)


class MeshStore:
    """The cache, read mesh by mesh.

    Raises:
        DreamfusionError: if it is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise DreamfusionError(f"the meshes in {folder} are of another format", hint=HINT)
            self.records = {entry["id"]: _record(entry) for entry in content["meshes"]}
            self._file = safe_open(folder / MESHES, "numpy")
            self._vertex_starts = self._file.get_tensor("vertex_starts")
            self._face_starts = self._file.get_tensor("face_starts")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DreamfusionError(f"no meshes can be read in {folder}: {error}", hint=HINT) from error
        self._place = {name: i for i, name in enumerate(self.records)}

    def __contains__(self, mesh: str) -> bool:
        return mesh in self.records

    def load(self, mesh: str) -> Mesh:
        """One mesh by its id.

        Raises:
            KeyError: if it is not there.
        """
        i = self._place[mesh]
        faces = slice(int(self._face_starts[i]), int(self._face_starts[i + 1]))
        vertices = slice(int(self._vertex_starts[i]), int(self._vertex_starts[i + 1]))

        def part(name: str, rows: slice) -> np.ndarray:
            return self._file.get_slice(name)[rows]

        return Mesh(
            part("vertices", vertices),
            part("faces", faces),
            part("normals", faces).astype(np.float32) / 127,
            part("rgb", faces).astype(np.float32) / 255,
            part("free", faces).astype(bool),
        )


def _record(entry: dict[str, Any]) -> Record:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Record(**values)


LICENCE_NAMES = {
    "CC0-1.0": "Creative Commons Zero 1.0 (public domain), https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-2.0": "Creative Commons Attribution 2.0, https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-3.0": "Creative Commons Attribution 3.0, https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "Creative Commons Attribution 3.0 United States, https://creativecommons.org/licenses/by/3.0/us/",
}


def attribution(records: Iterable[Record]) -> str:
    """`ATTRIBUTION.md`: every author with what is theirs, by source and licence."""
    by_source: dict[tuple[str, str], dict[str, set[str]]] = {}
    for record in records:
        authors = by_source.setdefault((record.source, record.licence), {})
        for author in record.author:
            authors.setdefault(author, set()).add(record.noun)
    lines = [
        "# Whose objects the wide miniature learns from",
        "",
        "Written by `scripts/fetch_training_meshes.py` from its manifest. The models were made smaller, some were turned or",
        "given another colour, and pictures of them are what the weights are trained on. No model is part of this package.",
        "Nothing here is under a share-alike, non-commercial or GPL licence.",
        "LDraw is not sponsored by or connected with the makers of any toy; the authors below do not endorse this project.",
    ]
    for (source, licence), authors in sorted(by_source.items()):
        lines += ["", f"## {source}", LICENCE_NAMES[licence], ""]
        for author in sorted(authors, key=str.casefold):
            lines.append(f"- {author}: {', '.join(sorted(authors[author]))}")
    return "\n".join(lines) + "\n"
