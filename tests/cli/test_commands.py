"""What the commands do when nothing is wrong, up to but without a frozen model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from dreamfusion import __version__, cli
from dreamfusion.commands import train
from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import dump_config, load_config, parse_yaml
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]
COMMANDS = [
    "train",
    "fit",
    "resume",
    "export",
    "render",
    "view",
    "sample",
    "diffuse",
    "eval",
    "runs",
    "config",
    "models",
    "doctor",
]


def test_help_names_every_command_in_80_columns(dreamfusion: Call) -> None:
    answer = dreamfusion("--help")
    assert answer.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("command", [*COMMANDS, "config show"])
def test_each_command_explains_itself(dreamfusion: Call, command: str) -> None:
    answer = dreamfusion(*command.split(), "-h")
    assert answer.code == 0 and "Usage:" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, atexit, dreamfusion.cli as cli\n"
        "heavy = ('torch', 'numpy', 'yaml', 'rich', 'tqdm', 'diffusers')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv[1:] = {words!r}\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version(dreamfusion: Call) -> None:
    assert dreamfusion("--version").out == f"dreamfusion {__version__}\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dreamfusion", "train", ""], capture_output=True, text=True, check=False
    )
    assert done.returncode == 10
    assert done.stderr.startswith("error: the prompt is empty") and done.stderr.count("\n") == 1


# -------------------------------------------------------------------------------------------------- config


def test_config_show_prints_a_config_that_loads(dreamfusion: Call, tmp_path: Path) -> None:
    answer = dreamfusion("config", "show", "paper", "--set", "training.steps=5")
    assert answer.code == 0 and answer.err == ""
    (tmp_path / "mine.yaml").write_text(answer.out)
    assert load_config("mine.yaml") == load_config("paper", ["training.steps=5"])


def test_config_show_lists_the_presets(dreamfusion: Call) -> None:
    events = dreamfusion("config", "show").events
    assert [line["name"] for line in events] == [
        "dream-fields",
        "fast",
        "fit",
        "if",
        "low-vram",
        "miniature",
        "paper",
        "quality",
        "stable-diffusion",
    ]
    assert all(15 < len(line["description"]) <= 64 for line in events)


# ------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_prints_the_config_and_the_modules_and_makes_nothing(
    dreamfusion: Call, husk: Path, tmp_path: Path
) -> None:
    words = [
        "--model",
        husk,
        "--steps",
        "5",
        "--seed",
        "9",
        "--device",
        "cpu",
        "--set",
        "scene.field.features=2",
    ]
    answer = dreamfusion("train", "  a  red duck ", "--config", "miniature", "--dry-run", *words)
    assert answer.code == 0
    # The table is a comment, so the whole is a config file.
    config = ExperimentConfig.model_validate(parse_yaml(answer.out, "dry run"))
    assert (config.prompt, config.seed, config.training.steps) == ("a red duck", 9, 5)
    assert "64x64" in answer.out or "64" in answer.out
    total = int(
        next(line for line in answer.out.splitlines() if line.startswith("# all"))
        .split()[-1]
        .replace(",", "")
    )
    assert total > 2 * (16**3 + 32**3 + 64**3)
    assert [path.name for path in tmp_path.iterdir()] == ["husk"]


def test_the_choice_of_a_preset_is_told(
    dreamfusion: Call, husk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion import doctor

    monkeypatch.setattr(doctor, "why_no_cuda", lambda: "no NVIDIA driver was found")
    answer = dreamfusion("train", "a duck", "--model", husk, "--dry-run")
    assert answer.err == "preset miniature: no NVIDIA driver was found; another: --config stable-diffusion\n"
    assert load_config(None).guidance.model == "miniature"
    assert parse_yaml(answer.out, "")["scene"]["field"]["kind"] == "grids"


def test_a_gpu_and_a_cached_model_choose_stable_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamfusion import doctor
    from dreamfusion.guidance import models

    monkeypatch.setattr(doctor, "why_no_cuda", lambda: None)
    monkeypatch.setattr(models, "available_stable_diffusion", lambda probe_hub=False: "sd-1.5")
    name, model, _ = train.choose_preset("auto")
    assert (name, model) == ("stable-diffusion", "sd-1.5")
    assert train.choose_preset("cpu")[0] == "miniature"
    monkeypatch.setattr(models, "available_stable_diffusion", lambda probe_hub=False: None)
    assert train.choose_preset("cuda")[0] == "miniature"


def test_the_models_own_choice_gives_way_to_the_users(husk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "choose_preset", lambda device: ("stable-diffusion", "sd-1.5", "so"))

    def model(overrides: tuple[str, ...], options: dict[str, Any]) -> str:
        request = train.TrainRequest("a duck", None, overrides, options, Path("o"), None, False)
        return train._config(request, "a duck").guidance.model

    assert model((), {"guidance.model": None}) == "sd-1.5"
    assert model((), {"guidance.model": "sd-2.1-v"}) == "sd-2.1-v"
    assert model(("guidance.model=sd-2.1-v",), {"guidance.model": None}) == "sd-2.1-v"


@pytest.mark.parametrize(
    ("overrides", "option", "device"),
    [
        ((), None, "auto"),
        (("device=cpu",), None, "cpu"),
        (("device=cpu", " device = cuda "), None, "cuda"),
        (("device=cpu", "training.steps=5"), None, "cpu"),
        (("device=cpu",), "cuda", "cuda"),
    ],
)
def test_the_preset_is_chosen_for_the_device_that_counts(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], option: str | None, device: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(train, "choose_preset", lambda d: (asked.append(d), ("miniature", None, "so"))[1])
    request = train.TrainRequest("a duck", None, overrides, {"device": option}, Path("o"), None, False)
    config = train._config(request, "a duck")
    assert asked == [device] == [config.device]


# ----------------------------------------------------------------------------------------------------- runs


def test_runs_lists_json_lines(dreamfusion: Call, fresh_run: RunDirectory) -> None:
    (line,) = dreamfusion("runs").events
    assert (line["number"], line["prompt"], line["status"]) == (1, "a red duck", "created")
    assert Path(line["path"]) == Path("outputs") / fresh_run.path.name
    assert line["has_checkpoint"] is False


def test_no_runs_is_no_mistake(dreamfusion: Call) -> None:
    assert dreamfusion("runs") == type(dreamfusion("runs"))(0, "", "")


def test_export_says_which_run_it_took_and_where_the_mesh_is(
    dreamfusion: Call, run_with_checkpoint: RunDirectory
) -> None:
    answer = dreamfusion("export", "--mesh", "--resolution", "16")
    assert answer.code == 0, answer.err
    assert answer.err == f"run outputs/{run_with_checkpoint.path.name}\n"
    (line,) = answer.events
    assert line["event"] == "mesh" and line["faces"] > 50
    assert Path(line["path"]).read_bytes()[:4] == b"glTF"
    assert Path(line["path"]).stat().st_size == line["bytes"]


def test_export_obeys_its_shape_options(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    words = ["--resolution", "24", "--faces", "300", "--smooth", "2", "--close-holes", "1"]
    answer = dreamfusion("export", *words, "--height-cm", "12", "--format", "stl")
    assert answer.code == 0, answer.err
    (line,) = answer.events
    assert 200 < line["faces"] <= 300 < line["marched_faces"] and line["watertight"] is True
    assert trimesh.load_mesh(line["path"]).extents[1] == pytest.approx(120, rel=1e-5)  # millimetres


def test_export_paints_and_checks(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    words = ["--resolution", "24", "--texture-size", "64", "--unwrap-limit", "0", "--unlit", "--check"]
    answer = dreamfusion("export", *words)
    assert answer.code == 0, answer.err
    mesh, check = answer.events
    assert mesh["texture"] == "boxes" and check["event"] == "check" and check["views"] == 8
    # Before the first step the object is a soft ball: a mesh cannot look like it, but its silhouette is nearly right.
    assert 0.8 < check["iou"] <= 1 and check["psnr_db"] > 10
    assert check["object_psnr_db"] < check["psnr_db"] and check["lowest_iou"] <= check["iou"]
    plain = dreamfusion("export", "--resolution", "16", "--texture", "vertex").events[0]
    assert plain["texture"] is None and plain["normal_map"] is False


def test_export_checks_a_file_without_colours(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    check = dreamfusion("export", "--resolution", "24", "--format", "stl", "--check").events[1]
    assert check["psnr_db"] is check["object_psnr_db"] is check["lowest_psnr_db"] is None
    assert 0.8 < check["iou"] <= 1


def test_export_bakes_a_normal_map_or_says_why_there_is_none(
    dreamfusion: Call, run_with_checkpoint: RunDirectory
) -> None:
    words = ["--resolution", "24", "--texture-size", "64", "--unwrap-limit", "0", "--normal-map"]
    answer = dreamfusion("export", *words, "--faces", "300")
    assert answer.code == 0, answer.err
    assert answer.events[0]["normal_map"] is True
    material = trimesh.load_scene(answer.events[0]["path"]).geometry["object"].visual.material  # pyright: ignore[reportAttributeAccessIssue]
    assert material.normalTexture.size == (64, 64)
    flat = dreamfusion("export", *words)
    assert flat.events[0]["normal_map"] is False and "no normal map" in flat.err and "--faces" in flat.err


@pytest.mark.parametrize(
    "reference", ["1", "0001", "a-red-duck", "0001-a-red-duck", "latest", "outputs/0001-a-red-duck"]
)
def test_a_run_is_found_by_every_name(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, reference: str
) -> None:
    answer = dreamfusion("render", reference, "--image", "--size", "16")
    assert answer.code == 0, answer.err
    (line,) = answer.events
    assert Path(line["run"]).name == "0001-a-red-duck"
    assert Path(line["path"]).read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(("words", "name", "magic"), [
    (["--format", "stl"], "mesh.stl", b"Exported"),
    (["--output", "here/duck.obj"], "duck.obj", b"#"),
    (["--output", "duck.ply", "--threshold", "2"], "duck.ply", b"ply"),
])  # fmt: skip
def test_export_formats(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, words: list[str], name: str, magic: bytes
) -> None:
    answer = dreamfusion("export", "--resolution", "16", *words)
    assert answer.code == 0, answer.err
    path = Path(answer.events[0]["path"])
    assert path.name == name
    if magic != b"Exported":
        assert path.read_bytes().startswith(magic)


def test_render_writes_each_kind(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    for words, name in [
        ([], "turntable.mp4"),
        (["--video", "--what", "depth", "--format", "gif"], "turntable-depth.gif"),
        (["--what", "normal", "--format", "png"], "turntable-normal"),
        (["--image", "--what", "opacity"], "picture-opacity.png"),
        (["--image", "--what", "rgb", "--what", "normal"], "picture-rgb-normal.png"),
        (["--image", "--what", "depth", "--depth-16bit"], "picture-depth.png"),
        (["--transparent", "--azimuth-range", "0", "90"], "turntable.webp"),
        (["--format", "webm", "--codec", "vp9", "--poster"], "turntable.webm"),
        (["--sheet", "5"], "sheet.png"),
    ]:
        frames = [] if words and words[0] in ("--image", "--sheet") else ["--frames", "3"]
        answer = dreamfusion("render", "--size", "16", *frames, *words)
        assert answer.code == 0, answer.err
        path = Path(answer.events[0]["path"])
        assert path.name == name and path.exists()


def test_the_check_of_a_file_knows_how_high_the_object_is(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion.assets import check, mesh

    box = trimesh.creation.box(bounds=[[-0.1, -0.3, -0.2], [0.2, 0.5, 0.6]])
    box.visual.vertex_colors = [200, 100, 50, 255]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    info = mesh.MeshInfo(10.0, 1.0, (0.0, 20.0), 16, 8, 12, 0, 0, 12, True, box.volume, None)
    monkeypatch.setattr(mesh, "extract_mesh", lambda *_, **__: (box, info))
    compare, asked = check.compare, []

    def watched(path: Path, renderer: Any, cameras: Any, world_y: tuple[float, float], bar: Any) -> Any:
        asked.append(world_y)
        return compare(path, renderer, cameras[:1].resized(16, 16), world_y, bar)

    monkeypatch.setattr(check, "compare", watched)
    assert dreamfusion("export", "--mesh", "--format", "3mf", "--check").code == 0
    assert asked == [pytest.approx((-0.3, 0.5))]


def test_render_looks_through_the_middle_lens_from_the_largest_distance_of_the_runs(
    dreamfusion: Call, run_with_checkpoint: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamfusion.assets import video

    asked: list[dict[str, Any]] = []

    def still(*_: object, **view: Any) -> np.ndarray:
        asked.append(view)
        return np.zeros((16, 16, 3), dtype=np.uint8)

    monkeypatch.setattr(video, "still", still)
    cameras = run_with_checkpoint.config().cameras
    assert len(set(cameras.fovy_deg)) == len(set(cameras.distance)) == 2
    assert dreamfusion("render", "--image", "--size", 16).code == 0
    assert asked[0]["fovy_deg"] == pytest.approx(sum(cameras.fovy_deg) / 2)
    assert asked[0]["distance"] == max(cameras.distance)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--image"], "16 x 16 px"),
        (["--image", "--what", "rgb", "--what", "depth"], "32 x 16 px"),
        (["--sheet", "2"], "2 views of 16 x 16 px"),
    ],
)
def test_what_render_prints_is_the_size_of_what_it_wrote(
    dreamfusion: Call,
    run_with_checkpoint: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    from dreamfusion.commands import render

    said: list[str] = []
    monkeypatch.setattr(render, "result", lambda sentence, **_: said.append(sentence))
    answer = dreamfusion("render", "--size", "16", *words)
    assert answer.code == 0, answer.err
    assert said[0].endswith(f"png  {told}")


@pytest.mark.parametrize(("columns", "last"), [(80, 43), (40, 24), (10, 11)])
def test_a_table_cuts_only_what_is_too_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, last: int
) -> None:
    from dreamfusion.commands.tables import print_table

    monkeypatch.setenv("COLUMNS", str(columns))
    prompt = "a peacock on a surfboard in the evening sun"
    print_table([("run", "status", "prompt"), ("0001", "finished", "a duck"), ("0002", "finished", prompt)])
    head, short, long = capsys.readouterr().out.splitlines()
    assert head == "run   status    prompt" and short == "0001  finished  a duck"
    shown = long.removeprefix("0002  finished  ")
    assert shown == (prompt if last == len(prompt) else prompt[: last - 3] + "...")


def test_a_turn_begins_where_it_was_told_to(dreamfusion: Call, run_with_checkpoint: RunDirectory) -> None:
    words = ["render", "--size", "16", "--frames", "4", "--what", "normal", "--format", "png"]
    dreamfusion(*words, "--output", "front.png")
    dreamfusion(*words, "--azimuth-deg", "90", "--output", "left.png")
    front, left = ([p.read_bytes() for p in sorted(Path(name).iterdir())] for name in ("front", "left"))
    assert left == front[1:] + front[:1] and len(set(front)) == 4


# --------------------------------------------------------------------------------------------------- ctrl-c


def test_an_interrupt_is_no_failure_where_the_reader_is_interrupted_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        with train.interruptible() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_asks_and_the_second_stops(
    capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with train.interruptible() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set()
        assert "finishing the step and saving" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.fixture
def hangup() -> Iterator[signal.Signals]:
    """SIGHUP as it is in a terminal, however these tests were started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_asks_and_never_insists(hangup: signal.Signals) -> None:
    with train.interruptible() as stop:
        os.kill(os.getpid(), hangup)
        assert stop.is_set()
        os.kill(os.getpid(), hangup)  # the shell's, after the system's
    assert signal.getsignal(hangup) is signal.SIG_DFL
    with train.interruptible() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), hangup)
        assert stop.is_set()


