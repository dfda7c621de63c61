"""Render a mesh into a data set of posed pictures, in NeRF-synthetic's layout, by a renderer that nothing is trained with.

    python scripts/make_posed_images.py chair.glb outputs/chair --views 50 --size 128
    dreamfusion fit outputs/chair --truth outputs/chair/truth.ply

Writes transforms_{train,val,test}.json, RGBA pictures, and `truth.ply`: the mesh in the data set's world, so that the fitted
geometry can be scored. Any mesh that `--init` takes; +Y is up and +Z the front, as in glTF. OBJ, PLY and STL files do not say
which axis is up: `--up z` is for those of CAD programs and printers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from dreamfusion.assets.read_mesh import Up, read_mesh
from dreamfusion.errors import DreamfusionError
from dreamfusion.posed_images.dataset import MIN_VIEWS
from dreamfusion.posed_images.mesh_renderer import Light, render_mesh
from dreamfusion.progress import Bar

# From the mesh's world (y up, front +z) to Blender's (z up, front -y), in which the layout's cameras are.
TO_BLENDER = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
DISTANCE, FOVY_DEG = 4.0, 40.0


def load_mesh(path: Path, up: Up = "y") -> trimesh.Trimesh:
    """The mesh as one piece, centred on its box, inside the ball of radius 1."""
    mesh = read_mesh(path, up=up)
    mesh.remove_unreferenced_vertices()  # they would count for the size
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    mesh.apply_scale(1.0 / np.linalg.norm(mesh.vertices, axis=-1).max())
    return mesh


def directions(count: int, turn: float) -> np.ndarray:
    """Unit vectors spread evenly over the sphere above -20 degrees of elevation: a Fibonacci spiral, turned by `turn` radians."""
    lowest = np.sin(np.radians(-20.0))
    height = lowest + (1 - lowest) * (np.arange(count) + 0.5) / count
    azimuth = np.pi * (3 - np.sqrt(5)) * np.arange(count) + turn
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.sin(azimuth), height, flat * np.cos(azimuth)], axis=-1)


def look_at_origin(position: np.ndarray) -> np.ndarray:
    back = position / np.linalg.norm(position)
    right = np.cross([0.0, 1.0, 0.0], back)
    right = right / np.linalg.norm(right) if np.linalg.norm(right) > 1e-6 else np.array([1.0, 0, 0])
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, np.cross(back, right), back, position], axis=-1)
    return c2w


def write_split(
    mesh: trimesh.Trimesh, folder: Path, split: str, count: int, turn: float, options: argparse.Namespace
) -> None:
    """The pictures and the list of one split; lights and sizes as `options` say."""
    light = None if options.unlit else Light()
    frames = []
    (folder / split).mkdir(parents=True, exist_ok=True)
    with Bar(f"{split} pictures", unit="picture") as bar:
        for index, direction in enumerate(directions(count, turn)):
            c2w = look_at_origin(direction * DISTANCE)
            pixels = render_mesh(mesh, c2w, FOVY_DEG, options.size, options.supersample, light)
            image = Image.fromarray((pixels * 255).round().astype(np.uint8))
            image.save(folder / split / f"r_{index:03d}.png")
            pose = (TO_BLENDER @ c2w).tolist()
            frames.append({"file_path": f"./{split}/r_{index:03d}", "transform_matrix": pose})
            bar(index + 1, count)
    content = {"camera_angle_x": float(np.radians(FOVY_DEG)), "frames": frames}
    (folder / f"transforms_{split}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; no picture, or pictures of no pixel, are refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mesh", type=Path, help="glb, obj, ply, stl, ...")
    parser.add_argument("output", type=Path, help="folder of the data set")
    parser.add_argument("--views", type=int, default=50, help="to learn from")
    parser.add_argument("--test-views", type=int, default=20, help="to be measured on")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--supersample", type=int, default=3, help="squared, the sample points a pixel")
    parser.add_argument("--unlit", action="store_true", help="plain colours, without light")
    parser.add_argument(
        "--up", choices=("x", "y", "z"), default="y", help="axis that points up in the mesh's file"
    )
    options = parser.parse_args(argv)
    for name, least in (("views", MIN_VIEWS), ("test_views", 1), ("size", 8), ("supersample", 1)):
        if (value := getattr(options, name)) < least:
            parser.error(f"--{name.replace('_', '-')}: expected {least} or more, got {value}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Writes the data set; a mesh that is none is told in one line."""
    options = parse(argv)
    try:
        mesh = load_mesh(options.mesh, options.up)
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_split(mesh, options.output, "train", options.views, 0.0, options)
    write_split(mesh, options.output, "test", options.test_views, 1.0, options)
    write_split(mesh, options.output, "val", max(1, options.test_views // 4), 2.0, options)
    mesh.apply_transform(TO_BLENDER).export(options.output / "truth.ply")
    print(f"{options.output}  {options.views} + {options.test_views} views of {len(mesh.faces):,} faces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
