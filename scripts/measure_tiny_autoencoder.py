"""How well a tiny autoencoder's gradient agrees with the large one's, on the embedded model.

    python scripts/measure_tiny_autoencoder.py --pictures .cache/miniature/shards --output outputs/tiny-autoencoder

Trains an encoder of TAESD's layout (diffusers' AutoencoderTiny) to give the latents of the embedded autoencoder, on pictures of
`python -m dreamfusion.miniature.dataset`, unless the folder holds one already. Then it takes scenes at several stages of a
run and compares the pull of score distillation through either encoder, with the same noise: the cosine between the two
gradients with respect to the render, for one draw and for the mean of several draws, and with respect to the scene.
Prints a table, the time of an encoding there and back, and of the whole guidance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from dreamfusion.cameras import random_cameras
from dreamfusion.config_files import load_config
from dreamfusion.guidance.tiny_autoencoder import load_tiny_autoencoder
from dreamfusion.miniature.training.data import draw_indices, load_pictures, to_model
from dreamfusion.training.trainer import Trainer

PROMPTS = ("a red car", "a green duck on a yellow cube", "a blue house")
STAGES = (0, 40, 120)
TIMESTEPS = (100, 500, 900)
DRAWS = 4
Encode = Callable[[Tensor], Tensor]
"""Images "b h w 3" in [0, 1] to latents "b c h8 w8"."""


def train(trainer: Trainer, pictures: Path, output: Path, width: int, steps: int, batch_size: int) -> float:
    """Fit a tiny encoder to the large one's latents; the error on held-out pictures, as a share of the latents' variance.

    Only the encoder is trained: guidance never decodes.
    """
    guidance: Any = trainer.guidance
    vae = guidance.vae
    torch.manual_seed(0)
    levels = len(vae.config.block_out_channels)
    layout: dict[str, Any] = {
        "encoder_block_out_channels": (width,) * levels,
        "num_encoder_blocks": (1,) + (3,) * (levels - 1),  # TAESD's
        "decoder_block_out_channels": (8,) * levels,
        "num_decoder_blocks": (1,) * levels,
        "latent_channels": vae.config.latent_channels,
    }
    tiny: Any = AutoencoderTiny(**layout).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(tiny.encoder.parameters(), lr=2e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.05)
    shown = load_pictures(sorted(pictures.glob("train_*.npz"))[:4])
    held_out = load_pictures(sorted(pictures.glob("held_out_*.npz"))[:1])
    generator = torch.Generator().manual_seed(0)

    def pair(images: Tensor) -> tuple[Tensor, Tensor]:
        planes = to_model(images, guidance.device)
        with torch.no_grad():
            wanted = vae.encode(planes).latent_dist.mode() * vae.config.scaling_factor
        return tiny.encode(planes).latents, wanted

    for step in range(steps):
        got, wanted = pair(shown.images[draw_indices(len(shown), batch_size, generator)])
        loss = F.mse_loss(got, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {steps}: error {loss.item():.4f}", flush=True)
    with torch.no_grad():
        got, wanted = pair(held_out.images[:256])
    tiny.save_pretrained(output)
    return (F.mse_loss(got, wanted) / wanted.var()).item()


def pull(guidance: Any, encode: Encode, image: Tensor, timestep: int, view: tuple[Tensor, Tensor]) -> Tensor:
    """Gradients of score distillation with respect to the image, "draws h w 3", one a noise."""
    found = []
    for seed in range(DRAWS):
        x = image.detach().requires_grad_()
        latents = encode(x)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        gradient = guidance.gradient(latents.detach(), noise, torch.tensor([timestep]), *view, 0)
        found.append(torch.autograd.grad(latents, x, gradient)[0][0])
    return torch.stack(found)


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def _through_the_render(image: Tensor, parameters: Sequence[Tensor], gradient: Tensor) -> Tensor:
    found = torch.autograd.grad(image, parameters, gradient, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def compare(trainer: Trainer, large: Encode, tiny: Encode, seed: int) -> list[dict[str, float]]:
    """One random view of the scene as it is: cosines by timestep."""
    generator = torch.Generator().manual_seed(seed)
    cameras = random_cameras(trainer.config.cameras, generator)
    output = trainer.renderer.render(cameras, rays_generator=generator, background_generator=generator)
    parameters = [p for p in trainer.scene.parameters() if p.requires_grad]
    view = (cameras.azimuth_deg, cameras.elevation_deg)
    rows = []
    for timestep in TIMESTEPS:
        pulls = [pull(trainer.guidance, e, output.rgb, timestep, view) for e in (large, tiny)]
        scene = [_through_the_render(output.rgb, parameters, p[:1]) for p in pulls]
        rows.append(
            {
                "timestep": timestep,
                "one draw": statistics.mean(cosine(a, b) for a, b in zip(*pulls, strict=True)),
                "mean of draws": cosine(pulls[0].mean(0), pulls[1].mean(0)),
                "scene": cosine(scene[0], scene[1]),
                "length": (pulls[1].norm() / pulls[0].norm()).item(),
            }
        )
    return rows


def milliseconds(call: Callable[[], Any], rounds: int = 15) -> float:
    """Of the processor's time, which other work on the machine changes less: median, after two calls that are not counted."""
    seconds = []
    for _ in range(rounds + 2):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return 1000 * statistics.median(seconds[2:])