def test_under_nohup_a_closed_terminal_ends_nothing(hangup: signal.Signals) -> None:
    signal.signal(hangup, signal.SIG_IGN)
    with train.interruptible() as stop:
        os.kill(os.getpid(), hangup)
        assert not stop.is_set()


def test_work_is_finished_where_the_terminal_has_gone(tmp_path: Path) -> None:
    """A process that draws its bar on a real terminal, of which the other end is closed."""
    code = f"""
import os, signal, time
from pathlib import Path
from dreamfusion.commands.train import interruptible
from dreamfusion.progress import Bar, notice, result
os.open(os.ttyname(0), os.O_RDWR)  # from here on it is this session's own, and its end is told by SIGHUP
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with interruptible() as stop, Bar("train") as bar:
    print("begun", flush=True)
    done = 0
    while not stop.is_set() and done < 10_000:
        done += 1
        bar(done, 10_000, {{}})
        time.sleep(0.01)
notice("saved")
result("stopped", event="stopped")
Path({str(tmp_path / "done")!r}).write_text(str(stop.is_set()))
"""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # without a width no bar is drawn
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    while b"begun" not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    assert process.wait() == 0, seen
    assert (tmp_path / "done").read_text() == "True"


def test_an_interrupt_anywhere_ends_with_130(dreamfusion: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamfusion.commands import tables

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "print_runs", interrupted)
    answer = dreamfusion("runs")
    assert (answer.code, answer.out) == (130, "")


