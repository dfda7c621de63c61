"""What is true of a caption: the scenes that it means in either world, as pictures and as a mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from dreamfusion.errors import DreamfusionError
from dreamfusion.miniature import world as core_world
from dreamfusion.miniature.lexicon import Lexicon, core, wide
from dreamfusion.miniature.meshes.store import HINT, MeshStore
from dreamfusion.miniature.rasterize import Triangles
from dreamfusion.miniature.solid_meshes import meshes_of
from dreamfusion.miniature.wide import DEFAULT_MESHES, WideScene, WideWorld
from dreamfusion.miniature.world import Composition, SceneSpec, Split

Scene = Composition | WideScene


@dataclass(frozen=True)
class World:
    """The core or the wide world: its words, and how scenes are drawn from it, told from training's, and built."""

    lexicon: Lexicon
    sample_spec: Callable[[np.random.Generator, Split], SceneSpec]
    is_held_out: Callable[[SceneSpec], bool]
    compose: Callable[[SceneSpec, np.random.Generator], Scene]
    nouns: tuple[str, ...]

    def scenes(self, spec: SceneSpec, count: int, seed: int = 0) -> list[Scene]:
        """`count` scenes that the same words mean, with proportions, colours that nobody named and meshes of their own.

        Raises:
            DreamfusionError: nothing in the cache shows one of its nouns.
        """
        for thing in spec.things:
            if thing.noun not in self.nouns:
                raise DreamfusionError(f"there is no mesh of {thing.noun!r} in the cache", hint=HINT)
        return [self.compose(spec, np.random.default_rng([seed, index])) for index in range(count)]


def open_world(name: str, meshes: Path = DEFAULT_MESHES) -> World:
    """`core`, or `wide` with the cache of meshes that `scripts/fetch_training_meshes.py` made.

    Raises:
        DreamfusionError: there is no such cache.
        ValueError: for another name.
    """
    if name == "wide":
        return of_wide(WideWorld(MeshStore(meshes)))
    if name != "core":
        raise ValueError(f"the worlds are core and wide, got {name!r}")
    return World(
        core(), core_world.sample_spec, core_world.is_held_out, core_world.compose, tuple(core_world.NOUNS)
    )


def of_wide(world: WideWorld) -> World:
    """The wide world with the meshes that it has; a scene is held out by its words here, and not by which mesh shows it."""
    return World(wide(), world.sample_spec, world.is_held_out, world.compose, tuple(world.nouns))


def scene_mesh(scene: Scene) -> trimesh.Trimesh:
    """The whole scene as one mesh with 8-bit sRGB vertex colours, in the frame that it is rendered in.

    Every solid is a closed part of its own; parts overlap where one thing presses into another. What people modelled is as
    open or closed as they left it.
    """
    parts = meshes_of(scene.solids)
    if isinstance(scene, WideScene) and len(scene.triangles):
        parts.append(_soup(scene.triangles))
    joined: Any = trimesh.util.concatenate(parts)
    return joined


def _soup(triangles: Triangles) -> trimesh.Trimesh:
    corners = triangles.corners.double().numpy().reshape(-1, 3)
    faces = np.arange(len(corners)).reshape(-1, 3)
    across = np.cross(
        corners[faces[:, 1]] - corners[faces[:, 0]], corners[faces[:, 2]] - corners[faces[:, 0]]
    )
    # The normals say which side is out.
    inward = (across * triangles.normals.double().numpy().sum(1)).sum(-1) < 0
    faces[inward] = faces[inward][:, ::-1]
    colors = np.full((len(corners), 4), 255, dtype=np.uint8)
    colors[:, :3] = np.round(triangles.rgb.numpy().reshape(-1, 3) * 255).clip(0, 255)
    return trimesh.Trimesh(corners, faces, vertex_colors=colors, process=False)
