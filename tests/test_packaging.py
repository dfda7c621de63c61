"""What a user installs: the presets travel with it, the pins fit the ranges, and the licence is there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import dreamfusion
from dreamfusion import config_files

ROOT = Path(dreamfusion.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> dict[str, str]:
    """Distribution -> version range, for the package, its extras and its tests."""
    lines = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(\[[^\]]*\])?(.*)", line)
        assert match is not None, line
        found[plain(match[1])] = match[3]
    return found


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {plain(name): version for name, version in pairs}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def test_every_range_has_a_lower_bound_and_no_upper_one() -> None:
    for name, bounds in requirements().items():
        assert re.fullmatch(r">=[0-9.]+", bounds), name


def test_every_requirement_is_pinned_inside_its_range() -> None:
    for name, bounds in requirements().items():
        assert numbers(pins()[name]) >= numbers(bounds), name


def test_the_lowest_pins_are_the_lower_bounds() -> None:
    """`make test-lowest` tests what is promised: every bound, and no other version. Torch has no old build for CPUs."""
    bounds = {name: bound.removeprefix(">=") for name, bound in requirements().items()}
    assert pins("constraints-lowest.txt") == bounds | {"torch": pins()["torch"]}


def test_what_the_package_imports_is_required() -> None:
    """What only comes along with another requirement may go with it."""
    imported = set()
    for path in (ROOT / "dreamfusion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.partition(".")[0] for name in names}
    called = {"PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image", "pxr": "usd-core"}
    foreign = imported - sys.stdlib_module_names - {"dreamfusion"}
    assert {called.get(name, plain(name)) for name in foreign} <= requirements().keys()


def test_torch_is_pinned_so_that_a_cpu_build_fits() -> None:
    assert pins()["torch"] == "2.13.0"


def test_a_pin_has_no_local_build() -> None:
    assert not [version for version in pins().values() if "+" in version or "@" in version]


def test_one_version_is_told_everywhere() -> None:
    assert PROJECT["version"] == dreamfusion.__version__


def test_the_licence_is_apache_2() -> None:
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def test_presets_are_found_in_a_clone() -> None:
    assert config_files.presets_directory() == ROOT / "configs"


@pytest.mark.slow
def test_a_wheel_holds_the_presets_and_the_model(tmp_path: Path) -> None:
    """Built where a package index is at hand; the installed copy finds its presets without the clone."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    for preset in config_files.preset_names():
        assert f"dreamfusion/configs/{preset}.yaml" in names
    assert "dreamfusion/guidance/models.yaml" in names
    assert "dreamfusion/miniature/stable-diffusion/model_index.json" in names
    assert not [name for name in names if name.startswith(("tests/", "outputs/", "configs/"))]
    code = "from dreamfusion.config_files import load_config, presets_directory; print(presets_directory()); load_config('paper')"
    shutil.rmtree(tmp_path / "installed" / "tests", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "installed" / "dreamfusion" / "configs")