def test_doctor_speaks_json_and_its_exit_code_tells_of_problems(dreamfusion: Call) -> None:
    answer = dreamfusion("doctor")
    topics = {line["topic"]: line["status"] for line in answer.events}
    assert {
        "python",
        "torch",
        "cuda",
        "device",
        "threads",
        "bfloat16",
        "miniature",
        "video",
        "output",
    } <= set(topics)
    assert answer.code == ("problem" in topics.values())


def test_a_dump_is_what_the_run_holds(fresh_run: RunDirectory) -> None:
    assert load_config(fresh_run.config_path) == fresh_run.config()
    assert json.loads(fresh_run.manifest_path.read_text())["prompt"] == "a red duck"
    assert "prompt: a red duck" in dump_config(fresh_run.config())


def test_the_models_are_listed_with_what_is_here(dreamfusion: Call) -> None:
    listed = {event["name"]: event for event in dreamfusion("models", "list").events}
    assert listed["miniature"]["state"] == "yes" and listed["sd-1.5"]["state"] == "no"
    assert listed["if-xl"]["gated"] and listed["sd-2.1-v"]["prediction_type"] == "v_prediction"


def test_a_model_on_this_machine_is_verified_and_not_fetched(dreamfusion: Call) -> None:
    assert dreamfusion("models", "verify", "miniature").events[-1]["event"] == "whole"
    answer = dreamfusion("models", "download", "miniature")
    assert answer.code == 0 and answer.events[-1]["path"].endswith("stable-diffusion")


