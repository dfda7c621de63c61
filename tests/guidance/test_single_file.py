"""A checkpoint in one file, in the layout of Stable Diffusion's makers, made from a tiny one in diffusers' layout."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ModelNotFoundError, ModelUnsupportedError, OutputError
from dreamfusion.guidance.conversion import usable_side
from dreamfusion.guidance.diffuse import diffuse
from dreamfusion.guidance.factory import make_guidance
from dreamfusion.guidance.models import fetch_model, find_model, verify_model
from dreamfusion.guidance.schedulers import load_sampler
from dreamfusion.guidance.single_file import SingleFile, read_single_file, settings_for

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
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
    """The weights of a tiny Stable Diffusion under the names of 1's makers."""
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


# ------------------------------------------------------------------- what a file says of itself

CONTEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
XL = "conditioner.embedders.1.model.ln_final.weight"
V, EPSILON = "v_prediction", "epsilon"


def shapes_only(file: Path, width: int = 768, marks: tuple[str, ...] = (), **told: str) -> Path:
    """The first weights of a UNet, marks as community files have them, and keys of ModelSpec."""
    shapes = {FIRST: (8, 4, 3, 3), CONTEXT: (4, width)} | ({XL: (4,)} if width == 2048 else {})
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    tensors |= {mark: torch.zeros(0) for mark in marks}
    save_file(tensors, file, metadata={f"modelspec.{key}": value for key, value in told.items()})
    return file


@pytest.mark.parametrize(
    ("width", "marks", "told", "settings", "prediction"),
    [
        (768, (), {}, "sd-1.5", None),
        (768, ("v_pred",), {}, "sd-1.5", V),
        (768, (), {"prediction_type": "v", "architecture": "stable-diffusion-v1"}, "sd-1.5", V),
        (768, (), {"prediction_type": "epsilon", "architecture": "a name of one's own"}, "sd-1.5", EPSILON),
        (1024, ("v_pred",), {}, "sd-2.1-v", V),
        (1024, (), {"prediction_type": "v_prediction"}, "sd-2.1-v", V),
        *((1024, (), {"prediction_type": text}, "sd-2.1-v", V) for text in (" V-Pred", "v prediction", "vPrediction")),
        (1024, (), {"prediction_type": "Epsilon_prediction"}, "sd-2.1-base", EPSILON),
        (1024, (), {"architecture": "Stable-Diffusion-v2-768-V "}, "sd-2.1-v", V),
        (1024, (), {"architecture": "stable-diffusion-v2-768-v"}, "sd-2.1-v", V),
        (1024, (), {"architecture": "stable-diffusion-v2-512"}, "sd-2.1-base", EPSILON),
        (1024, (), {"prediction_type": "epsilon", "resolution": "768x768"}, "sd-2.1-base", EPSILON),
        (2048, (), {}, "sdxl", None),
        (2048, ("v_pred", "ztsnr"), {}, "sdxl", V),
        (2048, (), {"prediction_type": "v", "architecture": "stable-diffusion-xl-v1-base"}, "sdxl", V),
    ],
)  # fmt: skip
def test_what_a_file_predicts_is_read_from_it(width, marks, told, settings, prediction, tmp_path: Path):
    file = shapes_only(tmp_path / "model.safetensors", width, marks, **told)
    found = read_single_file(file)
    assert (settings_for(file, found), found.prediction_type) == (settings, prediction)
    assert found.zero_terminal_snr == ("ztsnr" in marks)
    assert find_model(str(file)).settings == settings


