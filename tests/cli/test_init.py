"""`train --init`: the object of a mesh or of another run is there before the first step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.assets import solid_mesh
from dreamfusion.commands.starting import MESH_DENSITY, find_start, start_from
from dreamfusion.config_files import load_config
from dreamfusion.errors import CheckpointMissingError, MeshError, RunNotFoundError
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory
from dreamfusion.training import initialise
from dreamfusion.training.trainer import Trainer


def trainer(*overrides: str) -> Trainer:
    def no_guidance(*_: object, **__: object) -> Any:
        raise AssertionError("nobody trains here")

    small = ("scene.field.resolutions=[8,16]", "rendering.samples_per_ray=24")
    return Trainer(load_config("miniature", (*small, *overrides), {"prompt": "a duck"}), guidance=no_guidance)


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small field learns from fewer points a step."""
    monkeypatch.setattr(initialise, "POINTS", 2048)


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    ball = trimesh.creation.icosphere(3, radius=0.3).apply_translation([0.3, 0, 0])
    ball.visual.vertex_colors = [250, 20, 20, 255]
    ball.export(tmp_path / "ball.ply")
    return tmp_path / "ball.ply"


PROBES = torch.tensor([[0.3, 0.0, 0.0], [0.45, 0.1, 0.0], [-0.3, 0.0, 0.0], [0.0, 0.5, 0.0]])


def test_a_mesh_is_there_with_its_colour(mesh_file: Path) -> None:
    started = trainer()
    start_from(started, str(mesh_file))
    seen = started.scene.field(PROBES)
    assert (seen.sigmas[:2] > 10).all() and (seen.sigmas[2:] < 2).all()
    torch.testing.assert_close(
        seen.albedo[0], torch.tensor([250.0, 20.0, 20.0]) / 255, atol=0.08, rtol=0, check_dtype=False
    )
    assert started.step == 0 and not started.optimizer.adam.state


def test_a_run_gives_its_weights_to_the_same_field_and_its_object_to_another(
    tmp_path: Path, mesh_file: Path
) -> None:
    first = trainer()
    start_from(first, str(mesh_file))
    run = directory.create(tmp_path / "outputs", first.config)
    checkpoint.save(checkpoint.path_for(run.checkpoints, 0), *first.state_dict())
    same, other = trainer("seed=5"), trainer("scene.field.resolutions=[12]", "scene.radius=2.0")
    for one in (same, other):
        start_from(one, find_start("1", tmp_path / "outputs"))
    assert torch.equal(same.scene.field.density(PROBES), first.scene.field.density(PROBES))
    # In a ball twice as large the object is twice as large, and half as dense.
    seen = other.scene.field(PROBES * 2)
    assert (seen.sigmas[:2] > 5).all() and (seen.sigmas[2:] < 1).all()
    assert (seen.sigmas[:2] < first.scene.field(PROBES).sigmas[:2]).all()
    assert seen.albedo[0, 0] > 0.8 and seen.albedo[0, 1] < 0.3


