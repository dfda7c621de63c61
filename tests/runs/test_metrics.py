"""A resumed run's metrics have no seam: what comes after the checkpoint, and a half-written line, is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamfusion.errors import OutputError
from dreamfusion.runs import metrics
from dreamfusion.runs.metrics import MetricsWriter


def write(path: Path, steps: range, from_step: int) -> None:
    with MetricsWriter(path, from_step) as writer:
        for step in steps:
            writer.write({"step": step, "opacity": step / 10, "seconds": {"render": float("nan")}})


@pytest.mark.parametrize("killed_after", [4, 7])
@pytest.mark.parametrize("half_line", ["", '{"step": 8, "opa', '{"step": 5, "opacity": 9}', "\0\0\0\0\n"])
def test_a_resumed_file_equals_an_unbroken_one(tmp_path: Path, killed_after: int, half_line: str) -> None:
    unbroken, resumed = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(unbroken, range(1, 10), 0)
    write(resumed, range(1, killed_after + 1), 0)
    with resumed.open("a") as file:
        file.write(half_line)
    write(resumed, range(5, 10), 4)  # the checkpoint was of step 4
    assert resumed.read_bytes() == unbroken.read_bytes()


def test_a_fresh_start_drops_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, range(1, 4), 0)
    write(path, range(1, 2), 0)
    assert [line["step"] for line in metrics.read(path)] == [1]


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path, 0) as writer:
        writer.write(
            {
                "step": 1,
                "norm": float("inf"),
                "parts": {"a": float("nan"), "b": 2.0},
                "many": (1.0, float("nan")),
            }
        )
    assert list(metrics.read(path)) == [
        {"step": 1, "norm": None, "parts": {"a": None, "b": 2.0}, "many": [1.0, None]}
    ]


def test_the_last_step_is_read_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert metrics.last_step(path) == 0 and list(metrics.read(path)) == []
    write(path, range(1, 3000), 0)
    assert path.stat().st_size > 1 << 16
    with path.open("a") as file:
        file.write('{"step": 3000')
    assert metrics.last_step(path) == 2999


def test_lines_are_visible_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path, 0) as writer:
        writer.write({"step": 1})
        assert metrics.last_step(path) == 1


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError), MetricsWriter(tmp_path / "no" / "m.jsonl", 0):
        pass
