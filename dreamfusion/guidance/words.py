"""Words of one's own by textual inversion (arXiv 2208.01618): vectors that a text encoder reads where the word stands.

The word is matched in the text itself, before the tokenizer, which would take "plush-style" apart: whole words, without
regard to case, as CLIP has none. Each of its vectors then is one token with an id of its own, and the vector is put into
the place of that token's row when the text encoder looks it up. The table of rows stays as it is: in many models the end
of a text is found as the largest id.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import EmbeddingConfig
from dreamfusion.errors import ConfigError, ModelUnsupportedError
from dreamfusion.guidance.personal_files import SAME_FAMILY, check_file, opened, read, shapes_of, some

# Names that trainers give to whatever word they train: A1111, kohya and OneTrainer; the file's name is the word then.
_OF_ONE_ENCODER = ("emb_params", "*", "string_to_param", "string_to_param.*")
_OF_PART = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


@dataclass(frozen=True)
class Word:
    """A word and where its vectors are.

    Attributes:
        text: as prompts have it.
        path: its file.
        keys: text encoder -> key in the file.
        vectors: how many tokens it is.
    """

    text: str
    path: Path
    keys: Mapping[str, str]
    vectors: int

    @property
    def pattern(self) -> str:
        """A regular expression of the word where it is no part of a longer one."""
        before = r"(?<!\w)" if re.match(r"\w", self.text) else ""
        after = r"(?!\w)" if re.search(r"\w$", self.text) else ""
        # Negative prompts and view texts may have line breaks or several spaces there.
        return before + r"\s+".join(map(re.escape, self.text.split())) + after


def check_words(embeddings: Sequence[EmbeddingConfig], widths: Mapping[str, int]) -> tuple[Word, ...]:
    """The words of some files. Reads names and shapes, no vector.

    Args:
        embeddings: files, and how to call their words.
        widths: text encoder of the model -> length of its vectors.

    Raises ModelUnsupportedError for keys or widths that do not fit, ConfigError for a word that two files have.
    """
    words = tuple(_word(embedding, widths) for embedding in embeddings)
    for index, word in enumerate(words):
        for other in words[:index]:
            if other.text.lower() == word.text.lower():
                raise ConfigError(
                    f"guidance.embeddings: {other.path} and {word.path} are both called {word.text!r}",
                    hint="call one of them otherwise: --embedding FILE=WORD",
                )
    return words


def unused_words(words: Sequence[Word], texts: Sequence[str]) -> list[Word]:
    """The words that none of the texts has."""
    places = [place for text in texts for place, _ in _matches(words, text)]
    return [word for place, word in enumerate(words) if place not in places]


def _word(embedding: EmbeddingConfig, widths: Mapping[str, int]) -> Word:
    file = embedding.file
    path = check_file(file, "embeddings")
    shapes = shapes_of(path)
    keys, named = _keys(file, list(shapes), list(widths))
    sizes = {part: shapes[key] for part, key in keys.items()}
    for part, shape in sizes.items():
        if len(shape) not in (1, 2) or shape[-1] != widths[part] or 0 in shape:
            raise _unfit(file, f"vectors of {widths[part]} numbers", "x".join(map(str, shape)), SAME_FAMILY)
    counts = {1 if len(shape) == 1 else shape[0] for shape in sizes.values()}
    if len(counts) > 1:
        raise _unfit(file, "as many vectors for both text encoders", "others", None)
    # As prompts are: one space between words. macOS takes the letters of file names apart (NFD), CLIP puts them together.
    text = unicodedata.normalize("NFC", " ".join((embedding.word or named or path.stem).split()))
    return Word(text, path, keys, counts.pop())


def _keys(file: str, keys: list[str], parts: list[str]) -> tuple[dict[str, str], str | None]:
    """Text encoder -> key, and the word if the file has one; refuses a file of which not all is used."""
    by_part = {part: key for key, part in _OF_PART.items() if key in keys}
    if by_part and len(by_part) == len(keys):
        if set(by_part) != set(parts):
            wanted = " and ".join(key for key, part in _OF_PART.items() if part in parts)
            raise _unfit(file, f"vectors for {wanted}", " and ".join(by_part.values()), SAME_FAMILY)
        return by_part, None
    lora = [key for key in keys if "lora" in key or key.startswith("unet")]
    if lora:
        raise _unfit(
            file, "a word's vectors", f"{some(lora)} of a LoRA", "a LoRA belongs into guidance.loras"
        )
    if len(keys) != 1:
        raise _unfit(file, "one word in a file", " and ".join(keys[:4]) or "nothing", None)
    if len(parts) > 1:
        raise _unfit(file, "clip_l and clip_g, for both text encoders", keys[0], SAME_FAMILY)
    return {parts[0]: keys[0]}, None if keys[0] in _OF_ONE_ENCODER else keys[0]


def _unfit(file: str, expected: str, got: str, hint: str | None) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"the embedding in {file} does not fit the model", expected=expected, got=got, hint=hint
    )


# ----------------------------------------------------------------------------------------------------- in use


class Vocabulary:
    """The words as one tokenizer and one text encoder have them; without words, both work as ever.

    Args:
        words: of one's own.
        tokenizer: to which their tokens are added.
        encoder: the text encoder.
        part: its name.
    """

    def __init__(self, words: Sequence[Word], tokenizer: Any, encoder: Any, part: str) -> None:
        from tokenizers import AddedToken

        self.words, self.encoder = words, encoder
        table = encoder.get_input_embeddings().weight
        self.vectors: Float[Tensor, "n width"] = torch.cat(
            [_vectors(word, part, table) for word in words] or [table[:0]]
        )
        self._tokens = [
            [f"<|own-{place}-{index}|>" for index in range(word.vectors)] for place, word in enumerate(words)
        ]
        names = [name for tokens in self._tokens for name in tokens]
        if names:
            tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
        self._ids = tokenizer.convert_tokens_to_ids(names)

    def spelled(self, texts: Sequence[str]) -> list[str]:
        """Texts with the tokens of the words in the words' places."""
        return [self._spelled(text) for text in texts]

    def _spelled(self, text: str) -> str:
        if self.words:
            text, parts, end = unicodedata.normalize("NFC", text), [], 0
            for place, match in _matches(self.words, text):
                parts += [text[end : match.start()], *self._tokens[place]]
                end = match.end()
            text = "".join([*parts, text[end:]])
        return text

    @contextmanager
    def read(self, input_ids: Int[Tensor, "n tokens"]) -> Iterator[Int[Tensor, "n tokens"]]:
        """What to give to the text encoder for these ids, and in which it finds the words' vectors meanwhile."""
        places = torch.zeros_like(input_ids)
        for place, token in enumerate(self._ids):
            places[input_ids == token] = place + 1

        def put(module: Any, args: Any, output: Tensor) -> Tensor:
            return torch.where((places > 0)[..., None], self.vectors[places - 1].to(output), output)

        handle = self.encoder.get_input_embeddings().register_forward_hook(put) if self.words else None
        try:
            # Any row will do, and the first is never taken for the end of the text.
            yield input_ids.masked_fill(places > 0, 0)
        finally:
            if handle is not None:
                handle.remove()


def _vectors(word: Word, part: str, like: Tensor) -> Float[Tensor, "n width"]:
    with opened(word.path) as tensors:
        return read(tensors, word.keys[part], word.path, like.device).reshape(word.vectors, -1)


def _matches(words: Sequence[Word], text: str) -> list[tuple[int, re.Match[str]]]:
    """Where words stand in a text, and which of them."""
    if not words:
        return []
    # The longest first: "plush-style" is not "plush" and something.
    order = sorted(range(len(words)), key=lambda place: -len(words[place].text))
    pattern = re.compile("|".join(f"({words[place].pattern})" for place in order), re.IGNORECASE)
    found = pattern.finditer(unicodedata.normalize("NFC", text))
    return [(order[match.lastindex - 1], match) for match in found if match.lastindex]
