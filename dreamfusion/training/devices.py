"""Which device a run is computed on."""

from __future__ import annotations

import torch

from dreamfusion.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """The device called `name`: "cpu", "cuda" (also "cuda:1"), "mps", or "auto" for the first of cuda, mps, cpu there is.

    Raises:
        DeviceError: it is not there.
    """
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if _is_there(kind)))
    kind, _, index = name.partition(":")
    beyond = kind == "cuda" and index.isdecimal() and int(index) >= torch.cuda.device_count()
    if not _is_there(kind) or beyond or (index and not index.isdecimal()):
        there = [kind for kind in ("cpu", "cuda", "mps") if _is_there(kind)]
        raise DeviceError(
            f"device {name!r} is not there",
            expected=" or ".join(there),
            hint="leave --device out to take the best one, or see `dreamfusion doctor`",
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device with its model where that is known ("cuda: NVIDIA H200")."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return str(device)


def synchronize(device: torch.device) -> None:
    """Wait for what the device still has to do, so that a clock tells the truth; free on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory in use so far: torch's on a GPU, the process's own on a CPU; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _is_there(kind: str) -> bool:
    match kind:
        case "cpu":
            return True
        case "cuda":
            return torch.cuda.is_available()
        case "mps":
            return torch.backends.mps.is_available()
        case _:
            return False
