"""Tiny, randomly initialised checkpoints of the real classes, saved in the real layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz,."
TOKENS = 48


def tiny_tokenizer() -> CLIPTokenizer:
    """One token a letter: enough to tell texts apart, with CLIP's own pre-tokenisation."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=TOKENS
    )


def _text_config(tokenizer: CLIPTokenizer, width: int = 32, projection: int = 512) -> CLIPTextConfig:
    special: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=projection,
        intermediate_size=48,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=TOKENS,
        **special,
    )


def save_tiny_stable_diffusion(directory: Path, kind: str) -> Path:
    """`sd1`: epsilon, PNDM, convolutional projections. `sd2`: v, DDIM, linear projections, heads of fixed width."""
    torch.manual_seed({"sd1": 1, "sd2": 2}[kind])
    tokenizer = tiny_tokenizer()
    second = kind == "sd2"
    # Dictionaries, because diffusers' annotations say tuple[int] where they mean any length.
    unet: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "norm_num_groups": 4,
        "attention_head_dim": (2, 4) if second else 2,
        "use_linear_projection": second,
    }
    vae: dict[str, Any] = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "shift_factor": 0.25 if second else None,
    }
    betas: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    scheduler = (
        DDIMScheduler(prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **betas)
        if second
        else PNDMScheduler(skip_prk_steps=True, **betas)
    )
    UNet2DConditionModel(**unet).save_pretrained(directory / "unet")
    AutoencoderKL(**vae).save_pretrained(directory / "vae")
    CLIPTextModel(_text_config(tokenizer)).save_pretrained(directory / "text_encoder")
    tokenizer.save_pretrained(directory / "tokenizer")
    scheduler.save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def save_tiny_stable_diffusion_xl(directory: Path) -> Path:
    """Two text encoders of different width, pooled text and picture sizes beside the timestep, as SDXL's base model."""
    torch.manual_seed(4)
    tokenizer = tiny_tokenizer()
    unet: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32 + 24,
        "norm_num_groups": 4,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    }
    vae: dict[str, Any] = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "scaling_factor": 0.13025,
        "sample_size": 32,
        "force_upcast": True,
    }
    UNet2DConditionModel(**unet).save_pretrained(directory / "unet")
    AutoencoderKL(**vae).save_pretrained(directory / "vae")
    CLIPTextModel(_text_config(tokenizer)).save_pretrained(directory / "text_encoder")
    second = CLIPTextModelWithProjection(_text_config(tokenizer, width=24, projection=20))
    second.save_pretrained(directory / "text_encoder_2")
    tokenizer.save_pretrained(directory / "tokenizer")
    tokenizer.save_pretrained(directory / "tokenizer_2")
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **betas).save_pretrained(
        directory / "scheduler"
    )
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def save_tiny_deepfloyd_if(directory: Path) -> Path:
    """Pixels and no autoencoder, T5, a learned variance in three further channels, as DeepFloyd IF's first stage."""
    torch.manual_seed(5)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS] + [("▁" + letter, -3.5) for letter in LETTERS]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    unet: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "cross_attention_dim": 64,
        "encoder_hid_dim": 28,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "act_fn": "gelu",
        "resnet_time_scale_shift": "scale_shift",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "cross_attention_norm": "group_norm",
        "only_cross_attention": False,
    }
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=28, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    scheduler: Any = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", beta_start=1e-4, beta_end=0.02, variance_type="learned_range",
        prediction_type="epsilon", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip
    UNet2DConditionModel(**unet).save_pretrained(directory / "unet")
    T5EncoderModel(t5).save_pretrained(directory / "text_encoder")
    tokenizer.save_pretrained(directory / "tokenizer")
    scheduler.save_pretrained(directory / "scheduler")
    index = {
        "_class_name": "IFPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "watermarker": [None, None],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as Stable Diffusion XL's, 32 px images."""
    return save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("tiny-sdxl"))


@pytest.fixture(scope="session")
def tiny_if(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as DeepFloyd IF's first stage, 16 px images."""
    return save_tiny_deepfloyd_if(tmp_path_factory.mktemp("tiny-if"))


@pytest.fixture(scope="session")
def tiny_sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as Stable Diffusion 1's, 32 px images and 8x8x4 latents, predicting epsilon."""
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny-sd1"), "sd1")


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as Stable Diffusion 2.1's, predicting v; its autoencoder has a shift too."""
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny-sd2"), "sd2")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 24 px images with the preprocessing config of a real one."""
    torch.manual_seed(3)
    directory = tmp_path_factory.mktemp("tiny-clip")
    tokenizer = tiny_tokenizer()
    config = CLIPConfig(
        text_config=_text_config(tokenizer).to_dict(),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "image_size": 24,
            "patch_size": 8,
        },
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 24},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 24, "width": 24},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return directory