def test_a_mesh_stops_as_much_light_in_a_ball_of_any_radius(
    mesh_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def teach(scene: Any, source: Any, *_: object, **__: object) -> None:
        found.append(source(PROBES)[0])

    monkeypatch.setattr(initialise, "teach", teach)
    monkeypatch.setattr(solid_mesh, "SolidMesh", partial(solid_mesh.SolidMesh, resolution=16))
    start_from(trainer("scene.radius=0.75"), str(mesh_file))
    # Over a tenth of the radius as many absorptions as in a ball of radius 1.
    torch.testing.assert_close(found[0] * 0.75, torch.tensor([MESH_DENSITY, MESH_DENSITY, 0.0, 0.0]))


@pytest.mark.parametrize(("up", "full"), [("z", (0, 1, 0)), ("x", (0, 0, 1))])
def test_the_axis_that_is_up_in_the_file_is_up_in_the_scene(
    tmp_path: Path, up: str, full: tuple[int, int, int]
) -> None:
    """A rod along the file's z, red at its upper end: it stands where z is up, and lies along the scene's z elsewhere."""
    rod = trimesh.creation.box((0.2, 0.2, 1.2))
    red = rod.triangles_center[:, 2:] > 0
    rod.visual.face_colors = np.where(red, [255, 0, 0, 255], [0, 0, 255, 255])  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    rod.export(tmp_path / "rod.ply")
    started = trainer(f"init={tmp_path / 'rod.ply'}", f"init_up={up}")
    start_from(started, str(tmp_path / "rod.ply"))
    ends = torch.tensor([full]) * torch.tensor([[0.5], [-0.5]])
    seen = started.scene.field(torch.cat([ends, 0.5 * torch.eye(3)]))
    assert (seen.sigmas[:2] > 10).all()
    assert (seen.sigmas[2:] > 5).tolist() == [bool(value) for value in full]
    assert seen.albedo[0, 0] > 0.7 > 0.3 > seen.albedo[1, 0]


def test_an_axis_is_for_meshes_only(dreamfusion: Callable[..., Any], mesh_file: Path, tmp_path: Path) -> None:
    words = ("train", "a duck", "--config", "miniature", "--device", "cpu", "--init-up", "z")
    alone = dreamfusion(*words, "--dry-run")
    assert alone.code == 11 and "init_up" in alone.err
    planned = dreamfusion(*words, "--init", mesh_file, "--dry-run")
    assert planned.code == 0 and "init_up: z" in planned.out
    first = trainer()
    run = directory.create(Path("outputs"), first.config)
    checkpoint.save(checkpoint.path_for(run.checkpoints, 0), *first.state_dict())
    refused = dreamfusion(*words, "--init", "1", "--dry-run")
    assert refused.code == 11 and "--init-up is for meshes" in refused.err


def test_what_of_a_mesh_is_not_used_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = trimesh.creation.box((0.6, 0.6, 0.6))
    open_box = box.submesh([np.flatnonzero(box.triangles_center[:, 1] < 0.29)], append=True)
    lines = [f"v {x} {y} {z}" for x, y, z in open_box.vertices.tolist()]  # pyright: ignore[reportAttributeAccessIssue]
    lines += [f"f {a} {b} {c}" for a, b, c in (open_box.faces + 1).tolist()]  # pyright: ignore[reportAttributeAccessIssue]
    (tmp_path / "box.obj").write_text("\n".join(["mtllib gone.mtl", *lines]))
    found = find_start(str(tmp_path / "box.obj"), tmp_path)
    assert capsys.readouterr().err == ""
    started = trainer()
    start_from(started, found)
    told = capsys.readouterr().err
    assert told.count("gone.mtl") == 1 and told.count("has holes") == 1
    assert float(started.scene.field(torch.zeros(1, 3)).sigmas.detach()) > 10


def test_what_is_no_start_is_told(tmp_path: Path, fresh_run: RunDirectory) -> None:
    with pytest.raises(RunNotFoundError, match=r"neither a run in .* nor a mesh"):
        find_start("nothing", tmp_path / "outputs")
    with pytest.raises(CheckpointMissingError):
        find_start("1", tmp_path / "outputs")
    (tmp_path / "text.obj").write_text("no mesh")
    with pytest.raises(MeshError):
        find_start(str(tmp_path / "text.obj"), tmp_path)


def test_a_wrong_start_ends_the_command_before_a_run_is_made(
    dreamfusion: Callable[..., Any], husk: Path
) -> None:
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk, "--init", "nothing")
    assert answer.code == 12 and answer.err.splitlines()[-1].startswith("error: --init nothing is neither")
    assert not Path("outputs").exists()


def test_a_wrong_clip_ends_the_command_before_a_run_is_made(dreamfusion: Callable[..., Any]) -> None:
    words = ("train", "a duck", "--guidance", "clip", "--device", "cpu", "--set")
    for text, code, what in (
        ("clip.model=/no/such", 15, "error: no CLIP in /no/such"),
        ("clip.image=absent.png", 11, "error: the example picture absent.png is not there"),
        ("clip.model=judge", 11, "error: config key 'clip'"),
    ):
        answer = dreamfusion(*words, text)
        assert answer.code == code and what in answer.err, answer.err
    assert not Path("outputs").exists()


def test_guidance_by_clip_takes_the_papers_preset_and_leaves_the_last_word_to_the_user(
    dreamfusion: Callable[..., Any], tmp_path: Path
) -> None:
    def planned(*words: str) -> Any:
        answer = dreamfusion("train", "a red duck", "--dry-run", *words)
        assert answer.code == 0, answer.err
        (tmp_path / "plan.yaml").write_text(answer.out)
        return load_config(tmp_path / "plan.yaml")

    clip = planned("--guidance", "clip", "--set", "clip.copies=2")
    assert clip.clip is not None and (clip.clip.copies, clip.clip.sds_weight.at(0)) == (2, 0.0)
    assert clip.scene.background.kind == "augmented" and clip.losses.transmittance.at(0) == 0.5
    # As docs/method.md writes it: quotes around the text, or YAML takes its brace for a mapping.
    prefixed = planned(
        "--guidance", "clip", "--set", 'guidance.view_prompts.template="{view} view of {prompt}"'
    )
    assert prefixed.guidance.view_prompts.template == "{view} view of {prompt}"
    bare = dreamfusion("train", "a duck", "--set", "guidance.view_prompts.template={view} view of {prompt}")
    assert bare.code == 11 and "needs quotes" in bare.err
    fading = "clip.sds_weight={kind: linear, start: 0.0, end: 2.0, steps: 10}"
    mixed = planned("--guidance", "mixed", "--config", "miniature", "--set", fading)
    assert mixed.clip is not None and mixed.clip.sds_weight.at(10) == 2.0
    assert planned("--config", "miniature").clip is None
