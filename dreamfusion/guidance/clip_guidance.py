"""Dream Fields' pull: a CLIP wants the picture to be like the text (Jain et al., arXiv 2112.01455), alone or beside SDS.

    loss = -mean over views and copies of <CLIP(copy), CLIP(text of the view)>

Each copy of a view has a background of its own (see `AugmentedBackground`; the trainer lays it) and is a random square crop.
The transmittance loss is in `dreamfusion.training.losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.profiler import record_function

from dreamfusion.config import ClipConfig, ExperimentConfig, ViewPromptConfig
from dreamfusion.errors import ConfigError
from dreamfusion.guidance.clip import ClipJudge, load_clip
from dreamfusion.guidance.precision import unet_dtype, vae_dtype
from dreamfusion.guidance.prompts import ViewPrompts, view_key
from dreamfusion.image_files import read_image


@dataclass(frozen=True)
class ClipPull:
    """What one call gives.

    Attributes:
        loss: differentiable; between -1 and 1 for CLIP alone.
        gradient_norm: mean over views of the loss' gradient with respect to the picture.
        timesteps: of score distillation beside it; else none.
        similarity: mean cosine similarity of copies and texts, -1 .. 1.
    """

    loss: Float[Tensor, ""]
    gradient_norm: float
    timesteps: Int[Tensor, " n"]
    similarity: float


class ClipGuidance:
    """A frozen CLIP that pulls pictures towards a prompt's text, and towards example pictures where there are some.

    Args:
        config: the CLIP, copies, crops and example pictures.
        prompt, view_prompts: what the pictures should show, and the words of each direction.
        device: where the CLIP runs.
        clip: one that is loaded already.

    Raises:
        ModelNotFoundError: there is no such CLIP.
        PromptError: the prompt is empty.
        ConfigError: an example picture cannot be read.
    """

    def __init__(
        self,
        config: ClipConfig,
        prompt: str,
        view_prompts: ViewPromptConfig,
        device: torch.device | str = "cpu",
        clip: ClipJudge | None = None,
    ) -> None:
        self.config = config
        self.prompts = ViewPrompts(prompt, view_prompts)
        clip = clip or load_clip(config.model, device)
        texts = self.prompts.texts()
        features = clip.text_features(list(texts.values()))
        pictures = [getattr(config.view_images, view_key(view), None) or config.image for view in texts]
        wanted = [
            row
            if picture is None
            else F.normalize(row + clip.image_features(_read_example(picture)[None])[0], dim=-1)
            for row, picture in zip(features, pictures, strict=True)
        ]
        self.view_features = torch.stack(wanted).detach()
        # What is looked at once was looked at in float32; a gradient flows through the rest, as through an autoencoder.
        target = torch.device(device)
        self.clip = clip.cast(vae_dtype(unet_dtype(config.dtype, target), target))

    @property
    def copies(self) -> int:
        """How often this guidance wants to see each view."""
        return self.config.copies

    def __call__(
        self,
        images: Float[Tensor, "n h w 3"],
        azimuth_deg: Float[Tensor, " b"],
        elevation_deg: Float[Tensor, " b"],
        step: int,
        noise_generator: Generator,
        timestep_generator: Generator,
    ) -> ClipPull:
        """Compare pictures in [0, 1] with their views' texts.

        Args:
            images: all b views, and all again over other backgrounds, and so on: n is a multiple of b.
            noise_generator: draws crops and colours, on the CPU.
        """
        with record_function("guidance.clip"):
            pictures = images.detach().requires_grad_(images.requires_grad)
            seen = self._augmented(pictures, noise_generator)
            weights = self.prompts.weights(azimuth_deg, elevation_deg).to(self.view_features)
            targets = F.normalize(weights @ self.view_features, dim=-1)
            features = self.clip.image_features(seen)
            similarity = (features * targets.repeat(len(images) // len(targets), 1)).sum(dim=-1).mean()
            loss, norm = -similarity.detach().to(images.device), 0.0
            if images.requires_grad:
                # Its norm is shown, so it is taken here; the loss carries it on, and nobody goes back through the CLIP again.
                (gradient,) = torch.autograd.grad(-similarity, pictures)
                norm = gradient.flatten(1).norm(dim=1).mean().item()
                pull = (images * gradient).sum()
                loss = loss + (pull - pull.detach())
        return ClipPull(loss, norm, torch.empty(0, dtype=torch.int64), similarity.item())

    def _augmented(self, images: Float[Tensor, "n h w 3"], generator: Generator) -> Float[Tensor, "n s s 3"]:
        """Of each picture a square crop of a random share of the side, of the CLIP's size, its colours changed."""
        low, high = self.config.crop
        height, width = images.shape[1:3]
        size, found = self.clip.image_size, []
        draws = torch.rand(len(images), 3, generator=generator).tolist()
        for plane, (share, down, right) in zip(images.permute(0, 3, 1, 2).split(1), draws, strict=True):
            side = max(1, round(min(height, width) * (low + (high - low) * share)))
            top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
            crop = plane[..., top : top + side, left : left + side]
            found.append(
                F.interpolate(crop, (size, size), mode="bilinear", align_corners=False, antialias=side > size)
            )
        seen = torch.cat(found).permute(0, 2, 3, 1)
        if self.config.colour_jitter == 0.0:
            return seen
        change = 2 * torch.rand(len(images), 3, generator=generator) - 1
        return jittered(seen, (1 + self.config.colour_jitter * change).to(seen))


