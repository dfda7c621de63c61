"""Sheets with words: each caption under its own picture, whole, and within its column."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from dreamfusion.assets.sheets import GAP, LINE_HEIGHT, _broken, captioned_sheet


def test_each_caption_is_below_its_picture() -> None:
    images = np.stack([np.full((40, 60, 3), 40 * k, np.uint8) for k in range(1, 4)])
    sheet = captioned_sheet(images, ["a", "", "a cat on a very long sofa"], across=2)
    lines = len(_broken("a cat on a very long sofa", ImageFont.load_default(12), 60 - GAP))
    row = 40 + 2 * GAP + lines * LINE_HEIGHT
    assert lines > 1 and sheet.shape == (GAP + 2 * row, GAP + 2 * (60 + GAP), 3)
    for k, (left, top) in enumerate([(GAP, GAP), (2 * GAP + 60, GAP), (GAP, GAP + row)]):
        assert (sheet[top : top + 40, left : left + 60] == 40 * (k + 1)).all()
    words = [(sheet[GAP + 40 : row, : 60 + GAP] < 255).any(), (sheet[GAP + 40 : row, 60 + GAP :] < 255).any()]
    assert words == [True, False]
    third = np.any(sheet[GAP + row + 40 :] < 255, axis=(0, 2)).tolist()
    assert any(third[:60]) and not any(third[60 + GAP :])


def test_a_line_breaks_between_words_only() -> None:
    font = ImageFont.load_default(12)
    lines = _broken("a purple thermometer on a pink table", font, 90)
    assert " ".join(lines) == "a purple thermometer on a pink table" and len(lines) > 1
    assert all(font.getlength(line) <= 90 for line in lines)
    assert (
        _broken("incomprehensibilities", font, 20) == ["incomprehensibilities"] and _broken("", font, 9) == []
    )
    with pytest.raises(ValueError, match="2 captions for 1"):
        captioned_sheet(np.zeros((1, 4, 4, 3), np.uint8), ["a", "b"], 1)
