"""Captions as token ids, made once: a training step on a GPU takes less time than it takes to write its captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from dreamfusion.miniature.captions import plain_caption
from dreamfusion.miniature.dataset import load_shard
from dreamfusion.miniature.lexicon import Lexicon, lexicon
from dreamfusion.miniature.training.data import view_words
from dreamfusion.miniature.training.labels import labels, wrong_by_one
from dreamfusion.miniature.training.tokenizer import CaptionEncoder
from dreamfusion.miniature.world import SceneSpec

# Captions of each kind that a picture has; a step takes one of them by chance.
VARIANTS = 4
# Half of what the judge reads names the view, so that a text without one is as familiar to it as one with it.
JUDGED_VIEW_SHARE = 0.5


@dataclass(frozen=True)
class Texts:
    """Token ids of the captions of n pictures, and what a judge is told about them.

    Attributes:
        captions: what the denoiser reads; most of them name the view.
        judged: what the judge reads.
        wrong: captions that are wrong in one noun or colour, or in what belongs to what.
        names: which scene, as a number: two pictures of equal names have the same plain caption.
        wrong_names: the same of the wrong captions.
        labels: the class of each of `labels.HEADS`.
    """

    captions: Int[Tensor, "n variants tokens"]
    judged: Int[Tensor, "n variants tokens"]
    wrong: Int[Tensor, "n variants tokens"]
    names: Int[Tensor, " n"]
    wrong_names: Int[Tensor, "n variants"]
    labels: Int[Tensor, "n heads"]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> Texts:
        """All of it on `device`."""
        return Texts(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def scene_number(spec: SceneSpec) -> int:
    """A number for the plain caption, the same on every machine."""
    digest = hashlib.sha256(plain_caption(spec).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def make_texts(
    specs: Sequence[SceneSpec],
    views: Sequence[str],
    encode: CaptionEncoder,
    rng: np.random.Generator,
    words: Lexicon,
) -> Texts:
    """`VARIANTS` captions of each kind for each picture."""
    captions: list[str] = []
    judged: list[str] = []
    wrong: list[str] = []
    wrong_names: list[int] = []
    for spec, view in zip(specs, views, strict=True):
        for _ in range(VARIANTS):
            captions.append(words.caption(spec, view, rng))
            seen = view if rng.random() < JUDGED_VIEW_SHARE else None
            other = wrong_by_one(spec, rng, words)
            judged.append(words.caption(spec, seen, rng))
            wrong.append(words.caption(other, seen, rng))
            wrong_names.append(scene_number(other))
    shape = (len(specs), VARIANTS, -1)
    return Texts(
        captions=encode(captions).short().reshape(shape),
        judged=encode(judged).short().reshape(shape),
        wrong=encode(wrong).short().reshape(shape),
        names=torch.tensor([scene_number(spec) for spec in specs]),
        wrong_names=torch.tensor(wrong_names).reshape(len(specs), VARIANTS),
        labels=torch.tensor([labels(spec, words) for spec in specs]).short(),
    )


def tokenizer_digest(folder: Path) -> str:
    """What token ids depend on: texts made with another tokenizer are made anew."""
    return hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in ("vocab.json", "merges.txt"))
    ).hexdigest()[:16]


def is_made(target: Path, digest: str) -> bool:
    """Whether `target` holds the texts of this tokenizer."""
    if not target.exists():
        return False
    with safe_open(target, "pt") as file:
        return (file.metadata() or {}).get("tokenizer") == digest


def write_texts(shard: Path, tokenizer: Path, target: Path, world: str = "core") -> Path:
    """Makes the texts of a shard's pictures and writes them under a temporary name, then renames; same shard, same bytes."""
    pictures = load_shard(shard)
    rng = np.random.default_rng(list(shard.stem.encode()))
    encode = CaptionEncoder(CLIPTokenizer.from_pretrained(tokenizer))
    views = view_words(pictures.azimuth_deg, pictures.elevation_deg)
    made = make_texts(pictures.specs, views, encode, rng, lexicon(world))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    tensors = {field.name: getattr(made, field.name).contiguous() for field in fields(made)}
    save_file(tensors, temporary, metadata={"tokenizer": tokenizer_digest(tokenizer)})
    temporary.replace(target)
    return target


def load_texts(paths: Sequence[Path]) -> Texts:
    """Reads what `write_texts` wrote, in the given order."""
    return joined([Texts(**load_file(path)) for path in paths])


def joined(parts: Sequence[Texts]) -> Texts:
    """One after the other."""
    return Texts(
        **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Texts)}
    )
