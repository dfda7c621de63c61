"""Training the small CLIP: which caption belongs to which picture, with captions that are wrong by one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPModel

from dreamfusion.miniature.captions import plain_caption
from dreamfusion.miniature.lexicon import Lexicon, core
from dreamfusion.miniature.training.data import Pictures, draw_indices, to_model
from dreamfusion.miniature.training.labels import HEADS, wrong_by_one
from dreamfusion.miniature.training.loop import Learner, step_generator
from dreamfusion.miniature.training.texts import VARIANTS, Texts, joined
from dreamfusion.miniature.training.tokenizer import CaptionEncoder

MAX_LOGIT_SCALE = 50.0
RANKED = 100
# Of the heads' cross entropies, beside the contrast.
HEADS_WEIGHT = 0.3


def make_heads(width: int, words: Lexicon | None = None) -> nn.ModuleDict:
    """A linear classifier for each of `HEADS`."""
    words = words or core()
    nouns, colors = len(words.nouns), len(words.colors)
    sizes = (nouns, colors, len(words.relations), nouns, colors)
    return nn.ModuleDict({name: nn.Linear(width, 1 + size) for name, size in zip(HEADS, sizes, strict=True)})


def augment(images: Float[Tensor, "b 3 h w"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Random shift, zoom, brightness, contrast, softness and grain: a judge of NeRF renders must not mind these."""
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand((count, *shape), generator=generator, device=images.device)
        return drawn * (high - low) + low

    zoom = uniform(0.9, 1.2)
    theta = torch.zeros(count, 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = uniform(-0.1, 0.1, 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    made = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(made, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    made = torch.lerp(made, soft, uniform(-0.3, 1.0, 1, 1, 1).clamp(min=0.0))
    made = made * uniform(0.8, 1.2, 1, 1, 1) + uniform(-0.15, 0.15, 1, 1, 1)
    grain = torch.randn(made.shape, generator=generator, device=made.device)
    return (made + grain * uniform(-0.05, 0.1, 1, 1, 1).clamp(min=0.0)).clamp(-1.0, 1.0)


def contrastive_loss(logits: Float[Tensor, "b texts"], same: Bool[Tensor, "b texts"]) -> Float[Tensor, ""]:
    """Mean of both cross entropies; text i is picture i's, `same` marks other texts that are as right and are left out.

    The texts past the first b are wrong for their picture and only serve as further choices.
    """
    count = len(logits)
    target = torch.arange(count, device=logits.device)
    masked = logits.masked_fill(same, -1e4)
    masked = masked.scatter(1, target[:, None], logits.gather(1, target[:, None]))
    return 0.5 * (F.cross_entropy(masked, target) + F.cross_entropy(masked[:, :count].t(), target))


@dataclass
class ContrastiveLearner(Learner):
    """A small CLIPModel on augmented pictures, random captions and captions that are wrong by one word."""

    pictures: Pictures | None = None
    texts: Texts | None = None
    lexicon: Lexicon = field(default_factory=core)
    held_out: Pictures | None = None
    encode_captions: CaptionEncoder | None = None

    @property
    def model(self) -> CLIPModel:
        return self.modules["clip"]  # pyright: ignore[reportReturnType]

    def see(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b width"]:
        """The vision tower's summary of images in [-1, 1], before the projection."""
        return self.model.vision_model(pixel_values=images).pooler_output

    def image_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit features of images in [-1, 1]."""
        return self.project(self.see(images))

    def project(self, pooled: Float[Tensor, "b width"]) -> Float[Tensor, "b d"]:
        """Unit features of what `see` returned."""
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit features of texts."""
        assert self.encode_captions is not None
        return self.read(self.encode_captions(texts).to(self.device))

    def read(self, ids: Int[Tensor, "b tokens"]) -> Float[Tensor, "b d"]:
        """Unit features of token ids."""
        pooled = self.model.text_model(ids).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1)

    def add(self, pictures: Pictures, texts: Texts) -> None:
        """More pictures to learn from."""
        if self.pictures is not None and self.texts is not None:
            pictures, texts = self.pictures.and_these(pictures), joined([self.texts, texts])
        self.pictures, self.texts = pictures, texts

    def loss(self) -> tuple[Tensor, dict[str, float | Tensor]]:
        assert self.pictures is not None and self.texts is not None
        generator = step_generator(self.seed, self.step, device=self.device)
        indices = draw_indices(len(self.pictures), self.batch_size, generator)
        variants = draw_indices(VARIANTS, self.batch_size, generator)
        images = augment(to_model(self.pictures.images[indices], self.device), generator)
        texts = self.texts
        ids = torch.cat([texts.judged[indices, variants], texts.wrong[indices, variants]]).long()
        names = torch.cat([texts.names[indices], texts.wrong_names[indices, variants]])
        same = names[: self.batch_size, None] == names[None]
        with self.autocast():
            pooled = self.see(images)
            features, text_features = self.project(pooled), self.read(ids)
            told = self.told_loss(pooled, texts.labels[indices].long())
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * features @ text_features.t()
        right = (logits.detach().argmax(1) == torch.arange(len(logits), device=self.device)).float().mean()
        figures: dict[str, float | Tensor] = {"top1": right, "told": told.detach(), "scale": scale.detach()}
        return contrastive_loss(logits, same) + HEADS_WEIGHT * told, figures

    def told_loss(self, pooled: Float[Tensor, "b width"], wanted: Int[Tensor, "b heads"]) -> Tensor:
        """Cross entropy of the heads, summed over them."""
        heads = cast(nn.ModuleDict, self.modules["heads"])
        losses = [F.cross_entropy(heads[name](pooled).float(), wanted[:, i]) for i, name in enumerate(HEADS)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Top-1 of held-out pictures among 100 different held-out captions, and against captions wrong by one."""
        assert self.held_out is not None
        return ranking(self, self.held_out, np.random.default_rng(0))


@torch.no_grad()
def ranking(learner: ContrastiveLearner, pictures: Pictures, rng: np.random.Generator) -> dict[str, float]:
    """How often the right plain caption wins: among `RANKED` different ones, and against one wrong by one word."""
    names = pictures.plain_captions(range(len(pictures)))
    rounds, hits, seen = 0, 0, 0
    order = rng.permutation(len(pictures)).tolist()
    while rounds < 5 and len(order) >= RANKED:
        chosen: dict[str, int] = {}
        while order and len(chosen) < RANKED:
            index = order.pop()
            chosen.setdefault(names[index], index)
        if len(chosen) < RANKED:
            break
        indices = list(chosen.values())
        features = learner.image_features(to_model(pictures.images[indices], learner.device))
        texts = learner.text_features(list(chosen))
        hits += int(((features @ texts.t()).argmax(1).cpu() == torch.arange(RANKED)).sum())
        seen += RANKED
        rounds += 1
    some = rng.permutation(len(pictures))[:300].tolist()
    features = learner.image_features(to_model(pictures.images[some], learner.device))
    right = learner.text_features([names[i] for i in some])
    wrong = learner.text_features(
        [plain_caption(wrong_by_one(pictures.specs[i], rng, learner.lexicon)) for i in some]
    )
    pairs = ((features * right).sum(-1) > (features * wrong).sum(-1)).float().mean()
    return {"top1_of_100": hits / max(seen, 1), "hard_pairs": float(pairs)}


def contrastive_modules(clip: CLIPModel, words: Lexicon | None = None) -> nn.ModuleDict:
    """The learner's modules."""
    width: int = clip.config.vision_config.hidden_size  # pyright: ignore
    return nn.ModuleDict({"clip": clip, "heads": make_heads(width, words or core())})
