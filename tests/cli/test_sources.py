"""Where two sources say different things of one setting: which one counts, or that it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trimesh

from dreamfusion.assets.read_mesh import read_mesh
from dreamfusion.commands import fit as fit_module
from dreamfusion.commands import train as train_module
from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import load_config
from dreamfusion.errors import MeshError
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]

# Of each key that an option of `train` sets: its words, what it becomes, and what --set and the file say instead.
TRAIN: dict[str, tuple[list[str], object, object, object]] = {
    "prompt": ([], "a duck", "a cow", "a horse"),
    "seed": (["--seed", "3"], 3, 2, 1),
    "training.steps": (["--steps", "30"], 30, 20, 10),
    "device": (["--device", "cpu"], "cpu", "auto", "auto"),
    "guidance.model": (["--model", "sd-2.1-base"], "sd-2.1-base", "sd-1.5", "miniature"),
    "vram_gb": (["--vram", "30"], 30.0, 20.0, 10.0),
    "guidance.loras": (["--lora", "a.pt=0.5"], [("a.pt", 0.5)], [("b.pt", 1.0)], [("c.pt", 1.0)]),
    "guidance.embeddings": (["--embedding", "a.bin=x"], [("a.bin", "x")], [("b.bin", None)], [("c.bin", "z")]),
    "guidance.negative_prompt": (["--negative-prompt", "red"], "red", "blue", "green"),
    "guidance.dtype": (["--dtype", "float32"], "float32", "bfloat16", "float16"),
    "init": (["--init", "a.ply"], "a.ply", "b.ply", "c.ply"),
    "init_up": (["--init-up", "z"], "z", "x", "y"),
}  # fmt: skip
FIT = {
    "seed": TRAIN["seed"],
    "training.steps": TRAIN["training.steps"],
    "device": TRAIN["device"],
    "data.downscale": (["--downscale", "4"], 4, 3, 2),
}


def _given(value: object) -> object:
    """The value as a config file has it."""
    if not isinstance(value, list):
        return value
    second = "weight" if value[0][0].endswith(".pt") else "word"
    return [{"file": file} | ({} if more is None else {second: more}) for file, more in value]


def _said(config: ExperimentConfig, key: str) -> object:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    if isinstance(found, tuple):
        return [(item.file, getattr(item, "weight", getattr(item, "word", None))) for item in found]
    return found


def _configs(
    command: str, table: dict[str, Any], argument: str, dreamfusion: Call, monkeypatch: pytest.MonkeyPatch
) -> list[ExperimentConfig]:
    """What a command makes of the file alone, of the file and `--set`, and of these and its options."""
    found: list[ExperimentConfig] = []

    def noted(request: Any) -> None:
        options = dict(request.options)
        if command == "train":
            assert set(options) == set(table) - {"prompt"}, "an option without a row, or a row without one"
            found.append(train_module._config(request, argument))
        else:
            assert set(options) == set(table), "an option without a row, or a row without one"
            found.append(
                load_config(request.config, request.overrides, options | {"data.path": str(request.dataset)})
            )

    monkeypatch.setattr({"train": train_module, "fit": fit_module}[command], command, noted)
    tree: dict[str, Any] = {"extends": "miniature" if command == "train" else "fit"}
    sets: list[str] = []
    for key, (_, _, said, written) in table.items():
        place = tree
        for part in key.split(".")[:-1]:
            place = place.setdefault(part, {})
        place[key.split(".")[-1]] = _given(written)
        sets += ["--set", f"{key}={said if isinstance(said, str) else json.dumps(_given(said))}"]
    Path("mine.yaml").write_text(json.dumps(tree))
    words = [word for row in table.values() for word in row[0]]
    for more in ([], sets, [*words, *sets]):
        answer = dreamfusion(command, argument, "--config", "mine.yaml", *more)
        assert answer.code == 0, answer.err
    return found


@pytest.mark.parametrize(("command", "table"), [("train", TRAIN), ("fit", FIT)])
def test_an_option_beats_set_and_set_beats_the_file(
    command: str, table: dict[str, Any], dreamfusion: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sets, options = _configs(command, table, "a duck", dreamfusion, monkeypatch)
    for key, (words, chosen, said, written) in table.items():
        # PROMPT is always there.
        assert _said(file, key) == (written if words else chosen), key
        assert _said(sets, key) == (said if words else chosen), key
        assert _said(options, key) == chosen, key


@pytest.mark.parametrize(
    ("words", "kind"), [([], None), (["--guidance", "clip"], 0.0), (["--guidance", "mixed"], 1.0)]
)
@pytest.mark.parametrize("set_first", [True, False])
def test_set_changes_what_the_guidance_option_chose(
    dreamfusion: Call, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: float | None, set_first: bool
) -> None:
    """--guidance stands for several keys: the one option that --set has the last word over, wherever it stands."""
    found: list[ExperimentConfig] = []
    monkeypatch.setattr(
        train_module, "train", lambda request: found.append(train_module._config(request, "a duck"))
    )
    more = ["--set", "clip.sds_weight=0.25"]
    order = [*more, *words] if set_first else [*words, *more]
    assert dreamfusion("train", "a duck", "--config", "miniature", *words).code == 0
    assert dreamfusion("train", "a duck", "--config", "miniature", *order).code == 0
    clips = [config.clip for config in found]
    assert [clip and clip.sds_weight.at(0) for clip in clips] == [kind, 0.25]


@pytest.mark.parametrize("name", ["a.obj", "a.ply", "a.usdz", "a.zip", "a.vrm", "a"])
def test_a_glb_is_one_under_any_name(tmp_path: Path, name: str) -> None:
    content = trimesh.creation.box().export(file_type="glb")
    assert isinstance(content, bytes)
    (tmp_path / name).write_bytes(content)
    assert len(read_mesh(tmp_path / name).faces) == 12


@pytest.mark.parametrize("name", ["a.obj", "a.ply", "a.stl", "a.3mf", "a.usda", "a.gltf", "a.glb"])
@pytest.mark.parametrize("kind", ["ply", "stl", "obj"])
def test_a_mesh_under_another_kinds_name_is_refused_and_never_half_read(
    tmp_path: Path, name: str, kind: str
) -> None:
    trimesh.creation.box().export(tmp_path / name, file_type=kind)
    if name == f"a.{kind}":
        assert len(read_mesh(tmp_path / name).faces) == 12
        return
    with pytest.raises(MeshError, match=name) as told:
        read_mesh(tmp_path / name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "change", ["scene.field.resolutions=[9]", "scene.field.kind=mlp", "rendering.occupancy.resolution=9"]
)
@pytest.mark.parametrize("command", [["render", "--image", "--size", 16], ["export"]])
def test_a_config_that_the_checkpoint_does_not_fit_is_refused(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, change: str, command: list[object]
) -> None:
    from dreamfusion.config_files import dump_config

    run_with_checkpoint.config_path.write_text(
        dump_config(load_config(run_with_checkpoint.config_path, [change]))
    )
    answer = dreamfusion(*command)
    assert answer.code != 0
    assert answer.err.splitlines()[-1].startswith("error: ") and "does not fit" in answer.err, answer.err