def _read_example(path: str) -> Float[Tensor, "h w 3"]:
    """In [0, 1], over white where it is transparent; turned as the file says."""
    rgba = read_image(Path(path).expanduser(), ConfigError, f"the example image {path}", upright=True)
    pixels = torch.from_numpy(rgba.astype(np.float32) / 255.0)
    return pixels[..., :3] * pixels[..., 3:] + 1.0 - pixels[..., 3:]


def jittered(images: Float[Tensor, "n h w 3"], factors: Float[Tensor, "n 3"]) -> Float[Tensor, "n h w 3"]:
    """Pictures in [0, 1] with other brightness, contrast and saturation, one after the other, as torchvision defines them.

    Args:
        factors: of the three; 1 changes nothing.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    seen = (images * brightness).clamp(0.0, 1.0)
    middle = _grey(seen).mean(dim=(1, 2), keepdim=True)
    seen = torch.lerp(middle.expand_as(seen), seen, contrast).clamp(0.0, 1.0)
    return torch.lerp(_grey(seen).expand_as(seen), seen, saturation).clamp(0.0, 1.0)


def _grey(images: Float[Tensor, "n h w 3"]) -> Float[Tensor, "n h w 1"]:
    """Rec. 601's luma."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])).sum(dim=-1, keepdim=True)


class MixedGuidance:
    """CLIP and score distillation together, each with its own schedule; a part whose weight is 0 at a step is not computed.

    Args:
        parts: (weight at a step, guidance); their losses are added.
    """

    def __init__(self, parts: list[tuple[Callable[[int], float], Any]]) -> None:
        self.parts = parts

    @property
    def copies(self) -> int:
        """As many as the part that wants most; a part that knows no copies looks at the views alone."""
        return max(getattr(guidance, "copies", 1) for _, guidance in self.parts)

    def __call__(
        self,
        images: Float[Tensor, "n h w 3"],
        azimuth_deg: Float[Tensor, " b"],
        elevation_deg: Float[Tensor, " b"],
        step: int,
        noise_generator: Generator,
        timestep_generator: Generator,
    ) -> ClipPull:
        loss, norm, similarity = (images * 0.0).sum(), 0.0, 0.0
        timesteps = torch.empty(0, dtype=torch.int64)
        for weight_at, guidance in self.parts:
            weight = weight_at(step)
            if weight == 0.0:
                continue
            seen = images if hasattr(guidance, "copies") else images[: len(azimuth_deg)]
            pull = guidance(seen, azimuth_deg, elevation_deg, step, noise_generator, timestep_generator)
            loss, norm = loss + weight * pull.loss, norm + abs(weight) * pull.gradient_norm
            if isinstance(pull, ClipPull):
                similarity = pull.similarity
            else:
                timesteps = pull.timesteps
        return ClipPull(loss, norm, timesteps, similarity)


def make_text_guidance(config: ExperimentConfig, device: torch.device | str) -> Any:
    """The guidance that an experiment asks for: a diffusion model's, a CLIP's, or both.

    Raises ModelNotFoundError, ModelUnsupportedError, PromptError and ConfigError.
    """
    from dreamfusion.guidance.factory import make_guidance

    if config.clip is None:
        return make_guidance(config.guidance, config.prompt, device)
    clip = ClipGuidance(config.clip, config.prompt, config.guidance.view_prompts, device)
    parts: list[tuple[Callable[[int], float], Any]] = [(config.clip.weight.at, clip)]
    if config.clip.mixes(config.training.steps):
        parts.append((config.clip.sds_weight.at, make_guidance(config.guidance, config.prompt, device)))
    return MixedGuidance(parts)
