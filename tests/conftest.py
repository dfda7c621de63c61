"""What every test may use: seeded generators and a config small enough for a test."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from dreamfusion.guidance.clip import ClipJudge

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


def make_tiny_judge(**preprocessing: object) -> ClipJudge:
    """A tiny real CLIP that was never trained; `preprocessing` beyond the scaling to [-1, 1]."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from dreamfusion.guidance.clip import ClipJudge

    torch.manual_seed(0)
    # With a comma: an unknown sign would end every text before its view.
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {"vocab_size": len(words), "bos_token_id": 54, "eos_token_id": 55, "pad_token_id": 55}
    config = CLIPConfig(
        text_config=size | text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=8
    )
    return ClipJudge(
        CLIPModel(config), tokenizer, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | preprocessing
    )


@pytest.fixture(scope="session")
def tiny_judge() -> Callable[..., ClipJudge]:
    """Makes one."""
    return make_tiny_judge


def load_module(path: str) -> ModuleType:
    """The module in a file that no package holds; `path` from the top of the repository."""
    file = Path(__file__).parent.parent / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def module_at() -> Callable[[str], ModuleType]:
    """Loads one: `module_at("scripts/demo.py")`."""
    return load_module
