"""Odd input at the command line: an empty variable of a shell script, a full disk, a text that a terminal would obey."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamfusion.commands.evaluate import read_lines
from dreamfusion.commands.tables import print_runs, print_table
from dreamfusion.config_files import dump_config, load_config
from dreamfusion.errors import ConfigError, OutputError, PromptError, of_the_machine
from dreamfusion.progress import notice, result
from dreamfusion.runs.directory import RunDirectory

Call = Callable[..., Any]
NUMBERS: list[tuple[list[str], str]] = [
    (["train", "a duck", "--config", "miniature", "--vram", "1e300"], "'vram_gb'.*expected a number > 0 and <= 1e.06"),
    (["train", "a duck", "--config", "miniature", "--vram", "nan"], "'vram_gb'.*finite"),
    (["train", "a duck", "--config", "miniature", "--vram", "-1"], "'vram_gb'.*expected a number > 0"),
    (["train", "a duck", "--config", "miniature", "--steps", "9" * 400], "'training.steps'.*at most 1,000,000,000"),
    (["config", "show", "miniature", "--set", "training.steps=1e20"], "'training.steps'.*at most 1,000,000,000"),
    (["config", "show", "miniature", "--set", "training.steps=1" + "0" * 400], "more than 40 digits"),
    (["config", "show", "miniature", "--set", "seed=1e20"], "'seed'.*64 bits"),
    (["config", "show", "miniature", "--set", "optimizer.lr=1e39"], "'optimizer.lr.*at most 3.4e"),
    (["config", "show", "miniature", "--set", "losses.opacity=-1e39"], "'losses.opacity"),
    (["config", "show", "miniature", "--set", "cameras.distance=[1e39, 1e40]"], "'cameras.distance.0'"),
    (["config", "show", "miniature", "--set", "seed=!!bool maybe"], "'maybe' is not of type bool"),
    (["config", "show", "miniature", "--set", "training=" + "[" * 2000], "nested more than 64 deep"),
    (["config", "show", "miniature", "--set", "seed=" + "x" * 100_000], "'seed'"),
    (["export", "1", "--faces", "9" * 30], "--faces"),
    (["export", "1", "--height-cm", "1e300"], "--height-cm"),
    (["export", "1", "--threshold", "1e39"], "--threshold"),
    (["render", "1", "--frames", "9" * 30], "--frames"),
    (["render", "1", "--distance", "1e300"], "--distance"),
    (["render", "1", "--azimuth-deg", "1e300"], "--azimuth-deg"),
    (["diffuse", "1", "--prompt", "a duck", "--guidance-scale", "1e300"], "--guidance-scale"),
    (["view", "1", "--host", ""], "--host"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "pattern"), NUMBERS, ids=lambda value: str(value)[:60])
def test_numbers_that_nothing_can_be_made_of(
    dreamfusion: Call, fresh_run: RunDirectory, words: list[str], pattern: str
) -> None:
    import re

    answer = dreamfusion(*words)
    assert answer.code == 11, answer.err
    assert re.search(pattern, answer.err) and len(answer.err) < 1_000


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "~nosuchuser/x"],
        ["train", "a duck", "--config", "~nosuchuser/x.yaml"],
        ["train", "a duck", "--config", "miniature", "--init", "~nosuchuser/x"],
        ["diffuse", "~nosuchuser/x", "--prompt", "a duck"],
        ["train", "a duck", "--config", "miniature", "--model", "~nosuchuser/x"],
        ["fit", "x" * 300],
        ["train", "a duck", "--config", "x" * 300],
        ["train", "a duck", "--config", "miniature", "--init", "x" * 300],
        ["export", "x" * 300],
        ["export", "1", "--output", "x" * 300 + ".glb"],
        ["render", "1", "--output", "y/" + "x" * 300 + "/a.mp4"],
        ["runs", "--output", "x" * 300],
        ["resume", "1", "--output", "x" * 300],
        ["eval", "--output", "x" * 300],
        ["train", "a duck", "--config", "miniature", "--output", "x" * 300],
        ["view", "\udcff"],
        ["export", "a\x1b[2Jb"],
    ],
    ids=lambda words: " ".join(words)[:40].encode("unicode_escape").decode(),
)
def test_names_that_no_file_has(dreamfusion: Call, fresh_run: RunDirectory, words: list[str]) -> None:
    before = sorted(Path().rglob("*"))
    answer = dreamfusion(*words)
    assert 10 <= answer.code <= 23, answer.err
    told = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and told[0].isprintable() and len(told[0]) < 1_500
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "a duck", "--config", "miniature", "--output", ""], "--output"),
        (["train", "a duck", "--config", "miniature", "--output="], "--output"),
        (["train", "a duck", "--config", "miniature", "--name", ""], "--name"),
        (["train", "a duck", "--model", ""], "--model"),
        (["train", "a duck", "--lora", ""], "--lora"),
        (["fit", ""], "dataset"),
        (["resume", ""], "run"),
        (["eval", "1", ""], "references"),
        (["runs", "--runs", ""], "--output"),
        (["export", "1", "--output", ""], "--output"),
        (["models", "verify", ""], "name"),
        (["config", "show", ""], "name"),
    ],
)  # fmt: skip
def test_an_empty_word_is_no_folder(
    dreamfusion: Call, fresh_run: RunDirectory, words: list[str], named: str
) -> None:
    """`--output "$unset"`: Python takes "" for the current folder, which would be read or filled."""
    before = sorted(Path().rglob("*"))
    answer = dreamfusion(*words)
    assert (answer.code, answer.err) == (11, f"error: {named}: expected a value, got an empty word\n")
    assert sorted(Path().rglob("*")) == before


def test_homes_in_the_names_of_outputs(dreamfusion: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell expands `~` at the beginning of a word only, and not in `--output=~/runs`."""
    home = Path("home").resolve()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    (home / "runs" / "0001-a-duck").mkdir(parents=True)
    assert "0001-a-duck" in dreamfusion("runs", "--output=~/runs").out
    answer = dreamfusion("train", "a duck", "--config", "miniature", "--output=~nosuchuser/runs")
    assert answer.code == 11 and "a user who is not known" in answer.err
    assert sorted(Path().iterdir()) == [Path("home")]


