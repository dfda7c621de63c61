"""The least and the most of every number that `export`, `render` and lists of numbers take, and what is just beyond."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dreamfusion.assets import formats, mesh, texture, video
from dreamfusion.commands import export, render
from dreamfusion.commands.lists import integers, numbers
from dreamfusion.config import LARGEST, LARGEST_COUNT
from dreamfusion.errors import ConfigError

EXPORT: dict[str, Any] = {
    "reference": None, "runs": Path("outputs"), "format": None, "resolution": 128, "threshold": None, "faces": None,
    "smooth": 0, "close_holes": 0, "solid": False, "height_cm": None, "texture": None, "texture_size": 1024,
    "unwrap_limit_s": 30.0, "normal_map": False, "unlit": False, "check": False, "page": False, "output": None,
}  # fmt: skip
RENDER: dict[str, Any] = {
    "reference": None, "runs": Path("outputs"), "kind": "video", "views": 1, "frames": 120, "fps": 30.0, "size": 512,
    "azimuth_deg": 0.0, "elevation_deg": None, "azimuth_range_deg": None, "elevation_range_deg": None,
    "distance": None, "what": ("rgb",), "transparent": False, "depth_16bit": False, "poster": False, "codec": None,
    "format": None, "output": None,
}  # fmt: skip
TINY = 1e-300
ODD = (math.nan, math.inf, -math.inf)
# Of each number: what is taken, and what is not.
EXPORT_EDGES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "resolution": ((8, 9, 511, 512), (7, 513, 0, -8)),
    "threshold": ((None, TINY, LARGEST), (0.0, -1.0, 2 * LARGEST, *ODD)),
    "faces": ((None, 0, 100, LARGEST_COUNT), (1, 99, -1, LARGEST_COUNT + 1)),
    "smooth": ((0, 100), (-1, 101)),
    "close_holes": ((0, 32), (-1, 33)),
    "height_cm": ((None, TINY, 1e7), (0.0, -1.0, 1.1e7, *ODD)),
    "texture_size": ((64, 65, 8191, 8192), (63, 8193, 0)),
    "unwrap_limit_s": ((0.0, 86400.0), (-0.1, 86401.0, *ODD)),
}
RENDER_EDGES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "views": ((1, 2, 64), (0, -1, 65)),
    "frames": ((1, 2, 100_000), (0, -1, 100_001)),
    "fps": ((TINY, 240.0), (0.0, -1.0, 241.0, *ODD)),
    "size": ((16, 17, 4095, 4096), (15, 4097, 0)),
    "azimuth_deg": ((-36000.0, 36000.0), (36001.0, *ODD)),
    "elevation_deg": ((None, -90.0, 90.0), (-90.1, 90.1, *ODD)),
    "azimuth_range_deg": ((None, (0.0, 0.0), (-36000.0, 36000.0)), ((0.0, 36001.0), (math.nan, 0.0))),
    "elevation_range_deg": ((None, (90.0, -90.0)), ((0.0, 90.1), (math.nan, 0.0), (0.0, math.inf))),
    "distance": ((None, TINY, 10_000.0), (0.0, -1.0, 10_001.0, *ODD)),
}


@pytest.mark.parametrize(
    ("module", "request_class", "base", "edges"),
    [
        (export, export.ExportRequest, EXPORT, EXPORT_EDGES),
        (render, render.RenderRequest, RENDER, RENDER_EDGES),
    ],
)
def test_the_ends_of_each_range_are_taken_and_what_is_beyond_is_refused(
    module: Any, request_class: Any, base: dict[str, Any], edges: dict[str, Any]
) -> None:
    kinds = {field.name: str(field.type) for field in fields(request_class)}
    assert set(edges) == {name for name, kind in kinds.items() if "int" in kind or "float" in kind}
    for name, (taken, refused) in edges.items():
        for value in taken:
            module._check(request_class(**base | {name: value}))
        for value in refused:
            with pytest.raises(ConfigError, match=r"^--.*: expected .*got") as told:
                module._check(request_class(**base | {name: value}))
            assert "\n" not in str(told.value), (name, value)


def test_the_commands_limits_are_the_librarys() -> None:
    assert export.RESOLUTIONS == mesh.RESOLUTIONS and export.TEXTURE_SIZES == texture.SIZES
    assert (tuple(formats.WRITERS), formats.TEXTURED) == (export.FORMATS, export.TEXTURED)
    assert formats.NORMAL_MAPPED == export.NORMAL_MAPPED
    assert (render.SIZES, render.VIDEOS) == (video.SIZES, video.FORMATS)
    assert set(render.WITH_ALPHA) == set(video.WITH_ALPHA)


@pytest.mark.parametrize("read", [numbers, integers])
def test_lists_take_both_ends_and_each_value_once(read: Any) -> None:
    assert read("--seed", "0,7, 3", 0, 7, "0,7") == [0, 7, 3] and read("--seed", "5", 5, 5, "5") == [5]
    for text in ("", ",", "0,", "8", "-1", "0,8", "nan", "1e999", "1,1", "1,01", "0x1", "1;2", "all"):
        with pytest.raises(ConfigError, match="--seed") as told:
            read("--seed", text, 0, 7, "0,7")
        assert repr(text) in str(told.value)
