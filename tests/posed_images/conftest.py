"""Small datasets in each layout, written by the rules of the programs that they come from and not by this package's code."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Poses = list[np.ndarray]
SIZE = (24, 20)  # width, height
FOCAL = 30.0


def camera_ring(count: int, distance: float = 4.0, centre: tuple[float, float, float] = (0, 0, 0)) -> Poses:
    """Camera-to-world matrices (OpenGL) of cameras around `centre` in a world whose up is z, from azimuth 0 (at -y) on."""
    poses = []
    for index in range(count):
        azimuth, elevation = 2 * np.pi * index / count, 0.4 + 0.2 * (index % 2)
        back = np.array([
            np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth), np.sin(elevation)
        ])  # fmt: skip
        right = np.cross([0, 0, 1.0], back)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack(
            [right, np.cross(back, right), back, np.asarray(centre) + distance * back], axis=-1
        )
        poses.append(pose)
    return poses


def picture(index: int, alpha: bool, size: tuple[int, int] = SIZE) -> Image.Image:
    """A disc in the middle on nothing (or on grey); its red says which picture it is."""
    width, height = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = (columns - width / 2) ** 2 + (rows - height / 2) ** 2 < 25
    pixels = np.full((height, width, 4), 90, np.uint8)
    pixels[inside] = (10 * index, 200, 30, 255)
    pixels[..., 3] = np.where(inside, 255, 0)
    return Image.fromarray(pixels if alpha else pixels[..., :3])


@pytest.fixture
def ring() -> Callable[..., Poses]:
    return camera_ring


@pytest.fixture
def write_blender(tmp_path: Path) -> Callable[..., Path]:
    def write(train: int = 6, test: int = 2, **changes: Any) -> Path:
        folder = tmp_path / "blender"
        for split, count, first in (("train", train, 0), ("test", test, 10)):
            (folder / split).mkdir(parents=True)
            frames = []
            for index, pose in enumerate(camera_ring(count)):
                picture(first + index, alpha=True, size=(20, 20)).save(folder / split / f"r_{index}.png")
                # Blender's exporter leaves out the ending and adds a rotation that nobody reads.
                frames.append(
                    {"file_path": f"./{split}/r_{index}", "rotation": 0.01, "transform_matrix": pose.tolist()}
                )
            content = {"camera_angle_x": 2 * np.arctan(20 / 2 / FOCAL), "frames": frames} | changes
            (folder / f"transforms_{split}.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture
def write_transforms(tmp_path: Path) -> Callable[..., Path]:
    def write(
        count: int = 9,
        poses: Poses | None = None,
        intrinsics: dict[str, Any] | None = None,
        per_frame: dict[str, Any] | None = None,
        alpha: bool = False,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / "capture"
        (folder / "images").mkdir(parents=True)
        shared = {
            "w": SIZE[0], "h": SIZE[1], "fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE[0] / 2, "cy": SIZE[1] / 2
        }  # fmt: skip
        frames = []
        for index, pose in enumerate(poses or camera_ring(count, centre=(5.0, 1.0, 2.0))):
            picture(index, alpha).save(folder / "images" / f"frame_{index:05d}.png")
            frames.append({
                "file_path": f"images/frame_{index:05d}.png", "transform_matrix": pose.tolist(), **(per_frame or {})
            })  # fmt: skip
        content = (shared if intrinsics is None else intrinsics) | {"frames": frames} | changes
        (folder / "transforms.json").write_text(json.dumps(content))
        return folder

    return write


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """w, x, y, z of a rotation whose angle is less than half a turn."""
    w = np.sqrt(max(0.0, 1 + np.trace(rotation))) / 2
    if w < 1e-6:  # half a turn: the axis is the column of R + 1 that is longest
        columns = rotation + np.eye(3)
        axis = columns[:, np.argmax(np.linalg.norm(columns, axis=0))]
        x, y, z = axis / np.linalg.norm(axis)
        return 0.0, x, y, z
    x, y, z = (np.array([
        rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]
    ]) / (4 * w))  # fmt: skip
    return w, x, y, z


@pytest.fixture
def write_colmap(tmp_path: Path) -> Callable[..., Path]:
    def write(
        binary: bool,
        count: int = 9,
        model: tuple[int, str, tuple[float, ...]] = (1, "PINHOLE", (FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2)),
        centre: tuple[float, float, float] = (5.0, 1.0, 2.0),
        length: float = 1.0,
    ) -> Path:
        folder = tmp_path / ("colmap-bin" if binary else "colmap-txt")
        sparse = folder / "sparse" / "0"
        sparse.mkdir(parents=True)
        (folder / "images").mkdir()
        entries = []
        for index, pose in enumerate(camera_ring(count, centre=centre)):
            picture(index, alpha=False).save(folder / "images" / f"{index:03d} view.png")
            w2c = np.linalg.inv(pose @ np.diag([1.0, -1, -1, 1]))
            turn = [length * part for part in quaternion(w2c[:3, :3])]
            entries.append((index + 1, turn, w2c[:3, 3], f"{index:03d} view.png"))
        if binary:
            _binary(sparse, entries, model)
        else:
            _text(sparse, entries, model)
        return folder

    return write


def _text(sparse: Path, entries: list, model: tuple[int, str, tuple[float, ...]]) -> None:
    parameters = " ".join(map(str, model[2]))
    head = "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
    (sparse / "cameras.txt").write_text(f"{head}7 {model[1]} {SIZE[0]} {SIZE[1]} {parameters}\n")
    lines = ["# Image list with two lines of data per image:", "# Number of images: 9"]
    for index, (number, q, t, name) in enumerate(entries):
        lines.append(" ".join(map(str, [number, *q, *t, 7, name])))
        lines.append("" if index % 2 else "10.5 3.25 -1 11.0 4.0 17")
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")


def _binary(sparse: Path, entries: list, model: tuple[int, str, tuple[float, ...]]) -> None:
    camera = struct.pack("<QIiQQ", 1, 7, model[0], *SIZE) + struct.pack(f"<{len(model[2])}d", *model[2])
    (sparse / "cameras.bin").write_bytes(camera)
    content = struct.pack("<Q", len(entries))
    for index, (number, q, t, name) in enumerate(entries):
        content += struct.pack("<I7dI", number, *q, *t, 7) + name.encode() + b"\0"
        points = [(10.5, 3.25, 2**64 - 1)] * index
        content += struct.pack("<Q", len(points)) + b"".join(struct.pack("<ddQ", *point) for point in points)
    (sparse / "images.bin").write_bytes(content)