@pytest.mark.parametrize(
    ("width", "marks", "told", "message"),
    [
        (1024, (), {}, r"which Stable Diffusion 2.*single_file_config=sd-2.1-base or .*single_file_config=sd-2.1-v"),
        (1024, (), {"resolution": "768x768"}, "which Stable Diffusion 2"),
        (768, ("ztsnr",), {}, "ztsnr.*does not say.*v_pred"),
        (2048, ("v_pred",), {"prediction_type": "epsilon"}, "v_prediction by the mark v_pred and epsilon by modelspec"),
        (1024, (), {"prediction_type": "epsilon", "architecture": "stable-diffusion-v2-768-v"}, "contradicts itself"),
        (768, (), {"prediction_type": "flow"}, "modelspec.prediction_type.*expected epsilon or v, got 'flow'"),
        (768, (), {"architecture": "stable-diffusion-xl-v1-base"}, "architecture does not fit its weights"),
        (768, (), {"timestep_range": "500,999"}, "timestep_range.*got '500,999'"),
        (2048, ("edm_vpred.sigma_max",), {}, "its noise.*EDM's sigmas, by edm_vpred.sigma_max"),
        (2048, ("edm_mean", "edm_std"), {}, "its noise.*by edm_mean"),
    ],
)  # fmt: skip
def test_a_file_that_is_ambiguous_or_contradicts_itself_is_refused(
    width, marks, told, message, tmp_path: Path
):
    with pytest.raises(ModelUnsupportedError, match=message):
        find_model(str(shapes_only(tmp_path / "model.safetensors", width, marks, **told)))


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("resolution", "768x512", (768, 512)), ("resolution", " 1024 x 1024 ", (1024, 1024)),
        ("resolution", "768", (768, 768)), ("resolution", "large", None), ("resolution", "768x", None),
        ("encoder_layer", "1", 1), ("encoder_layer", "2", 2), ("encoder_layer", " 12 ", 12),
        ("encoder_layer", "0", None), ("encoder_layer", "last", None), ("encoder_layer", "100", None),
    ],
)  # fmt: skip
def test_what_a_file_says_in_each_form_of_it(key: str, text: str, found: Any, tmp_path: Path):
    file = shapes_only(tmp_path / "model.safetensors", 768, (), **{key: text})
    assert getattr(read_single_file(file), key) == found


@pytest.mark.parametrize("text", ["0,1000", "0,999", " 0 , 1000 "])
def test_a_model_of_all_timesteps_is_read(text: str, tmp_path: Path):
    assert read_single_file(shapes_only(tmp_path / "model.safetensors", timestep_range=text))


@pytest.mark.parametrize("text", ["0,998", "1,1000", "500,1000", "all", "0-1000"])
def test_a_model_of_other_timesteps_is_refused(text: str, tmp_path: Path):
    with pytest.raises(ModelUnsupportedError, match=f"timestep_range.*got '{text}'"):
        read_single_file(shapes_only(tmp_path / "model.safetensors", timestep_range=text))


def test_an_option_settles_what_is_ambiguous(tiny_sd1: Path, tmp_path: Path):
    file = shapes_only(tmp_path / "model.safetensors", 1024)
    found = find_model(str(file), single_file_config="sd-2.1-v")
    assert found.settings == "sd-2.1-v"
    command = f"models download {file} --set guidance.single_file_config=sd-2.1-v"
    assert found.download_command == f"dreamfusion {command}"


def tuned(source: Path, file: Path, marks: tuple[str, ...] = (), **told: str) -> Path:
    """A whole single file with marks and ModelSpec's keys."""
    tensors = load_file(save_single_file(source, file)) | {mark: torch.zeros(0) for mark in marks}
    save_file(tensors, file, metadata={f"modelspec.{key}": value for key, value in told.items()})
    return file


def guidance_of(file: Path, settings: Path, **values):
    config = {"model": str(file), "single_file_config": str(settings), "dtype": "float32"} | values
    return make_guidance(GuidanceConfig.model_validate(config), "a duck")


