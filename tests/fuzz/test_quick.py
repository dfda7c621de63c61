"""The quick part of `make fuzz`: the first inputs of the surfaces that load no model, with the same fixed seed."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cases import Case, judge
from stage import Stage
from surfaces import CHEAP, WITH_A_RUN, Surface

EACH = 8
EACH_WITH_A_RUN = 3


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("surface", [*CHEAP, *WITH_A_RUN], ids=lambda surface: surface.__name__)
def test_hostile_inputs_are_answered_in_one_line(
    surface: Surface, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stage.folder)
    for number in range(EACH if surface in CHEAP else EACH_WITH_A_RUN):
        case = surface(stage, random.Random(number))
        assert judge(case) is None, str(case)


def test_the_judge_notices_every_kind_of_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from dreamfusion.errors import ConfigError

    victim = tmp_path / "victim"
    victim.write_text("a")
    monkeypatch.setattr("cases.LIMIT_S", 0.1)

    def fault(call: object, must: str = "accept") -> str:
        return str(judge(Case("", "", [], must, call, [victim])))  # pyright: ignore[reportArgumentType]

    def refuse(text: str) -> str:
        raise ConfigError(text)

    assert (
        fault(lambda: "") == fault(lambda: refuse("no"), "refuse") == fault(lambda: "", "survive") == "None"
    )
    assert fault(lambda: "", "refuse").startswith("silent acceptance")
    assert fault(lambda: refuse("no")).startswith("refused")
    assert fault(lambda: str(1 / 0)).startswith("traceback")
    assert fault(lambda: str(time.sleep(5))).startswith("hang")
    assert fault(lambda: "the-secret-of-another-folder").startswith("leak")
    assert fault(lambda: str(victim.write_text("b")) and "").startswith("damage")
    assert fault(lambda: "\x1b[2J").startswith("control characters")
