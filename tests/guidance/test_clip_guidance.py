"""Dream Fields' pull on a tiny real CLIP: which text counts for which camera, crops, examples, and what is added up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from dreamfusion.config import ClipConfig, ExperimentConfig, LinearSchedule, ViewPromptConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError
from dreamfusion.guidance.clip import ClipJudge, load_clip
from dreamfusion.guidance.clip_guidance import ClipGuidance, ClipPull, MixedGuidance, make_text_guidance

PROMPT = "duck"


@pytest.fixture(scope="module")
def clip() -> ClipJudge:
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {"vocab_size": len(words), "bos_token_id": 54, "eos_token_id": 55, "pad_token_id": 55}
    config = CLIPConfig(
        text_config=size | text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=8
    )
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    return ClipJudge(CLIPModel(config), tokenizer, preprocessing)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(guidance: Any, images: torch.Tensor, azimuth_deg: list[float], step: int = 0) -> ClipPull:
    azimuth = torch.tensor(azimuth_deg)
    return guidance(images, azimuth, torch.zeros_like(azimuth), step, generator(1), generator(2))


def make(clip: ClipJudge, **options: Any) -> ClipGuidance:
    config = ClipConfig.model_validate({"copies": 1, "crop": (1.0, 1.0)} | options)
    return ClipGuidance(config, PROMPT, ViewPromptConfig(), clip=clip)


IMAGES = torch.rand(2, 16, 16, 3, generator=generator(5))


def test_the_loss_is_minus_the_cosine_with_each_views_text(clip: ClipJudge) -> None:
    images = IMAGES.clone().requires_grad_(True)
    pull = call(make(clip), images, [0.0, 180.0])
    texts = clip.text_features(["duck, front view", "duck, back view"])
    wanted = -(clip.image_features(IMAGES) * texts).sum(-1).mean()
    torch.testing.assert_close(pull.loss, wanted)
    assert pull.similarity == pytest.approx(-wanted.item())
    pull.loss.backward()
    assert images.grad is not None
    assert pull.gradient_norm == pytest.approx(images.grad.flatten(1).norm(dim=1).mean().item(), rel=1e-5)


def test_copies_are_crops_of_all_views_in_order(clip: ClipJudge) -> None:
    guidance = make(clip, copies=3, crop=(0.5, 0.5))
    # Each picture has one colour: a crop keeps it, and shows which view it is of.
    images = torch.stack([torch.full((32, 32, 3), 0.2), torch.full((32, 32, 3), 0.9)])
    copies = guidance._copies(images, generator())
    assert copies.shape == (6, 16, 16, 3)
    torch.testing.assert_close(copies[:, 0, 0, 0], torch.tensor([0.2, 0.9]).repeat(3))
    ramp = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(1, 32, 32, 3)
    spans = [(copy.max() - copy.min()).item() for copy in guidance._copies(ramp, generator())]
    assert all(span == pytest.approx(15 / 31, abs=0.01) for span in spans)
    starts = {round(copy.min().item(), 3) for copy in guidance._copies(ramp, generator())}
    assert len(starts) > 1


def test_an_example_picture_counts_as_much_as_the_text(clip: ClipJudge, tmp_path: Path) -> None:
    for name, colour in (("all", (255, 0, 0)), ("back", (0, 0, 255))):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
    guidance = make(clip, image=str(tmp_path / "all.png"), view_images={"back": str(tmp_path / "back.png")})
    red = clip.image_features(torch.tensor([1.0, 0, 0]).expand(1, 20, 20, 3))[0]
    blue = clip.image_features(torch.tensor([0, 0, 1.0]).expand(1, 20, 20, 3))[0]
    views = list(guidance.prompts.texts())
    texts = clip.text_features(list(guidance.prompts.texts().values()))
    for view, example in (("front", red), ("back", blue)):
        index = views.index(view)
        torch.testing.assert_close(guidance.view_features[index], F.normalize(texts[index] + example, dim=-1))
    with pytest.raises(ConfigError, match="cannot be read"):
        make(clip, image=str(tmp_path / "absent.png"))


def test_both_pulls_are_added_by_their_schedules_and_a_zero_is_not_computed(clip: ClipJudge) -> None:
    calls = []

    def diffusion(images: torch.Tensor, *_: object) -> Any:
        calls.append(1)
        return SimpleNamespace(loss=(2.0 * images).sum(), gradient_norm=3.0, timesteps=torch.tensor([7]))

    fading = LinearSchedule(start=1.0, end=0.0, steps=10)
    mixed = MixedGuidance([(lambda step: 0.5, make(clip)), (fading.at, diffusion)])
    alone = call(make(clip), IMAGES, [0.0, 0.0])
    both = call(mixed, IMAGES, [0.0, 0.0], step=5)
    torch.testing.assert_close(both.loss, 0.5 * alone.loss + 0.5 * 2.0 * IMAGES.sum())
    assert both.gradient_norm == pytest.approx(1.5) and both.timesteps.tolist() == [7]
    late = call(mixed, IMAGES, [0.0, 0.0], step=10)
    torch.testing.assert_close(late.loss, 0.5 * alone.loss)
    assert len(calls) == 1 and late.timesteps.tolist() == []


def test_clip_alone_loads_no_diffusion_model() -> None:
    config = ExperimentConfig.model_validate({
        "prompt": "a red duck", "clip": {}, "guidance": {"model": "/nowhere/at-all"}
    })  # fmt: skip
    guidance = make_text_guidance(config, "cpu")
    assert len(guidance.parts) == 1
    both = config.model_copy(update={"clip": ClipConfig.model_validate({"sds_weight": 1.0})})
    with pytest.raises(ModelNotFoundError):
        make_text_guidance(both, "cpu")


def test_a_clip_that_is_not_there_is_named() -> None:
    for name in ("/no/such/folder", "someone/no-such-clip"):
        with pytest.raises(ModelNotFoundError, match="no CLIP"):
            load_clip(name)
