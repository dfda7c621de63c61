"""LoRA weights and textual inversion against diffusers' own pipeline, which loads the same files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ConfigError, ModelUnsupportedError
from dreamfusion.guidance.factory import make_guidance

TARGETS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


def make(directory: Path, **options: Any) -> Any:
    config = GuidanceConfig.model_validate({"model": str(directory), "dtype": "float32", **options})
    return make_guidance(config, "a peacock")


def pipeline(directory: Path, xl: bool = False) -> Any:
    kind: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    return kind.from_pretrained(directory, local_files_only=True, low_cpu_mem_usage=False)


def save_lora(directory: Path, folder: Path, seed: int, xl: bool = False) -> Path:
    """Random LoRA weights for UNet and text encoder, written by the pipeline's own saver."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = pipeline(directory, xl)
    torch.manual_seed(seed)
    layers = {}
    for part in ("unet", "text_encoder"):
        model = getattr(pipe, part)
        model.add_adapter(
            LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=TARGETS[part])
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.3)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(model)
    type(pipe).save_lora_weights(folder, safe_serialization=True, **layers)
    return folder / "pytorch_lora_weights.safetensors"


def prediction(guidance: Any, text: str) -> torch.Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return guidance.denoise(noisy, torch.tensor([500]), guidance.encode_texts([text]))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, -0.25)])
def test_loras_with_weights_are_the_pipelines(tiny_sd1: Path, tmp_path: Path, weights: tuple[float, float]):
    files = [save_lora(tiny_sd1, tmp_path / str(seed), seed) for seed in (1, 2)]
    loras = [{"file": str(file), "weight": weight} for file, weight in zip(files, weights, strict=True)]
    got = make(tiny_sd1, loras=loras)
    pipe = pipeline(tiny_sd1)
    for index, file in enumerate(files):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=f"own{index}")
    pipe.set_adapters(["own0", "own1"], adapter_weights=list(weights))
    text, _ = pipe.encode_prompt("a duck", "cpu", 1, False)
    torch.testing.assert_close(got.encode_texts(["a duck"]).tokens, text, rtol=1e-4, atol=1e-5)
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = pipe.unet(noisy, torch.tensor([500]), encoder_hidden_states=text).sample
    torch.testing.assert_close(prediction(got, "a duck"), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, prediction(make(tiny_sd1), "a duck"), atol=1e-3)
    # Merged: the UNet's own layers are back, and none of them learns.
    assert not any("lora" in name for name, _ in got.unet.named_parameters())
    assert not any(parameter.requires_grad for parameter in got.unet.parameters())


def test_an_xl_lora_is_the_pipelines(tiny_sdxl: Path, tmp_path: Path):
    file = save_lora(tiny_sdxl, tmp_path, 1, xl=True)
    got = make(tiny_sdxl, loras=[{"file": str(file), "weight": 0.7}])
    pipe = pipeline(tiny_sdxl, xl=True)
    pipe.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="own")
    pipe.set_adapters(["own"], adapter_weights=[0.7])
    text, _, pooled, _ = pipe.encode_prompt("a duck", device="cpu", do_classifier_free_guidance=False)
    texts = got.encode_texts(["a duck"])
    torch.testing.assert_close(texts.tokens, text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts.pooled, pooled, rtol=1e-4, atol=1e-5)
    weight = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = pipe.unet.get_submodule(weight)
    expected = layer.base_layer.weight + 0.7 * layer.lora_B["own"].weight @ layer.lora_A["own"].weight
    torch.testing.assert_close(got.unet.get_submodule(weight).weight, expected)


def test_a_lora_of_blocks_that_are_not_there_is_told_once(tiny_sd1: Path, tmp_path: Path, capfd):
    name = "lora_unet_down_blocks_9_attentions_0_proj_in"
    parts = {
        "lora_down.weight": torch.zeros(4, 8),
        "lora_up.weight": torch.zeros(8, 4),
        "alpha": torch.tensor(4.0),
    }
    file = tmp_path / "nine.safetensors"
    save_file({f"{name}.{part}": value for part, value in parts.items()}, file)
    with pytest.raises(
        ModelUnsupportedError, match=rf"does not have: {name}. It must have been trained on .* same family"
    ):
        make(tiny_sd1, loras=[{"file": str(file)}])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_lora_for_another_architecture_is_told(tiny_sd1: Path, tiny_sdxl: Path, tmp_path: Path):
    file = save_lora(tiny_sdxl, tmp_path, 1, xl=True)
    with pytest.raises(ModelUnsupportedError, match=r"cannot be applied whole: .*same family"):
        make(tiny_sd1, loras=[{"file": str(file)}])


def test_a_lora_of_the_text_encoder_alone_is_the_pipelines(tiny_sd1: Path, tmp_path: Path):
    both = load_file(save_lora(tiny_sd1, tmp_path, 1))
    file = tmp_path / "text.safetensors"
    save_file({key: value for key, value in both.items() if key.startswith("text_encoder.")}, file)
    got, plain = make(tiny_sd1, loras=[{"file": str(file)}]), make(tiny_sd1)
    pipe = pipeline(tiny_sd1)
    pipe.load_lora_weights(str(tmp_path), weight_name=file.name)
    text, _ = pipe.encode_prompt("a duck", "cpu", 1, False)
    found = got.encode_texts(["a duck"]).tokens
    torch.testing.assert_close(found, text, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain.encode_texts(["a duck"]).tokens, atol=1e-3)
    for name, value in plain.unet.state_dict().items():
        assert torch.equal(got.unet.state_dict()[name], value), name


def test_an_alpha_that_is_nowhere_is_reported(
    tiny_sd1: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(32, 2)}, file)
    make(tiny_sd1, loras=[{"file": str(file)}])
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and f"no adapter_config.json beside {file}: alpha is taken" in told
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 2}')
    make(tiny_sd1, loras=[{"file": str(file)}])
    assert capfd.readouterr().err == ""


def test_loras_need_no_peft(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = save_lora(tiny_sd1, tmp_path, 1)
    monkeypatch.setitem(sys.modules, "peft", None)
    make(tiny_sd1, loras=[{"file": str(file)}])


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_word_of_ones_own_is_the_pipelines(tiny_sd1: Path, tmp_path: Path, vectors: int):
    file = tmp_path / "sculpture.safetensors"
    save_file({"<sculpture>": torch.randn(vectors, 32, generator=torch.Generator().manual_seed(1))}, file)
    got = make(tiny_sd1, embeddings=[{"file": str(file)}])
    pipe = pipeline(tiny_sd1)
    pipe.load_textual_inversion(str(file))
    text, _ = pipe.encode_prompt("a <sculpture> duck", "cpu", 1, False)
    found = got.encode_texts(["a <sculpture> duck"]).tokens
    torch.testing.assert_close(found, text, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, make(tiny_sd1).encode_texts(["a <sculpture> duck"]).tokens, atol=1e-3)


def test_models_that_take_none_are_told(tiny_if: Path):
    for key in ("loras", "embeddings"):
        with pytest.raises(ConfigError, match=rf"guidance.{key} does not fit the model.*got deepfloyd-if"):
            make(tiny_if, **{key: [{"file": "own.safetensors"}]})
