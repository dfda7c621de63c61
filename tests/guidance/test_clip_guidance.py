"""Dream Fields' pull on a tiny real CLIP: which text counts for which camera, crops, examples, and what is added up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dreamfusion.config import ClipConfig, ExperimentConfig, LinearSchedule, ViewPromptConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError
from dreamfusion.guidance import factory
from dreamfusion.guidance.clip import ClipJudge, load_clip
from dreamfusion.guidance.clip_guidance import (
    ClipGuidance,
    ClipPull,
    MixedGuidance,
    jittered,
    make_text_guidance,
)
from dreamfusion.guidance.side_models import check_clip

PROMPT = "duck"


@pytest.fixture(scope="module")
def clip(tiny_judge: Callable[..., ClipJudge]) -> ClipJudge:
    return tiny_judge(image_std=[0.25] * 3, resample=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(guidance: Any, images: torch.Tensor, azimuth_deg: list[float], step: int = 0) -> ClipPull:
    azimuth = torch.tensor(azimuth_deg)
    return guidance(images, azimuth, torch.zeros_like(azimuth), step, generator(1), generator(2))


def make(clip: ClipJudge, **options: Any) -> ClipGuidance:
    config = ClipConfig.model_validate({"copies": 1, "crop": (1.0, 1.0), "dtype": "float32"} | options)
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


def test_the_pull_goes_back_to_what_made_the_pictures(clip: ClipJudge) -> None:
    """The gradient is taken once, at the pictures; behind them it is what going back through everything gives."""
    colours = IMAGES.clone().requires_grad_(True)
    pull = call(make(clip), colours.square(), [0.0, 180.0])
    (2.0 * pull.loss).backward()
    slow = IMAGES.clone().requires_grad_(True)
    texts = clip.text_features(["duck, front view", "duck, back view"])
    (-2.0 * (clip.image_features(slow.square()) * texts).sum(-1).mean()).backward()
    assert colours.grad is not None and slow.grad is not None and slow.grad.abs().max() > 0
    torch.testing.assert_close(colours.grad, slow.grad)
    assert pull.loss.item() == pytest.approx(-pull.similarity)


def test_in_bfloat16_the_package_s_clip_pulls_in_the_same_direction() -> None:
    """Measured on renders: cosines of 0.9997 and more, lengths within 1 %; here the pictures are noise over grey."""
    pictures = 0.3 + 0.3 * torch.rand(2, 64, 64, 3, generator=generator(5))
    found = {}
    for dtype in ("float32", "bfloat16"):
        images = pictures.clone().requires_grad_(True)
        config = ClipConfig(copies=1, dtype=dtype)
        guidance = ClipGuidance(config, "a red duck", ViewPromptConfig())
        assert str(guidance.clip.model.dtype) == f"torch.{dtype}"
        assert guidance.view_features.dtype == torch.float32
        pull = call(guidance, images, [0.0, 180.0])
        pull.loss.backward()
        assert images.grad is not None
        found[dtype] = pull.similarity, images.grad.flatten()
    exact, rounded = found["float32"], found["bfloat16"]
    assert rounded[0] == pytest.approx(exact[0], abs=3e-3)
    assert F.cosine_similarity(exact[1], rounded[1], dim=0) > 0.999
    assert (rounded[1].norm() / exact[1].norm()).item() == pytest.approx(1.0, abs=0.02)


def test_every_picture_is_cropped_by_itself(clip: ClipJudge) -> None:
    guidance = make(clip, copies=3, crop=(0.5, 0.5))
    ramp = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(6, 32, 32, 3)
    seen = guidance._augmented(ramp, generator())
    assert seen.shape == (6, 16, 16, 3)
    spans = [(picture.max() - picture.min()).item() for picture in seen]
    assert all(span == pytest.approx(15 / 31, abs=0.01) for span in spans)
    assert len({round(picture.min().item(), 3) for picture in seen}) > 3
    upright = guidance._augmented(ramp.transpose(1, 2), generator())
    assert len({round(picture.min().item(), 3) for picture in upright}) > 3
    # Down and to the right by amounts that have nothing to do with each other.
    assert any(abs(a.min() - b.min()) > 0.1 for a, b in zip(seen, upright, strict=True))
    # The largest crop is the whole picture, whatever is drawn.
    whole = make(clip, crop=(1.0, 1.0))._augmented(IMAGES, generator(3))
    torch.testing.assert_close(whole, IMAGES)


def test_copies_are_compared_with_the_text_of_their_view(clip: ClipJudge) -> None:
    guidance = make(clip, copies=3)
    assert guidance.copies == 3
    copies = torch.rand(6, 16, 16, 3, generator=generator(6))
    texts = clip.text_features(["duck, front view", "duck, back view"])
    wanted = -(clip.image_features(copies) * texts.repeat(3, 1)).sum(-1).mean()
    torch.testing.assert_close(call(guidance, copies, [0.0, 180.0]).loss, wanted)


def test_between_two_views_the_target_is_mixed_and_of_unit_length(clip: ClipJudge) -> None:
    config = ClipConfig(copies=1, crop=(1.0, 1.0), dtype="float32")
    guidance = ClipGuidance(config, PROMPT, ViewPromptConfig(rule="interpolate"), clip=clip)
    front, side = clip.text_features(["duck, front view", "duck, side view"])
    wanted = -(clip.image_features(IMAGES[:1])[0] * F.normalize(0.5 * front + 0.5 * side, dim=0)).sum()
    torch.testing.assert_close(call(guidance, IMAGES[:1], [45.0]).loss, wanted)


def test_the_words_of_a_direction_may_come_first(clip: ClipJudge) -> None:
    view_prompts = ViewPromptConfig(template="{view} view of {prompt}", back="rear of a duck")
    guidance = ClipGuidance(
        ClipConfig(copies=1, crop=(1.0, 1.0), dtype="float32"), PROMPT, view_prompts, clip=clip
    )
    texts = clip.text_features(["front view of duck", "rear of a duck"])
    wanted = -(clip.image_features(IMAGES) * texts).sum(-1).mean()
    torch.testing.assert_close(call(guidance, IMAGES, [0.0, 180.0]).loss, wanted)


def test_colours_change_as_torchvision_changes_them(clip: ClipJudge) -> None:
    """Pillow's enhancers are what torchvision's definitions come from, but for their rounding to 8 bits."""
    from PIL import ImageEnhance

    picture = Image.fromarray((IMAGES[0] * 255).byte().numpy())
    exact = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]
    for index, kind in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        for factor in (0.6, 1.4):
            wanted = torch.from_numpy(np.asarray(kind(picture).enhance(factor), dtype=np.float32) / 255.0)
            factors = torch.ones(1, 3)
            factors[0, index] = factor
            torch.testing.assert_close(jittered(exact, factors)[0], wanted, atol=2 / 255, rtol=0)
    assert torch.equal(jittered(exact, torch.ones(1, 3)), exact)
    guidance = make(clip, colour_jitter=0.3)
    seen = guidance._augmented(exact.expand(4, -1, -1, -1), generator())
    assert len({round(one.mean().item(), 4) for one in seen}) == 4


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
    # A picture of the side serves both sides, where they have texts of their own.
    config = ClipConfig.model_validate({"view_images": {"side": str(tmp_path / "back.png")}})
    sided = ClipGuidance(config, PROMPT, ViewPromptConfig(split_sides=True), clip=clip)
    for view in ("left", "right"):
        text = clip.text_features([f"{PROMPT}, {view} view"])[0]
        row = sided.view_features[sided.prompts.views.index(view)]
        torch.testing.assert_close(row, F.normalize(text + blue, dim=-1))
    with pytest.raises(ConfigError, match="cannot be read"):
        make(clip, image=str(tmp_path / "absent.png"))
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    white = clip.image_features(torch.ones(1, 20, 20, 3))[0]
    seen = make(clip, image=str(tmp_path / "clear.png")).view_features[0]
    torch.testing.assert_close(seen, F.normalize(texts[0] + white, dim=-1))


def test_what_is_missing_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    check_clip(ClipConfig())
    for config, error in (
        (ClipConfig(model="/no/such"), ModelNotFoundError),
        (ClipConfig(image=str(tmp_path / "absent.png")), ConfigError),
        (ClipConfig.model_validate({"view_images": {"side": str(tmp_path / "absent.png")}}), ConfigError),
    ):
        with pytest.raises(error):
            check_clip(config)


def test_the_judge_guides_nothing() -> None:
    with pytest.raises(ValueError, match="kept for judging"):
        ClipConfig(model="judge")


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


def test_score_distillation_beside_clip_sees_each_view_once(clip: ClipJudge) -> None:
    seen = []

    def diffusion(images: torch.Tensor, *_: object) -> Any:
        seen.append(images)
        return SimpleNamespace(loss=images.sum(), gradient_norm=3.0, timesteps=torch.tensor([7]))

    mixed = MixedGuidance([(lambda step: 0.5, make(clip, copies=3)), (lambda step: 1.0, diffusion)])
    assert mixed.copies == 3
    call(mixed, torch.cat([IMAGES, 1 - IMAGES, IMAGES]), [0.0, 90.0])
    assert torch.equal(seen[0], IMAGES)


def test_clip_alone_loads_no_diffusion_model() -> None:
    config = ExperimentConfig.model_validate({
        "prompt": "a red duck", "clip": {}, "guidance": {"model": "/nowhere/at-all"}
    })  # fmt: skip
    guidance = make_text_guidance(config, "cpu")
    assert len(guidance.parts) == 1
    both = config.model_copy(update={"clip": ClipConfig.model_validate({"sds_weight": 1.0})})
    with pytest.raises(ModelNotFoundError):
        make_text_guidance(both, "cpu")


def test_each_schedule_belongs_to_its_own_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "make_guidance", lambda *_: "diffusion")
    weights = {"weight": 0.25, "sds_weight": {"kind": "linear", "start": 0.5, "end": 1.0, "steps": 10}}
    config = ExperimentConfig.model_validate({"prompt": "a red duck", "clip": weights})
    (clip_weight, clip_part), (sds_weight, sds_part) = make_text_guidance(config, "cpu").parts
    assert isinstance(clip_part, ClipGuidance) and [clip_weight(step) for step in (0, 10)] == [0.25, 0.25]
    assert sds_part == "diffusion" and [sds_weight(step) for step in (0, 10)] == [0.5, 1.0]


def test_a_pull_that_comes_and_goes_in_the_middle_of_a_run_is_not_left_out() -> None:
    def mixes(run_steps: int, **schedule: Any) -> bool:
        return ClipConfig.model_validate({"sds_weight": schedule}).mixes(run_steps)

    bump: dict[str, Any] = {"kind": "warmup_cosine", "start": 0.0, "peak": 1.0, "end": 0.0}
    assert mixes(100, **bump, warmup_steps=2, steps=6) and mixes(100, **bump, warmup_steps=50, steps=100)
    assert mixes(100, kind="linear", start=0.0, end=1.0, steps=100)
    assert mixes(100, kind="linear", start=1.0, end=0.0, steps=2)
    assert not mixes(100, kind="linear", start=0.0, end=0.0, steps=100) and not mixes(
        100, kind="constant", value=0
    )


def test_a_clip_that_is_not_there_is_named() -> None:
    for name in ("/no/such/folder", "someone/no-such-clip"):
        with pytest.raises(ModelNotFoundError, match="no CLIP"):
            load_clip(name)
