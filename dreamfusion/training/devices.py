"""What a device is called, when it is done, and how much memory it took."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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


def threads() -> int:
    """How many threads torch computes with on the CPU."""
    return torch.get_num_threads()


@contextlib.contextmanager
def as_many_threads(count: int) -> Iterator[None]:
    """Compute with `count` >= 1 threads on the CPU while the body runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