@pytest.mark.parametrize(
    ("directory", "single_file", "fetched"),
    [
        (None, None, True),
        (Path("here"), None, False),
        (None, Path("one.safetensors"), True),
        # Converted already, maybe in another precision than is asked for now.
        (Path("converted"), Path("one.safetensors"), True),
    ],
)
def test_what_is_not_here_in_the_precision_asked_for_is_fetched(
    dreamfusion: Call,
    monkeypatch: pytest.MonkeyPatch,
    directory: Path | None,
    single_file: Path | None,
    fetched: bool,
) -> None:
    from dreamfusion.guidance import models

    found = models.ResolvedModel("named", directory, single_file=single_file)
    monkeypatch.setattr(models, "find_model", lambda name, **_: found)
    monkeypatch.setattr(
        models, "fetch_model", lambda model, half: Path("fetched") if model is found else None
    )
    answer = dreamfusion("models", "download", "named")
    assert answer.events[-1]["path"] == str("fetched" if fetched else directory)
    assert ("named is here already" in answer.err) == (not fetched)


def test_weights_and_words_of_ones_own_reach_the_config(dreamfusion: Call, husk: Path) -> None:
    words = ["--lora", "a.safetensors=0.5", "--lora", "b.safetensors", "--embedding", "c.safetensors=<me>"]
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--model", husk, "--dry-run", *words)
    guidance = parse_yaml(answer.out, "dry run")["guidance"]
    loras = [{"file": "a.safetensors", "weight": 0.5}, {"file": "b.safetensors", "weight": 1.0}]
    assert guidance["loras"] == loras
    assert guidance["embeddings"] == [{"file": "c.safetensors", "word": "<me>"}]


