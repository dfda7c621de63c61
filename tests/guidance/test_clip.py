"""The CLIP judge against transformers' own model and processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from dreamfusion.errors import ModelNotFoundError
from dreamfusion.guidance.clip import load_clip


def smooth_images(height: int, width: int) -> torch.Tensor:
    """Two images that uint8 rounds by little and that resizing does not alias, in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    planes = [0.5 + 0.45 * torch.sin(x * k + y * (3 - k) + k) for k in range(3)]
    first = torch.stack(planes, dim=-1)
    return torch.stack([first, first.flip(0)])


@pytest.mark.parametrize(("height", "width"), [(24, 24), (64, 64), (16, 16), (40, 60), (61, 30)])
def test_features_agree_with_transformers(tiny_clip, height, width):
    judge = load_clip(tiny_clip)
    images = smooth_images(height, width)
    pictures = [Image.fromarray((image * 255).round().byte().numpy()) for image in images]
    pixels = CLIPImageProcessorPil.from_pretrained(tiny_clip)(pictures, return_tensors="pt").pixel_values
    # One part in 255, over the smallest std, for each of the processor's two roundings.
    torch.testing.assert_close(judge.preprocess(images), pixels, rtol=0, atol=2.5 / 255 / 0.26)
    reference: Any = CLIPModel.from_pretrained(tiny_clip)
    with torch.no_grad():
        expected = reference.get_image_features(pixels).pooler_output
    got = judge.image_features(images)
    cosine = torch.nn.functional.cosine_similarity(got, expected, dim=-1)
    assert cosine.min() > 0.9999


def test_text_features_agree_with_transformers(tiny_clip):
    texts = ["a duck", "a green duck on a cube"]
    tokens = CLIPTokenizer.from_pretrained(tiny_clip)(texts, padding=True, return_tensors="pt")
    reference: Any = CLIPModel.from_pretrained(tiny_clip)
    with torch.no_grad():
        expected = reference.get_text_features(**tokens).pooler_output
    got = load_clip(tiny_clip).text_features(texts)
    torch.testing.assert_close(got, expected / expected.norm(dim=-1, keepdim=True))
    # A text's features do not depend on what it is batched with.
    torch.testing.assert_close(load_clip(tiny_clip).text_features(texts[:1]), got[:1])


def test_features_have_unit_norm_and_reach_the_image(tiny_clip):
    judge = load_clip(tiny_clip)
    images = smooth_images(32, 32).requires_grad_()
    features = judge.image_features(images)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))
    (features @ judge.text_features(["a duck"]).T).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in judge.model.parameters())


def test_a_text_longer_than_the_model_reads_is_cut(tiny_clip):
    assert load_clip(tiny_clip).text_features(["peacock " * 30]).shape == (1, 16)


def test_a_missing_clip_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(ModelNotFoundError, match=str(tmp_path)):
        load_clip(tmp_path)


def test_loading_writes_nothing_to_the_terminal(tiny_clip, capfd):
    load_clip(tiny_clip)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
