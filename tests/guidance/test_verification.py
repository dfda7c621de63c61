"""What `models verify` finds, and that training finds no more: weights, pickles, tokenizers, settings, checksums."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import DreamfusionError, ModelUnsupportedError, PromptError
from dreamfusion.guidance.clip import load_clip
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.models import package_directory, verify_model
from dreamfusion.guidance.verification import file_faults
from dreamfusion.guidance.weight_files import CHECKSUMS, checksums, write_checksums

EMBEDDED = ("stable-diffusion", "clip", "judge")


@pytest.fixture
def model(tiny_sd1: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_sd1, tmp_path / "model")
    return tmp_path / "model"


def load(model: Path) -> Any:
    return make_guidance(GuidanceConfig(model=str(model), dtype="float32"), "a duck")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# ------------------------------------------------------------------------------------------------- pickles


def as_pickles(model: Path) -> None:
    """The older layout: torch's own files in the place of safetensors."""
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"),
                       ("text_encoder", "pytorch_model")):  # fmt: skip
        (file,) = (model / part).glob("*.safetensors")
        torch.save(load_file(file), model / part / f"{name}.bin")
        file.unlink()


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/this-was-run",)


def test_pickles_are_opened_and_looked_into(model: Path, tiny_sd1: Path):
    as_pickles(model)
    assert verify_model(str(model)) == []
    assert torch.equal(load(model).view_embeddings.tokens, load(tiny_sd1).view_embeddings.tokens)
    weights = torch.load(model / "vae" / "diffusion_pytorch_model.bin", weights_only=True)
    weights["encoder.conv_in.bias"][0] = torch.nan
    torch.save(weights, model / "vae" / "diffusion_pytorch_model.bin")
    assert verify_model(str(model)) == [
        "vae/diffusion_pytorch_model.bin has numbers in encoder.conv_in.bias that are not finite"
    ]


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("content", [
    pickle.dumps({"weight": Attack()}), b"", b"no pickle", b"PK\x03\x04 half of a zip", pickle.dumps([1, 2]),
], ids=["attack", "empty", "text", "half", "list"])  # fmt: skip
def test_a_pickle_that_cannot_be_opened_is_one_line(part: str, content: bytes, model: Path):
    as_pickles(model)
    (file,) = (model / part).glob("*.bin")
    file.write_bytes(content)
    (fault,) = verify_model(str(model))
    assert fault.startswith(f"{part}/{file.name} cannot be read: ") and "\n" not in fault
    with pytest.raises(ModelUnsupportedError, match=f"the {part} in .* cannot be read") as error:
        load(model)
    assert "\n" not in str(error.value) and error.value.exit_code == 16
    assert not Path("/tmp/this-was-run").exists()


# -------------------------------------------------------------- what is whole here also trains, and the reverse