def test_marks_and_metadata_reach_the_guidance(tiny_sd1: Path, tmp_path: Path, capsys):
    plain = guidance_of(tuned(tiny_sd1, tmp_path / "plain.safetensors"), tiny_sd1)
    assert (plain.schedule.prediction_type, plain.image_size) == (EPSILON, 32)
    assert float(plain.schedule.alphas_cumprod[-1]) > 1e-3
    file = tuned(tiny_sd1, tmp_path / "v.safetensors", ("v_pred", "ztsnr"), resolution="48x48")
    guidance = guidance_of(file, tiny_sd1)
    assert (guidance.schedule.prediction_type, guidance.image_size) == (V, 48)
    reference: Any = DDIMScheduler.from_pretrained(tiny_sd1 / "scheduler", rescale_betas_zero_snr=True)
    torch.testing.assert_close(guidance.schedule.alphas_cumprod.float(), reference.alphas_cumprod)
    assert float(guidance.schedule.alphas_cumprod[-1]) == 0.0
    # Drawn from where nothing of the image is left, and from the settings' own first timestep without the mark.
    first = [load_sampler(g.directory, False, "DDIM", 4).timesteps[0].item() for g in (guidance, plain)]
    assert first == [999, load_sampler(tiny_sd1, False, "DDIM", 4).timesteps[0].item()] and first[1] < 999
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == f"plain.safetensors: read with the settings of {tiny_sd1} (epsilon, 32)"
    assert notes[1] == f"v.safetensors: read with the settings of {tiny_sd1} (v, 48, zero terminal SNR)"
    # Once converted it is said again, and what cannot be followed too.
    odd = tuned(tiny_sd1, tmp_path / "odd.safetensors", resolution="512x768")
    for _ in range(2):
        assert guidance_of(odd, tiny_sd1).image_size == 32
        assert "modelspec.resolution of 512x768 is not used" in capsys.readouterr().err


def test_a_model_without_a_signal_at_its_last_timestep_guides(tiny_sd1: Path, tmp_path: Path):
    """Every weighting, at the end of the timesteps, gives numbers; so does the picture of what is predicted there."""
    file = tuned(tiny_sd1, tmp_path / "v.safetensors", ("v_pred", "ztsnr"))
    images = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    for weighting in ("denoised", "score_matching"):
        guidance = guidance_of(file, tiny_sd1, weighting=weighting, timestep_min=1.0, timestep_max=1.0)
        generators = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
        output = guidance(images, torch.zeros(1), torch.zeros(1), 0, *generators)
        assert output.timesteps.tolist() == [998] and 0.0 < output.gradient_norm < math.inf
        (level,) = diffuse(guidance, images[0], [1.0], torch.Generator().manual_seed(3))
        assert level.timestep == 998 and bool(
            level.clean.isfinite().all() and level.gradient.isfinite().all()
        )


def test_settings_for_a_single_file_are_said_to_be_unused_without_one(tiny_sd1: Path, capsys):
    guidance_of(tiny_sd1, tiny_sd1)
    assert f"guidance.single_file_config is not used: {tiny_sd1} is no single file" in capsys.readouterr().err


def test_a_text_encoder_ends_where_the_file_says(tiny_sd1: Path, tmp_path: Path):
    """ModelSpec's encoder_layer 2 is the last layer but one, and the last norm ("clip skip 2")."""
    file = tuned(tiny_sd1, tmp_path / "skips.safetensors", encoder_layer="2")
    got = guidance_of(file, tiny_sd1).encode_texts(["a duck"]).tokens
    encoder: Any = CLIPTextModel.from_pretrained(tiny_sd1 / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd1 / "tokenizer")
    ids = tokenizer(["a duck"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).hidden_states
        expected, last = (encoder.final_layer_norm(states[index]) for index in (-2, -1))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, last, atol=1e-3)


def test_a_layer_that_the_text_encoder_does_not_have_is_refused(tiny_sd1: Path, tmp_path: Path, capsys):
    layers = json.loads((tiny_sd1 / "text_encoder" / "config.json").read_text())["num_hidden_layers"]
    for layer in (layers + 1, 99):
        file = tuned(tiny_sd1, tmp_path / f"{layer}.safetensors", encoder_layer=str(layer))
        with pytest.raises(
            ModelUnsupportedError, match=f"encoder_layer of .*expected 1 to {layers}, got {layer}"
        ):
            guidance_of(file, tiny_sd1)
    guidance = guidance_of(
        tuned(tiny_sd1, tmp_path / "first.safetensors", encoder_layer=str(layers)), tiny_sd1
    )
    told = json.loads((guidance.directory / "text_encoder" / "config.json").read_text())
    assert told["num_hidden_layers"] == 1
    assert f"text encoder without its last {layers - 1})" in capsys.readouterr().err


