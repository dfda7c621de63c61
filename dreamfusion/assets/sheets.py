"""Sheets of pictures with words at their rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from dreamfusion.assets.images import to_uint8

GAP = 6
TEXT_HEIGHT = 18
LINE_HEIGHT = 15


def cell(image: Float[torch.Tensor, "h w 3"], side: int, smooth: bool = True) -> UInt8[np.ndarray, "s s 3"]:
    """A picture in [0, 1] as a square of `side` pixels for a sheet; not smooth: its texels stay squares."""
    planes = image.permute(2, 0, 1)[None].float().cpu()
    if smooth:
        scaled = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    else:
        scaled = F.interpolate(planes, (side, side), mode="nearest")
    return to_uint8(scaled[0].permute(1, 2, 0))


def labelled_sheet(
    images: UInt8[np.ndarray, "rows columns h w 3"], row_labels: Sequence[str], column_labels: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """A table of pictures on white, the columns' labels above, the rows' to the left.

    Raises:
        ValueError: the labels are not as many as rows and columns.
    """
    rows, columns, height, width, _ = images.shape
    if (len(row_labels), len(column_labels)) != (rows, columns):
        raise ValueError(f"{len(row_labels)} and {len(column_labels)} labels for {rows} x {columns} pictures")
    font = ImageFont.load_default(12)
    left = GAP + max(int(font.getlength(label)) for label in row_labels) + GAP
    # A column is as wide as its label needs.
    across = max(width, *(int(font.getlength(label)) for label in column_labels)) + GAP
    sheet = Image.new(
        "RGB", (left + columns * across, TEXT_HEIGHT + GAP + rows * (height + GAP)), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        draw.text((left + column * across, GAP // 2), label, (0, 0, 0), font)
    for row, label in enumerate(row_labels):
        top = TEXT_HEIGHT + GAP + row * (height + GAP)
        draw.text((GAP, top + height // 2 - 6), label, (0, 0, 0), font)
        for column in range(columns):
            sheet.paste(Image.fromarray(images[row, column]), (left + column * across, top))
    return np.asarray(sheet)


def captioned_sheet(
    images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str], across: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures on white, `across` in a row, each with its caption below, broken into as many lines as it needs.

    Raises:
        ValueError: the captions are not as many as the pictures.
    """
    count, height, width, _ = images.shape
    if len(captions) != count:
        raise ValueError(f"{len(captions)} captions for {count} pictures")
    font = ImageFont.load_default(12)
    broken = [_broken(caption, font, width - GAP) for caption in captions]
    row_height = height + GAP + LINE_HEIGHT * max(len(lines) for lines in broken) + GAP
    rows = -(-count // across)
    sheet = Image.new("RGB", (GAP + across * (width + GAP), GAP + rows * row_height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, lines in enumerate(broken):
        left, top = GAP + index % across * (width + GAP), GAP + index // across * row_height
        sheet.paste(Image.fromarray(images[index]), (left, top))
        draw.multiline_text((left, top + height + 2), "\n".join(lines), (0, 0, 0), font, spacing=2)
    return np.asarray(sheet)


def _broken(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The text in lines of at most `width` pixels; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
