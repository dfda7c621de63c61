"""A checkpoint in one file, in the layout of Stable Diffusion's makers, made from a tiny one in diffusers' layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ModelNotFoundError, ModelUnsupportedError
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.models import fetch_model, find_model

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, layers: int = 1) -> str:
    for here, there in UNET_ENDS.items():
        if name.startswith(here):
            return there + name.removeprefix(here)
    parts = name.split(".")
    resnet = ".".join([RESNET.get(parts[4], parts[4]), *parts[5:]]) if len(parts) > 4 else ""
    if parts[0] == "mid_block":
        index = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        rest = ".".join(parts[3:])
        for here, there in RESNET.items():
            rest = re.sub(rf"^{here}\.", there + ".", rest)
        return f"middle_block.{index}.{rest}"
    side, block, kind, item = parts[0], int(parts[1]), parts[2], int(parts[3])
    size = layers + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * size}.0.op.{parts[-1]}"
    if kind == "upsamplers":
        return f"output_blocks.{block * size + layers}.1.conv.{parts[-1]}"
    place = (
        f"input_blocks.{1 + block * size + item}"
        if side == "down_blocks"
        else f"output_blocks.{block * size + item}"
    )
    return f"{place}.0.{resnet}" if kind == "resnets" else f"{place}.1.{'.'.join(parts[4:])}"


def vae_name(name: str, levels: int = 3) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    flip = lambda m: f"up.{levels - 1 - int(m[1])}."  # noqa: E731
    name = re.sub(r"up_blocks\.(\d)\.", flip, name).replace("resnets.", "block.")
    name = name.replace("upsamplers.0.", "upsample.")
    name = re.sub(r"mid_block\.block\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
    if "mid_block.attentions.0." in name:
        for here, there in VAE_ATTENTION.items():
            name = name.replace(f"attentions.0.{here}.", f"attn_1.{there}.")
    return name.replace("mid_block.", "mid.")


def save_single_file(source: Path, file: Path) -> Path:
    """The weights of a tiny Stable Diffusion 1 under its makers' names."""
    tensors: dict[str, Tensor] = {}
    for name, value in load_file(source / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{unet_name(name)}"] = value
    for name, value in load_file(source / "vae" / "diffusion_pytorch_model.safetensors").items():
        attention = "attentions.0.to_" in name and name.endswith("weight")
        tensors[f"first_stage_model.{vae_name(name)}"] = value[:, :, None, None] if attention else value
    for name, value in load_file(source / "text_encoder" / "model.safetensors").items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    return file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def test_a_single_file_gives_the_same_weights_as_its_directory(tiny_sd1: Path, tmp_path: Path, home: Path):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    found = find_model(str(file), single_file_config=str(tiny_sd1))
    assert (found.directory, found.single_file) == (None, file)
    config = GuidanceConfig(model=str(file), single_file_config=str(tiny_sd1), dtype="float32")
    got = make_guidance(config, "a duck")
    expected = make_guidance(config.model_copy(update={"model": str(tiny_sd1)}), "a duck")
    for part in ("unet", "vae"):
        pairs = zip(
            getattr(got, part).state_dict().items(),
            getattr(expected, part).state_dict().values(),
            strict=True,
        )
        for (name, value), other in pairs:
            assert torch.equal(value, other), f"{part} {name}"
    assert torch.equal(got.view_embeddings.tokens, expected.view_embeddings.tokens)
    # The conversion is kept, and found again without one.
    again = find_model(str(file), single_file_config=str(tiny_sd1)).directory
    assert again is not None and again.is_relative_to(home)
    assert [path for path in again.parent.iterdir() if path.name.startswith(".")] == []


def test_a_text_encoder_that_the_reader_would_leave_at_random_is_refused(tiny_sd1: Path, tmp_path: Path):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    tensors = load_file(file)
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    tensors["something.else.token_embedding.weight"] = tensors.pop(name) + 1
    save_file(tensors, file)
    with pytest.raises(ModelUnsupportedError, match=r"no text encoder.*single_file_config"):
        fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)))


def test_without_settings_the_error_says_where_they_were_looked_for(tiny_sd1: Path, tmp_path: Path):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    with pytest.raises(
        ModelNotFoundError, match=r"'sd-1.5'.*cache of stable-diffusion-v1-5/.*models download sd-1.5"
    ):
        fetch_model(find_model(str(file)))


FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({FIRST: (8, 9, 3, 3)}, "inpainting.*got 9"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, "flow-matching"),
        ({"double_blocks.0.img_attn.norm.scale": (1,)}, "flow-matching"),
        ({"lora_unet_down.lora_up.weight": (1,)}, "LoRA weights"),
        ({FIRST: (8, 4, 3, 3), "conditioner.embedders.0.model.ln_final.weight": (1,)}, "refiner"),
    ],
)
def test_files_of_other_models_are_refused_by_their_names(shapes, message: str, tmp_path: Path):
    file = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    with pytest.raises(ModelUnsupportedError, match=message):
        find_model(str(file))


def test_a_pickle_and_half_a_file_are_refused(tmp_path: Path):
    pickle, half = tmp_path / "model.ckpt", tmp_path / "half.safetensors"
    pickle.touch()
    with pytest.raises(ModelUnsupportedError, match="pickle may run code"):
        find_model(str(pickle))
    save_file({FIRST: torch.zeros(8, 4, 3, 3)}, half)
    half.write_bytes(half.read_bytes()[:-100])
    with pytest.raises(ModelUnsupportedError, match=r"has [\d,]+ of [\d,]+ bytes. Download it again"):
        find_model(str(half))