def test_only_a_side_that_the_unet_can_halve_is_taken(tiny_sd1: Path):
    unet, vae = (json.loads((tiny_sd1 / p / "config.json").read_text()) for p in ("unet", "vae"))
    step = 2 ** (len(unet["block_out_channels"]) + len(vae["block_out_channels"]) - 2)
    for size, side in (
        ((step, step), step), ((3 * step, 3 * step), 3 * step), ((0, 0), None), ((step, 2 * step), None),
        ((step + step // 2, step + step // 2), None), (None, None),
    ):  # fmt: skip
        assert usable_side(tiny_sd1, SingleFile("stable-diffusion", resolution=size)) == side


# -------------------------------------------------------------------------- what a file must have


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("first_stage_model.", "has no autoencoder that can be read"),
        ("cond_stage_model.", "has no text encoder that can be read"),
        ("model.diffusion_model.out.2.bias", "nothing for conv_out.bias of its UNet"),
        ("model.diffusion_model.middle_block.1.", r"nothing for mid_block.attentions.0.* and \d+ more of its UNet"),
        ("first_stage_model.decoder.conv_in.weight", "nothing for decoder.conv_in.weight of its autoencoder"),
        ("cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.bias",
         "nothing for .*encoder.layers.1.mlp.fc2.bias of its text encoder"),
    ],
)  # fmt: skip
def test_weights_that_a_file_lacks_are_named(
    lost: str, message: str, tiny_sd1: Path, tmp_path: Path, home: Path
):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    tensors = load_file(file)
    assert any(name.startswith(lost) for name in tensors)
    save_file({name: value for name, value in tensors.items() if not name.startswith(lost)}, file)
    with pytest.raises(ModelUnsupportedError, match=message) as error:
        fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)))
    assert "\n" not in str(error.value)
    assert list((home / "dreamfusion" / "converted").iterdir()) == []


def test_weights_of_another_shape_or_without_a_place_are_named(tiny_sd1: Path, tmp_path: Path):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    tensors = load_file(file)
    name = "model.diffusion_model.time_embed.2.bias"
    save_file(tensors | {name: tensors[name][:-1].contiguous()}, file)
    with pytest.raises(
        ModelUnsupportedError, match=r"time_embedding.linear_2.bias of its UNet is \(63,\), not \(64,\)"
    ):
        fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)))
    save_file(tensors | {"model.diffusion_model.label_emb.0.0.weight": torch.ones(2, 2)}, file)
    with pytest.raises(ModelUnsupportedError, match=r"no place for: got model.diffusion_model.label_emb"):
        fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)))


OPEN_CLIP = {
    "encoder.layers": "transformer.resblocks", "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
}  # fmt: skip