def test_of_two_files_whose_names_a_text_begins_with_the_longer_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("x.safetensors=y.safetensors=0.5", "x.safetensors", "x.safetensors=y.safetensors")
    # None of them is there: the longest that ends as files of weights do.
    assert cli._split(names[0]) == (names[2], "0.5")
    Path(names[1]).touch()
    assert cli._split(names[0]) == (names[1], "y.safetensors=0.5")
    Path(names[2]).touch()
    assert cli._split(names[0]) == (names[2], "0.5")
    Path(names[0]).touch()
    assert cli._split(names[0]) == (names[0], None)


def test_the_dry_run_tells_what_the_guidance_costs(dreamfusion: Call, husk: Path) -> None:
    words = ["train", "a duck", "--config", "miniature", "--model", husk, "--dry-run"]
    out = dreamfusion(*words).out
    assert "# guidance: 2 rows of the UNet a step" in out and "# memory expected: 0." in out
    assert "# guidance: 4 rows" in dreamfusion(*words, "--set", "guidance.perp_neg=true").out


def test_the_probe_takes_ten_steps(
    dreamfusion: Call, tiny_model: Path, small: list[str], monkeypatch
) -> None:
    from dreamfusion.training.trainer import StepMetrics, Trainer

    steps, step = [], Trainer.train_step

    def slowly(trainer: Trainer) -> StepMetrics:
        steps.append(1)
        metrics = step(trainer)
        return replace(metrics, cost=replace(metrics.cost, steps_per_second=0.5))

    monkeypatch.setattr(Trainer, "train_step", slowly)
    sets = [word for text in small for word in ("--set", text)]
    answer = dreamfusion(
        "train", "a duck", "--config", "miniature", "--model", tiny_model, "--dry-run", "--probe", *sets,
        "--steps", 3600,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert len(steps) == 10 and "# probe: 0.50 steps/s on cpu" in answer.out
    assert "; 3600 steps take about 2.0 h" in answer.out


def test_a_run_is_planned_for_the_memory_that_is_named(dreamfusion: Call, husk: Path) -> None:
    words = ["train", "a duck", "--config", "miniature", "--model", husk, "--dry-run", "--vram"]
    answer = dreamfusion(*words, "8")
    assert answer.code == 0 and "GiB expected of 8.0" in answer.err and "slices" not in answer.err
    answer = dreamfusion(*words, "0.5")
    assert answer.code == 21 and "the model does not fit into the device's memory" in answer.err


@pytest.mark.parametrize(
    ("words", "notices"),
    [
        (["--config", "dream-fields"], 1),
        (["--config", "dream-fields", "--set", "clip.model=other/clip"], 0),
        (["--config", "dream-fields", "--set", "clip.model=other/clip", "--set", "clip.sds_weight=1"], 1),
        (["--config", "dream-fields", "--model", "HUSK", "--set", "clip.sds_weight=1"], 1),
        (["--config", "miniature"], 1),
        (["--config", "miniature", "--model", "HUSK"], 0),
    ],
)
def test_words_are_asked_of_the_models_that_read_them(
    dreamfusion: Call, husk: Path, words: list[str], notices: int
) -> None:
    said = [str(husk) if word == "HUSK" else word for word in words]
    answer = dreamfusion("train", "a qwrtzx duck", *said, "--device", "cpu", "--dry-run")
    assert answer.code == 0 and answer.err.count("does not know 'qwrtzx'") == notices


def test_a_model_that_reads_nothing_need_not_be_there(dreamfusion: Call, tmp_path: Path) -> None:
    words = [
        "train",
        "a duck",
        "--config",
        "dream-fields",
        "--model",
        tmp_path / "gone",
        "--device",
        "cpu",
        "--dry-run",
    ]
    assert dreamfusion(*words).code == 0
    assert "gone" in (answer := dreamfusion(*words, "--set", "clip.sds_weight=1")).err and answer.code != 0
