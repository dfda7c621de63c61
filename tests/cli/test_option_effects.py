"""What every option of every command does: a table of effects, each seen in a file, an image or a line of output.

An option that is accepted and ignored is worse than one that is refused. Each row runs its command with and without the
option, on an object of a few voxels or a model of a few kilobytes, and looks at what came out. A test fails when a
command has an option without a row, or a row no option.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import math
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
import typer
from PIL import Image
from safetensors.torch import load_file, save_file

from dreamfusion.cli import app
from dreamfusion.config_files import load_config, parse_yaml
from dreamfusion.runs import checkpoint, directory
from dreamfusion.runs.directory import RunDirectory

CELLS = 24
"""Of the object's grid, along the diameter of its ball of radius 1."""
OBJECT = [
    f"scene.field.resolutions=[{CELLS}]",
    "rendering.samples_per_ray=48",
    "cameras.resolution=16",
    "training.preview_size=16",
    "training.preview_every=1000",
    "training.checkpoint_every=1000",
]
NO_DEVICE = next(name for name in ("cuda", "mps") if not getattr(torch, name).is_available())
"""A device that this machine has not: to ask for it is refused, so the option was read."""


# ------------------------------------------------------------------------------------------------ the bench


@dataclass
class Bench:
    """One command line in an empty folder, and the small things that commands are tried on."""

    call: Callable[..., Any]
    small: list[str]
    objects: Callable[[str], RunDirectory]
    model: Path
    lora: Path
    embedding: Path
    dataset: Path
    folder: Path
    made: dict[str, Any] = field(default_factory=dict)

    def run(self, *words: object) -> Any:
        """The answer of a command that has to succeed."""
        answer = self.call(*words)
        assert answer.code == 0, answer.err
        return answer

    def event(self, *words: object) -> dict[str, Any]:
        """The first line of its results."""
        return self.run(*words).events[0]

    def put(self, *names: str) -> None:
        """Finished runs of these objects, numbered from 1."""
        for name in names:
            self.objects(name)

    def refused(self, *words: object) -> str:
        """The one line of a command that has to be refused."""
        answer = self.call(*words)
        assert answer.code not in (0, 1) and answer.err.splitlines()[-1].startswith("error: "), answer
        return answer.err

    def train(self, *words: object, prompt: str = "a duck", model: object | None = None) -> RunDirectory:
        """A run of one step on the tiny model, at the place where it was written."""
        chosen = [str(word) for word in words]
        if "--config" not in chosen:
            chosen += ["--config", "miniature"]
        if "--steps" not in chosen:
            chosen += ["--set", "training.steps=1"]
        if "--model" not in chosen:
            chosen += ["--model", str(model or self.model)]
        settings = [word for text in self.small for word in ("--set", text)]
        events = self.run("train", prompt, *settings, *chosen).events
        return RunDirectory(Path(next(line["run"] for line in events if line["event"] == "started")))

    def tensors(self, run: RunDirectory) -> dict[str, torch.Tensor]:
        """What a run has learnt."""
        return load_file(run.latest_checkpoint() / checkpoint.TENSORS)

    def fit(self, *words: object) -> RunDirectory:
        """A fit of two steps in the little data set."""
        settings = [
            word for text in FIT if text.partition("=")[0] not in str(words) for word in ("--set", text)
        ]
        steps = [] if "--steps" in words else ["--steps", "2"]
        data = [] if any(str(word).startswith("/") for word in words[:1]) else [self.dataset]
        events = self.run("fit", *data, *words, *steps, *settings).events
        return RunDirectory(Path(next(line["run"] for line in events if line["event"] == "started")))


FIT = [
    "scene.field.resolutions=[8]",
    "rendering.samples_per_ray=12",
    "data.rays_per_step=64",
    "training.preview_size=16",
    "training.preview_every=1000",
]


class Effect(Protocol):
    def __call__(self, at: Bench, /) -> None: ...


EFFECTS: dict[str, Effect] = {}


def shows(*options: str) -> Callable[[Effect], Effect]:
    """The decorated function checks what these options do."""

    def note(effect: Effect) -> Effect:
        for option in options:
            assert option not in EFFECTS, f"{option} has two rows"
            EFFECTS[option] = effect
        return effect

    return note