def test_a_usage_errors_echo_is_cut(dreamfusion: Call) -> None:
    for words in (["x" * 10_000], ["runs", "--" + "x" * 10_000], ["render", "--what", "\x1b" * 10_000]):
        answer = dreamfusion(*words)
        assert answer.code == 2
        assert len(answer.err) < 2_000 and "\x1b" not in answer.err


# ----------------------------------------------------------------------------------------------- disk and memory


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/dreamfusion-unwrap"),
            18,
            "no space left on device",
        ),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), 18, "temporary"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 18, "/x"),
        (RuntimeError("could not create a primitive"), 21, "memory"),
        (MemoryError(), 21, "memory"),
    ],
    ids=str,
)
def test_what_disk_and_memory_refuse_is_one_line(
    dreamfusion: Call,
    fresh_run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    part: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("dreamfusion.runs.directory.find", fail)
    answer = dreamfusion("export", "1")
    assert answer.code == code and part in answer.err
    assert answer.err.count("\n") == 1


def test_a_full_place_for_temporary_files_is_the_users_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    import trimesh

    from dreamfusion.assets.atlas import unwrap

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pytest.importorskip("xatlas")
    monkeypatch.setattr("dreamfusion.assets.atlas.np.savez", full)
    before = sorted(os.listdir(tempfile.gettempdir()))
    with pytest.raises(OSError) as caught:
        unwrap(trimesh.creation.box(), 64, 5)
    assert isinstance(of_the_machine(caught.value), OutputError)
    assert {name for name in os.listdir(tempfile.gettempdir()) if "unwrap" in name} <= set(before)


# --------------------------------------------------------------------------------------- what a terminal obeys


class _Terminal:
    def isatty(self) -> bool:
        return True


OBEYED = "a \x1b[2J\x1b]0;x\x07 \x9b \u202e duck"


def test_nothing_that_a_terminal_obeys_reaches_it(
    fresh_run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = fresh_run.config().model_copy(update={"prompt": OBEYED})
    fresh_run.config_path.write_text(dump_config(changed))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print_runs(fresh_run.path.parent)
    print_table([("a", OBEYED), (OBEYED, "b")])
    notice(f"first {OBEYED}\nsecond")
    result(OBEYED, event="x")
    seen = capsys.readouterr()
    for line in (seen.out + seen.err).split("\n"):
        assert line.isprintable(), line
    assert seen.out.count("\\x1b[2J") == 4 and "first a \\x1b[2J" in seen.err and "\nsecond\n" in seen.err


def test_json_lines_hold_the_prompt_as_it_is(dreamfusion: Call, fresh_run: RunDirectory) -> None:
    changed = fresh_run.config().model_copy(update={"prompt": OBEYED})
    fresh_run.config_path.write_text(dump_config(changed))
    answer = dreamfusion("runs")
    assert answer.events[0]["prompt"] == OBEYED and answer.out.isascii() and "\x1b" not in answer.out


def test_a_file_of_prompts_is_text(tmp_path: Path) -> None:
    for content, message in (
        (b"caf\xe9\n", "not UTF-8"),
        ("a".encode("utf-16"), "UTF-16"),
        (b"# none\n", "no prompt"),
    ):
        (tmp_path / "prompts.txt").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read_lines(tmp_path / "prompts.txt")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="a FIFO"):
        read_lines(tmp_path / "fifo")


def test_a_prompt_with_a_nul_is_none() -> None:
    from dreamfusion.commands.prompts import check_prompt

    with pytest.raises(PromptError, match="NUL"):
        check_prompt("a\0duck")


@pytest.mark.parametrize(
    "prompt", ["{{data}}", "{{title}}{{script}}", "{view} of {data} %s", "</script><b>&quot;", "\\u003c"]
)
def test_a_prompt_stands_alone_in_the_pages_slot(prompt: str) -> None:
    from dreamfusion.assets.page import page_html

    data = {"prompt": prompt, "settings": "{{style}} {{nothing}}"}
    page = page_html(data)
    start = page.index('type="application/json">') + len('type="application/json">')
    assert json.loads(page[start : page.index("</script>", start)]) == data
    import html

    title = page[page.index("<title>") + 7 : page.index("</title>")]
    assert html.unescape(title) == prompt
    assert page.count("</script>") == 2


def test_a_run_without_a_hostile_prompt_is_as_before(fresh_run: RunDirectory) -> None:
    assert load_config(fresh_run.config_path) == fresh_run.config()
