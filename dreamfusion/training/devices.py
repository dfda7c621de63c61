"""What a device is called, when it is done, and how much memory it took."""

from __future__ import annotations

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
