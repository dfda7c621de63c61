"""The same object and the same frames are the same bytes, whenever they are written: in every format there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from dreamfusion.assets import formats, video
from dreamfusion.assets.atlas import box_atlas
from dreamfusion.assets.files import STILLS
from dreamfusion.assets.images import write_image
from dreamfusion.assets.texture import Texture, split_at_seams

Writer = Callable[[Path], object]


def painted_ball(rng: np.random.Generator) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(2)
    visual: Any = mesh.visual
    visual.vertex_colors = rng.integers(0, 255, (len(mesh.vertices), 4), dtype=np.uint8)
    return mesh


def mesh_writers(rng: np.random.Generator) -> Iterator[tuple[str, Writer]]:
    mesh = painted_ball(rng)
    atlas = box_atlas(mesh, 64)
    split = split_at_seams(mesh, atlas)
    image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    plain = Texture(image=image, uvs=atlas.uvs, method=atlas.method)
    for format in formats.WRITERS:
        yield f"vertices.{format}", lambda path: formats.write_mesh(mesh, path)
    for format in formats.TEXTURED:
        yield f"texture.{format}", lambda path: formats.write_mesh(split, path, texture=plain)


def image_writers(rng: np.random.Generator) -> Iterator[tuple[str, Writer]]:
    frames = list(rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8))
    for ending in STILLS:
        yield f"still.{ending}", lambda path: write_image(frames[0], path)
    for format in video.FORMATS:
        codecs: list[str | None] = {"mp4": [*video.CODECS], "webm": [*video.CODECS[1:]]}.get(format, [None])
        for codec in codecs:
            name = f"film-{codec}.{format}"
            yield name, lambda path, c=codec: video.write_video(frames, path, codec=c)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders with a file of each kind, the second written when all clocks show another time."""
    folders = []
    for moment in range(2):
        if moment:
            time.sleep(2.01)  # a zip counts time in steps of two seconds
        rng = np.random.default_rng(0)
        folder = tmp_path_factory.mktemp(f"moment-{moment}")
        for name, write in (*mesh_writers(rng), *image_writers(rng)):
            write(folder / name)
        folders.append(folder)
    return folders


def test_every_format_gives_the_same_bytes_again(written: list[Path]) -> None:
    first, second = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in written
    )
    assert first.keys() == second.keys() and len(first) > 25
    assert [str(name) for name in first if first[name] != second[name]] == []


def test_every_format_is_in_the_table(written: list[Path]) -> None:
    endings = {path.suffix.lstrip(".") for path in written[0].iterdir()}
    assert endings >= {*formats.WRITERS, *(f for f in video.FORMATS if f != "png"), *STILLS}
    assert any(path.is_dir() for path in written[0].iterdir())  # the frames
