"""What every test may use: seeded generators and a config small enough for a test."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Tests never look beyond this machine, and a library that would is caught here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("TQDM_DISABLE", None)

# A busy machine is no failure, and a failure is the same one for everybody.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("house")


@pytest.fixture
def generator():
    """A CPU generator with a fixed seed; its draws are the same in every run."""
    import torch

    return torch.Generator().manual_seed(0)
