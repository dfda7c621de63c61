"""The floors: who may import whom, and what may not be loaded before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dreamfusion

PACKAGE = Path(dreamfusion.__file__).parent
ROOT = PACKAGE.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def modules() -> set[str]:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return packages | {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def test_every_module_has_its_floor() -> None:
    floors = [contract for contract in CONTRACTS if contract["type"] == "layers"]
    named = {
        name.strip("( )")
        for layer in floors[0]["layers"]
        for part in layer.split("|")
        for name in part.split(":")
    }
    assert modules() <= named


def test_the_libraries_contract_covers_everyone_but_the_two_rooms() -> None:
    covered = {name.removeprefix("dreamfusion.") for name in CONTRACTS[2]["source_modules"]}
    assert CONTRACTS[2]["forbidden_modules"] == ["diffusers", "transformers"]
    assert modules() - covered == {"guidance", "miniature"}


@pytest.mark.parametrize(
    "module",
    [
        "dreamfusion.cli",
        "dreamfusion.config_files",
        "dreamfusion.doctor",
        "dreamfusion.progress",
        "dreamfusion.runs.directory",
        "dreamfusion.guidance.models",
        "dreamfusion.commands.train",
        "dreamfusion.commands.fit",
        "dreamfusion.commands.evaluate",
        "dreamfusion.commands.diffuse",
        "dreamfusion.commands.export",
        "dreamfusion.commands.render",
        "dreamfusion.commands.sample",
        "dreamfusion.commands.tables",
    ],
)
def test_what_answers_in_the_first_second_loads_no_torch(module: str) -> None:
    heavy = "[m for m in ('torch', 'diffusers', 'transformers', 'trimesh', 'scipy') if m in sys.modules]"
    code = f"import sys, {module}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_nothing_hides_a_bad_number() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", None))
            assert name not in ("nan_to_num", "nan_to_num_"), path


def test_nothing_draws_from_the_global_generator() -> None:
    """torch.randn and its kin take a generator: randomness is an argument."""
    draws = {
        "rand",
        "randn",
        "randint",
        "randperm",
        "normal",
        "bernoulli",
        "multinomial",
        "rand_like",
        "randn_like",
    }
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if (
                isinstance(node.func.value, ast.Name)
                and node.func.value.id == "torch"
                and node.func.attr in draws
            ):
                assert "generator" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}"


# Data that this package or its build made and that travels inside of it, or that no stranger hands over; all else is read by
# `dreamfusion.documents`, which has the limits.
PARSES = {
    "documents.py": "the one reader",
    "miniature/world.py": "specifications of scenes, of one's own data set",
    "miniature/training": "checkpoints of the embedded model's training, which users have no part in",
    "miniature/meshes": "the meshes that it is trained on, fetched and checked by their sums",
    "guidance/models.py": "the package's own table of models",
}


def parsing_calls(path: Path) -> list[str]:
    """Calls of a parser of JSON or YAML in one module, with their lines."""
    names = {
        ("json", "load"),
        ("json", "loads"),
        *(("yaml", n) for n in ("load", "safe_load", "full_load", "unsafe_load")),
    }
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for call in calls
        if isinstance(call, ast.Attribute)
        and isinstance(call.value, ast.Name)
        and (call.value.id, call.attr) in names
    ]


def test_documents_of_strangers_are_parsed_in_one_place() -> None:
    found = [call for path in sorted(PACKAGE.rglob("*.py")) for call in parsing_calls(path)]
    assert [call for call in found if not call.startswith(tuple(PARSES))] == []
    assert parsing_calls(PACKAGE / "documents.py"), "the search finds what there is"
