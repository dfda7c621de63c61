"""Which files a dataset's lists mean. Each folder is listed once, and only regular files under the dataset count."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dreamfusion.documents import regular_file
from dreamfusion.errors import DatasetError, shown
from dreamfusion.image_files import ImageHead

# What Blender's layout and some of instant-ngp's leave out, in the order in which it is looked for.
ENDINGS = tuple(
    end for lower in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff") for end in (lower, lower.upper())
)
# Fewer views show too little of an object.
MIN_VIEWS = 3
# Of the images that a list names, so many must be there: with fewer, another folder is meant.
_LEAST_PRESENT = 0.5
_NAMES_SHOWN = 3


class DatasetFiles:
    """The files under a dataset's folder, by the names that its lists give them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.path.abspath(folder)
        self._roots = (self._root, os.path.realpath(folder))
        # By the folder's name as a list writes it: its path, and the names of its files.
        self._listings: dict[str, tuple[str, frozenset[str]]] = {}

    def find(self, name: str, where: str, endings: Sequence[str] = ENDINGS) -> str | None:
        """The path of the file `name`, which may have backslashes or lack its ending; None if there is none.

        Args:
            name: relative to the dataset, or absolute.
            where: who names it, for the error.

        Raises:
            DatasetError: the name leads out of the dataset.
        """
        for text in dict.fromkeys((name, name.replace("\\", "/"))):
            parent, slash, base = text.rpartition("/")
            folder, names = self._listing(parent + slash, where, name)
            for ending in ("", *endings):
                if base + ending in names:
                    return os.path.join(folder, base + ending)
        return None

    def regular(self, path: str) -> Path:
        """`path`, which must be a regular file that really lies under the dataset.

        Raises:
            DatasetError: a symbolic link leads out of the dataset.
        """
        regular_file(Path(path), error=DatasetError, under=self.folder)
        return Path(path)

    def _listing(self, parent: str, where: str, name: str) -> tuple[str, frozenset[str]]:
        if parent not in self._listings:
            folder = os.path.normpath(os.path.join(self._root, parent))
            if not any(folder == root or folder.startswith(root.rstrip("/") + "/") for root in self._roots):
                raise DatasetError(
                    f"{where} names {shown(name)}, which is not in {self.folder}",
                    hint="copy its files into the data set's folder, and name them relative to it",
                )
            self._listings[parent] = folder, _files_in(folder)
        return self._listings[parent]


def _files_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return frozenset()


def find_images(
    names: Sequence[str], files: DatasetFiles, where: str, taken: set[str], *, required: bool = True
) -> tuple[list[str | None], list[str]]:
    """The path of each image, None where it is missing, and what to report about that. Linear in the number of names.

    Args:
        where: the list that names them.
        taken: paths that other lists have named; those found are added.
        required: refuse a list most of whose images are missing.

    Raises:
        DatasetError: an image is named twice, or leads out of the dataset, or most are missing.
    """
    found: list[str | None] = []
    for name in names:
        path = files.find(name, where)
        if path is not None and path in taken:  # held out, it would be learnt from as well
            raise DatasetError(f"the picture {path} is named twice", hint="take one of its frames out")
        if path is not None:
            taken.add(path)
        found.append(path)
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if not missing:
        return found, []
    listed = ", ".join(shown(name) for name in missing[:_NAMES_SHOWN])
    if len(missing) > _NAMES_SHOWN:
        listed += ", ..."
    count, here = len(names), len(names) - len(missing)
    if required and here < max(MIN_VIEWS, _LEAST_PRESENT * count):
        raise DatasetError(
            f"{len(missing)} of {count} images that {where} names are missing",
            got=listed,
            hint=f"copy them into {files.folder}, or take their frames out of the list",
        )
    return found, [
        f"{len(missing)} of {count} images that {where} names are missing and are left out: {listed}"
    ]


def check_size(image: Path, head: ImageHead, declared: tuple[float | int, float | int], said: str) -> None:
    """Refuse an image of another size than its intrinsics are for.

    Args:
        declared: width and height.
        said: how the message ends ("as its camera says").

    Raises:
        DatasetError: another size.
    """
    if declared == head.size:
        return
    turned = head.is_turned and declared == head.size[::-1]
    raise DatasetError(
        f"the size of {image}",
        expected=f"{declared[0]:g} x {declared[1]:g} pixels, {said}",
        got=f"{head.width} x {head.height}",
        hint="its EXIF orientation is not applied: save it turned, without that tag" if turned
        else "use the pictures that the cameras were found with; --downscale makes them smaller",
    )  # fmt: skip
