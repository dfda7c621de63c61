"""What this machine can do, what is missing, and which fast path is active and why not another.

Everything that can be told without torch is told without it: a wrong `--device` dies in the first second.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamfusion.errors import DeviceError, DreamfusionError

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        topic: a word or two.
        status: ok; note: works, but slower or with less; problem: a command will fail.
        text: what was found, and what to do where that helps.
    """

    topic: str
    status: Status
    text: str


# ------------------------------------------------------------------------------------------------- devices


def torch_build() -> dict[str, str | None]:
    """Version and CUDA version of the installed torch, read from its files without importing it."""
    spec = importlib.util.find_spec("torch")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        return {"version": None, "cuda": None}
    text = (Path(folders[0]) / "version.py").read_text(encoding="utf-8")
    found = {
        name: re.search(rf"^{name}\b[^=]*= *'([^']*)'", text, re.M) for name in ("__version__", "cuda", "hip")
    }
    version, cuda, hip = found["__version__"], found["cuda"] or found["hip"], found["hip"]
    return {
        "version": version[1] if version else None,
        "cuda": (f"ROCm {hip[1]}" if hip else cuda[1]) if cuda else None,
    }


def _nvidia_driver() -> bool:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def why_no_cuda() -> str | None:
    """Why torch cannot use a CUDA device here, or None when it can; imports torch only if there is hope."""
    build = torch_build()
    if build["cuda"] is None:
        return f"this torch ({build['version']}) is built without CUDA"
    if not build["cuda"].startswith("ROCm") and not _nvidia_driver():
        return "no NVIDIA driver was found"
    import torch

    return None if torch.cuda.is_available() else "torch finds no usable CUDA device"


def why_no_mps() -> str | None:
    """Why torch cannot use Apple's GPU here, or None when it can."""
    if sys.platform != "darwin":
        return f"Apple's GPUs are found under macOS only, this is {platform.system()}"
    import torch

    return None if torch.backends.mps.is_available() else "torch finds no Apple GPU it can use"


def choose_device(name: str) -> str:
    """`cpu`, `cuda` or `mps`: the one that is asked for, or for `auto` the fastest there is.

    Raises:
        DeviceError: the device that is asked for is not there; says why.
    """
    reasons: dict[str, Callable[[], str | None]] = {"cuda": why_no_cuda, "mps": why_no_mps}
    if name == "auto":
        return next((device for device, why_not in reasons.items() if why_not() is None), "cpu")
    reason = reasons[name]() if name in reasons else None
    if reason is not None:
        raise DeviceError(
            f"device '{name}' is not there: {reason}", hint="use --device cpu, and see `dreamfusion doctor`"
        )
    return name


# --------------------------------------------------------------------------------------------- examination


def examine(output: Path) -> Iterator[Finding]:
    """Every finding about this machine and installation, in the order in which they matter."""
    for check in (_python, _torch, _devices, _threads, _precision, _miniature, _models, _video):
        yield from _guarded(check)
    yield from _guarded(lambda: _output(output))


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    # A broken installation is what doctor is for: one broken part must not hide the others.
    try:
        yield from check()
    except DreamfusionError as error:
        yield Finding(_topic(check), "problem", str(error))
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(_topic(check), "problem", f"{type(error).__name__}: {error}")


def _topic(check: Callable[[], Iterator[Finding]]) -> str:
    name = check.__name__.strip("_")
    return name if name.isidentifier() else "output"


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", "ok", torch.__version__)


def _devices() -> Iterator[Finding]:
    no_cuda, no_mps = why_no_cuda(), why_no_mps()
    import torch

    if no_cuda is None:
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 2**30
            yield Finding("cuda", "ok", f"{properties.name}, {memory:.0f} GiB")
    else:
        yield Finding("cuda", "note", f"not used: {no_cuda}")
    if sys.platform == "darwin":
        yield Finding("mps", "ok" if no_mps is None else "note", no_mps or "Apple GPU")
    chosen = "cuda" if no_cuda is None else "mps" if no_mps is None else "cpu"
    yield Finding("device", "ok", f"{chosen} is what --device auto takes")


def _threads() -> Iterator[Finding]:
    import torch

    limit = os.environ.get("OMP_NUM_THREADS")
    by = f", limited by OMP_NUM_THREADS={limit}" if limit else ""
    yield Finding("threads", "ok", f"torch uses {torch.get_num_threads()} of {os.cpu_count()} CPUs{by}")


def _precision() -> Iterator[Finding]:
    import torch

    from dreamfusion.guidance.precision import preferred_cpu_dtype

    if preferred_cpu_dtype() == torch.bfloat16:
        yield Finding("bfloat16", "ok", "this CPU multiplies it in hardware, so the frozen model runs in it")
    else:
        yield Finding(
            "bfloat16", "note", "this CPU has no instructions for it, the frozen model runs in float32"
        )


def _miniature() -> Iterator[Finding]:
    from dreamfusion.guidance.models import find_model

    directory = find_model("miniature").directory
    assert directory is not None
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 2**20
    yield Finding("miniature", "ok", f"embedded model, {size:.0f} MiB")
    from dreamfusion.miniature import vocabulary

    for kind, words in vocabulary.known_words().items():
        yield Finding(kind, "ok", ", ".join(words))


def _models() -> Iterator[Finding]:
    from dreamfusion.guidance.models import available_stable_diffusion

    name = available_stable_diffusion()
    if name is None:
        text = "none in the cache; the first run with --config stable-diffusion downloads one"
        yield Finding("stable diffusion", "note", text)
    else:
        yield Finding("stable diffusion", "ok", f"{name} is in the cache")


def _video() -> Iterator[Finding]:
    import imageio_ffmpeg

    version = imageio_ffmpeg.get_ffmpeg_version()
    yield Finding("video", "ok", f"ffmpeg {version} from imageio-ffmpeg")


def _output(folder: Path) -> Iterator[Finding]:
    from dreamfusion.runs.directory import check_writable

    check_writable(folder)
    yield Finding("output", "ok", f"{folder} can be written")
