"""Every place at which a stranger's input comes in, each a function from a stage and a source of draws to one case."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import EXIT_CODES, USAGE, Case
from stage import SMALL, Stage
from texts import BAD_JSON, BAD_NAMES, BAD_NUMBERS, BAD_VALUES, BAD_YAML, broken, with_odd_value

Surface = Callable[[Stage, random.Random], Case]


# -------------------------------------------------------------------------------------------- configurations


def config_file(stage: Stage, draw: random.Random) -> Case:
    name, text = draw.choice(list(BAD_YAML.items()))
    path = stage.fresh(".yaml")
    path.write_text(text, encoding="utf-8")
    return Case("config file", name, ["config", "show", str(path)])


def damaged_config_file(stage: Stage, draw: random.Random) -> Case:
    from dreamfusion.config_files import presets_directory

    preset = draw.choice(sorted(presets_directory().glob("*.yaml")))
    name, content = broken(preset.read_bytes(), draw)
    path = stage.fresh(".yaml")
    path.write_bytes(content)
    return Case("damaged config file", name, ["config", "show", str(path)], "survive")


def odd_config_value(stage: Stage, draw: random.Random) -> Case:
    from dreamfusion.config_files import load_config

    # JSON is YAML.
    name, content = with_odd_value(load_config("miniature").model_dump(mode="json"), draw)
    path = stage.fresh(".yaml")
    path.write_text(json.dumps(content))
    return Case("odd config value", name, ["config", "show", str(path)], "survive")


NUMBER_KEYS = (
    "seed", "vram_gb", "training.steps", "training.checkpoint_every", "optimizer.lr", "losses.opacity", "losses.opacity.value",
    "scene.radius", "rendering.samples_per_ray", "cameras.views_per_step", "guidance.guidance_scale", "guidance.timestep_max",
    "cameras.resolution", "scene.field.hidden_width", "training", "scene", "scene.field", "losses", "cameras.distance",
    "no.such.key", "", "training.", ".steps", "training.steps.more", "seed.value",
)  # fmt: skip


def set_text(stage: Stage, draw: random.Random) -> Case:
    key, value = draw.choice(NUMBER_KEYS), draw.choice(BAD_VALUES)
    return Case(
        "--set", f"{key} with {value[:20]!r}", ["config", "show", "miniature", "--set", f"{key}={value}"]
    )


def valid_set_text(stage: Stage, draw: random.Random) -> Case:
    text = draw.choice((*SMALL, "seed=7", "losses.opacity=1e-3", "guidance.guidance_scale=1e2", "vram_gb=8"))
    return Case("valid --set", text, ["config", "show", "miniature", "--set", text], "accept")


# ---------------------------------------------------------------------------------------------- command lines

# Refused before the run is looked for, or the run is not there: nothing here can do any work.
NUMBER_OPTIONS = {
    "train": ("--seed", "--steps", "--vram"),
    "fit": ("--seed", "--steps", "--downscale"),
    "resume": ("--steps",),
    "export": (
        "--resolution", "--threshold", "--faces", "--smooth", "--close-holes", "--height-cm", "--texture-size", "--unwrap-limit",
    ),
    "render": (
        "--frames", "--fps", "--size", "--azimuth-deg", "--elevation-deg", "--distance", "--sheet",
    ),
    "view": ("--port",),
    "sample": ("--seed", "--guidance-scale", "--guidance-above", "--count", "--steps"),
    "diffuse": ("--timesteps", "--guidance-scale", "--seed", "--azimuth-deg", "--elevation-deg"),
}  # fmt: skip
NAME_OPTIONS = {
    "train": ("--config", "--output", "--device", "--model", "--lora", "--embedding", "--guidance", "--init", "--set"),
    "fit": ("--config", "--output", "--device", "--truth", "--set"),
    "resume": ("--output", "--device"),
    "export": ("--format", "--texture", "--output", "--runs", "--device"),
    "render": ("--what", "--codec", "--format", "--output", "--runs", "--device"),
    "view": ("--host", "--runs"),
    "sample": ("--view", "--scheduler", "--model", "--output", "--device"),
    "diffuse": ("--model", "--output", "--runs", "--device"),
    "eval": ("--prompts", "--captions", "--clip", "--config", "--set", "--output", "--device"),
    "runs": ("--output",),
    "doctor": (),
}  # fmt: skip


def _subject(command: str, stage: Stage) -> list[str]:
    """The arguments that a command needs: a run, model or picture that is not there."""
    absent = str(stage.folder / "absent")
    match command:
        case "train":
            return [
                "a duck",
                "--config",
                "miniature",
                "--model",
                absent,
                "--output",
                str(stage.folder / "made"),
            ]
        case "sample":
            return ["a duck", "--model", absent]
        case "fit":
            return [absent, "--output", str(stage.folder / "made")]
        case "diffuse":
            return [absent, "--prompt", "a duck", "--runs", str(stage.folder / "made")]
        case "eval" | "runs" | "doctor":
            return []
        case "resume":
            return ["1", "--output", str(stage.folder / "made")]
        case _:
            return ["1", "--runs", str(stage.folder / "made")]


def number_option(stage: Stage, draw: random.Random) -> Case:
    command = draw.choice(list(NUMBER_OPTIONS))
    option, value = draw.choice(NUMBER_OPTIONS[command]), draw.choice(BAD_NUMBERS)
    words = [command, *_subject(command, stage), f"{option}={value}"]
    codes = (
        None if value == "-1" else {2, 11}
    )  # by its own fault, before the run or model turns out to be absent
    return Case("number option", f"{command} {option} {value[:12]!r}", words, codes=codes)


def name_option(stage: Stage, draw: random.Random) -> Case:
    command = draw.choice([name for name, options in NAME_OPTIONS.items() if options])
    option, value = draw.choice(NAME_OPTIONS[command]), draw.choice(BAD_NAMES)
    words = [command, *_subject(command, stage), f"{option}={value}"]
    # A folder without runs is listed as such, and `config show` is not among these.
    must = "survive" if command in ("runs", "eval") else "refuse"
    # An empty word is the current folder: to be refused for itself, whatever else is absent.
    codes = None if value else {11}
    return Case("name option", f"{command} {option} {value[:12]!r}", words, must, codes=codes)


def argument(stage: Stage, draw: random.Random) -> Case:
    command = draw.choice(
        ("resume", "export", "render", "view", "diffuse", "eval", "models verify", "config show", "fit")
    )
    where = {
        "eval": ["--output"],
        "resume": ["--output"],
        "export": ["--runs"],
        "render": ["--runs"],
        "view": ["--runs"],
    }
    words = [*command.split(), "--", draw.choice(BAD_NAMES)]
    folder = [*where.get(command, []), str(stage.folder / "made")] if command in where else []
    return Case("argument", command, [*command.split(), *folder, *words[len(command.split()) :]])


PROMPTS = (
    "", " ", "\t\n", "\udcff", "a \ud800 duck", "\x00", "a\x00duck",
)  # fmt: skip


def prompt(stage: Stage, draw: random.Random) -> Case:
    command = draw.choice(("train", "sample"))
    words = [command, draw.choice(PROMPTS), *_subject(command, stage)[1:]]
    return Case("prompt", repr(words[1]), words)


def output_target(stage: Stage, draw: random.Random) -> Case:
    """Something other than a regular file under the name of the output; it is refused and stays."""
    folder = stage.folder_of("-output")
    kind = draw.choice(
        ("device", "fifo", "folder", "link", "link to a device", "dangling link", "socket", "under a file")
    )
    command, ending = draw.choice(
        (("export", "glb"), ("render --image", "png"), ("render", "mp4"), ("render", "webp"))
    )
    path = folder / f"out.{ending}"
    _put(kind, path, stage.secret)
    path = path / f"x.{ending}" if kind == "under a file" else path
    words = [*command.split(), str(stage.run), "--output", str(path)]
    return Case("output", f"{command} onto a {kind}", words, untouched=[stage.secret])


def _put(kind: str, path: Path, elsewhere: Path) -> None:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(elsewhere)
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "dangling link":
            path.symlink_to(elsewhere.with_name("nowhere"))
        case "link to a folder":
            path.symlink_to(elsewhere.parent)
        case "socket":
            here = os.getcwd()
            os.chdir(path.parent)  # such a name may have a hundred letters only
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
            os.chdir(here)
        case "under a file":
            path.touch()
        case "device":  # not the system's own: a test that fails would replace it
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
            except PermissionError:  # root's
                os.mkfifo(path)


# --------------------------------------------------------------------------------------------------- runs

FILES = ("config.yaml", "manifest.json", "state.json", "metrics.jsonl", "log.txt", ".lock", "evaluation.json",
         "dataset.json", "previews/000002.png", "checkpoints/000002/meta.json",
         "checkpoints/000002/tensors.safetensors", "previews", "checkpoints", "checkpoints/000002")  # fmt: skip
KINDS = ("fifo", "folder", "link", "link to a device", "dangling link", "link to a folder", "socket")
READERS: dict[str, list[str]] = {
    "runs": [],
    "export": ["--resolution", "8", "--texture", "vertex", "--faces", "0", "--page"],
    "render": ["--image", "--size", "16"],
    "resume": ["--device", "cpu"],
}


def _reading(command: str, folder: Path, damaged: Path) -> list[str]:
    if command == "runs":
        return ["runs", "--output", str(folder)]
    return [command, str(damaged), *READERS[command]]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def foreign_file(stage: Stage, draw: random.Random) -> Case:
    """A part of a run that is no regular file of its own."""
    folder, damaged = stage.runs()
    part, kind, command = draw.choice(FILES), draw.choice(KINDS), draw.choice(list(READERS))
    _remove(damaged / part)
    _put(kind, damaged / part, stage.secret)
    must = "accept" if command == "runs" else _must_of(part, command)
    words = _reading(command, folder, damaged)
    return Case("foreign file", f"{part} is a {kind}", words, must, untouched=[stage.secret])


def _must_of(part: str, command: str) -> Any:
    """Nothing can be made of a run without its configuration, or of a scene without its tensors; its model is absent."""
    needed = part == "config.yaml" or part.startswith("checkpoints")
    return "refuse" if needed or command == "resume" else "survive"


def bad_document(stage: Stage, draw: random.Random) -> Case:
    folder, damaged = stage.runs()
    part = draw.choice(
        ("manifest.json", "state.json", "metrics.jsonl", "checkpoints/000002/meta.json", "config.yaml")
    )
    bad = {name: text.encode() for name, text in BAD_YAML.items()} if part == "config.yaml" else BAD_JSON
    name, content = draw.choice(list(bad.items()))
    (damaged / part).write_bytes(content + b"\n")
    command = draw.choice(list(READERS))
    must = "accept" if command == "runs" else _must_of(part, command)
    return Case("bad document", f"{part}: {name}", _reading(command, folder, damaged), must)


def odd_document(stage: Stage, draw: random.Random) -> Case:
    folder, damaged = stage.runs()
    part = draw.choice(
        ("manifest.json", "state.json", "metrics.jsonl", "checkpoints/000002/meta.json", "config.yaml")
    )
    path = damaged / part
    if part == "config.yaml":
        from dreamfusion.config_files import parse_yaml

        name, content = with_odd_value(parse_yaml(path.read_text(), ""), draw)
    else:
        name, content = with_odd_value(
            json.loads(path.read_text().splitlines()[0] if part == "metrics.jsonl" else path.read_text()),
            draw,
        )
    path.write_text(json.dumps(content) + "\n")
    command = draw.choice(list(READERS))
    must = "accept" if command == "runs" else "refuse" if command == "resume" else "survive"
    return Case("odd document", f"{part}: {name}", _reading(command, folder, damaged), must)


def damaged_bytes(stage: Stage, draw: random.Random) -> Case:
    folder, damaged = stage.runs()
    part = draw.choice([part for part in FILES if (damaged / part).is_file()])
    name, content = broken((damaged / part).read_bytes() or b" ", draw)
    (damaged / part).write_bytes(content)
    command = draw.choice(list(READERS))
    must = "accept" if command == "runs" else "refuse" if command == "resume" else "survive"
    return Case("damaged bytes", f"{part}: {name}", _reading(command, folder, damaged), must)


def extends_elsewhere(stage: Stage, draw: random.Random) -> Case:
    folder, damaged = stage.runs()
    other = stage.fresh(".yaml")
    other.write_text("seed: 7\n")
    name = draw.choice(
        (
            str(other),
            f"../../{other.name}",
            "/etc/hostname",
            "../0002-a-good-run/config.yaml",
            "config.yaml",
            "~/x.yaml",
        )
    )
    path = damaged / "config.yaml"
    path.write_text(f"extends: {name}\n" + path.read_text())
    command = draw.choice([command for command in READERS if command != "runs"])
    return Case("extends", name, _reading(command, folder, damaged))


def odd_name(stage: Stage, draw: random.Random) -> Case:
    """Folders and previews whose names are not what the package gives."""
    folder, damaged = stage.runs()
    draw.choice((
        lambda: damaged.rename(folder / ("9" * 200 + "-x")),
        lambda: damaged.rename(folder / "0001-a\x1b[2Jb\nc"),
        lambda: damaged.rename(folder / os.fsdecode(b"0001-\xff")),
        lambda: damaged.rename(folder / "٣٣٣٣-x"),
        lambda: (damaged / "checkpoints" / ("9" * 100)).mkdir(),
        lambda: (damaged / "checkpoints" / "٣٣٣٣٣٣").mkdir(),
        lambda: (damaged / "checkpoints" / "999999").touch(),
        lambda: (damaged / "previews" / ("9" * 200 + ".png")).touch(),
        lambda: (damaged / "previews" / "²³.png").touch(),
        lambda: (folder / "0003-empty").mkdir(),
        lambda: (folder / ".0099").symlink_to(folder),
        lambda: (folder / "0004-loop").symlink_to("0004-loop"),
        lambda: (folder / "0005-here").symlink_to("."),
        lambda: os.mkfifo(folder / "0006-fifo"),
    ))()  # fmt: skip
    return Case("odd name", "in a folder of runs", ["runs", "--output", str(folder)], "accept")


PROMPTS_OF_RUNS = (
    "{{data}}", "{{script}}{{style}}{{title}}", "</script><script>alert(1)</script>", "\x1b[2J\x1b]0;x\x07", "a\u202eb",
    "a\r\nb", "\\", "%s{0}{data}$(id)`id`", "'\"><img src=x onerror=alert(1)>",
)  # fmt: skip


def run_prompt(stage: Stage, draw: random.Random) -> Case:
    """A prompt that a terminal or a page would obey."""
    from dreamfusion.runs.directory import RunDirectory

    folder, damaged = stage.runs()
    hostile = draw.choice(PROMPTS_OF_RUNS)
    path = damaged / "config.yaml"
    text = path.read_text().replace("prompt: a red duck", "prompt: " + json.dumps(hostile))
    path.write_text(text)
    if draw.random() < 0.5:
        return Case("prompt of a run", repr(hostile), ["runs", "--output", str(folder)], "accept")

    def page() -> str:
        from dreamfusion.assets.page import page_html
        from dreamfusion.commands.page import page_data

        html = page_html(page_data(RunDirectory(damaged), None, live=False))
        assert html.count("<script") == 2 and "<img src=x" not in html, "injected"
        start = html.index('type="application/json">') + len('type="application/json">')
        assert json.loads(html[start : html.index("</script>", start)])["prompt"] == hostile
        return ""

    return Case("prompt of a run", repr(hostile), [], "accept", page)


# ------------------------------------------------------------------------------------- requests to the server

REQUESTS = (
    b"", b"\r\n\r\n", b"GET", b"GET /\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"GET /data.json HTTP/1.1\r\n\r\n", b"A" * 70_000,
    b"GET /../../secret HTTP/1.1\r\nHost: %s\r\n\r\n", b"GET /previews/..%%2f..%%2fsecret HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET /previews//etc/passwd HTTP/1.1\r\nHost: %s\r\n\r\n", b"GET /previews/\x00.png HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: %s\r\n\r\n", b"BREW / HTTP/1.1\r\nHost: %s\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 99999999999\r\n\r\nx",
    b"GET / HTTP/1.1\r\nHost: %s\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n", b"GET / HTTP/1.1\r\nHost: %s\r\n folded\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: %s\r\n\r\n", b"GET /previews/000002.png HTTP/1.1\r\nHost: \xff%s\r\n\r\n",
)  # fmt: skip


def request(stage: Stage, draw: random.Random) -> Case:
    content = draw.choice(REQUESTS)
    if draw.random() < 0.3 and content:
        _, content = broken(content, draw)
    return Case("request", repr(content[:40]), [], "accept", lambda: _ask(stage, content))


def _ask(stage: Stage, content: bytes) -> str:
    server = _server(stage)
    port = server.server_address[1]
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(content.replace(b"%s", b"localhost:%d" % port).replace(b"%%", b"%"))
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := client.recv(1 << 16):
                answer += part
        except ConnectionError:
            pass
    status = answer[9:12]
    named = b"Host: localhost:%d\r\n" % port in content.replace(b"%s", b"localhost:%d" % port)
    if status == b"200" and not named and content.startswith(b"GET"):
        raise AssertionError(f"answered without being named: {answer[:100]!r}")
    if b"root:" in answer:
        raise AssertionError("it serves the disk")
    return "".join(c for c in answer.decode("latin-1") if c.isprintable())


_servers: dict[int, Any] = {}


def _server(stage: Stage) -> Any:
    """One for all requests, over a run whose preview leads elsewhere."""
    if id(stage) not in _servers:
        from dreamfusion.commands.view import make_server
        from dreamfusion.runs.directory import RunDirectory

        _, damaged = stage.runs()
        (damaged / "previews" / "000004.png").symlink_to(stage.secret)
        shutil.rmtree(damaged / "checkpoints")
        made = make_server(RunDirectory(damaged), "127.0.0.1", 0)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        _servers[id(stage)] = made
    return _servers[id(stage)]


# ------------------------------------------------------------------------------------------- files of others


def dataset_document(stage: Stage, draw: random.Random) -> Case:
    folder = stage.fresh("-dataset")
    shutil.copytree(stage.dataset, folder)
    path = folder / "transforms.json"
    must: Any = "refuse"
    match draw.randrange(4):
        case 0:
            name, content = draw.choice(list(BAD_JSON.items()))
            path.write_bytes(content)
        case 1:
            name, odd = with_odd_value(json.loads(path.read_text()), draw)
            path.write_text(json.dumps(odd))
            must = "survive"
        case 2:
            name, content = broken(path.read_bytes(), draw)
            path.write_bytes(content)
            must = "survive"
        case _:
            name = draw.choice(KINDS)
            path.unlink()
            _put(name, path, stage.secret)
    return Case("dataset", name, ["fit", str(folder), "--dry-run", *_sets()], must, untouched=[stage.secret])


def dataset_image(stage: Stage, draw: random.Random) -> Case:
    folder = stage.fresh("-dataset")
    shutil.copytree(stage.dataset, folder)
    path = folder / "images" / f"{draw.randrange(6)}.png"
    if draw.random() < 0.5:
        name, content = draw.choice(list(_hostile_images(stage).items()))
        path.write_bytes(content)
    else:
        name = draw.choice(KINDS)
        path.unlink()
        _put(name, path, stage.secret)
    # A frame without its picture may be left out, which is said.
    return Case(
        "image of a dataset",
        name,
        ["fit", str(folder), "--dry-run", *_sets()],
        "survive",
        untouched=[stage.secret],
    )


def _sets() -> list[str]:
    return ["--set", "scene.field.resolutions=[8]", "--set", "scene.field.hidden_width=8"]


def _hostile_images(stage: Stage) -> dict[str, bytes]:
    png = stage.image("PNG")
    bomb = png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]
    return {
        "empty": b"", "cut short": png[: len(png) // 2], "a bomb of pixels": bomb, "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "text": b"no image", "BMP": stage.image("BMP"), "GIF": stage.image("GIF"), "a header alone": png[:33],
        "no checksum": png[:-20] + bytes(20), "PDF": b"%PDF-1.4\n", "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }  # fmt: skip


def image_argument(stage: Stage, draw: random.Random) -> Case:
    name, content = draw.choice(list(_hostile_images(stage).items()))
    path = stage.fresh(".png")
    path.write_bytes(content)
    words = [
        "diffuse",
        str(path),
        "--prompt",
        "a duck",
        "--model",
        str(stage.model),
        "--output",
        str(stage.fresh(".png")),
    ]
    return Case("image", name, words, "survive" if name == "no checksum" else "refuse")


HOSTILE_OBJ = {
    "no vertex": "f 1 2 3\n", "an index beyond": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n",
    "nan": "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "huge": "v 1e300 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "flat": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "a point": "v 0 0 0\n",
    "no number": "v a b c\nf 1 2 3\n",
    "a texture elsewhere": "mtllib ../../../../etc/passwd\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
}  # fmt: skip


def mesh(stage: Stage, draw: random.Random) -> Case:
    kind = draw.choice(list(stage.meshes))
    must: Any = "survive"
    match draw.randrange(3):
        case 0:
            name, content = broken(stage.meshes[kind], draw)
        case 1:
            name, kind, must = draw.choice(list(HOSTILE_OBJ)), "obj", "survive"
            content = HOSTILE_OBJ[name].encode()
        case _:
            name, content = draw.choice(list(BAD_JSON.items()))
            chunk = content + b" " * (-len(content) % 4)
            head = b"glTF" + (2).to_bytes(4, "little") + (20 + len(chunk)).to_bytes(4, "little")
            content, kind, must = head + len(chunk).to_bytes(4, "little") + b"JSON" + chunk, "glb", "refuse"
    path = stage.fresh(f".{kind}")
    path.write_bytes(content)
    words = [
        "train",
        "a duck",
        "--config",
        "miniature",
        "--dry-run",
        "--init",
        str(path),
        "--output",
        str(stage.folder / "made"),
    ]
    return Case("mesh", f"{kind}: {name}", words, must)


PERSONAL = {
    "empty": b"", "no header": b"\xff" * 64, "a header beyond the file": (2**40).to_bytes(8, "little") + b"{}",
    "a header of no JSON": (4).to_bytes(8, "little") + b"nope", "nothing in it": (2).to_bytes(8, "little") + b"{}",
    "a pickle": b"\x80\x04cposix\nsystem\n", "HTML": b"<!doctype html><title>404</title>",
    "deep": (20_000).to_bytes(8, "little") + b'{"a":' * 4_000,
    "offsets beyond": (61).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[999999],"data_offsets":[0,9999]}}',
}  # fmt: skip


def personal_file(stage: Stage, draw: random.Random) -> Case:
    option = draw.choice(("--lora", "--embedding", "--model"))
    name, content = draw.choice((*PERSONAL.items(), broken(stage.lora, draw)))
    path = stage.fresh(draw.choice((".safetensors", ".safetensors", ".bin", ".pt")))
    path.write_bytes(content)
    model = [] if option == "--model" else ["--model", str(stage.model)]
    words = ["train", "a duck", "--config", "miniature", *model, option, str(path), "--output", str(stage.folder / "made"),
             "--device", "cpu", "--steps", "1", *(word for text in SMALL for word in ("--set", text))]  # fmt: skip
    must = "refuse" if name in PERSONAL else "survive"
    return Case("personal file", f"{option}: {name}", words, must)


def model_document(stage: Stage, draw: random.Random) -> Case:
    folder = stage.fresh("-model")
    shutil.copytree(stage.model, folder)
    path = draw.choice(sorted(folder.rglob("*.json")))
    must: Any = "survive"
    match draw.randrange(3):
        case 0:
            name, content = draw.choice(list(BAD_JSON.items()))
            path.write_bytes(content)
            must = (
                "refuse"
                if path.name in ("model_index.json", "config.json", "scheduler_config.json")
                else "survive"
            )
        case 1:
            name, odd = with_odd_value(json.loads(path.read_text()), draw)
            path.write_text(json.dumps(odd))
        case _:
            name, content = broken(path.read_bytes(), draw)
            path.write_bytes(content)
    return Case("model", f"{path.relative_to(folder)}: {name}", ["models", "verify", str(folder)], must)


# ------------------------------------------------------------------------------------------ their own processes

REDIRECTIONS = (
    ">/dev/full",
    "2>/dev/full",
    ">/dev/full 2>&1",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    "</dev/null | head -c 1",
)
LIMITS = (
    "true",
    "ulimit -f 8",
    "ulimit -n 24",
    "cd / && export TMPDIR=/dev/full",
    "unset HOME PATH LANG",
    "umask 777",
)


def in_a_shell(stage: Stage, draw: random.Random) -> Case:
    """A command whose output, or whose system, fails: it may fail too, in one line at most."""
    folder, _ = stage.runs()
    words = draw.choice((
        ["runs", "--output", str(folder)],
        ["config", "show", "fit"],
        ["export", str(folder / "0002-a-good-run"), *READERS["export"], "--output", str(folder / "out.glb")],
        ["render", str(folder / "0002-a-good-run"), *READERS["render"], "--output", str(folder / "out.png")],
    ))  # fmt: skip
    redirection, limit = draw.choice(REDIRECTIONS), draw.choice(LIMITS)
    command = f"{limit}; exec {shlex.join([sys.executable, '-m', 'dreamfusion', *words])} {redirection}"

    def call() -> str:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        if done.returncode not in EXIT_CODES | {0, USAGE} and not redirection.endswith("head -c 1"):
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-500:]}")
        if "Traceback" in done.stderr or "Exception ignored" in done.stderr:
            raise RuntimeError(done.stderr[-500:])
        return done.stderr

    return Case("in a shell", f"{words[0]}: {limit}; {redirection}", must="accept", call=call)


def killed(stage: Stage, draw: random.Random) -> Case:
    """Training that is killed at any moment: the next commands find a run or none, resume it, and leave nothing behind."""
    folder, wait = stage.fresh("-killed"), draw.uniform(0.5, 4.0)
    words = ["train", "a duck", "--config", "miniature", "--device", "cpu", "--output", str(folder), "--set",
             "training.steps=2000", "--set", "training.checkpoint_every=1", "--set", "training.preview_every=1",
             *(word for text in SMALL[:-1] for word in ("--set", text))]  # fmt: skip
    number = draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def call() -> str:
        from dreamfusion.commands.finished import find_run
        from dreamfusion.runs import checkpoint, directory

        child = subprocess.Popen([sys.executable, "-m", "dreamfusion", *words], stdout=-3, stderr=-3)
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
            child.wait()
        for run in directory.listing(folder):
            if run.status not in ("created", "killed", "stopped"):
                raise RuntimeError(f"a killed run is {run.status}")
            found = find_run(str(run.run.path), folder)
            for path in checkpoint.listing(found.checkpoints):
                checkpoint.load(path)
            if left := [path.name for path in found.path.rglob(".*") if path.name != ".lock"]:
                raise RuntimeError(f"left behind: {left}")
        return ""

    return Case("killed", f"{number.name} after {wait:.2f} s", must="accept", call=call)


CHEAP: tuple[Surface, ...] = (
    config_file, damaged_config_file, odd_config_value, set_text, valid_set_text, number_option, name_option, argument,
    prompt, odd_name, run_prompt, request,
)  # fmt: skip
WITH_A_RUN: tuple[Surface, ...] = (
    output_target, foreign_file, bad_document, odd_document, damaged_bytes, extends_elsewhere,
)  # fmt: skip
WITH_A_MODEL: tuple[Surface, ...] = (
    dataset_document, dataset_image, mesh, image_argument, personal_file, model_document,
)  # fmt: skip
# Seconds each, so that the quick part leaves them out.
IN_PROCESSES: tuple[Surface, ...] = (in_a_shell, killed)