def every_option() -> set[str]:
    """`command --option` and `command ARGUMENT` for each command of the command line."""
    found: set[str] = set()

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for parameter in command.params:
            names = [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")]
            names = names or [parameter.name.upper()]
            found.update(" ".join((*words, name)) for name in names if name not in ("--help", "-h"))
        for name, child in getattr(command, "commands", {}).items():
            walk(child, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def test_every_option_has_an_effect_and_every_effect_an_option() -> None:
    assert sorted(every_option() - set(EFFECTS)) == [], "options without a row in the table of effects"
    assert sorted(set(EFFECTS) - every_option()) == [], "rows of the table without an option"


# --------------------------------------------------------------------------------------------- little things


def _states() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Checkpoints of solid objects: a head with a nose, a hollow ball, a ball with a tunnel."""
    from dreamfusion.scene.density import linear_blob
    from dreamfusion.training.trainer import Trainer

    def no_guidance(*_: object, **__: object) -> Any:
        raise AssertionError("nobody may train here")

    axis = torch.linspace(-1, 1, CELLS + 1)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = torch.stack([x, y, z], dim=-1)
    far = places.norm(dim=-1)
    solids = {
        # A nose on the left of the thing itself (+X), a hat, and a front (+Z) of another colour.
        "head": (far < 0.5) | ((places - torch.tensor([0.55, 0.1, 0.0])).norm(dim=-1) < 0.25)
        | ((x.abs() < 0.15) & (z.abs() < 0.15) & (y > 0) & (y < 0.8)),
        # Its way out has a turn in it: nobody looks in, and yet it is no closed cavity.
        "hollow": (far < 0.75) & (far > 0.35)
        & ~((x.abs() < 0.09) & (y.abs() < 0.09) & (z > 0.25) & (z < 0.6))
        & ~((y.abs() < 0.09) & ((z - 0.5).abs() < 0.09) & (x > -0.09)),
        "tunnel": (far < 0.6) & ~((x.abs() < 0.05) & (y.abs() < 0.05)),
        "bumpy": (far < 0.55 + 0.08 * torch.sign(torch.sin(9 * x) * torch.sin(9 * y) * torch.sin(9 * z))),
    }  # fmt: skip
    states = {}
    for name, solid in solids.items():
        config = load_config("miniature", OBJECT, {"prompt": f"a {name}"})
        trainer = Trainer(config, "cpu", guidance=no_guidance)
        grids: Any = trainer.scene.field
        blob = linear_blob(places.reshape(-1, 3), grids.config.blob_density, grids.config.blob_radius)
        raw = torch.where(solid, 60.0, -30.0) - blob.reshape(solid.shape)
        with torch.no_grad():
            grids.density_grids[0].copy_((raw / grids.config.density_gain)[None])
            colours = torch.stack([x, y, z]) * 4 / grids.config.colour_gain
            grids.colour_grids[0].copy_(colours)
        states[name] = trainer.state_dict()
    return states


@pytest.fixture(scope="module")
def object_states() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    return _states()


@pytest.fixture(scope="module")
def own_files(
    tiny_model: Path, module_at: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A LoRA and a word for the tiny model."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("own")
    module_at("tests/guidance/test_personal.py").save_lora(tiny_model, folder, 1)
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "style.safetensors")
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    save_file({"<plush>": vector}, folder / "plush.safetensors")
    return folder


@pytest.fixture(scope="module")
def posed(module_at: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red box in 6 + 1 views of 24 pixels, and the mesh."""
    folder = tmp_path_factory.mktemp("posed")
    box = trimesh.creation.box((1.0, 0.6, 0.8))
    box.visual.vertex_colors = [220, 40, 40, 255]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    box.export(folder / "box.ply")
    script = module_at("scripts/make_posed_images.py")
    words = [
        folder / "box.ply",
        folder / "set",
        "--size",
        24,
        "--views",
        6,
        "--test-views",
        1,
        "--supersample",
        1,
    ]
    assert script.main([str(word) for word in words]) == 0
    return folder / "set"


@pytest.fixture
def bench(
    dreamfusion: Callable[..., Any],
    small: list[str],
    object_states: dict[str, tuple[dict[str, Any], dict[str, Any]]],
    tiny_model: Path,
    own_files: Path,
    posed: Path,
    tmp_path: Path,
) -> Bench:
    def make(name: str) -> RunDirectory:
        options = {"prompt": f"a {name}", "guidance.model": str(tiny_model), "device": "cpu"}
        run = directory.create(tmp_path / "outputs", load_config("miniature", OBJECT, options))
        tensors, meta = object_states[name]
        checkpoint.save(checkpoint.path_for(run.checkpoints, 0), tensors, meta)
        return run

    style, plush = own_files / "style.safetensors", own_files / "plush.safetensors"
    return Bench(dreamfusion, small, make, tiny_model, style, plush, posed, tmp_path)


def pixels(path: str | Path) -> np.ndarray:
    """As they are in the file, with alpha if it has some, as floats."""
    with Image.open(path) as opened:
        return np.asarray(opened).astype(np.float64)


def differ(first: str | Path, second: str | Path) -> float:
    """Mean absolute difference of two images of one size, in 1/255."""
    return float(np.abs(pixels(first) - pixels(second)).mean())


def loaded(path: str | Path) -> Any:
    """The mesh of a file, in one piece."""
    return trimesh.load_scene(path).to_mesh()


# ----------------------------------------------------------------------------------------------- the program


@shows("--version")
def _(at: Bench) -> None:
    from dreamfusion import __version__

    assert at.run("--version").out == f"dreamfusion {__version__}\n"


# ----------------------------------------------------------------------------------------------------- train


@shows("train PROMPT", "train --seed")
def _(at: Bench) -> None:
    first, same = (at.tensors(at.train("--seed", 3)) for _ in range(2))
    other, prompt = at.tensors(at.train("--seed", 4)), at.tensors(at.train("--seed", 3, prompt="a red cow"))
    assert all(torch.equal(first[name], same[name]) for name in first)
    for changed in (other, prompt):
        assert any(not torch.equal(first[name], changed[name]) for name in first)


@shows("train --config", "train --name", "train --output")
def _(at: Bench) -> None:
    at.run("config", "show")
    Path("mine.yaml").write_text("extends: miniature\nseed: 11\nlosses: {opacity: 0.5}\n")
    run = at.train("--config", "mine.yaml", "--name", "My own", "--output", "elsewhere")
    assert run.path == Path("elsewhere/0001-my-own") and not Path("outputs").exists()
    config = run.config()
    assert config.seed == 11 and config.losses.opacity == load_config("mine.yaml").losses.opacity


@shows("train --set", "train --steps")
def _(at: Bench) -> None:
    run = at.train("--steps", 2, "--set", "cameras.views_per_step=2")
    rows = run.metrics_path.read_text().splitlines()
    assert len(rows) == 2 and run.config().cameras.views_per_step == 2
    assert checkpoint.step_of(run.latest_checkpoint()) == 2


@shows("train --device")
def _(at: Bench) -> None:
    assert NO_DEVICE in at.refused("train", "a duck", "--device", NO_DEVICE, "--model", at.model).lower()
    manifest = at.train("--device", "cpu").manifest()
    assert "cpu" in json.dumps(manifest["sessions"][-1])


@shows("train --model", "train --lora", "train --embedding")
def _(at: Bench) -> None:
    prompt = "a <plush> duck"
    plain = at.tensors(at.train(prompt=prompt))
    changes: dict[str, list[object]] = {
        "model": ["--model", "miniature"],
        "lora": ["--lora", at.lora],
        "half": ["--lora", f"{at.lora}=0.5"],
        "word": ["--embedding", at.embedding],
    }
    found = {name: at.tensors(at.train(*words, prompt=prompt)) for name, words in changes.items()}
    nothing = at.tensors(at.train("--lora", f"{at.lora}=0", prompt=prompt))
    learnt = "scene.field.density_grids.0"
    values = {name: tensors[learnt] for name, tensors in found.items()} | {"plain": plain[learnt]}
    assert len({value.numpy().tobytes() for value in values.values()}) == len(values)
    torch.testing.assert_close(nothing[learnt], plain[learnt], atol=1e-5, rtol=1e-3)


@shows("train --negative-prompt", "train --dtype")
def _(at: Bench) -> None:
    learnt = "scene.field.density_grids.0"
    plain = at.tensors(at.train("--dtype", "float32"))[learnt]
    # Whether `auto` is bfloat16 depends on the machine.
    for words in (["--negative-prompt", "a red cow"], []):
        other = at.train("--dtype", "float32", *words) if words else at.train("--dtype", "bfloat16")
        assert not torch.equal(at.tensors(other)[learnt], plain), words


@shows("train --vram")
def _(at: Bench) -> None:
    words = ["train", "a duck", "--config", "miniature", "--model", at.model, "--dry-run"]
    ample = at.run(*words, "--vram", 64)
    assert "of 64.0" in ample.err
    free = parse_yaml(ample.out, "plan")
    needed = float(ample.out.split("# memory expected: ")[1].split()[0])
    tight = at.call(*words, "--vram", needed / 2)
    assert tight.code != 0 or parse_yaml(tight.out, "plan")["rendering"] != free["rendering"]
    assert "memory" in tight.err and at.call(*words, "--vram", 1e-4).code != 0


@shows("train --guidance")
def _(at: Bench) -> None:
    few = ["--set", "clip.copies=1"]
    learnt = [
        at.tensors(at.train("--guidance", kind, *more))["scene.field.density_grids.0"]
        for kind, more in (("sds", []), ("clip", few), ("mixed", few))
    ]
    assert len({values.numpy().tobytes() for values in learnt}) == 3


@contextmanager
def few_points() -> Iterator[None]:
    """A small field learns an object from fewer points a step."""
    from dreamfusion.training import initialise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialise, "POINTS", 2048)
        yield


@shows("train --init-up")
def _(at: Bench) -> None:
    # A post along the file's Z, which is up in the scene only where that was said.
    trimesh.creation.box((0.2, 0.2, 1.2)).export("post.ply")
    extents = {}
    for axis, words in (("y", []), ("z", ["--init-up", "z"]), ("x", ["--init-up", "x"])):
        with few_points():
            run = at.train("--init", "post.ply", *words)
        words = ["--resolution", 24, "--threshold", 10, "--texture", "vertex", "--format", "ply"]
        extents[axis] = loaded(
            at.event("export", run.path, *words, "--output", f"{axis}.ply")["path"]
        ).extents
    assert extents["y"].argmax() == 2 and extents["z"].argmax() == 1 and extents["x"].argmax() != 1


@shows("train --init")
def _(at: Bench) -> None:
    ball = trimesh.creation.icosphere(2, radius=0.3).apply_translation([0.4, 0, 0])
    ball.export("ball.ply")
    with few_points():
        run = at.train("--init", "ball.ply")
    at.run(
        "render",
        run.path,
        "--image",
        "--what",
        "opacity",
        "--size",
        32,
        "--elevation-deg",
        0,
        "--output",
        "a.png",
    )
    plain = at.train()
    at.run(
        "render",
        plain.path,
        "--image",
        "--what",
        "opacity",
        "--size",
        32,
        "--elevation-deg",
        0,
        "--output",
        "b.png",
    )
    assert differ("a.png", "b.png") > 10


@shows("train --dry-run", "train --probe")
def _(at: Bench) -> None:
    settings = [word for text in at.small for word in ("--set", text)]
    words = ["train", "a duck", "--config", "miniature", "--model", at.model, *settings, "--dry-run"]
    out = at.run(*words).out
    assert parse_yaml(out, "plan")["prompt"] == "a duck" and "# probe" not in out
    assert "# probe: " in at.run(*words, "--probe").out and not Path("outputs").exists()


# ------------------------------------------------------------------------------------------------------- fit


@shows("fit DATASET", "fit --name", "fit --output", "fit --steps")
def _(at: Bench) -> None:
    run = at.fit("--name", "box", "--output", "elsewhere", "--steps", 1)
    assert run.path == Path("elsewhere/0001-box") and len(run.metrics_path.read_text().splitlines()) == 1
    data = run.config().data
    assert data is not None and Path(data.path) == at.dataset


@shows("fit --config", "fit --set", "fit --seed")
def _(at: Bench) -> None:
    Path("mine.yaml").write_text("extends: fit\nlosses: {entropy: 0.25}\n")
    run = at.fit("--config", "mine.yaml", "--set", "data.rays_per_step=32", "--seed", 4)
    config = run.config()
    assert config.data is not None and config.data.rays_per_step == 32
    assert config.losses.entropy == load_config("mine.yaml").losses.entropy
    same, other = (
        at.fit("--config", "mine.yaml", "--set", "data.rays_per_step=32", "--seed", 4),
        at.fit("--seed", 5),
    )
    first, second, third = (at.tensors(one) for one in (run, same, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@shows("fit --device", "fit --dry-run")
def _(at: Bench) -> None:
    assert NO_DEVICE in at.refused("fit", at.dataset, "--device", NO_DEVICE).lower()
    out = at.run("fit", at.dataset, "--device", "cpu", "--dry-run").out
    assert parse_yaml(out, "plan")["data"]["path"] == str(at.dataset) and not Path("outputs").exists()


@shows("fit --downscale", "fit --truth")
def _(at: Bench) -> None:
    from dreamfusion.assets import mesh
    from dreamfusion.evaluation import geometry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "extract_mesh", functools.partial(mesh.extract_mesh, resolution=24))
        patch.setattr(geometry, "SIDE", 48)
        patch.setattr(geometry, "SAMPLES", 10_000)
        run = at.fit("--downscale", 2, "--truth", at.dataset / "truth.ply")
    # A photograph, its render and their difference side by side, of 12 pixels each.
    with Image.open(run.path / "held_out" / "000.png") as sheet:
        small = sheet.size
    with Image.open(at.fit().path / "held_out" / "000.png") as sheet:
        assert small[1] < sheet.size[1]
    scores = json.loads((run.path / "evaluation.json").read_text())
    assert scores["chamfer"] > 0 and 0 < scores["normal_consistency"] <= 1


# ---------------------------------------------------------------------------------------------------- resume


@shows("resume RUN", "resume --runs", "resume --output", "resume --device")
def _(at: Bench) -> None:
    first, second = at.objects("head"), at.objects("hollow")
    for run in (first, second):
        config = run.config().model_copy(deep=True)
        config = config.model_copy(update={"training": config.training.model_copy(update={"steps": 1})})
        from dreamfusion.config_files import dump_config

        run.config_path.write_text(dump_config(config))
    Path("outputs").rename("elsewhere")
    assert NO_DEVICE in at.refused("resume", "1", "--runs", "elsewhere", "--device", NO_DEVICE).lower()
    at.run("resume", "1", "--runs", "elsewhere", "--device", "cpu")
    steps = {info.number: info.step for info in directory.listing(Path("elsewhere"))}
    assert steps == {1: 1, 2: 0}
    at.run("resume", "--output", "elsewhere")
    assert {info.step for info in directory.listing(Path("elsewhere"))} == {1}


@shows("resume --steps")
def _(at: Bench) -> None:
    run = at.train()
    at.run("resume", run.path, "--steps", 3)
    assert len(run.metrics_path.read_text().splitlines()) == 3
    assert checkpoint.step_of(run.latest_checkpoint()) == 3


# ---------------------------------------------------------------------------------------------------- export

MESH = ["--resolution", 24, "--texture", "vertex", "--faces", 0]


@shows("export RUN", "export --runs", "export --output", "export --format", "export --mesh")
def _(at: Bench) -> None:
    at.put("head", "hollow")
    Path("outputs").rename("elsewhere")
    words = ["--runs", "elsewhere", "--resolution", 16, "--threshold", 5]
    head = loaded(at.event("export", "1", "--mesh", *words, "--output", "a/head.ply")["path"])
    latest = loaded(at.event("export", *words, "--format", "stl", "--output", "latest.stl")["path"])
    assert head.extents[0] != pytest.approx(head.extents[2], rel=0.1)
    assert latest.extents[0] == pytest.approx(latest.extents[2], rel=0.1)
    named = at.event("export", "2", *words, "--format", "obj")
    assert Path(named["path"]).name == "mesh.obj" and named["format"] == "obj"


@shows("export --resolution", "export --threshold", "export --faces", "export --texture")
def _(at: Bench) -> None:
    at.objects("head")
    found = {
        name: at.event("export", "--format", "ply", "--output", f"{name}.ply", *words)
        for name, words in {
            "plain": ["--resolution", 24, "--threshold", 5, "--faces", 0],
            "fine": ["--resolution", 48, "--threshold", 5, "--faces", 0],
            "dense": ["--resolution", 24, "--threshold", 40, "--faces", 0],
            "few": ["--resolution", 24, "--threshold", 5, "--faces", 200],
        }.items()
    }
    assert found["fine"]["faces"] > 3 * found["plain"]["faces"]
    assert (found["plain"]["threshold"], found["dense"]["threshold"]) == (5, 40)
    assert loaded("dense.ply").volume < loaded("plain.ply").volume
    assert found["few"]["faces"] <= 200 < found["plain"]["faces"] == found["plain"]["marched_faces"]
    painted = loaded(at.event("export", *MESH, "--output", "vertex.glb")["path"])
    assert painted.visual.kind == "vertex" or at.call("export", *MESH).events[0]["texture"] is None


def _roughness(mesh: Any) -> float:
    """Mean angle between faces that share an edge."""
    return float(mesh.face_adjacency_angles.mean())


@shows("export --smooth", "export --close-holes", "export --solid")
def _(at: Bench) -> None:
    at.put("bumpy", "hollow", "tunnel")
    words = ["--resolution", 32, "--threshold", 5, "--faces", 0, "--format", "ply"]

    def made(run: int, *more: object) -> Any:
        return loaded(at.event("export", str(run), *words, *more, "--output", "made.ply")["path"])

    rough, smooth = made(1), made(1, "--smooth", 20)
    assert _roughness(smooth) < 0.7 * _roughness(rough) and len(smooth.faces) == len(rough.faces)
    hollow, solid = made(2), made(2, "--solid")
    assert solid.volume > hollow.volume + 4 / 3 * math.pi * 0.35**3 * 0.8
    tunnel, closed = made(3), made(3, "--close-holes", 3)
    # A sphere's number is 2; each tunnel through it takes 2 away.
    assert (tunnel.euler_number, closed.euler_number) == (0, 2)


@shows("export --height-cm", "export --texture-size", "export --unwrap-limit", "export --unlit")
def _(at: Bench) -> None:
    at.objects("head")
    words = ["--resolution", 16, "--threshold", 5]
    tall = loaded(at.event("export", *words, "--format", "stl", "--height-cm", 12)["path"])
    assert tall.extents[1] == pytest.approx(120, rel=1e-4)  # millimetres, as printers expect
    textured = [*words, "--texture-size", 64]
    boxes = at.event("export", *textured, "--unwrap-limit", 0, "--output", "a.glb")
    charts = at.event("export", *textured, "--unwrap-limit", 60, "--output", "b.glb")
    large = at.event(
        "export", *words, "--unwrap-limit", 0, "--texture-size", 128, "--unlit", "--output", "c.glb"
    )
    assert (boxes["texture"], charts["texture"]) == ("boxes", "xatlas")
    sizes, extensions = {}, {}
    for name in ("a", "c"):
        content = Path(f"{name}.glb").read_bytes()
        text = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
        extensions[name] = text.get("extensionsUsed", [])
        view = text["bufferViews"][text["images"][0]["bufferView"]]
        start = 20 + int.from_bytes(content[12:16], "little") + 8 + view.get("byteOffset", 0)
        sizes[name] = Image.open(io.BytesIO(content[start : start + view["byteLength"]])).size
    assert sizes == {"a": (64, 64), "c": (128, 128)} and large["texture"] == "boxes"
    assert extensions == {"a": [], "c": ["KHR_materials_unlit"]}


@shows("export --normal-map", "export --check", "export --page", "export --device")
def _(at: Bench) -> None:
    run = at.objects("bumpy")
    words = ["export", "--resolution", 24, "--texture-size", 64, "--unwrap-limit", 0, "--faces", 300]
    answer = at.run(*words, "--normal-map", "--check", "--page")
    mesh, page, check = answer.events
    assert mesh["normal_map"] and check["views"] == 8 and 0.8 < check["lowest_iou"] <= check["iou"] <= 1
    text = Path(page["path"]).read_text()
    assert Path(page["path"]) == run.path.relative_to(at.folder) / "mesh.html" or page["path"].endswith(
        "mesh.html"
    )
    assert "a bumpy" in text and text.lstrip().lower().startswith("<!doctype html>")
    plain = at.run(*words)
    assert [line["event"] for line in plain.events] == ["mesh"] and not plain.events[0]["normal_map"]
    assert NO_DEVICE in at.refused(*words, "--device", NO_DEVICE).lower()


# ---------------------------------------------------------------------------------------------------- render

IMAGE = ["render", "--image", "--size", 32]


@shows("render RUN", "render --runs", "render --output", "render --image", "render --size")
def _(at: Bench) -> None:
    at.put("head", "hollow")
    Path("outputs").rename("elsewhere")
    words = ["--image", "--runs", "elsewhere", "--size"]
    at.run("render", "1", *words, 32, "--output", "deep/head.png")
    at.run("render", "2", *words, 32, "--output", "hollow.webp")
    at.run("render", *words, 32, "--output", "latest.webp")
    at.run("render", "1", *words, 48)
    assert pixels("deep/head.png").shape == (32, 32, 3) and differ("deep/head.png", "hollow.webp") > 2
    assert differ("latest.webp", "hollow.webp") == 0
    assert pixels("elsewhere/0001-a-head/picture.png").shape == (48, 48, 3)


@shows("render --azimuth-deg", "render --elevation-deg", "render --distance")
def _(at: Bench) -> None:
    at.objects("head")
    words = [*IMAGE, "--what", "opacity", "--elevation-deg", 0]

    def seen(name: str, *more: object) -> np.ndarray:
        at.run(*words, *more, "--output", f"{name}.png")
        return pixels(f"{name}.png").reshape(32, 32, -1)[..., 0] / 255

    front, back = seen("front"), seen("back", "--azimuth-deg", 180)
    # The nose is on +X: on the right of the front, on the left of the back.
    assert front[:, 16:].sum() > 1.15 * front[:, :16].sum()
    np.testing.assert_allclose(back, front[:, ::-1], atol=0.15)
    # From above the hat, which stands up by 0.8, is gone.
    rows = np.flatnonzero(seen("above", "--elevation-deg", 90).max(axis=1) > 0.5)
    assert len(rows) < len(np.flatnonzero(front.max(axis=1) > 0.5))
    near, far = seen("near", "--distance", 2.2), seen("far", "--distance", 4.4)
    assert near.sum() == pytest.approx(4 * far.sum(), rel=0.25)


@shows("render --what", "render --transparent", "render --depth-16bit", "render --device")
def _(at: Bench) -> None:
    at.objects("head")
    found = {what: at.event(*IMAGE, "--what", what)["path"] for what in ("rgb", "normal", "depth", "opacity")}
    for one in found:
        for other in found:
            assert one == other or differ(found[one], found[other]) > 2
    both = pixels(at.event(*IMAGE, "--what", "opacity", "--what", "normal")["path"])
    np.testing.assert_array_equal(both, np.hstack([pixels(found["opacity"]), pixels(found["normal"])]))
    clear = pixels(at.event(*IMAGE, "--transparent", "--output", "clear.png")["path"])
    assert clear.shape == (32, 32, 4) and clear[0, 0, 3] == 0 and clear[16, 16, 3] > 250
    deep = pixels(at.event(*IMAGE, "--what", "depth", "--depth-16bit", "--output", "deep.png")["path"])
    # From 2.7 away the head's front is at 2.2: thousandths of a unit.
    assert deep.shape == (32, 32) and 2000 < deep[16, 16] < 2400
    assert NO_DEVICE in at.refused(*IMAGE, "--device", NO_DEVICE).lower()


def _film(path: str | Path) -> tuple[np.ndarray, float, str]:
    """Frames, frames a second and codec of a video, as ffmpeg reads it."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    raw = subprocess.run(
        [program, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        check=True,
    ).stdout
    told = subprocess.run(
        [program, "-hide_banner", "-i", path], capture_output=True, text=True, check=False
    ).stderr
    stream = re.search(r"Video: (\w+).*?([\d.]+) fps", told)
    assert stream is not None, told
    frames = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 32, 32, 3).astype(np.float64)
    return frames, float(stream[2]), stream[1]


@shows(
    "render --video",
    "render --frames",
    "render --fps",
    "render --format",
    "render --codec",
    "render --poster",
)
def _(at: Bench) -> None:
    at.objects("head")
    words = ["render", "--video", "--size", 32, "--frames", 4]
    slow, fast = (at.event(*words, "--fps", fps, "--output", f"{fps}.mp4")["path"] for fps in (5, 25))
    for path, fps in ((slow, 5), (fast, 25)):
        frames, told, codec = _film(path)
        assert (len(frames), told, codec) == (4, fps, "h264")
    longer = at.event("render", "--size", 32, "--frames", 6, "--format", "webm", "--codec", "vp9", "--poster")
    assert longer["path"].endswith("turntable.webm")
    frames, told, codec = _film(longer["path"])
    assert (len(frames), told, codec) == (6, 30, "vp9")
    poster = Path(longer["path"]).with_name("turntable-poster.png")
    away = np.abs(pixels(poster) - frames).mean(axis=(1, 2, 3))
    assert away[0] < 12 and away.argmin() == 0
    # The same turn as images: what the format and the codec change is the file, not the object.
    gif = at.event(*words, "--fps", 5, "--format", "gif")["path"]
    with Image.open(gif) as moving:
        assert (moving.format, moving.n_frames, moving.info["duration"]) == ("GIF", 4, 200)  # pyright: ignore[reportAttributeAccessIssue]
    av1 = at.event(*words, "--output", "av1.mp4", "--codec", "av1")["path"]
    assert _film(av1)[2] == "av1"


@shows("render --azimuth-range", "render --elevation-range", "render --sheet")
def _(at: Bench) -> None:
    at.objects("head")
    words = ["render", "--size", 32, "--what", "normal"]

    def still(azimuth: float, elevation: float) -> np.ndarray:
        place = ["--azimuth-deg", azimuth, "--elevation-deg", elevation]
        return pixels(at.event(*words, "--image", *place)["path"])

    video = [*words, "--frames", 3, "--format", "png"]
    turned = at.event(*video, "--azimuth-range", 0, 90, "--output", "turned.png")["path"]
    raised = at.event(*video, "--elevation-range", 0, 60, "--azimuth-range", 0, 0, "--output", "raised.png")[
        "path"
    ]
    frames = [pixels(path) for path in sorted(Path(turned).iterdir())]
    assert len(frames) == 3
    np.testing.assert_allclose(frames[0], still(0, 15), atol=1)
    assert min(np.abs(frames[2] - still(azimuth, 15)).max() for azimuth in (60, 90)) <= 1
    frames = [pixels(path) for path in sorted(Path(raised).iterdir())]
    np.testing.assert_allclose(frames[0], still(0, 0), atol=1)
    assert min(np.abs(frames[2] - still(0, elevation)).max() for elevation in (40, 60)) <= 1
    place = ["--azimuth-deg", 90, "--elevation-deg", 40]
    placed = at.event(*words, "--frames", 1, "--format", "png", *place, "--output", "placed.png")["path"]
    np.testing.assert_allclose(pixels(next(Path(placed).iterdir())), still(90, 40), atol=1)
    sheet = pixels(at.event(*words, "--sheet", 4)["path"])
    assert sheet.shape[0] == sheet.shape[1] >= 64
    assert (
        len(
            {
                sheet[y : y + 32, x : x + 32].tobytes()
                for y in (0, sheet.shape[0] - 32)
                for x in (0, sheet.shape[1] - 32)
            }
        )
        == 4
    )
    sheet = pixels(at.event(*words, "--sheet", 4, *place)["path"])
    np.testing.assert_allclose(sheet[4:36, 4:36], still(90, 40), atol=1)


# ------------------------------------------------------------------------------------------------------ view


@shows("view RUN", "view --port", "view --host", "view --runs")
def _(at: Bench) -> None:
    import socket
    import threading

    from dreamfusion.commands import view

    at.put("head", "hollow")
    Path("outputs").rename("elsewhere")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served: list[tuple[Any, str]] = []
    serve = view.PageServer.serve_forever

    def once(server: Any) -> None:
        thread = threading.Thread(target=serve, args=(server, 0.02), daemon=True)
        thread.start()
        host, found = server.server_address[:2]
        with urllib.request.urlopen(f"http://{host}:{found}/data.json", timeout=30) as answer:
            served.append(((host, found), answer.read().decode()))
        server.shutdown()
        thread.join()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view.PageServer, "serve_forever", once)
        first = at.event("view", "1", "--runs", "elsewhere", "--port", port, "--host", "127.0.0.1")
        at.call("view", "--runs", "elsewhere", "--port", 0, "--host", "127.0.0.2")
    assert first["url"] == f"http://127.0.0.1:{port}/"
    assert served[0][0] == ("127.0.0.1", port) and "a head" in served[0][1]
    assert served[1][0][0] == "127.0.0.2" and "a hollow" in served[1][1]


# ---------------------------------------------------------------------------------------------------- sample


def _sampled(at: Bench, *words: object, prompt: str = "a duck") -> list[np.ndarray]:
    """The single images of `sample` with the tiny model."""
    chosen: list[object] = ["--model", at.model, "--steps", 2, "--count", 1, "--device", "cpu", *words]
    at.made[str(len(at.made))] = None
    event = at.event("sample", prompt, *chosen, "--output", f"sheet{len(at.made)}.png")
    return [pixels(path) for path in event["images"]]


def _one_changes(at: Bench, *words: object, prompt: str = "a duck") -> bool:
    """Whether the image is another one with these words than without."""
    return bool((_sampled(at)[0] != _sampled(at, *words, prompt=prompt)[0]).any())


@shows(
    "sample PROMPT", "sample --view", "sample --seed", "sample --guidance-scale", "sample --guidance-above"
)
def _(at: Bench) -> None:
    assert not _one_changes(at) and _one_changes(at, prompt="a red cow")
    for words in (["--view", "back"], ["--seed", 5], ["--guidance-scale", 40], ["--guidance-above", 900]):
        assert _one_changes(at, *words), words


@shows(
    "sample --count",
    "sample --steps",
    "sample --scheduler",
    "sample --model",
    "sample --output",
    "sample --device",
)
def _(at: Bench) -> None:
    assert len(_sampled(at, "--count", 3)) == 3
    for words in (["--steps", 4], ["--scheduler", "DPMSolverMultistep"]):
        assert _one_changes(at, *words), words
    assert _sampled(at, "--model", "miniature")[0].shape != _sampled(at)[0].shape
    event = at.event("sample", "a duck", "--model", at.model, "--steps", 1, "--output", "my/own.webp")
    assert event["path"] == "my/own.webp" and Path("my/own/s7.5-seed0.png").is_file()
    assert NO_DEVICE in at.refused("sample", "a duck", "--model", at.model, "--device", NO_DEVICE).lower()


@shows("sample --lora", "sample --embedding", "sample --negative-prompt", "sample --dtype", "sample --set")
def _(at: Bench) -> None:
    prompt = "a <plush> duck"
    changes: list[list[object]] = [
        [], ["--lora", at.lora], ["--lora", f"{at.lora}=0.5"], ["--embedding", at.embedding],
        ["--negative-prompt", "a red cow"], ["--set", "guidance.negative_prompt=a blue cow"],
    ]  # fmt: skip
    found = [_sampled(at, "--dtype", "float32", *words, prompt=prompt)[0] for words in changes]
    found.append(_sampled(at, "--dtype", "bfloat16", "--seed", 0, prompt=prompt)[0])
    assert len({image.tobytes() for image in found}) == len(changes) + 1
    nothing = _sampled(at, "--dtype", "float32", "--lora", f"{at.lora}=0", prompt=prompt)[0]
    assert np.abs(nothing - found[0]).max() <= 1


# --------------------------------------------------------------------------------------------------- diffuse


@shows("diffuse SOURCE", "diffuse --prompt", "diffuse --guidance-scale", "diffuse --seed", "diffuse --model")
def _(at: Bench) -> None:
    Image.new("RGB", (32, 32), (200, 40, 40)).save("red.png")
    Image.new("RGB", (32, 32), (40, 40, 200)).save("blue.png")

    def norms(
        source: str = "red.png", *words: object, prompt: str = "a duck", model: object = at.model
    ) -> str:
        chosen = ["--prompt", prompt, "--model", model, "--timesteps", "0.5", *words]
        return json.dumps(at.event("diffuse", source, *chosen)["gradient_norms"])

    changed = [
        norms("blue.png"), norms(prompt="a red cow"), norms("red.png", "--guidance-scale", 3),
        norms("red.png", "--seed", 9), norms(model="miniature"),
    ]  # fmt: skip
    assert norms() == norms() and len({norms(), *changed}) == 6


@shows(
    "diffuse --lora", "diffuse --embedding", "diffuse --negative-prompt", "diffuse --dtype", "diffuse --set"
)
def _(at: Bench) -> None:
    Image.new("RGB", (32, 32), (200, 40, 40)).save("red.png")
    words = ["diffuse", "red.png", "--prompt", "a <plush> duck", "--model", at.model, "--timesteps", "0.5"]
    changes: list[list[object]] = [
        ["--dtype", "float32"], ["--dtype", "bfloat16"], ["--lora", at.lora], ["--embedding", at.embedding],
        ["--negative-prompt", "a red cow"], ["--set", "guidance.weighting=uniform"],
    ]  # fmt: skip
    found = [json.dumps(at.event(*words, *more)["gradient_norms"]) for more in changes]
    assert len(set(found)) == len(changes)


@shows("diffuse --timesteps", "diffuse --azimuth-deg", "diffuse --elevation-deg", "diffuse --output",
       "diffuse --runs", "diffuse --device")  # fmt: skip
def _(at: Bench) -> None:
    at.objects("head")
    Path("outputs").rename("elsewhere")
    words = ["diffuse", "1", "--runs", "elsewhere", "--model", at.model, "--timesteps", "0.2,0.8"]
    plain = at.event(*words, "--output", "plain.png")
    assert list(plain["gradient_norms"]) == ["200", "800"] and Path("plain.png").is_file()
    for option, value in (("--azimuth-deg", 90), ("--elevation-deg", 60)):
        at.run(*words, option, value, "--output", "other.png")
        assert differ("plain.png", "other.png") > 0.5, option
    assert NO_DEVICE in at.refused(*words, "--device", NO_DEVICE).lower()


# ------------------------------------------------------------------------------------------------------ eval


@shows("eval REFERENCES", "eval --captions", "eval --output", "eval --runs", "eval --clip", "eval --device")
def _(at: Bench) -> None:
    from dreamfusion.evaluation import text_scores

    at.put("head", "hollow", "tunnel")
    Path("outputs").rename("elsewhere")
    Path("captions.txt").write_text("a red chair\na blue cow\n")

    def scores(*words: object) -> list[dict[str, str]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_scores, "renders", functools.partial(text_scores.renders, size=32))
            at.run("eval", *words)
        return list(csv.DictReader(Path("elsewhere/scores.csv").read_text().splitlines()))

    two = scores("1", "2", "--runs", "elsewhere")
    more = scores("1", "--output", "elsewhere", "--captions", "captions.txt")
    assert [row["prompt"] for row in two] == ["a head", "a hollow"] and len(more) == 1
    assert {row["taken_for"] for row in two} <= {"a head", "a hollow"}
    assert 1 <= int(more[0]["rank"]) <= 3
    other = scores("1", "2", "--runs", "elsewhere", "--clip", "miniature")
    assert [row["similarity"] for row in other] != [row["similarity"] for row in two]
    assert NO_DEVICE in at.refused("eval", "1", "2", "--runs", "elsewhere", "--device", NO_DEVICE).lower()


@shows("eval --prompts", "eval --config", "eval --set")
def _(at: Bench) -> None:
    Path("prompts.txt").write_text("a duck\na cow\n")
    Path("mine.yaml").write_text("extends: miniature\nseed: 11\n")
    settings = [f"guidance.model={at.model}", "training.steps=1", *at.small]
    words = [word for text in settings for word in ("--set", text)]
    at.run("eval", "--prompts", "prompts.txt", "--config", "mine.yaml", *words, "--device", "cpu")
    configs = [info.run.config() for info in directory.listing(Path("outputs"))]
    assert [config.prompt for config in configs] == ["a duck", "a cow"]
    assert [(config.seed, config.training.steps) for config in configs] == [(11, 1)] * 2


# ------------------------------------------------------------------------------- runs, config, models, doctor


@shows("runs --output", "runs --runs")
def _(at: Bench) -> None:
    at.objects("head")
    Path("outputs").rename("elsewhere")
    assert at.run("runs").out == ""
    assert at.event("runs", "--output", "elsewhere") == at.event("runs", "--runs", "elsewhere")
    assert at.event("runs", "--runs", "elsewhere")["prompt"] == "a head"


@shows("config show NAME", "config show --set")
def _(at: Bench) -> None:
    shown = parse_yaml(at.run("config", "show", "paper", "--set", "seed=77").out, "shown")
    paper = load_config("paper")
    assert shown["seed"] == 77 and shown["training"]["steps"] == paper.training.steps
    assert parse_yaml(at.run("config", "show", "fast").out, "shown") != shown


@shows("models verify NAME", "models download NAME")
def _(at: Bench) -> None:
    copy = Path("copy").absolute()
    shutil.copytree(at.model, copy)
    assert at.event("models", "verify", copy)["event"] == "whole"
    assert Path(at.event("models", "download", copy)["path"]) == copy
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    answer = at.call("models", "verify", copy)
    assert answer.code != 0 and "unet" in answer.out + answer.err


@shows("models verify --set", "models download --set")
def _(at: Bench) -> None:
    first, text = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.x.attn2.to_k.weight"
    save_file({first: torch.zeros(8, 4, 3, 3), text: torch.zeros(4, 1024)}, "ambiguous.safetensors")
    for command in ("verify", "download"):
        told = at.refused("models", command, "ambiguous.safetensors")
        option = re.findall(r"--set guidance.single_file_config=sd-2.1-\w+", told)[-1].split()
        # The hint can be typed as it stands, and is followed: what is wrong now is that file's contents.
        told = at.refused(
            "models", command, "ambiguous.safetensors", option[0], f"{option[1].partition('=')[0]}={at.model}"
        )
        assert "does not say which" not in told and str(at.model) in told
        assert "is no single file" in at.refused("models", command, at.model, *option)
        assert f"models {command} does not use it" in at.refused(
            "models", command, at.model, "--set", "guidance.dtype=float32"
        )


@shows("models download --full-precision")
def _(at: Bench) -> None:
    from dreamfusion.guidance import models

    asked: list[bool] = []

    def fetch(model: Any, half_precision: bool) -> Path:
        asked.append(half_precision)
        return Path("fetched")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "fetch_model", fetch)
        patch.setattr(models, "find_model", lambda name, **options: models.ResolvedModel(name, None))
        for words in ([], ["--full-precision"]):
            at.run("models", "download", "sd-1.5", *words)
    assert asked == [True, False]


@shows("doctor --output")
def _(at: Bench) -> None:
    Path("file").touch()

    def told(folder: str) -> dict[str, Any]:
        return next(
            line for line in at.call("doctor", "--output", folder).events if line["topic"] == "output"
        )

    assert told("file")["status"] == "problem" and told("fine")["status"] != "problem"


# ------------------------------------------------------------------------------------------------ one by one


def _rows() -> list[Any]:
    """Each function once, under the options that it shows."""
    by_effect: dict[Effect, list[str]] = {}
    for option, effect in EFFECTS.items():
        by_effect.setdefault(effect, []).append(option)
    return [pytest.param(effect, id=", ".join(options)) for effect, options in by_effect.items()]


# diffusers' own, of the schedulers that go by way of numpy.
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("effect", _rows())
def test_an_option_does_what_it_says(effect: Effect, bench: Bench) -> None:
    effect(bench)


# ----------------------------------------------------------------------------------------------- the scripts

SCRIPTS: dict[str, set[str]] = {
    "demo": {"PROMPT", "--output"},
    "make_posed_images": {
        "MESH", "OUTPUT", "--views", "--test-views", "--size", "--supersample", "--unlit", "--up",
    },
}  # fmt: skip
"""Of the scripts that users run, what the two tests below show."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_no_option_that_is_not_shown(
    script: str, module_at: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeenError(Exception):
        pass

    found: set[str] = set()

    def look(parser: argparse.ArgumentParser, *_: object) -> None:
        for action in parser._actions:
            found.update(action.option_strings or [action.dest.upper()])
        raise SeenError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", look)
    with pytest.raises(SeenError):
        module_at(f"scripts/{script}.py").main()
    assert found - {"-h", "--help"} == SCRIPTS[script]


def test_the_demo_trains_exports_and_renders_where_it_is_told(
    bench: Bench,
    module_at: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo, typed = module_at("scripts/demo.py"), []

    def command(*words: str) -> None:
        typed.append(words)
        if words[0] == "train":
            bench.objects("head").path.parent.rename("elsewhere")

    monkeypatch.setattr(demo, "command", command)
    monkeypatch.setattr("sys.argv", ["demo.py", "a head", "--output", "elsewhere"])
    demo.main()
    run = str(Path("elsewhere/0001-a-head"))
    train, export, render = typed
    assert train[:2] == ("train", "a head") and train[-2:] == ("--output", "elsewhere")
    assert export == ("export", run, "--mesh") and render == ("render", run, "--video")
    assert str(Path(run, "mesh.glb")) in capsys.readouterr().out


def test_the_data_set_is_as_its_options_say(module_at: Callable[[str], Any], tmp_path: Path) -> None:
    main = module_at("scripts/make_posed_images.py").main
    box = trimesh.creation.box((1.0, 0.6, 0.8))
    box.visual.vertex_colors = [220, 40, 40, 255]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    box.export(tmp_path / "box.ply")

    def colours(name: str, *more: str) -> set[tuple[int, ...]]:
        """Of the opaque pixels; checks the counts and the size on the way."""
        words = ["--views", "4", "--test-views", "2", "--size", "16", *more]
        assert main([str(tmp_path / "box.ply"), str(tmp_path / name), *words]) == 0
        counts = {
            split: len(json.loads((tmp_path / name / f"transforms_{split}.json").read_text())["frames"])
            for split in ("train", "test")
        }
        assert counts == {"train": 4, "test": 2}
        images = [pixels(path) for path in sorted((tmp_path / name / "train").glob("*.png"))]
        assert {image.shape for image in images} == {(16, 16, 4)}
        edges = sum(int(((image[..., 3] > 0) & (image[..., 3] < 255)).sum()) for image in images)
        assert (edges > 0) == ("3" in more)
        return {tuple(pixel[:3]) for image in images for pixel in image.reshape(-1, 4) if pixel[3] == 255}

    assert colours("plain", "--unlit", "--supersample", "1") == {(220, 40, 40)}
    assert len(colours("smooth", "--unlit", "--supersample", "3")) == 1
    assert len(colours("lit", "--supersample", "1")) > 3
    # A post along X stands where the file says that X is up.
    trimesh.creation.box((1.0, 0.2, 0.2)).export(tmp_path / "box.ply")
    heights = {}
    for name, more in (("lies", []), ("stands", ["--up", "x"])):
        colours(name, "--unlit", "--supersample", "1", *more)
        truth = trimesh.load_mesh(tmp_path / name / "truth.ply")
        heights[name] = truth.extents[2] / truth.extents.max()  # Blender's Z is up
    assert heights["lies"] < 0.5 and heights["stands"] == pytest.approx(1)
