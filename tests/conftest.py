"""What every test may use: seeded generators and a config small enough for a test."""

from __future__ import annotations

import os

import pytest

# Tests never look beyond this machine, and a library that would is caught here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "0"


@pytest.fixture
def generator():
    """A CPU generator with a fixed seed; its draws are the same in every run."""
    import torch

    return torch.Generator().manual_seed(0)
