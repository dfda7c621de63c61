"""A CLIP that looks at renders: image and text features in one space (Radford et al., arXiv 2103.00020).

Loads any directory that transformers' CLIPModel wrote, by default the miniature's own. Its preprocessing is done here
with torch, so that gradients reach the images; transformers' processors go through uint8 and stop them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import JUDGE
from dreamfusion.errors import ModelUnsupportedError, shown
from dreamfusion.guidance.families import read_json
from dreamfusion.guidance.loading import check_keys, readable
from dreamfusion.guidance.models import package_directory
from dreamfusion.guidance.noise_settings import is_number
from dreamfusion.guidance.quiet import quiet_libraries
from dreamfusion.guidance.side_models import clip_directory

# The numbers of PIL's filters, which preprocessor configs use.
_RESAMPLING = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


class ClipJudge:
    """A frozen CLIP with its tokenizer and its preprocessing.

    Args:
        model: transformers' CLIPModel.
        tokenizer: its tokenizer.
        preprocessing: the keys of preprocessor_config.json (size, resample, image_mean, image_std).
    """

    def __init__(self, model: Any, tokenizer: Any, preprocessing: dict[str, Any]) -> None:
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.image_size: int = model.config.vision_config.image_size
        self.resampling = _RESAMPLING[preprocessing.get("resample", 3)]
        self._mean = torch.tensor(preprocessing["image_mean"])[:, None, None]
        self._std = torch.tensor(preprocessing["image_std"])[:, None, None]

    def cast(self, dtype: torch.dtype) -> ClipJudge:
        """The same CLIP computing in `dtype`; itself where it does already."""
        if dtype == self.model.dtype:
            return self
        model = deepcopy(self.model).to(dtype)
        if model.device.type == "cpu":
            # torch's fused attention in bfloat16 makes the whole CLIP 1.6 times slower there than plain products.
            model.set_attn_implementation("eager")
        cast = copy(self)
        cast.model = model
        return cast

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied with before a softmax over captions."""
        return self.model.logit_scale.exp().item()

    def preprocess(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 s s"]:
        """Images in [0, 1] as the model takes them: shorter side to `image_size`, centre cut out, normalised."""
        planes = images.permute(0, 3, 1, 2)
        height, width = planes.shape[-2:]
        # Rounded down, as transformers' processors do.
        size = tuple(self.image_size * side // min(height, width) for side in (height, width))
        if size != (height, width):
            smooth = self.resampling != "nearest-exact"
            options: dict[str, Any] = {"align_corners": False, "antialias": True} if smooth else {}
            planes = F.interpolate(planes, size, mode=self.resampling, **options)
            # Bicubic overshoots; the processors' uint8 cuts that off.
            planes = planes.clamp(0.0, 1.0)
        top, left = (size[0] - self.image_size) // 2, (size[1] - self.image_size) // 2
        planes = planes[..., top : top + self.image_size, left : left + self.image_size]
        return (planes - self._mean.to(planes)) / self._std.to(planes)

    def image_features(self, images: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b d"]:
        """Unit-norm features of images in [0, 1], differentiable with respect to them."""
        pixels = self.preprocess(images).to(self.model.device, self.model.dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit-norm features of texts; a text longer than the model reads is cut."""
        # A tokenizer need not say how many tokens the model reads.
        length = min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1)


def default_judge() -> str:
    """The name of the package's CLIP that guides nothing, where it was trained; else of the one that guides."""
    return JUDGE if (package_directory() / "miniature" / JUDGE / "config.json").is_file() else "miniature"


def load_clip(path: Path | str | None = None, device: torch.device | str = "cpu") -> ClipJudge:
    """The CLIP in a directory of transformers' layout or of a hub id, in float32.

    None or "miniature": the package's own, "judge": its second one, which guides nothing.

    Raises ModelNotFoundError when the directory or one of its files is not there, nor in the hub's cache or within reach,
    ModelUnsupportedError when they cannot be read or lack weights.
    """
    from transformers import CLIPModel, CLIPTokenizer

    directory = clip_directory("miniature" if path is None else str(path))
    with readable(f"the CLIP in {directory}"), quiet_libraries():
        loaded: Any = CLIPModel.from_pretrained(directory, local_files_only=True, output_loading_info=True)
        tokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    model, told = loaded
    check_keys(f"the CLIP in {directory}", told["missing_keys"])
    return ClipJudge(model.to(device, torch.float32), tokenizer, _preprocessing(directory))


def _preprocessing(directory: Path) -> dict[str, Any]:
    """How a CLIP's images are prepared; ModelUnsupportedError for what is done in no such way here."""
    file = directory / "preprocessor_config.json"
    settings = read_json(file)
    resample = settings.get("resample", 3)
    if resample not in _RESAMPLING:
        known = ", ".join(f"{number} ({name})" for number, name in _RESAMPLING.items())
        raise ModelUnsupportedError(f"{file}: resample", expected=known, got=shown(resample))
    for key in ("image_mean", "image_std"):
        values = settings.get(key)
        if not isinstance(values, list) or len(values) != 3 or not all(map(is_number, values)):
            raise ModelUnsupportedError(f"{file}: {key}", expected="three numbers", got=shown(values))
    return settings
