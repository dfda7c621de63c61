from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from dreamfusion.miniature.captions import vocabulary
from dreamfusion.miniature.training.models import MAX_TOKENS
from dreamfusion.miniature.training.tokenizer import CaptionEncoder, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), vocabulary())


def test_every_known_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in vocabulary():
        ids = tokenizer(word, add_special_tokens=False).input_ids
        # CLIP's rule cuts digits from letters, so "3d" is two words to it.
        assert len(ids) == (2 if word == "3d" else 1), word
    assert len({tuple(tokenizer(word).input_ids) for word in vocabulary()}) == len(vocabulary())


def test_any_text_at_all_can_be_read(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("Zürich, 42 🦚!", add_special_tokens=False).input_ids
    assert len(ids) > 5 and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(tokenizer("a red duck, side view", add_special_tokens=False).input_ids) == (
        "a red duck , side view"
    )


def test_the_same_words_give_the_same_files(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    again = write_tokenizer(tmp_path, reversed(vocabulary()))
    assert again.get_vocab() == tokenizer.get_vocab()


def test_captions_are_padded_with_the_end_and_cut(tokenizer: CLIPTokenizer) -> None:
    ids = CaptionEncoder(tokenizer)(["a duck", "", "a duck " * 40])
    assert ids.shape == (3, MAX_TOKENS)
    end = tokenizer.eos_token_id
    assert ids[0, 0] == tokenizer.bos_token_id and all(i == end for i in ids[0, 3:].tolist())
    assert all(i == end for i in ids[1, 1:].tolist()) and ids[2, -1] == end


def test_the_longest_caption_fits(tokenizer: CLIPTokenizer) -> None:
    longest = "a dslr photo of an orange ice cream cone on top of an orange ice cream cone, overhead view"
    assert len(tokenizer(longest).input_ids) <= MAX_TOKENS


def test_texts_looked_up_word_by_word_are_the_tokenizers_own(tokenizer: CLIPTokenizer) -> None:
    texts = [
        "",
        "a duck",
        "A Red duck, side view",
        "a 3d render of a zebra",
        "a dog's mug!",
        "Zürich",
        "a duck, " * 9,
    ]
    expected = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    assert CaptionEncoder(tokenizer)(texts).tolist() == expected
