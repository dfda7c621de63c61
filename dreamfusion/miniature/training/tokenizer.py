"""The miniature's tokenizer: CLIP's byte-level BPE with a vocabulary in which every word of the world is one token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from dreamfusion.miniature.training.models import MAX_TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# CLIP's own split into words (a digit is a word of its own, so "3d" is two).
WORD_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _byte_symbols() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)


def learn_merges(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges until every one of `words` is a single token; returns the vocabulary and the merges."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD, continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=30_000,
        min_frequency=1,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=_byte_symbols(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(words)), trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    symbols = _byte_symbols()
    tokens = (
        symbols + [s + END_OF_WORD for s in symbols] + ["".join(merge) for merge in merges] + [START, END]
    )
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def write_tokenizer(folder: Path, words: Iterable[str]) -> CLIPTokenizer:
    """Writes vocab.json, merges.txt and their configuration, and loads what it wrote."""
    vocab, merges = learn_merges(words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {**special, "model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


class CaptionEncoder:
    """Captions to padded token ids, with every text tokenised once only."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "b tokens"]:
        """Ids "b 24", cut at 24 tokens and padded with the end token."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            ids = self.tokenizer(new, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
            self._known.update(zip(new, ids, strict=True))
        return torch.tensor([self._known[text] for text in texts])
