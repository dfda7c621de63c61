"""LoRA files of every layout against W + weight * alpha / rank * up @ down, for every layer of the model."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.families import family_of
from dreamfusion.guidance.loading import load_part, shapes_by_settings
from dreamfusion.guidance.lora_files import check_lora_file, merge_loras
from dreamfusion.guidance.lora_names import Layers, original_name

PARTS = {
    "tiny_sd1": ("unet", "text_encoder"),
    "tiny_sd2": ("unet", "text_encoder"),
    "tiny_sdxl": ("unet", "text_encoder", "text_encoder_2"),
}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(params=PARTS)
def tiny(request: pytest.FixtureRequest) -> Path:
    """A model of each family that takes LoRAs."""
    return request.getfixturevalue(request.param)


def parts_of(directory: Path) -> tuple[str, ...]:
    return PARTS["tiny_sdxl" if family_of(directory) == "stable-diffusion-xl" else "tiny_sd1"]


@cache
def layers_of(directory: Path) -> Layers:
    return Layers({part: shapes_by_settings(directory / part) for part in parts_of(directory)})


def factors(shape: tuple[int, ...], rank: int, generator: torch.Generator, mid: bool = False) -> Tensors:
    """Random factors of one layer, as trainers lay them out."""

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator)

    out, into, *kernel = shape
    ones = [1] * len(kernel)
    if mid and kernel:
        return {
            "down": draw(rank, into, *ones),
            "mid": draw(rank, rank, *kernel),
            "up": draw(out, rank, *ones),
        }
    return {"down": draw(rank, into, *kernel), "up": draw(out, rank, *ones)}


def product(found: Tensors, shape: tuple[int, ...]) -> torch.Tensor:
    """up down, as convolutions one after the other do it: written apart from the code under test."""
    if "mid" in found:
        up, mid, down = found["up"][:, :, 0, 0], found["mid"], found["down"][:, :, 0, 0]
        return (up @ (mid.permute(2, 3, 0, 1) @ down)).permute(2, 3, 0, 1)
    return (found["up"].flatten(1) @ found["down"].flatten(1)).reshape(shape)


def merged(directory: Path, part: str, *loras: tuple[Path, float]) -> Tensors:
    """The weights of one part of the model with LoRAs in it."""
    model = load_part(directory, part, torch.float32, torch.device("cpu"))
    found = [(check_lora_file(str(file), layers_of(directory)), weight) for file, weight in loras]
    merge_loras(model, part, found)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    return {name.removesuffix(".weight"): value for name, value in model.state_dict().items()}


KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}


def kohya_name(part: str, path: str, xl: bool = False) -> str:
    prefix = "lora_te1_" if xl and part == "text_encoder" else KOHYA[part]
    if part != "unet" and not path.startswith("text_"):
        path = f"text_model.{path}"
    return prefix + path.replace(".", "_")


def test_every_layer_has_the_rank_and_the_alpha_of_its_own(tiny: Path, tmp_path: Path):
    """As in a resized or extracted file; a fifth of the layers says no alpha, which means the rank."""
    layers, generator = layers_of(tiny), torch.Generator().manual_seed(0)
    chance, xl = random.Random(0), len(parts_of(tiny)) == 3
    state: Tensors = {}
    wanted: dict[tuple[str, str], torch.Tensor] = {}
    for part, shapes in layers.shapes.items():
        for path, shape in shapes.items():
            rank = chance.randint(1, 9)
            found = factors(shape, rank, generator, mid=chance.random() < 0.5)
            alpha = None if chance.random() < 0.2 else float(chance.choice([0.5, rank, 1, 16]))
            scale = 1.0 if alpha is None else alpha / rank
            wanted[part, path] = 0.7 * scale * product(found, shape)
            name = kohya_name(part, path, xl)
            state |= {f"{name}.lora_{factor}.weight": value for factor, value in found.items()}
            if alpha is not None:
                state[f"{name}.alpha"] = torch.tensor(alpha)
    assert any(key.endswith("lora_mid.weight") for key in state)
    file = tmp_path / "resized.safetensors"
    save_file(state, file, metadata={"ss_network_dim": "4", "ss_network_alpha": "1"})
    for part in parts_of(tiny):
        before, after = merged(tiny, part, (file, 0.0)), merged(tiny, part, (file, 0.7))
        for name, value in before.items():
            change = wanted.get((part, name), torch.zeros(()))
            torch.testing.assert_close(
                after[name], value + change, rtol=1e-4, atol=1e-4, msg=f"{part} {name}"
            )
    assert {part for part, _ in wanted} == set(parts_of(tiny)) and len(wanted) > 60


# How else a layer and its factors are called: (layer's name, down, up).
NAMES: dict[str, tuple[Callable[[str, str], str], str, str]] = {
    "diffusers": (lambda part, path: f"{part}.{path}", "lora_A.weight", "lora_B.weight"),
    "diffusers with the adapter's name": (
        lambda part, path: f"{part}.{path}", "lora_A.default_0.weight", "lora_B.default_0.weight",
    ),
    "diffusers, its first": (lambda part, path: f"{part}.{path}", "lora.down.weight", "lora.up.weight"),
    "diffusers, its second": (
        lambda part, path: f"{part}.{path}", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight",
    ),
    "PEFT": (lambda part, path: f"base_model.model.{path}", "lora_A.weight", "lora_B.weight"),
    "PEFT below a part": (
        lambda part, path: f"{part}.base_model.model.{path}", "lora_A.weight", "lora_B.weight",
    ),
    "LyCORIS": (
        lambda part, path: f"lycoris_{path.replace('.', '_')}", "lora_down.weight", "lora_up.weight",
    ),
    "without a part": (lambda part, path: path, "lora_A.weight", "lora_B.weight"),
    "OneTrainer": (lambda part, path: f"{part}.{path}", "lora_down.weight", "lora_up.weight"),
    "kohya": (lambda part, path: kohya_name(part, path), "lora_down.weight", "lora_up.weight"),
    "text_model before": (
        lambda part, path: f"{part}.{'' if part == 'unet' else 'text_model.'}{path.removeprefix('text_model.')}",
        "lora_A.weight", "lora_B.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", NAMES)
def test_every_layer_is_found_by_every_name(layout: str, tiny_sd1: Path, tmp_path: Path):
    naming, down, up = NAMES[layout]
    state, wanted = {}, {}
    for part, shapes in layers_of(tiny_sd1).shapes.items():
        for path, shape in shapes.items():
            found = factors(shape, 2, torch.Generator().manual_seed(1))
            keys = {"down": f"{naming(part, path)}.{down}", "up": f"{naming(part, path)}.{up}"}
            wanted[part, path] = keys
            state |= {key: found[factor] for factor, key in keys.items()}
    save_file(state, tmp_path / "own.safetensors")
    got = check_lora_file(str(tmp_path / "own.safetensors"), layers_of(tiny_sd1)).layers
    assert {(layer.part, layer.path): layer.keys for layer in got} == wanted
    assert all(layer.scale == 1.0 for layer in got)


def test_attention_processors_of_old_are_found(tiny_sd1: Path):
    layers = layers_of(tiny_sd1)
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    for prefix in ("unet.", ""):
        for old, path in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0")):
            assert layers.find(f"{prefix}{block}.processor.{old}") == [("unet", f"{block}.{path}")]
    text = "encoder.layers.1.self_attn"
    for old, path in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")):
        assert layers.find(f"text_encoder.text_model.{text}.{old}") == [("text_encoder", f"{text}.{path}")]


def test_stabilitys_own_names_are_those_that_diffusers_converts(tiny: Path):
    """Every layer, and back through diffusers' reader of single files."""
    layers = layers_of(tiny)
    shapes = layers.shapes["unet"]
    names = {path: original_name(path, shapes) for path in shapes}
    assert None not in names.values() and len(set(names.values())) == len(names)
    # Behind the attention, where the block has any.
    after = 2 if "up_blocks.0.attentions.0.proj_in" in shapes else 1
    assert names["up_blocks.0.upsamplers.0.conv"] == f"output_blocks.1.{after}.conv"
    marked = {
        f"model.diffusion_model.{name}.weight": torch.tensor([float(index)])
        for index, name in enumerate(names.values())
    }
    # Its reader asks for norms and biases too.
    biases = {f"{key.removesuffix('.weight')}.bias": torch.zeros(1) for key in marked}
    norm = {f"model.diffusion_model.out.0.{kind}": torch.zeros(1) for kind in ("weight", "bias")}
    config = json.loads((tiny / "unet" / "config.json").read_text())
    converted = convert_ldm_unet_checkpoint(marked | biases | norm, config)
    for index, path in enumerate(names):
        assert float(converted[f"{path}.weight"]) == index, path
    for prefix in ("lora_unet_", "diffusion_model."):
        for path, name in names.items():
            assert layers.find(prefix + str(name)) == [("unet", path)]


