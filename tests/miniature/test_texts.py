from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from dreamfusion.miniature.captions import vocabulary
from dreamfusion.miniature.dataset import load_shard, make_shard
from dreamfusion.miniature.training.contrastive import make_heads
from dreamfusion.miniature.training.labels import HEADS, labels, wrong_by_one
from dreamfusion.miniature.training.texts import (
    VARIANTS,
    Texts,
    is_made,
    load_texts,
    scene_number,
    tokenizer_digest,
    write_texts,
)
from dreamfusion.miniature.training.tokenizer import write_tokenizer
from dreamfusion.miniature.world import SceneSpec, Thing, sample_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard and a tokenizer."""
    made = tmp_path_factory.mktemp("texts")
    write_tokenizer(made / "tokenizer", vocabulary())
    make_shard(made / "train_00003.npz", seed=3, count=24)
    return made


@pytest.fixture(scope="module")
def texts(folder: Path) -> Texts:
    return load_texts(
        [write_texts(folder / "train_00003.npz", folder / "tokenizer", folder / "a.safetensors")]
    )


def words(folder: Path, ids: torch.Tensor) -> str:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def test_every_caption_tells_of_its_picture(folder: Path, texts: Texts) -> None:
    specs = load_shard(folder / "train_00003.npz").specs
    assert len(texts) == len(specs) == 24 and texts.captions.shape[1] == VARIANTS
    colored = [i for i, spec in enumerate(specs) if spec.things[0].color]
    assert colored
    for i in colored:
        # One of several captions says the plain words, the others perhaps synonyms.
        for kind in (texts.captions, texts.judged):
            said = [words(folder, kind[i, k]) for k in range(VARIANTS)]
            noun, color = specs[i].things[0].noun, str(specs[i].things[0].color)
            assert any(noun in text and color in text for text in said)
    assert bool((texts.captions[:, 0] != texts.captions[:, 1]).any())


def test_wrong_captions_do_not_say_what_the_right_ones_say(folder: Path, texts: Texts) -> None:
    assert bool((texts.names[:, None] != texts.wrong_names).all())
    assert bool((texts.wrong != texts.judged).any(-1).all())


def test_scenes_of_one_name_have_one_number(texts: Texts) -> None:
    duck = SceneSpec((Thing("duck", "red"),))
    assert (
        scene_number(duck) == scene_number(replace(duck)) != scene_number(SceneSpec((Thing("duck", None),)))
    )
    # Two views of each scene lie side by side.
    assert torch.equal(texts.names[0::2], texts.names[1::2])
    assert len(set(texts.names.tolist())) > 6


def test_the_same_shard_gives_the_same_texts_and_another_tokenizer_is_noticed(
    folder: Path, texts: Texts, tmp_path: Path
) -> None:
    path = write_texts(folder / "train_00003.npz", folder / "tokenizer", tmp_path / "again.safetensors")
    again = load_texts([path, path])
    for field in fields(Texts):
        assert torch.equal(getattr(again, field.name)[:24], getattr(texts, field.name)), field.name
    assert len(again) == 48
    assert is_made(path, tokenizer_digest(folder / "tokenizer"))
    write_tokenizer(tmp_path / "other", [*vocabulary(), "zebra"])
    assert not is_made(path, tokenizer_digest(tmp_path / "other"))
    assert not is_made(tmp_path / "none.safetensors", tokenizer_digest(folder / "tokenizer"))


def test_half_of_what_the_judge_reads_names_the_view(folder: Path, texts: Texts) -> None:
    def share(kind: torch.Tensor) -> float:
        return float(np.mean(["view" in words(folder, ids) for ids in kind.reshape(-1, kind.shape[-1])]))

    assert 0.6 < share(texts.captions) < 1.0
    assert 0.2 < share(texts.judged) < 0.65


def test_wrong_captions_are_wrong_and_near() -> None:
    rng = np.random.default_rng(0)
    swapped = 0
    for _ in range(300):
        spec = sample_spec(rng)
        wrong = wrong_by_one(spec, rng)
        assert wrong != spec and wrong.relation == spec.relation
        changed = sum(a != b for a, b in zip(spec.things, wrong.things, strict=True))
        words = {w for t in spec.things for w in (t.noun, t.color)}
        swapped += changed == 2 and {w for t in wrong.things for w in (t.noun, t.color)} == words
        assert changed in (1, 2)
    assert swapped > 20


def test_labels_tell_what_a_scene_holds() -> None:
    one = labels(SceneSpec((Thing("duck", None),)))
    assert one[1:] == [0, 0, 0, 0] and one[0] > 0
    on = SceneSpec((Thing("duck", "red"), Thing("cube", None)), "on")
    other_way = SceneSpec((Thing("cube", None), Thing("duck", "red")), "on")
    assert labels(on) != labels(other_way)
    assert labels(replace(on, relation="next to")) == labels(replace(other_way, relation="next to"))
    heads = make_heads(8)
    assert all(value < heads[name].bias.numel() for name, value in zip(HEADS, labels(on), strict=True))  # pyright: ignore