def print_table(rows: Sequence[dict[str, float]]) -> None:
    """Means over views, a line a timestep."""
    print(f"| timestep | one draw | mean of {DRAWS} draws | the scene's parameters | length |")
    print("|---|---|---|---|---|")
    for timestep in (*TIMESTEPS, None):
        of_step = [row for row in rows if timestep in (None, row["timestep"])]
        keys = ("one draw", "mean of draws", "scene", "length")
        cells = [statistics.mean(row[key] for row in of_step) for key in keys]
        print(f"| {timestep or 'all'} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, default=Path(".cache/miniature/shards"))
    parser.add_argument("--output", type=Path, default=Path("outputs/tiny-autoencoder"))
    parser.add_argument("--width", type=int, default=16, help="TAESD has 64 for autoencoders of 128 to 512")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    overrides = ["guidance.dtype=float32"]
    config = load_config("miniature", overrides, {"prompt": PROMPTS[0], "device": "cpu"})
    trainer = Trainer(config)
    guidance: Any = trainer.guidance
    if not (options.output / "config.json").is_file():
        error = train(
            trainer, options.pictures, options.output, options.width, options.steps, options.batch_size
        )
        print(f"held-out error: {error:.4f} of the latents' variance")
    model = load_tiny_autoencoder(options.output, torch.float32, guidance.device)

    def tiny(images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2) * 2.0 - 1.0
        return model.encode(planes.contiguous(memory_format=torch.channels_last)).latents

    rows: list[dict[str, float]] = []
    for number, prompt in enumerate(PROMPTS):
        trainer = Trainer(load_config("miniature", overrides, {"prompt": prompt, "device": "cpu"}))
        guidance = trainer.guidance
        for stage in STAGES:
            while trainer.step < stage:
                trainer.train_step()
            rows += compare(trainer, guidance.encode, tiny, 100 * number + stage)
        print(f"{prompt}: mean cosine {statistics.mean(row['one draw'] for row in rows):.3f}", flush=True)
    print_table(rows)
    image = torch.rand(1, 64, 64, 3).requires_grad_()

    def there_and_back(encode: Encode) -> Callable[[], Any]:
        return lambda: encode(image).sum().backward()

    def denoise() -> Any:
        latents = guidance.encode(image).detach()
        return lambda: guidance.gradient(
            latents, latents, torch.tensor([500]), torch.zeros(1), torch.zeros(1), 0
        )

    times = {
        "large encoder": milliseconds(there_and_back(guidance.encode)),
        "tiny encoder": milliseconds(there_and_back(tiny)),
        "denoising": milliseconds(denoise()),
    }
    for name, value in times.items():
        print(f"{name:<14} {value:6.1f} ms")
    print(json.dumps({"cosines": rows, "milliseconds": times}))


if __name__ == "__main__":
    main()
