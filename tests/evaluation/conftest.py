"""A tiny real CLIP that was never trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from dreamfusion.guidance.clip import ClipJudge


def make_tiny_judge() -> ClipJudge:
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
    return ClipJudge(CLIPModel(config), tokenizer, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})


@pytest.fixture
def tiny_judge() -> Callable[[], ClipJudge]:
    return make_tiny_judge