def damaged_tokenizer(model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    (model / "tokenizer" / "vocab.json").write_text("{")
    (model / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")


def other_widths(model: Path) -> None:
    change(model / "unet" / "config.json", cross_attention_dim=48)


def more_layers(model: Path) -> None:
    change(model / "text_encoder" / "config.json", num_hidden_layers=3)


def fewer_blocks(model: Path) -> None:
    change(model / "unet" / "config.json", block_out_channels=[16, 48])


def strange_activation(model: Path) -> None:
    change(model / "vae" / "config.json", act_fn="none of these")


def odd_size(model: Path) -> None:
    change(model / "unet" / "config.json", sample_size=7)


def few_words(model: Path) -> None:
    change(model / "text_encoder" / "config.json", vocab_size=40)
    file = model / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    save_file(weights | {name: weights[name][:40].contiguous()}, file, metadata={"format": "pt"})


def no_betas(model: Path) -> None:
    change(model / "scheduler" / "scheduler_config.json", _class_name="EDMEulerScheduler", sigma_data=0.5)


def missing_weight(model: Path) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file, metadata={"format": "pt"})


def left_over_weight(model: Path) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(
        load_file(file) | {"add_embedding.linear_1.bias": torch.ones(3)}, file, metadata={"format": "pt"}
    )


DAMAGES = [damaged_tokenizer, other_widths, more_layers, fewer_blocks, strange_activation, odd_size, few_words,
           no_betas, missing_weight, left_over_weight]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_training_cannot_read_is_found(damage: Callable[[Path], None], model: Path):
    damage(model)
    with pytest.raises(DreamfusionError) as error:
        load(model)
    assert "\n" not in str(error.value)
    try:
        assert verify_model(str(model))
    except ModelUnsupportedError as refused:  # its settings alone tell
        assert str(refused) == str(error.value)


# ------------------------------------------------------------------------------------------------ tokenizers


@pytest.mark.parametrize("limit", [None, 10**30, 1000, 12])
def test_a_tokenizer_need_not_say_how_much_the_encoder_reads(limit: int | None, model: Path, tiny_sd1: Path):
    """The limit is the smaller of the tokenizer's and the encoder's positions, of which the tiny one has 48."""
    file = model / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("model_max_length")
    file.write_text(json.dumps(config if limit is None else config | {"model_max_length": limit}))
    wanted = 12 if limit == 12 else 48
    # No view words, which are longer than 12.
    config = {"model": str(model), "dtype": "float32", "view_prompts": {"rule": "none"}}
    guidance: Any = make_guidance(GuidanceConfig.model_validate(config), "a duck")
    tokens = guidance.encode_texts(["a duck"]).tokens
    assert tokens.shape[1] == wanted
    if wanted == 48:
        assert torch.equal(tokens, load(tiny_sd1).encode_texts(["a duck"]).tokens)
    with pytest.raises(PromptError, match=f"too long for the model: expected {wanted} tokens at most"):
        guidance.encode_texts(["duck " * 30])


def test_a_clip_whose_tokenizer_has_no_limit_cuts_texts(tiny_clip: Path, tmp_path: Path):
    shutil.copytree(tiny_clip, tmp_path / "clip")
    file = tmp_path / "clip" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["model_max_length"]
    file.write_text(json.dumps(config))
    texts = ["duck " * 60]
    assert torch.equal(
        load_clip(tmp_path / "clip").text_features(texts), load_clip(tiny_clip).text_features(texts)
    )


def test_a_clip_that_cannot_be_read_whole_is_one_line(tiny_clip: Path, tmp_path: Path):
    weights = load_file(tiny_clip / "model.safetensors")
    del weights["visual_projection.weight"]

    def lost(clip: Path) -> None:
        save_file(weights, clip / "model.safetensors", metadata={"format": "pt"})

    faults: dict[str, Callable[[Path], Any]] = {
        "lacks weights.*nothing for visual_projection.weight": lost,
        "CLIP in .* cannot be read": lambda clip: (clip / "config.json").write_text("{"),
        "resample: expected 0 .*got 'best'": lambda clip: change(
            clip / "preprocessor_config.json", resample="best"
        ),
        "image_std: expected three numbers, got None": lambda clip: change(
            clip / "preprocessor_config.json", image_std=None
        ),
    }
    for index, (message, damage) in enumerate(faults.items()):
        copy = tmp_path / str(index)
        shutil.copytree(tiny_clip, copy)
        damage(copy)
        with pytest.raises(ModelUnsupportedError, match=message) as error:
            load_clip(copy)
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------- checksums


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_checksums_are_shipped(name: str):
    directory = package_directory() / "miniature" / name
    files = {f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file()}
    assert set(checksums(directory)) == files - {CHECKSUMS}
    assert file_faults(directory) == []


def test_the_embedded_model_is_whole():
    assert verify_model("miniature") == []


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_changed_bit_of_the_embedded_model_is_found(name: str, tmp_path: Path):
    """In a file of weights and in one of settings; also a lost file, and one that was not there."""
    directory = tmp_path / name
    shutil.copytree(package_directory() / "miniature" / name, directory)
    weights, settings = sorted(directory.rglob("*.safetensors"))[-1], next(directory.rglob("vocab.json"))
    for file in (weights, settings):
        content = file.read_bytes()
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        fault = f"{file.relative_to(directory)} does not have the contents that it was shipped with"
        assert file_faults(directory) == [fault]
        file.write_bytes(content)
    settings.rename(settings.with_name("other.json"))
    folder = settings.parent.relative_to(directory)
    assert file_faults(directory) == [
        f"{folder / 'vocab.json'} is missing",
        f"{folder / 'other.json'} is not in {CHECKSUMS}",
    ]


def test_verifying_the_embedded_model_looks_at_its_clips_too(tmp_path: Path, monkeypatch):
    for name in EMBEDDED:
        (tmp_path / "miniature").mkdir(exist_ok=True)
        (tmp_path / "miniature" / name).symlink_to(package_directory() / "miniature" / name)
    (tmp_path / "miniature" / "judge").unlink()
    (tmp_path / "miniature" / "judge").mkdir()
    (tmp_path / "miniature" / "judge" / CHECKSUMS).write_text(f"{'0' * 64}  config.json\n")
    monkeypatch.setattr("dreamfusion.guidance.models.package_directory", lambda: tmp_path)
    assert verify_model("miniature") == ["judge/config.json is missing"]


def test_lists_of_checksums_are_those_of_sha256sum(tmp_path: Path):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "a file").write_text("abc")
    write_checksums(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / CHECKSUMS).read_text() == f"{digest}  a folder/a file\n"
    assert file_faults(tmp_path) == []
    (tmp_path / CHECKSUMS).write_text(f"{digest} *a folder/a file\n\n{digest}  lost\n")
    assert file_faults(tmp_path) == ["lost is missing"]
