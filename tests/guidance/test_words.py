"""Words of textual inversion: every layout of file, wherever they stand in a text, against vectors put in by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dreamfusion.config import EmbeddingConfig, GuidanceConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError, ModelUnsupportedError, PromptError
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.personal import check_personal
from dreamfusion.guidance.single_file import read_single_file
from dreamfusion.guidance.words import check_words, unused_words

WIDTH = {"text_encoder": 32}
BOTH = {"text_encoder": 32, "text_encoder_2": 24}


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def save(file: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, file)
    return file


def make(directory: Path, *files: Path | dict[str, Any], prompt: str = "a duck", **options: Any) -> Any:
    embeddings = [{"file": str(file)} if isinstance(file, Path) else file for file in files]
    config = {"model": str(directory), "dtype": "float32", "embeddings": embeddings, **options}
    return make_guidance(GuidanceConfig.model_validate(config), prompt)


LETTERS = "zxqj"


def by_hand(guidance: Any, component: str, vectors: torch.Tensor, text: str, **options: Any) -> Any:
    """A text in which letters that it has nowhere else stand for the word, the vectors in their rows of the table."""
    folder = "tokenizer_2" if component.endswith("2") else "tokenizer"
    tokenizer = guidance._tokenizer(folder)
    kind = CLIPTextModelWithProjection if component.endswith("2") else CLIPTextModel
    encoder = kind.from_pretrained(guidance.directory / component)
    letters = LETTERS[: len(vectors)]
    rows = tokenizer.convert_tokens_to_ids([f"{letter}</w>" for letter in letters])
    with torch.no_grad():
        table: Any = encoder.get_input_embeddings().weight
        table[rows] = vectors
        spelled = text.replace("WORD", " ".join(letters))
        ids = tokenizer(spelled, padding="max_length", max_length=48, return_tensors="pt").input_ids
        return encoder(ids, **options)


@pytest.mark.parametrize(("key", "word"), [
    ("emb_params", "plush-style"), ("*", "plush-style"), ("string_to_param.*", "plush-style"),
    ("clip_l", "plush-style"), ("<plush>", "<plush>"), ("plush", "plush"),
])  # fmt: skip
def test_the_word_is_the_files_unless_it_has_a_name(tmp_path: Path, key: str, word: str):
    file = save(tmp_path / "plush-style.safetensors", **{key: draw(2, 32)})
    (found,) = check_words([EmbeddingConfig(file=str(file))], WIDTH)
    assert (found.text, found.vectors, dict(found.keys)) == (word, 2, {"text_encoder": key})
    (renamed,) = check_words([EmbeddingConfig(file=str(file), word="<mine>")], WIDTH)
    assert renamed.text == "<mine>"


@pytest.mark.parametrize(("vectors", "word", "text", "plain"), [
    (1, None, "a plush-style duck", "a WORD duck"),
    (3, None, "a duck, Plush-Style, front view", "a duck, WORD, front view"),
    (2, None, "plush-style", "WORD"),
    (1, None, "a plush-style-plush-style duck", "a WORD - WORD duck"),
    (1, "v1_2k", "a V1_2K duck", "a WORD duck"),
    (2, "<own>", "a<own>duck", "a WORD duck"),
    (1, "my (best) style", "a duck in my (best) style.", "a duck in WORD ."),
    (1, "Plu\u0308sch", "a PL\u00dcSCH duck", "a WORD duck"),
    (1, " is  so ", "is so \u0130\u017f \u017fo", "WORD WORD"),  # capitals and long s, as `re` has them
    (2, "a duck", "see a duck", "see WORD"),  # words that the tokenizer knows
])  # fmt: skip
def test_the_text_encoder_reads_the_vectors_where_the_word_stands(
    tiny_sd1: Path, tmp_path: Path, word: str | None, text: str, plain: str, vectors: int
):
    vector = draw(vectors, 32)
    file = save(tmp_path / "plush-style.safetensors", emb_params=vector)
    got = make(tiny_sd1, {"file": str(file), "word": word}, prompt=text)
    tokens = got.encode_texts([text, "a cow"]).tokens
    reference = by_hand(got, "text_encoder", vector, plain)[0]
    torch.testing.assert_close(tokens[:1], reference, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens[1:], make(tiny_sd1).encode_texts(["a cow"]).tokens)


def test_a_word_is_no_part_of_another(tiny_sd1: Path, tmp_path: Path):
    """Neither of a longer plain word, nor of a longer word of one's own."""
    plush = save(tmp_path / "plush.safetensors", emb_params=draw(1, 32, seed=1))
    style = save(tmp_path / "plush-style.safetensors", emb_params=draw(2, 32, seed=2))
    got = make(tiny_sd1, plush, style, prompt="plush plush-style")
    texts = ["a plushy duck", "a unplush duck", "a plush_1 duck"]
    torch.testing.assert_close(got.encode_texts(texts).tokens, make(tiny_sd1).encode_texts(texts).tokens)
    reference = by_hand(got, "text_encoder", draw(2, 32, seed=2), "a WORD duck")[0]
    torch.testing.assert_close(
        got.encode_texts(["a plush-style duck"]).tokens, reference, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("old_end", [False, True])
def test_both_text_encoders_of_xl_read_their_own(tiny_sdxl: Path, tmp_path: Path, old_end: bool):
    """`old_end`: as in SDXL's own checkpoint, where the end of a text is found as its largest id."""
    if old_end:
        shutil.copytree(tiny_sdxl, tmp_path / "xl")
        tiny_sdxl = tmp_path / "xl"
        config = json.loads((tiny_sdxl / "text_encoder_2/config.json").read_text()) | {"eos_token_id": 2}
        (tiny_sdxl / "text_encoder_2/config.json").write_text(json.dumps(config))
    first, second = draw(2, 32), draw(2, 24)
    file = save(tmp_path / "plush-style.safetensors", clip_l=first, clip_g=second)
    got = make(tiny_sdxl, file, prompt="a plush-style duck")
    texts = got.encode_texts(["a plush-style duck"])
    parts = [
        by_hand(got, part, vectors, "a WORD duck", output_hidden_states=True)
        for part, vectors in (("text_encoder", first), ("text_encoder_2", second))
    ]
    states = torch.cat([part.hidden_states[-2] for part in parts], dim=-1)
    torch.testing.assert_close(texts.tokens, states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts.pooled, parts[1].text_embeds, rtol=1e-4, atol=1e-5)


def test_a_word_that_no_text_has_is_reported(
    tiny_sd1: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    file = save(tmp_path / "plush-style.safetensors", emb_params=draw(1, 32))
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("a plush-style duck", {}, True),
        ("a duck", {}, False),
        ("a plush-styled duck", {}, False),
        ("a duck", {"negative_prompt": "Plush-Style, blurry"}, True),
        ("a duck", {"view_prompts": {"back": "a duck, plush-style"}}, True),
        ("a duck", {"view_prompts": {"negative": {"back": "plush-style"}}}, True),
    ]
    for prompt, options, used in cases:
        make(tiny_sd1, file, prompt=prompt, **options)
        told = capfd.readouterr().err
        assert (told == "") == used, (prompt, options)
        if not used:
            assert told.count("\n") == 1
            assert f"{file} is not used: no text has its word 'plush-style'" in told


def test_unused_words_are_those_that_no_text_has(tmp_path: Path):
    files = [
        save(tmp_path / f"{name}.safetensors", emb_params=draw(1, 32))
        for name in ("plush", "plush-style", "soft  toy")
    ]
    words = check_words([EmbeddingConfig(file=str(file)) for file in files], WIDTH)
    for texts, used in (
        (["a plush-style duck"], {"plush-style"}),
        (["x", "PLUSH"], {"plush"}),
        (["plus", "h"], set()),
        (["a soft\n toy"], {"soft toy"}),
    ):
        assert {word.text for word in words} - {word.text for word in unused_words(words, texts)} == used


# ---------------------------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, int], str]] = {
    "wider": ({"emb_params": (1, 40)}, WIDTH, r"expected vectors of 32 numbers, got 1x40. .*same family"),
    "of XL": ({"clip_l": (1, 32), "clip_g": (1, 24)}, WIDTH, r"got clip_l and clip_g. .*same family"),
    "half of XL": ({"clip_l": (1, 32)}, BOTH, r"expected vectors for clip_l and clip_g, got clip_l"),
    "for XL of one": ({"emb_params": (1, 32)}, BOTH, r"expected clip_l and clip_g, for both text encoders, got emb_params"),
    "of XL, not even": ({"clip_l": (2, 32), "clip_g": (1, 24)}, BOTH, "as many vectors for both"),
    "two words": ({"<a>": (1, 32), "<b>": (1, 32)}, WIDTH, "expected one word in a file, got <a> and <b>"),
    "more than a word": ({"emb_params": (1, 32), "name": (1,)}, WIDTH, "got emb_params and name"),
    "T5 beside": ({"clip_l": (1, 32), "clip_g": (1, 24), "t5xxl": (1, 64)}, BOTH, "t5xxl"),
    "LoRA": ({"lora_unet_x.lora_down.weight": (1, 32)}, WIDTH, "A LoRA belongs into guidance.loras"),
    "nothing": ({}, WIDTH, "got nothing"),
    "no vectors": ({"emb_params": (0, 32)}, WIDTH, "got 0x32"),
    "no row": ({"emb_params": (1, 1, 32)}, WIDTH, "got 1x1x32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_word_for_the_model_is_named(kind: str, tmp_path: Path):
    shapes, widths, told = REFUSED[kind]
    file = save(tmp_path / "own.safetensors", **{key: torch.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(
        ModelUnsupportedError, match=f"embedding in .*own.safetensors does not fit the model: .*{told}"
    ):
        check_words([EmbeddingConfig(file=str(file))], widths)


def test_one_word_in_two_files_is_refused(tmp_path: Path):
    one = save(tmp_path / "plush.safetensors", emb_params=draw(1, 32))
    two = save(tmp_path / "two.safetensors", emb_params=draw(1, 32))
    with pytest.raises(ConfigError, match=r"plush.safetensors and .*two.safetensors are both called 'Plush'"):
        check_words([EmbeddingConfig(file=str(one)), EmbeddingConfig(file=str(two), word="Plush")], WIDTH)
    with pytest.raises(ValidationError):
        EmbeddingConfig(file="x", word=" ")


def test_vectors_that_are_no_numbers_and_too_many_of_them_are_refused(tiny_sd1: Path, tmp_path: Path):
    broken = save(tmp_path / "broken.safetensors", emb_params=torch.full((1, 32), float("nan")))
    with pytest.raises(ModelUnsupportedError, match=r"broken.safetensors cannot be used: expected finite"):
        make(tiny_sd1, broken)
    many = save(tmp_path / "many.safetensors", emb_params=draw(60, 32))
    with pytest.raises(PromptError, match="the prompt 'a many duck, front view' is too long"):
        make(tiny_sd1, many, prompt="a many duck")


@pytest.mark.parametrize("key", ["loras", "embeddings"])
@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin", ".pth", ".txt", ""])
def test_pickles_are_named_as_models_of_that_kind_are(tiny_sd1: Path, tmp_path: Path, key: str, ending: str):
    file = tmp_path / f"own{ending}"
    file.write_bytes(b"PK")
    with pytest.raises(
        ConfigError, match=f"guidance.{key}: expected a safetensors file, got .*own"
    ) as caught:
        config = GuidanceConfig.model_validate({key: [{"file": str(file)}]})
        check_personal(config.loras, config.embeddings, "stable-diffusion", tiny_sd1)
    with pytest.raises(ModelUnsupportedError) as of_a_model:
        read_single_file(tmp_path / "own.ckpt")
    assert caught.value.hint == of_a_model.value.hint


def test_files_that_are_not_there_or_not_whole_are_told(tiny_sd1: Path, tmp_path: Path):
    with pytest.raises(
        ModelNotFoundError, match=r"guidance.embeddings: there is no file nowhere.safetensors"
    ):
        make(tiny_sd1, Path("nowhere.safetensors"))
    for header in (
        b'{"a": 5}',
        b'{"a": {}}',
        b"[]",
        b"[" * 9999,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
    ):
        (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(
            ModelUnsupportedError, match=r"odd.safetensors (is no safetensors file|cannot be read)"
        ):
            make(tiny_sd1, tmp_path / "odd.safetensors")
    whole = save(tmp_path / "own.safetensors", emb_params=draw(1, 32)).read_bytes()
    (tmp_path / "own.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ModelUnsupportedError, match=r"own.safetensors has .* bytes. Download it again"):
        make(tiny_sd1, tmp_path / "own.safetensors")
