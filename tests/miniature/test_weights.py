"""The weights that the package carries: they load as any Stable Diffusion does, and are as small as promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from dreamfusion.miniature import vocabulary
from dreamfusion.miniature.lexicon import core, lexicon
from dreamfusion.miniature.training.export import FILE_LIMIT, PACKAGE, TOTAL_LIMIT, shipped_sizes

STABLE_DIFFUSION, CLIP, JUDGE = PACKAGE / "stable-diffusion", PACKAGE / "clip", PACKAGE / "judge"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    made = StableDiffusionPipeline.from_pretrained(
        STABLE_DIFFUSION, safety_checker=None, low_cpu_mem_usage=False
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_sizes_are_within_the_limits() -> None:
    sizes = shipped_sizes()
    parts = (
        "stable-diffusion/text_encoder",
        "stable-diffusion/unet",
        "stable-diffusion/vae",
        "clip",
        "judge",
    )
    assert {str(Path(name).parent) for name in sizes} == set(parts)
    assert max(sizes.values()) <= FILE_LIMIT == 16 * 2**20
    assert sum(sizes.values()) <= TOTAL_LIMIT == 60 * 10**6


@pytest.mark.parametrize("name", sorted(shipped_sizes()))
def test_weights_are_finite_and_half_precision(name: str) -> None:
    with safe_open(PACKAGE / name, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            value = file.get_tensor(key)
            assert not value.is_floating_point() or value.dtype == torch.float16, key
            assert bool(torch.isfinite(value).all()), key


def test_nothing_pickled_is_shipped() -> None:
    suffixes = {path.suffix for folder in (STABLE_DIFFUSION, CLIP) for path in folder.rglob("*.*")}
    assert suffixes <= {".safetensors", ".json", ".txt"}


def test_no_key_is_missing_or_left_over(pipeline: StableDiffusionPipeline) -> None:
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    for name, module in parts.items():
        stored: set[str] = set()
        for path in (STABLE_DIFFUSION / name).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                stored |= {key.removeprefix("text_model.") for key in file.keys()}  # noqa: SIM118
        own = {key.removeprefix("text_model.") for key in module.state_dict() if "position_ids" not in key}
        assert stored == own, name
        assert module.dtype == torch.float32


def test_the_pipeline_draws_another_picture_for_another_prompt(pipeline: StableDiffusionPipeline) -> None:
    def draw(prompt: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images = pipeline(
            prompt, num_inference_steps=4, guidance_scale=4.5, generator=generator, output_type="pt"
        )
        return images.images[0]  # pyright: ignore

    red, blue = draw("a red car"), draw("a blue car")
    assert red.shape == (3, 64, 64) and bool(torch.isfinite(red).all())
    # Redness of the middle, where the thing is.
    middle = slice(20, 44)
    redness = [(image[0] - image[2])[middle, middle].mean() for image in (red, blue)]
    assert float(redness[0] - redness[1]) > 0.2


def test_latents_have_about_unit_spread(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    from dreamfusion.miniature.dataset import load_shard, make_shard
    from dreamfusion.miniature.training.data import to_model

    shard = load_shard(make_shard(tmp_path / "held_out_00000.npz", seed=7, count=16, split="held_out"))
    images = to_model(torch.from_numpy(shard.images), torch.device("cpu"))
    with torch.no_grad():
        latents = pipeline.vae.encode(images).latent_dist.mean
        made = pipeline.vae.decode(latents).sample
    assert 0.8 < float(latents.std() * pipeline.vae.config.scaling_factor) < 1.25
    error = (made - images).square().mean((1, 2, 3))
    assert float((10 * torch.log10(4 / error)).mean()) > 24.0


def test_the_tokenizers_are_the_same_and_know_every_word() -> None:
    ours = CLIPTokenizer.from_pretrained(STABLE_DIFFUSION / "tokenizer")
    for folder in (CLIP, JUDGE):
        assert ours.get_vocab() == CLIPTokenizer.from_pretrained(folder).get_vocab()
    assert ours.model_max_length == 24
    for word in lexicon("wide").vocabulary():
        assert len(ours(word, add_special_tokens=False).input_ids) == (2 if word == "3d" else 1), word


def test_the_word_list_is_the_worlds() -> None:
    content = json.loads((PACKAGE / "vocabulary.json").read_text())
    words = lexicon("wide")
    assert tuple(content["words"]) == words.vocabulary()
    assert list(content["nouns"]) == list(words.nouns) and len(content["nouns"]) >= 400
    assert set(core().vocabulary()) <= set(content["words"])
    assert vocabulary.unknown_words("a red peacock on a surfboard in a wardrobe") == {}


@pytest.mark.parametrize("folder", [CLIP, JUDGE])
def test_the_clips_load_as_float32(folder: Path) -> None:
    clip = CLIPModel.from_pretrained(folder)
    assert clip.dtype == torch.float32
    preprocessing = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessing["image_mean"] == [0.5] * 3 and preprocessing["size"] == {"shortest_edge": 64}