def test_several_loras_add_up_in_any_order(tiny_sd1: Path, tmp_path: Path):
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    shape = layers_of(tiny_sd1).shapes["unet"][path]
    files = [
        dora(tmp_path / "a.safetensors", path, shape, 1),
        dora(tmp_path / "b.safetensors", path, shape, 2),
    ]
    before = merged(tiny_sd1, "unet")[path]
    alone = [
        merged(tiny_sd1, "unet", (file, weight))[path] - before
        for file, weight in zip(files, (0.5, -2.0), strict=True)
    ]
    pairs = list(zip(files, (0.5, -2.0), strict=True))
    for order in (pairs, pairs[::-1]):
        torch.testing.assert_close(merged(tiny_sd1, "unet", *order)[path], before + alone[0] + alone[1])


# ------------------------------------------------------------------------------------------------------- DoRA


def dora(file: Path, path: str, shape: tuple[int, ...], seed: int, axis: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    found = factors(shape, 3, generator)
    name = kohya_name("unet", path)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]
    save_file(
        {f"{name}.lora_{factor}.weight": value for factor, value in found.items()}
        | {f"{name}.alpha": torch.tensor(1.5)}
        | {f"{name}.dora_scale": torch.rand(sizes, generator=generator) + 0.5},
        file,
    )
    return file


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("path", [
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",  # as many inputs as outputs
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.resnets.0.conv1",
])  # fmt: skip
def test_dora_sets_the_lengths_of_rows_or_columns(tiny_sd1: Path, tmp_path: Path, path: str, axis: int):
    from safetensors.torch import load_file

    shape = layers_of(tiny_sd1).shapes["unet"][path]
    file = dora(tmp_path / "dora.safetensors", path, shape, 1, axis)
    state = {key.partition(".")[2]: value for key, value in load_file(file).items()}
    before = merged(tiny_sd1, "unet")[path]
    found = {"down": state["lora_down.weight"], "up": state["lora_up.weight"]}
    v = before + 1.5 / 3 * product(found, shape)
    others = [a for a in range(len(shape)) if a != axis]
    right = state["dora_scale"] * v / torch.linalg.vector_norm(v, dim=others, keepdim=True)
    after = merged(tiny_sd1, "unet", (file, 1.0))[path]
    torch.testing.assert_close(after, right, rtol=1e-4, atol=1e-5)
    lengths = torch.linalg.vector_norm(after, dim=others)
    torch.testing.assert_close(lengths, state["dora_scale"].flatten())
    # A weight scales the change from the model, so that none is left at 0.
    torch.testing.assert_close(
        merged(tiny_sd1, "unet", (file, 0.25))[path], before + 0.25 * (right - before), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:.*meta parameter:UserWarning")
def test_peft_dora_is_pefts(tiny_sd1: Path, tmp_path: Path):
    """Written by PEFT and diffusers, with an alpha in the settings, and merged by PEFT for comparison."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig as PeftConfig

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel.from_pretrained(tiny_sd1 / "unet", low_cpu_mem_usage=False)
    targets = ["to_q", "ff.net.2", "conv1", "proj_in"]
    unet.add_adapter(
        PeftConfig(r=2, lora_alpha=5, use_dora=True, init_lora_weights=False, target_modules=targets)
    )
    for name, parameter in unet.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.3
    unet.save_lora_adapter(tmp_path, safe_serialization=True)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    got = merged(tiny_sd1, "unet", (file, 1.0))
    unet.fuse_lora()
    unet.unload_lora()
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(got[name.removesuffix(".weight")], value, rtol=1e-4, atol=1e-5, msg=name)


# --------------------------------------------------------------------------------------- alpha beside the keys

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
OTHER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"


@pytest.mark.parametrize(("settings", "scales"), [
    ({"unet.lora_alpha": 8}, (2.0, 2.0)),
    ({"lora_alpha": 8}, (2.0, 2.0)),
    ({"unet.lora_alpha": 8, "unet.use_rslora": True}, (4.0, 4.0)),
    ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_k": 2}}, (2.0, 0.5)),
    ({"unet.lora_alpha": 8, "unet.alpha_pattern": {f"^{OTHER}": 2, "attn1.to_k": 6}}, (2.0, 0.5)),
    ({"text_encoder.lora_alpha": 8, "unet.lora_alpha": 4}, (1.0, 1.0)),
    ({}, (1.0, 1.0)),
])  # fmt: skip
@pytest.mark.parametrize("beside", [False, True])
def test_the_alpha_of_peft(
    tiny_sd1: Path, tmp_path: Path, settings: dict[str, Any], scales: tuple[float, float], beside: bool
):
    """In the header, as diffusers writes it, or in a file beside the weights, as PEFT does."""
    if beside:
        if any(key.startswith("text_encoder") for key in settings):
            settings = {"lora_alpha": 4}
        settings = {key.removeprefix("unet."): value for key, value in settings.items()}
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    state = {}
    for path in (LAYER, OTHER):
        found = factors((32, 32), 4, torch.Generator().manual_seed(1))
        name = f"base_model.model.{path}" if beside else f"unet.{path}"
        state |= {f"{name}.lora_A.weight": found["down"], f"{name}.lora_B.weight": found["up"]}
    file = tmp_path / "adapter_model.safetensors"
    save_file(state, file, metadata=None if beside else {"lora_adapter_metadata": json.dumps(settings)})
    got = check_lora_file(str(file), layers_of(tiny_sd1)).layers
    assert {layer.path: layer.scale for layer in got} == dict(zip((LAYER, OTHER), scales, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"unet.init_lora_weights": "pissa_niter_4"}',
        '{"unet.use_dora": true}',
        '{"lora_alpha": "x"}',
        '{"lora_alpha": 1e400}',
        '{"lora_alpha": 4, "alpha_pattern": {"(a+)+$": 2}}',
    ],
)
def test_settings_that_cannot_be_read_are_refused(tiny_sd1: Path, tmp_path: Path, text: str):
    found = factors((32, 32), 4, torch.Generator().manual_seed(1))
    state = {f"unet.{LAYER}.lora_A.weight": found["down"], f"unet.{LAYER}.lora_B.weight": found["up"]}
    save_file(state, tmp_path / "own.safetensors", metadata={"lora_adapter_metadata": text})
    with pytest.raises(
        ModelUnsupportedError, match=r"lora_adapter_metadata of .* (cannot be read: got|is not readable)"
    ):
        merged(tiny_sd1, "unet", (tmp_path / "own.safetensors", 1.0))


# ---------------------------------------------------------------------------------------------------- refusals

NAME = "lora_unet_" + LAYER.replace(".", "_")
BLOCK = "single_transformer_blocks.0"
GOOD = {f"{NAME}.lora_down.weight": (4, 32), f"{NAME}.lora_up.weight": (32, 4)}
FAMILY = "trained on a model of the same family"
REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "LoHa": ({f"{NAME}.hada_w{i}_{ab}": (4, 4) for i in "12" for ab in "ab"}, r"4 keys such as .*hada_\w+: LoHa"),
    "LoHa beside LoRA": ({**GOOD, "lora_unet_x.hada_w1_a": (4, 4)}, "the key lora_unet_x.hada_w1_a: LoHa"),
    "LoKr": ({f"{NAME}.lokr_w1": (4, 4), f"{NAME}.lokr_w2": (8, 8)}, "LoKr"),
    "full": ({**GOOD, "lora_unet_conv_in.diff": (16, 4, 3, 3)}, r"lora_unet_conv_in.diff: full weights \(diff\)"),
    "biases in full": ({**GOOD, f"{NAME}.diff_b": (32,)}, "full weights"),
    "PEFT's biases": ({**GOOD, f"unet.{OTHER}.lora_B.bias": (32,)}, "biases"),
    "OFT": ({f"{NAME}.oft_blocks": (4, 8, 8)}, "OFT"),
    "IA3": ({f"{NAME}.on_input": (1,), f"{NAME}.weight": (32, 1)}, "IA3"),
    "GLoRA": ({f"{NAME}.a1.weight": (4, 32), f"{NAME}.b1.weight": (4, 32)}, "GLoRA"),
    "bundled": (
        {**GOOD, "bundle_emb.plush.string_to_param.*": (1, 32)}, "bundle_emb.plush.*: a bundled textual-inversion",
    ),
    "word": ({"emb_params": (1, 32)}, "belongs into guidance.embeddings"),
    "whole model": ({"model.diffusion_model.out.2.weight": (4, 16, 3, 3)}, "belongs into guidance.model"),
    "custom": ({"unet.x.processor.to_k_custom_diffusion.weight": (8, 8)}, "Custom Diffusion"),
    "whole layers": ({"base_model.model.x.modules_to_save.default.weight": (8, 8)}, "PEFT's modules_to_save"),
    "ControlNet": ({"lora_controlnet": (0,), "input_blocks.1.0.in_layers.2.down": (4, 8)}, "lora_controlnet: a ControlNet"),
    "autoencoder": (
        {f"lora_vae_decoder_conv_in.lora_{k}.weight": s for k, s in (("down", (4, 8)), ("up", (8, 4)))},
        "lora_vae_decoder_conv_in, a layer of the autoencoder, which is not changed. Leave it out",
    ),
    "adapter": ({"ip_adapter.1.to_k_ip.weight": (8, 8)}, "IP-Adapter"),
    "nothing known": ({**GOOD, "something.else": (1,)}, "the key something.else: of no known kind"),
    "nothing at all": ({}, "no key at all"),
    "half": ({f"{NAME}.lora_up.weight": (32, 4), f"{NAME}.alpha": ()}, f"{NAME}.* without its down. The file is incomplete"),
    "other half": ({f"{NAME}.lora_down.weight": (4, 32)}, "without its up"),
    "alpha alone": ({**GOOD, "lora_unet_conv_in.alpha": ()}, "lora_unet_conv_in.alpha without its down"),
    "twice": (
        {**GOOD, f"unet.{LAYER}.lora_A.weight": (4, 32), f"unet.{LAYER}.lora_B.weight": (32, 4)}, "under two names",
    ),
    "two adapters": (
        {f"unet.{LAYER}.lora_{ab}.{n}.weight": s for n in ("one", "two") for ab, s in (("A", (4, 32)), ("B", (32, 4)))},
        "Keep one adapter in a file",
    ),
    "FLUX": (
        {f"transformer.{BLOCK}.attn.to_q.lora_{ab}.weight": s for ab, s in (("A", (4, 8)), ("B", (8, 4)))},
        "transformer such as SD3 or FLUX",
    ),
    "FLUX of kohya": (
        {f"lora_unet_double_blocks_0_img_attn_qkv.lora_{k}.weight": s for k, s in (("down", (4, 8)), ("up", (8, 4)))},
        "transformer such as SD3 or FLUX",
    ),
    "XL": (
        {"lora_te2_text_projection.lora_down.weight": (4, 8), "lora_te2_text_projection.lora_up.weight": (8, 4)},
        f"a layer that the model does not have: lora_te2_text_projection. It must have been {FAMILY}",
    ),
    "deeper": (
        {k.replace("mid_block", "down_blocks_7"): s for k, s in GOOD.items()}, FAMILY,
    ),
    "wider": (
        {f"{NAME}.lora_down.weight": (4, 320), f"{NAME}.lora_up.weight": (320, 4)}, f"4x320 .*32x32. It must have been {FAMILY}",
    ),
    "ranks apart": ({f"{NAME}.lora_down.weight": (4, 32), f"{NAME}.lora_up.weight": (32, 5)}, "32x5"),
    "no rank": ({f"{NAME}.lora_down.weight": (0, 32), f"{NAME}.lora_up.weight": (32, 0)}, "0x32"),
    "no matrix": ({f"{NAME}.lora_down.weight": (32,), f"{NAME}.lora_up.weight": (32, 1)}, "down of 32"),
    "another kernel": ({f"{NAME}.lora_down.weight": (4, 32, 3, 3), f"{NAME}.lora_up.weight": (32, 4, 1, 1)}, "4x32x3x3"),
    "alphas": ({**GOOD, f"{NAME}.alpha": (2,)}, "an alpha of 2"),
    "magnitudes": ({**GOOD, f"{NAME}.dora_scale": (31, 1)}, "magnitudes of 31x1"),
    "magnitudes of an axis that is none": ({**GOOD, f"{NAME}.dora_scale": (32, 32)}, "magnitudes of 32x32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_named_for_what_it_is(kind: str, tiny_sd1: Path, tmp_path: Path):
    shapes, told = REFUSED[kind]
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "own.safetensors")
    with pytest.raises(
        ModelUnsupportedError, match=r"own.safetensors cannot be applied whole: got "
    ) as caught:
        check_lora_file(str(tmp_path / "own.safetensors"), layers_of(tiny_sd1))
    assert re.search(told, str(caught.value)), str(caught.value)
    of_another_model = {"FLUX", "FLUX of kohya", "XL", "deeper", "wider", "another kernel"} | {"magnitudes"}
    assert (FAMILY in str(caught.value)) == (kind.partition(" of an")[0] in of_another_model)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["lora_up.weight", "alpha"])
def test_numbers_that_are_none_are_refused(tiny_sd1: Path, tmp_path: Path, broken: float, key: str):
    state = {name: torch.ones(shape) for name, shape in GOOD.items()} | {f"{NAME}.alpha": torch.tensor(4.0)}
    state[f"{NAME}.{key}"] = torch.full_like(state[f"{NAME}.{key}"], broken)
    save_file(state, tmp_path / "own.safetensors")
    with pytest.raises(ModelUnsupportedError, match=f"finite .*{key}"):
        merged(tiny_sd1, "unet", (tmp_path / "own.safetensors", 1.0))


def test_quantised_weights_and_overflow_are_refused(tiny_sd1: Path, tmp_path: Path):
    save_file(
        {name: torch.ones(shape, dtype=torch.int8) for name, shape in GOOD.items()},
        tmp_path / "own.safetensors",
    )
    with pytest.raises(ModelUnsupportedError, match="int8"):
        merged(tiny_sd1, "unet", (tmp_path / "own.safetensors", 1.0))
    save_file({name: torch.ones(shape) for name, shape in GOOD.items()}, tmp_path / "own.safetensors")
    with pytest.raises(ModelUnsupportedError, match=r"overflow in float32. Give .* a smaller weight"):
        merged(tiny_sd1, "unet", (tmp_path / "own.safetensors", 3e38))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_fewer_bits_are_read(tiny_sd1: Path, tmp_path: Path, dtype: torch.dtype):
    state = {name: torch.full(shape, 0.5).to(dtype) for name, shape in GOOD.items()}
    state[f"{NAME}.alpha"] = torch.tensor(2, dtype=torch.int64)
    save_file(state, tmp_path / "own.safetensors")
    before, after = merged(tiny_sd1, "unet"), merged(tiny_sd1, "unet", (tmp_path / "own.safetensors", 1.0))
    torch.testing.assert_close(after[LAYER], before[LAYER] + 0.5)
