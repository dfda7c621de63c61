"""The commands that only look: runs, config show, doctor."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

from dreamfusion import config_files
from dreamfusion.errors import printable
from dreamfusion.progress import check_printed, event, result


def print_runs(output: Path) -> None:
    """All runs under `output` as a table, or as JSON lines where stdout is no terminal."""
    from dreamfusion.runs.directory import RunInfo, listing
    from dreamfusion.runs.leftovers import clean_root
    from dreamfusion.runs.recovery import recover

    clean_root(output)
    infos = listing(output)
    for info in infos:
        recover(info.run)
    for info in infos:
        event(
            number=info.number,
            name=info.name,
            path=info.run.path,
            prompt=info.prompt,
            status=info.status,
            step=info.step,
            steps=info.steps,
            created=info.created,
            has_checkpoint=info.has_checkpoint,
            message=info.message,
        )
    if not sys.stdout.isatty():
        check_printed()
        return
    if not infos:
        print(f"no runs in {output} yet; start one with: dreamfusion train 'a peacock on a surfboard'")
        return

    def row(info: RunInfo) -> tuple[str, ...]:
        steps = f"{info.step}/{info.steps}"
        return (f"{info.number:04d}", info.status, steps, info.created[:16].replace("T", " "), _title(info))

    print_table([("run", "status", "step", "started (UTC)", "prompt"), *map(row, infos)])


def _title(info: object) -> str:
    prompt, name = getattr(info, "prompt", ""), getattr(info, "name", "")
    from dreamfusion.runs.directory import slug

    return prompt if slug(prompt) == name or not name else f"{name}: {prompt}"


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell, the last one cut at the terminal's edge."""
    width = shutil.get_terminal_size((80, 24)).columns
    rows = [tuple(printable(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    # On a narrow terminal lines wrap rather than lose the last column.
    room = max(width - sum(widths) - 2 * len(widths), 11)
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=False)]
        last = row[-1] if len(row[-1]) <= room else row[-1][: room - 3] + "..."
        print("  ".join([*cells, last]).rstrip())


def print_presets() -> None:
    """Each preset's name and the first line of its file."""
    presets = []
    for name in config_files.preset_names():
        path = config_files.presets_directory() / f"{name}.yaml"
        first_line = config_files.read_preset(name).partition("\n")[0]
        presets.append((name, first_line.removeprefix("#").strip().rstrip(".")))
        event(name=name, path=path, description=presets[-1][1])
    if sys.stdout.isatty():
        print_table([("preset", "for"), *presets])
        print("\nsee one whole: dreamfusion config show NAME")
    check_printed()


def print_config(name: str | None, overrides: tuple[str, ...]) -> None:
    """The resolved config as YAML, on a terminal and elsewhere: it is machine-readable as it stands."""
    print(config_files.dump_config(config_files.load_config(name, overrides)), end="")
    check_printed()


def print_findings(output: Path) -> bool:
    """The doctor's findings; False when one of them is a problem."""
    from dreamfusion.doctor import examine

    healthy = True
    width = shutil.get_terminal_size((80, 24)).columns
    for finding in examine(output):
        healthy = healthy and finding.status != "problem"
        mark = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}[finding.status]
        head = f"{mark} {finding.topic:<16} "
        text = textwrap.fill(
            head + finding.text, max(width, 40), subsequent_indent=" " * len(head), break_on_hyphens=False
        )
        result(text, topic=finding.topic, status=finding.status, text=finding.text)
    check_printed()
    return healthy
