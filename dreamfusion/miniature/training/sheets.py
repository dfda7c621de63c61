"""Sample sheets: the same prompts from four sides each time, to be looked at while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from dreamfusion.miniature.captions import VIEWS
from dreamfusion.miniature.training.data import to_bytes

SHEET_PROMPTS = (
    "a snowman",
    "a duck",
    "a chair",
    "a peacock",
    "a surfboard",
    "a red car",
    "a green mushroom",
    "a purple house",
    "a duck on a table",
    "a red chair next to a blue house",
    "a green duck on a yellow cube",
    "a peacock on a surfboard",
)


def with_views(prompts: Sequence[str]) -> list[str]:
    """Every prompt with every view word, prompt by prompt."""
    return [f"{prompt}, {view} view" for prompt in prompts for view in VIEWS]


def draw_samples(
    path: Path, images: Float[Tensor, "n 3 h w"], prompts: Sequence[str], across: int = 3, zoom: int = 2
) -> None:
    """Writes a PNG of named rows, one picture per view; `images` in [-1, 1], prompt by prompt."""
    views = len(images) // len(prompts)
    pixels = to_bytes(images)
    height, width = pixels.shape[1] * zoom, pixels.shape[2] * zoom
    lines = -(-len(prompts) // across)
    sheet = Image.new("RGB", (across * (views * width + 8), lines * (height + 16)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index, prompt in enumerate(prompts):
        row = torch.cat(list(pixels[index * views : (index + 1) * views]), dim=1).numpy()
        x, y = (index % across) * (views * width + 8), (index // across) * (height + 16)
        pen.text((x + 3, y + 2), prompt, fill=(0, 0, 0))
        picture = Image.fromarray(row).resize((views * width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y + 15))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
