"""Where a module lives."""

from __future__ import annotations

from itertools import chain

import torch


def device_of(module: object) -> torch.device:
    """The device of a module's first parameter or buffer; the CPU for anything without one."""
    if isinstance(module, torch.nn.Module):
        for tensor in chain(module.parameters(), module.buffers()):
            return tensor.device
    return torch.device("cpu")