def open_clip_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' text encoder under OpenCLIP's names, where queries, keys and values lie in one matrix."""
    made: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            made["text_projection"] = value.T.contiguous()
        elif name == "embeddings.position_embedding.weight":
            made["positional_embedding"] = value
        elif ".self_attn.q_proj." in name:
            others = [name.replace("q_proj", f"{which}_proj") for which in "qkv"]
            joined = torch.cat([weights.get(o, weights.get(f"text_model.{o}", value)) for o in others])
            kind = name.rsplit(".", 1)[1]
            layer = name.split(".self_attn")[0].replace("encoder.layers", "transformer.resblocks")
            made[f"{layer}.attn.in_proj_{kind}"] = joined
        elif not re.search(r"self_attn\.[kv]_proj", name):
            for here, there in OPEN_CLIP.items():
                name = name.replace(here, there)
            made[name] = value
    return made


def test_a_single_file_of_stable_diffusion_xl(tiny_sdxl: Path, tmp_path: Path):
    tensors = load_file(save_single_file(tiny_sdxl, tmp_path / "xl.safetensors"))
    first = "cond_stage_model.transformer."
    tensors = {n.replace(first, "conditioner.embedders.0.transformer."): v for n, v in tensors.items()}
    second = open_clip_names(load_file(tiny_sdxl / "text_encoder_2" / "model.safetensors"))
    tensors |= {f"conditioner.embedders.1.model.{name}": value for name, value in second.items()}
    tensors["v_pred"] = torch.zeros(0)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "xl.safetensors")
    got = guidance_of(tmp_path / "xl.safetensors", tiny_sdxl)
    expected = make_guidance(GuidanceConfig(model=str(tiny_sdxl), dtype="float32"), "a duck")
    for part in ("unet", "vae"):
        wanted = getattr(expected, part).state_dict()
        assert all(torch.equal(v, wanted[n]) for n, v in getattr(got, part).state_dict().items())
    assert torch.equal(got.view_embeddings.tokens, expected.view_embeddings.tokens)
    assert got.view_embeddings.pooled is not None and expected.view_embeddings.pooled is not None
    assert torch.equal(got.view_embeddings.pooled, expected.view_embeddings.pooled)
    assert (got.schedule.prediction_type, expected.schedule.prediction_type) == (V, EPSILON)


# ------------------------------------------------------------------------------------ where it is kept


def test_each_precision_has_its_own_conversion(tiny_sd1: Path, tmp_path: Path):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    folders = {
        half: fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)), half)
        for half in (True, False)
    }
    assert folders[True] != folders[False]
    wanted = load_file(tiny_sd1 / "unet" / "diffusion_pytorch_model.safetensors")
    for half, folder in folders.items():
        weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        dtype = torch.float16 if half else torch.float32
        assert all(torch.equal(value, wanted[name].to(dtype)) for name, value in weights.items())
        assert fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)), half) == folder
    # Either will do for what is asked before training: whether it is here, and how much memory it takes.
    found = [find_model(str(file), single_file_config=str(tiny_sd1)).directory]
    shutil.rmtree(folders[False])
    found.append(find_model(str(file), single_file_config=str(tiny_sd1)).directory)
    assert found == [folders[False], folders[True]]


def test_edited_settings_are_read_again(tiny_sd1: Path, tmp_path: Path):
    file, copy = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors"), tmp_path / "settings"
    shutil.copytree(tiny_sd1, copy)
    assert guidance_of(file, copy).schedule.prediction_type == EPSILON
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": V}))
    assert guidance_of(file, copy).schedule.prediction_type == V


def test_an_odd_home_is_one_line(tiny_sd1: Path, tmp_path: Path, monkeypatch):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    (tmp_path / "a-file").touch()
    for odd in (tmp_path / "a-file", tmp_path / "a-file" / "below", Path("/dev/null"), Path("/proc/none"),
                tmp_path / ("long" * 100)):  # fmt: skip
        monkeypatch.setattr(constants, "HF_HOME", str(odd))
        with pytest.raises(
            OutputError, match=r"cannot be kept in .*Set HF_HOME to a folder that can be written"
        ):
            fetch_model(find_model(str(file), single_file_config=str(tiny_sd1)))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "not" / "there" / "yet"))
    assert fetch_model(find_model(str(file), single_file_config=str(tiny_sd1))).is_dir()


def test_a_file_with_a_name_as_long_as_names_may_be(tiny_sd1: Path, tmp_path: Path):
    file = save_single_file(tiny_sd1, tmp_path / f"{'é' * 121}.safetensors")
    assert fetch_model(find_model(str(file), single_file_config=str(tiny_sd1))).is_dir()


def test_verifying_a_single_file(tiny_sd1: Path, tmp_path: Path, monkeypatch):
    file = save_single_file(tiny_sd1, tmp_path / "tuned.safetensors")
    monkeypatch.setattr("dreamfusion.guidance.single_file.settings_for", lambda *_: str(tiny_sd1))
    monkeypatch.setattr("dreamfusion.guidance.models.settings_for", lambda *_: str(tiny_sd1))
    assert verify_model(str(file)) == []
    tensors = load_file(file)
    save_file(tensors | {FIRST: tensors[FIRST] * torch.nan}, file)
    assert verify_model(str(file)) == [f"tuned.safetensors has numbers in {FIRST} that are not finite"]
