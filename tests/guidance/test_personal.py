"""LoRA weights and textual inversion against diffusers' own pipeline, which loads the same files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError, ModelUnsupportedError
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
        ModelUnsupportedError, match=r"does not fit the model: got .*again. It must have been"
    ):
        make(tiny_sd1, loras=[{"file": str(file)}])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")  # diffusers logs the same error beside


def test_a_lora_for_another_architecture_is_told(tiny_sd1: Path, tiny_sdxl: Path, tmp_path: Path):
    file = save_lora(tiny_sdxl, tmp_path, 1, xl=True)
    with pytest.raises(
        ModelUnsupportedError, match=r"LoRA in .*(does not fit the model|another architecture)"
    ):
        make(tiny_sd1, loras=[{"file": str(file)}])
    other = tmp_path / "other.safetensors"
    save_file({"transformer.block.lora_A.weight": torch.zeros(2, 2)}, other)
    with pytest.raises(ModelUnsupportedError, match=r"nothing for a UNet"):
        make(tiny_sd1, loras=[{"file": str(other)}])


def test_a_lora_without_peft_says_what_to_install(tiny_sd1: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'dreamfusion\[lora\]'"):
        make(tiny_sd1, loras=[{"file": "x.safetensors"}])


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


def test_a_word_may_be_renamed_and_must_fit(tiny_sd1: Path, tmp_path: Path):
    file, wide = tmp_path / "word.safetensors", tmp_path / "wide.safetensors"
    save_file({"<old>": torch.ones(1, 32)}, file)
    save_file({"<wide>": torch.ones(1, 40)}, wide)
    renamed = make(tiny_sd1, embeddings=[{"file": str(file), "word": "<new>"}])
    assert not torch.allclose(*renamed.encode_texts(["a <new>", "a <old>"]).tokens.unbind(), atol=1e-3)
    with pytest.raises(ModelUnsupportedError, match=r"embedding in .*wide.safetensors does not fit"):
        make(tiny_sd1, embeddings=[{"file": str(wide)}])


def test_files_that_are_not_there_and_models_that_take_none_are_told(
    tiny_sd1: Path, tiny_if: Path, tmp_path: Path
):
    with pytest.raises(
        ModelNotFoundError, match=r"guidance.embeddings: there is no file nowhere.safetensors"
    ):
        make(tiny_sd1, embeddings=[{"file": "nowhere.safetensors"}])
    with pytest.raises(ConfigError, match=r"expected a safetensors file, got own.pt"):
        make(tiny_sd1, embeddings=[{"file": "own.pt"}])
    with pytest.raises(ConfigError, match=r"guidance.embeddings does not fit the model.*got deepfloyd-if"):
        make(tiny_if, embeddings=[{"file": "own.safetensors"}])
