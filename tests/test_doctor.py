"""A device that is not there is told in a second; one broken part does not hide the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamfusion import doctor
from dreamfusion.commands.tables import print_findings
from dreamfusion.errors import DeviceError


def test_the_build_is_read_from_the_files_as_torch_tells_it() -> None:
    build = doctor.torch_build()
    assert build["version"] == torch.__version__
    assert (build["cuda"] is None) == (torch.version.cuda is None and torch.version.hip is None)


def test_a_cuda_build_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from typing import Optional\n__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(text)
    (tmp_path / "torch" / "__init__.py").touch()
    spec = doctor.importlib.util.spec_from_file_location(
        "torch", tmp_path / "torch" / "__init__.py", submodule_search_locations=[str(tmp_path / "torch")]
    )
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec)
    assert doctor.torch_build() == {"version": "2.13.0+cu130", "cuda": "13.0"}
    monkeypatch.setattr(doctor, "_nvidia_driver", lambda: False)
    assert doctor.why_no_cuda() == "no NVIDIA driver was found"


def test_auto_takes_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "why_no_cuda", lambda: "none")
    monkeypatch.setattr(doctor, "why_no_mps", lambda: "none")
    assert doctor.choose_device("auto") == doctor.choose_device("cpu") == "cpu"
    monkeypatch.setattr(doctor, "why_no_mps", lambda: None)
    assert doctor.choose_device("auto") == "mps"
    monkeypatch.setattr(doctor, "why_no_cuda", lambda: None)
    assert doctor.choose_device("auto") == "cuda"


def test_a_device_that_is_not_there_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "why_no_cuda", lambda: "no NVIDIA driver was found")
    with pytest.raises(DeviceError, match=r"device 'cuda' is not there: no NVIDIA driver was found"):
        doctor.choose_device("cuda")


@pytest.mark.skipif(torch.version.cuda is not None, reason="asks a build without CUDA")
def test_asking_for_cuda_on_a_cpu_build_loads_no_torch() -> None:
    code = (
        "import sys\nfrom dreamfusion.doctor import why_no_cuda\nprint(why_no_cuda(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"this torch ({torch.__version__}) is built without CUDA False"


def test_one_broken_part_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _video() -> None:
        raise ImportError("no ffmpeg here")

    monkeypatch.setattr(doctor, "_video", _video)
    findings = {finding.topic: finding for finding in doctor.examine(tmp_path / "runs")}
    assert findings["video"].status == "problem" and "no ffmpeg here" in findings["video"].text
    assert findings["output"].status == "ok"
    assert findings["torch"].text == torch.__version__
    assert findings["bfloat16"].status in ("ok", "note")


def test_an_output_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    findings = list(doctor.examine(tmp_path / "file"))
    assert findings[-1].status == "problem" and findings[-1].topic == "output"


@pytest.mark.parametrize("statuses", [("ok", "note"), ("ok", "problem"), ("problem", "ok"), ()])
def test_one_problem_among_all_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: tuple[doctor.Status, ...]
) -> None:
    found = [doctor.Finding(f"part {index}", status, "text") for index, status in enumerate(statuses)]
    monkeypatch.setattr(doctor, "examine", lambda output: iter(found))
    assert print_findings(tmp_path) is ("problem" not in statuses)
