"""What is said of the device that a run is computed on."""

from __future__ import annotations

import torch

from dreamfusion.training.devices import describe_device, peak_memory_bytes, synchronize


def test_what_is_said_of_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert describe_device(cpu) == f"cpu, {torch.get_num_threads()} threads"
    synchronize(cpu)


def test_peak_memory_is_in_bytes_and_never_falls() -> None:
    cpu = torch.device("cpu")
    before = peak_memory_bytes(cpu)
    if before is None:  # the system does not tell
        return
    held = torch.ones(2**24)  # 64 MiB
    after = peak_memory_bytes(cpu)
    del held
    assert after is not None and 2**24 < before <= after < 2**40
    assert peak_memory_bytes(cpu) == after
