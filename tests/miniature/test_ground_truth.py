"""The scene of a caption: words to a scene and back, solids as closed meshes, the mesh against the renderer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from dreamfusion.assets.read_back import read_shape
from dreamfusion.cameras import turntable_cameras
from dreamfusion.errors import DreamfusionError, PromptError
from dreamfusion.miniature.captions import plain_caption
from dreamfusion.miniature.dataset import draw
from dreamfusion.miniature.ground_truth import of_wide, open_world, scene_mesh
from dreamfusion.miniature.lexicon import Lexicon, core, wide
from dreamfusion.miniature.solid_meshes import meshes_of
from dreamfusion.miniature.solids import BOX, FRUSTUM, SPHERE, UNCUT, Solids, bounds, inside
from dreamfusion.miniature.wide import WideWorld
from dreamfusion.miniature.world import SceneSpec, Thing
from dreamfusion.posed_images.mesh_renderer import render_mesh

# --------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("words", [core(), wide()], ids=["core", "wide"])
def test_every_plain_caption_is_read_as_the_scene_that_it_was_made_of(words: Lexicon) -> None:
    rng = np.random.default_rng(0)
    nouns, colors, relations = list(words.nouns), [None, *words.colors], list(words.relations)
    specs = [SceneSpec((Thing(noun, color),)) for noun in nouns for color in colors]
    for _ in range(500):
        a, b = (Thing(nouns[rng.integers(len(nouns))], colors[rng.integers(len(colors))]) for _ in range(2))
        relation: Any = relations[rng.integers(len(relations))]
        specs.append(SceneSpec((a, b), relation))
    for spec in specs:
        assert words.parse(plain_caption(spec)) == spec


def test_other_ways_to_say_a_scene_are_read_too() -> None:
    spec = SceneSpec((Thing("rabbit", "turquoise"), Thing("sofa")), "on")
    for text in (
        "a turquoise rabbit on a sofa",
        "A DSLR photo of a teal bunny  on top of the couch",
        "teal bunny sitting on couch",
    ):
        assert core().parse(text) == spec
    # The lesser relation inside the longer one is not taken for it.
    assert core().parse("a cat next to a dog").relation == "next to"
    assert wide().parse("a spoon in a bowl") == SceneSpec((Thing("spoon"), Thing("bowl")), "in")


@pytest.mark.parametrize(("text", "told"), [
    ("a peacock on a bord", "got 'a bord'. Did you mean surfboard"),
    ("a pecock", "Did you mean peacock"),
    ("a red", "the core world has no scene for 'a red'"),
    ("a cat in a mug", "got 'a cat in a mug'"),
    ("", "expected [colour] noun"),
])  # fmt: skip
def test_words_that_are_no_scene_are_told(text: str, told: str) -> None:
    with pytest.raises(PromptError) as caught:
        core().parse(text)
    assert told in str(caught.value)


def test_the_wide_world_needs_its_meshes(tmp_path: Path) -> None:
    with pytest.raises(DreamfusionError, match="fetch_training_meshes"):
        open_world("wide", tmp_path)
    with pytest.raises(DreamfusionError, match="no mesh of 'armchair' in the cache"):
        of_wide(WideWorld(None)).scenes(wide().parse("an armchair"), 1)
    with pytest.raises(ValueError, match="core and wide"):
        open_world("narrow")


# -------------------------------------------------------------------------------------------------- meshes


def solid(kind: int, ratio: float = 0.6, cut: float = UNCUT, matrix: np.ndarray | None = None) -> Solids:
    to_world = torch.eye(4)
    to_world[:3, :3] = torch.from_numpy(np.eye(3) if matrix is None else matrix).float()
    to_world[:3, 3] = torch.tensor([0.3, -0.2, 0.1])
    return Solids(
        torch.tensor([kind]), to_world[None], torch.tensor([ratio]), torch.tensor([cut]),
        torch.tensor([[0.2, 0.4, 1.0]]), torch.tensor([0]),
    )  # fmt: skip


def volume_of(kind: int, ratio: float, cut: float) -> float:
    """Of the unit solid."""
    low = max(cut, -1.0)
    if kind == BOX:
        return 4 * (1 - low)
    if kind == SPHERE:
        return math.pi * ((1 - 1 / 3) - (low - low**3 / 3))
    lower, upper, height = 1 + (ratio - 1) * (low + 1) / 2, ratio, 1 - low
    return math.pi * height * (lower**2 + lower * upper + upper**2) / 3


@pytest.mark.parametrize("cut", [UNCUT, -0.4, 0.3])
@pytest.mark.parametrize(
    ("kind", "ratio"), [(SPHERE, 1.0), (BOX, 1.0), (FRUSTUM, 0.6), (FRUSTUM, 0.0), (FRUSTUM, 1.7)]
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_solids_mesh_is_closed_and_has_its_volume(
    kind: int, ratio: float, cut: float, mirrored: bool
) -> None:
    turn = Rotation.from_euler("xyz", [0.3, 0.8, -0.5]).as_matrix() @ np.diag(
        [0.5, 0.7, -0.4 if mirrored else 0.4]
    )
    made = solid(kind, ratio, cut, turn)
    (mesh,) = meshes_of(made, segments=64)
    assert mesh.is_watertight and mesh.is_winding_consistent
    # Inscribed polygons lose 2 pi^2 / (3 n^2) of a circle's area: 0.2 %, and a sphere a little more.
    assert mesh.volume == pytest.approx(volume_of(kind, ratio, cut) * 0.14, rel=8e-3)
    middle, centre = np.asarray(mesh.triangles_center), mesh.center_mass
    for scale, is_in in ((0.98, True), (1.02, False)):
        points = torch.from_numpy(centre + scale * (middle - centre)).float()
        assert (inside(made, points)[0] == is_in).all()
    low, high = bounds(made)
    np.testing.assert_allclose(mesh.bounds, [low.numpy(), high.numpy()], atol=4e-3)
    assert (mesh.visual.vertex_colors == [51, 102, 255, 255]).all()  # pyright: ignore


CAPTIONS = ["a peacock on a surfboard", "a red car next to a lamp", "a penguin wearing a green hat"]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_mesh_looks_as_the_renderer_draws_the_scene(caption: str) -> None:
    world = open_world("core")
    (scene,) = world.scenes(world.lexicon.parse(caption), 1, seed=3)
    mesh, cameras = scene_mesh(scene), turntable_cameras(3, 25.0, 2.5, 43.5, 96)
    drawn = draw([scene] * 3, cameras, torch.zeros(3, 96, 96, 3))
    for view in range(3):
        seen = render_mesh(mesh, cameras.c2w[view].double().numpy(), 43.5, 96, supersample=2)
        mask, truth = seen[..., 3] > 0.5, drawn.opacity[view].numpy() > 0.5
        assert (mask & truth).sum() / (mask | truth).sum() > 0.985
        whole = (seen[..., 3] == 1) & (drawn.opacity[view].numpy() == 1)
        wrong = np.abs(seen[..., :3] - drawn.rgb[view].numpy()).max(-1)[whole]
        assert np.quantile(wrong, 0.95) < 0.03


def test_the_same_words_mean_several_scenes_and_a_seed_one() -> None:
    world = open_world("core")
    spec = world.lexicon.parse("a chair")
    first, second = world.scenes(spec, 2)
    assert not torch.equal(first.solids.to_world[:4], second.solids.to_world[:4])
    torch.testing.assert_close(world.scenes(spec, 1)[0].solids.to_world, first.solids.to_world)
    assert world.scenes(spec, 1, seed=1)[0].colors != first.colors


# -------------------------------------------------------------------------------------------------- script


@pytest.fixture
def build_scene(module_at: Callable[[str], Any]) -> Any:
    return module_at("scripts/build_scene.py")


def test_the_file_opens_as_closed_parts_in_their_colours(build_scene: Any, tmp_path: Path) -> None:
    path = tmp_path / "scene.glb"
    assert build_scene.main([CAPTIONS[0], "--output", str(path), "--picture", str(tmp_path / "a.png")]) == 0
    opened: Any = trimesh.load(path, force="mesh", process=False)
    parts = opened.split(only_watertight=False)
    world = open_world("core")
    (scene,) = world.scenes(world.lexicon.parse(CAPTIONS[0]), 1)
    assert len(parts) == len(scene.solids) > 20
    assert all(part.is_watertight and part.volume > 0 for part in parts)
    assert np.linalg.norm(opened.vertices, axis=1).max() < 0.81
    colors = read_shape(path, tuple(opened.bounds[:, 1])).colors
    assert colors is not None
    at = np.repeat(np.arange(len(parts)), [len(mesh.vertices) for mesh in meshes_of(scene.solids)])
    np.testing.assert_allclose(colors, scene.solids.rgb.numpy()[at], atol=0.6 / 255)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_slip_in_the_words_is_one_line(
    build_scene: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_scene.main(["a peacock on a bord", "--output", str(tmp_path / "a.glb")]) == 10
    told = capsys.readouterr().err
    assert told.startswith("error: the core world has no scene") and told.count("\n") == 1
    assert not list(tmp_path.iterdir())
