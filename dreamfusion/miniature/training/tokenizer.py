"""The miniature's tokenizer: CLIP's byte-level BPE with a vocabulary in which every word of the world is one token."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

from dreamfusion.miniature.training.models import MAX_TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# CLIP's pattern, as far as ASCII goes.
PIECES = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")
PLAIN = re.compile(r"[A-Za-z0-9, ]*")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def pieces(words: Iterable[str]) -> list[str]:
    """The words as CLIP's pattern cuts them, lower case, sorted; known words are ASCII."""
    found = {piece for word in words for piece in PIECES.findall(word.lower())}
    if not all(piece.isascii() for piece in found):
        raise ValueError("known words must be ASCII")
    return sorted(found)


def learn_merges(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges until every one of `words` is a single token; returns the vocabulary and the merges.

    The most frequent pair first, ties in alphabetical order: the same words give the same ids on every machine, which
    the trainer of the `tokenizers` package does not promise.
    """
    split = [[*piece[:-1], piece[-1] + END_OF_WORD] for piece in pieces(words)]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for tokens in split for pair in pairwise(tokens))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merged(tokens, best) for tokens in split]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    tokens = (
        symbols + [s + END_OF_WORD for s in symbols] + ["".join(merge) for merge in merges] + [START, END]
    )
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    made: list[str] = []
    for token in tokens:
        if made and (made[-1], token) == pair:
            made[-1] += token
        else:
            made.append(token)
    return made


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


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a tokenizer's files: the ids that a model was trained with must never be made anew."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def knows(folder: Path, words: Iterable[str]) -> bool:
    """Whether a tokenizer lies in `folder` for which each of `words` is one token (a piece, for "3d")."""
    if not all((folder / name).exists() for name in TOKENIZER_FILES):
        return False
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return all(piece + END_OF_WORD in vocab for piece in pieces(words))


class CaptionEncoder:
    """Captions to padded token ids.

    A text of known words only is looked up word by word, each of them being one token; that is 50 times faster than the
    tokenizer, which reads the others.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._vocab = tokenizer.get_vocab()

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "b tokens"]:
        """Ids "b 24", cut at 24 tokens and padded with the end token."""
        return torch.tensor([self._looked_up(text) or self._tokenised(text) for text in texts])

    def _looked_up(self, text: str) -> list[int] | None:
        inner = [self._vocab.get(piece + END_OF_WORD) for piece in PIECES.findall(text.lower())]
        # Beyond words and commas the tokenizer has rules of its own.
        if None in inner or not PLAIN.fullmatch(text):
            return None
        ids = [self._vocab[START], *inner[: MAX_TOKENS - 2], self._vocab[END]]
        return [*ids, *[self._vocab[END]] * (MAX_TOKENS - len(ids))]

    def _tokenised(self, text: str) -> list[int]:
        return self.tokenizer(text, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
