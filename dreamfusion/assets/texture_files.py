"""Files that a mesh's file names, found on another machine than the one that wrote the name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from dreamfusion.documents import is_regular
from dreamfusion.errors import MeshError, shown
from dreamfusion.image_files import read_image
from dreamfusion.posed_images.paint import Texture, Wrap

# Where downloads keep textures, beside a mesh or its folder.
_FOLDERS = (
    ".",
    "textures",
    "texture",
    "images",
    "maps",
    "..",
    "../textures",
    "../texture",
    "../images",
    "../maps",
)


def find_texture(name: str, mesh: Path) -> Path | None:
    """The regular file that `name` in the file `mesh` means; None if there is none.

    As it is written, from the mesh's folder on; then without regard to upper and lower case; then its last component beside the
    mesh or in a folder of textures. Backslashes separate folders. An absolute path is that of the machine that wrote it, so it
    counts only if the file exists here.
    """
    folder = mesh.parent
    plain = name.strip().strip('"').replace("\\", "/")
    if not plain or "\0" in plain:
        return None
    written = folder / plain
    if is_regular(written):
        return written
    parts = PurePosixPath(plain).parts
    for tried in (parts, *((*PurePosixPath(place).parts, *parts[-1:]) for place in _FOLDERS)):
        if (found := _any_case(folder, tried)) is not None:
            return found
    return None


def _any_case(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The regular file at `parts` from `folder`, component by component without regard to case."""
    for part in parts:
        if part == "..":
            folder = folder / part
            continue
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            return None
        wanted = part.casefold()
        match = part if part in names else next((name for name in names if name.casefold() == wanted), None)
        if match is None:
            return None
        folder = folder / match
    return folder if is_regular(folder) else None


def read_texture(
    name: str, mesh: Path, report: Callable[[str], None], wrap: Wrap = "repeat"
) -> Texture | None:
    """The texture that `name` in the file `mesh` means; None, and a line to `report`, if there is none or it cannot be read."""
    found = find_texture(name, mesh)
    if found is None:
        report(f"{mesh} names the texture {shown(name)}, which is not beside it: left out")
        return None
    try:
        image = read_image(found, MeshError)
    except MeshError as error:
        report(f"a texture of {mesh} is left out: {error}")
        return None
    return Texture(np.ascontiguousarray(image[..., :3]), (wrap, wrap))
