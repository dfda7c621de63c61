"""A training step with Stable Diffusion 1.5 in full size, by part: python benchmarks/stable_diffusion_step.py

UNet, autoencoder and text encoder are built from their public settings with random weights, which cost the same to run
as trained ones. On a CUDA device the full size runs in half precision; elsewhere, or with --reduced, a model of the same
classes that a CPU can carry. Prints the median of each part, the whole step against the bare UNet and encoder, and the
peak of memory, as a table and as one line of JSON: for a run's first steps, which know no empty space, and for later ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.config import ExperimentConfig
from dreamfusion.config_files import load_config
from dreamfusion.guidance.costs import guidance_cost
from dreamfusion.training.devices import describe_device, peak_memory_bytes, synchronize
from dreamfusion.training.footprint import expected_bytes, render_footprint
from dreamfusion.training.trainer import Trainer

# https://huggingface.co/stable-diffusion-v1-5: unet, vae and text_encoder's config.json.
FULL: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
        "attention_head_dim": 8, "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}  # fmt: skip
# The same classes and proportions, an eighth of the width, a quarter of the size.
REDUCED: dict[str, dict[str, Any]] = {
    "unet": FULL["unet"] | {"sample_size": 16, "block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 96},
    "vae": FULL["vae"] | {"block_out_channels": (32, 32, 64, 64), "sample_size": 128},
    "text_encoder": {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4},
}  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz,."


def build(directory: Path, settings: dict[str, dict[str, Any]]) -> Path:
    """A checkpoint with random weights in diffusers' layout; the tokenizer knows letters, which is all the prompt needs."""
    torch.manual_seed(0)
    UNet2DConditionModel(**settings["unet"]).save_pretrained(directory / "unet")
    AutoencoderKL(**settings["vae"]).save_pretrained(directory / "vae")
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77
    )
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text: dict[str, Any] = {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        **settings["text_encoder"],
        **ids,
    }
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(directory / "text_encoder")
    tokenizer.save_pretrained(directory / "tokenizer")
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **betas).save_pretrained(
        directory / "scheduler"
    )
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def median_seconds(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Of `rounds` calls after one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def bare_seconds(guidance: Any, device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of the UNet and of the encoder, there and back, alone."""
    size = guidance.image_size
    image = torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(0)).to(device)
    latents = guidance.encode(image).detach()
    cond, uncond = guidance.embeddings_of_views(torch.zeros(1), torch.zeros(1))
    texts = type(cond)(torch.cat([uncond.tokens, cond.tokens]))
    timesteps = torch.tensor([500, 500])

    def encode() -> None:
        guidance.encode(image.clone().requires_grad_()).sum().backward()

    return {
        "bare UNet": median_seconds(
            lambda: guidance.denoise(latents.repeat(2, 1, 1, 1), timesteps, texts), device, rounds
        ),
        "bare encoder": median_seconds(encode, device, rounds),
    }


def step_seconds(trainer: Trainer, rounds: int) -> dict[str, float]:
    """Median seconds of a step's parts, and of the whole."""
    told = [trainer.train_step() for _ in range(rounds + 2)][2:]
    parts = {name: statistics.median(m.cost.seconds[name] for m in told) for name in told[0].cost.seconds}
    return parts | {"whole step": statistics.median(sum(m.cost.seconds.values()) for m in told)}


def skipping(config: ExperimentConfig) -> ExperimentConfig:
    """With a grid that skips what is empty from the first step on, as others do once it has warmed up."""
    occupancy = config.rendering.occupancy.model_copy(update={"warmup_steps": 0})
    return config.model_copy(
        update={"rendering": config.rendering.model_copy(update={"occupancy": occupancy})}
    )


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reduced", action="store_true", help="the small model, on a GPU too")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    settings = FULL if cuda and not arguments.reduced else REDUCED
    with tempfile.TemporaryDirectory() as folder:
        directory = build(Path(folder), settings)
        options = {
            "guidance.model": str(directory),
            "prompt": "a peacock",
            "rendering.shading.albedo_steps": 10**6,
        }
        config = load_config("stable-diffusion", [], options)
        if settings is REDUCED:
            config = load_config("miniature", [], options)
        trainer = Trainer(config, device)
        bare = bare_seconds(trainer.guidance, device, arguments.rounds)
        seconds = {"first steps": step_seconds(trainer, arguments.rounds)}
        peak = peak_memory_bytes(device)
        later = Trainer(skipping(config), device, guidance=trainer.guidance)
        seconds["later steps"] = step_seconds(later, arguments.rounds)
        cost = guidance_cost(config.guidance, directory, 1, device)
        expected = expected_bytes(cost, render_footprint(config))
    floor = sum(bare.values())
    for name, value in bare.items():
        print(f"{name:<14} {1000 * value:9.1f} ms")
    for which, parts in seconds.items():
        print(f"{which}: " + ", ".join(f"{name} {1000 * value:.1f}" for name, value in parts.items()) + " ms")
        print(f"  {parts['whole step'] / floor:.2f} times the bare UNet and encoder")
    rate = cost.flop / 1e12 / seconds["later steps"]["whole step"]
    print(f"{cost.flop / 1e12:.3g} TFLOP a step, {rate:.3g} TFLOP/s")
    if peak is not None:
        print(f"peak memory {peak / 2**30:.2f} GiB, {expected / 2**30:.2f} GiB were expected")
    print(
        json.dumps(
            {
                "device": describe_device(device),
                "model": "full" if settings is FULL else "reduced",
                "dtype": str(trainer.guidance.dtype),  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
                "torch": torch.__version__,
                "seconds": seconds | {"bare": bare},
                "ratio": {which: parts["whole step"] / floor for which, parts in seconds.items()},
                "peak_bytes": peak,
                "expected_bytes": expected,
            }
        )
    )


if __name__ == "__main__":
    main()
