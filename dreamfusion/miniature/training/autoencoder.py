"""Training the autoencoder, and encoding the pictures with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from dreamfusion.miniature.training.data import Pictures, draw_indices, to_bytes, to_model
from dreamfusion.miniature.training.loop import Learner, step_generator

KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5


def edges(images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
    """Differences between neighbours, downwards and to the right."""
    return images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]


def reconstruction_loss(made: Float[Tensor, "b 3 h w"], wanted: Float[Tensor, "b 3 h w"]) -> Tensor:
    """L1 of the colours and of the edges; the edges keep outlines sharp, which a mean error blurs."""
    loss = F.l1_loss(made, wanted)
    for a, b in zip(edges(made), edges(wanted), strict=True):
        loss = loss + EDGE_WEIGHT * F.l1_loss(a, b)
    return loss


@dataclass
class AutoencoderLearner(Learner):
    """AutoencoderKL on pictures: L1 of colours and edges, and a small pull of the latents to a unit normal."""

    pictures: Pictures | None = None
    held_out: Pictures | None = None

    @property
    def model(self) -> AutoencoderKL:
        return self.modules["vae"]  # pyright: ignore[reportReturnType]

    def loss(self) -> tuple[Tensor, dict[str, float | Tensor]]:
        assert self.pictures is not None
        generator = step_generator(self.seed, self.step, device=self.device)
        indices = draw_indices(len(self.pictures), self.batch_size, generator)
        images = to_model(self.pictures.images[indices], self.device)
        with self.autocast():
            posterior = self.model.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
            noise = torch.randn(posterior.mean.shape, generator=generator, device=self.device)
            made = self.model.decode(posterior.mean + posterior.std * noise).sample  # pyright: ignore[reportAttributeAccessIssue]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        made = made.float()
        return reconstruction_loss(made, images) + KL_WEIGHT * kl, {
            "kl": kl.detach(),
            "mse": F.mse_loss(made.detach(), images),
        }

    def reconstruct(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` held-out pictures and what comes back of them, "n 3 h w" in [-1, 1]."""
        assert self.held_out is not None
        images = to_model(self.held_out.images[:count], self.device)
        latents = self.model.encode(images).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
        return images, self.model.decode(latents).sample.clamp(-1, 1)  # pyright: ignore[reportAttributeAccessIssue]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        images, made = self.reconstruct(256)
        errors = (made - images).square().mean((1, 2, 3))
        # Peak to peak is 2 in [-1, 1]; the mean of the pictures' PSNR.
        return {"psnr_db": float((10 * torch.log10(4.0 / errors)).mean()), "mse": float(errors.mean())}

    def sheet(self, path: Path) -> None:
        images, made = self.reconstruct(24)
        rows = [to_bytes(torch.cat([images[i : i + 12], made[i : i + 12]])) for i in (0, 12)]
        grid = torch.cat(rows).reshape(4, 12, 64, 64, 3).permute(0, 2, 1, 3, 4).reshape(256, 768, 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grid.numpy()).resize((1536, 512), Image.Resampling.NEAREST).save(path)


@torch.no_grad()
def encode_pictures(
    vae: AutoencoderKL, pictures: Pictures, device: torch.device
) -> Float[Tensor, "n 4 16 16"]:
    """The posterior's mean of every picture, unscaled, float16 on the CPU."""
    # Sixteen pictures' activations fit a CPU's cache: 20 % faster than 128 at once.
    batch_size = 512 if device.type == "cuda" else 16
    vae = vae.to(device).eval()  # pyright: ignore[reportArgumentType, reportCallIssue]
    parts = []
    for start in range(0, len(pictures), batch_size):
        images = to_model(pictures.images[start : start + batch_size], device)
        parts.append(vae.encode(images).latent_dist.mean.half().cpu())  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat(parts)


def autoencoder_modules(vae: AutoencoderKL) -> nn.ModuleDict:
    """The learner's modules."""
    return nn.ModuleDict({"vae": vae})
