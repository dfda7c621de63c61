"""The scale of LoRA layers whose keys have no alpha: PEFT and diffusers write it beside the weights.

diffusers puts PEFT's settings into the file's own header (`lora_adapter_metadata`, "unet.lora_alpha" and so on); PEFT
writes `adapter_config.json` into the same folder. Where nobody says, alpha is the rank, as kohya and diffusers have it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.documents import parse_json, read_json
from dreamfusion.errors import ModelUnsupportedError, shown
from dreamfusion.guidance.personal_files import opened

_HEADER = "lora_adapter_metadata"
_PEFT_NAME = "base_model.model."
_PEFT_FILE = "adapter_config.json"
# Those that leave the model's own weights as they are; PiSSA, OLoRA and others put a part of them into the LoRA.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraSettings:
    """PEFT's settings of a file; empty where there are none.

    Args:
        source: where they are from, for errors.
        values: as they were written, with or without the part's name before each key.
        missing: PEFT wrote the file, and its settings are not there.
    """

    source: str
    values: dict[str, Any]
    missing: bool = False

    @staticmethod
    def of(path: Path, names: Iterable[str]) -> LoraSettings:
        """The settings of a file whose layers have these names; ModelUnsupportedError when they cannot be read."""
        with opened(path) as tensors:
            header = (tensors.metadata() or {}).get(_HEADER)
        if header is not None:
            source = f"{_HEADER} of {path}"
            return _checked(parse_json(header, source, error=ModelUnsupportedError), source)
        beside = path.parent / _PEFT_FILE
        by_peft = any(name.startswith(_PEFT_NAME) for name in names)
        if by_peft and beside.is_file():
            return _checked(read_json(beside, error=ModelUnsupportedError), str(beside))
        return LoraSettings("", {}, missing=by_peft)

    def of_part(self, part: str) -> dict[str, Any]:
        """PEFT's settings of one part of the model, its name taken off; the file's only ones where none has a part's name."""
        values = {k.removeprefix(f"{part}."): v for k, v in self.values.items() if k.startswith(f"{part}.")}
        return values or self.values

    def scale(self, part: str, name: str, rank: int, dora: bool) -> float:
        """alpha / rank (rsLoRA: alpha / sqrt(rank)) of a layer.

        Args:
            part: of the model.
            name: as the file has it.
            rank: of its weights.
            dora: whether the file has magnitudes for it.

        Raises ModelUnsupportedError for settings with which the weights mean something else.
        """
        values = self.of_part(part)
        if values.get("use_dora") and not dora:
            raise _unreadable(self.source, f"use_dora and no magnitudes for {name}")
        if values.get("init_lora_weights") not in _INITIALISATIONS:
            start = shown(values["init_lora_weights"])
            raise _unreadable(
                self.source, f"init_lora_weights {start}, which changes the model's own weights"
            )
        bare = name.removeprefix(f"{part}.").removeprefix(_PEFT_NAME)
        alpha = values.get("lora_alpha")
        for pattern, value in (values.get("alpha_pattern") or {}).items():
            if _matches(str(pattern), bare, self.source):
                alpha = value
                break
        if alpha is None:
            return 1.0
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise _unreadable(self.source, f"an alpha of {shown(alpha)} for {name}")
        return alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)


def _matches(pattern: str, name: str, source: str) -> bool:
    """Whether the end of a layer's name is meant. PEFT allows regular expressions, which a stranger's file could make endless."""
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]*", plain):
        raise _unreadable(source, f"the pattern {shown(pattern)} in alpha_pattern instead of a layer's name")
    return f".{name}".endswith(f".{plain}")


def _checked(values: dict[str, Any], source: str) -> LoraSettings:
    for key, value in values.items():
        if key.endswith("alpha_pattern") and value is not None and not isinstance(value, dict):
            raise _unreadable(source, f"{key} of {shown(value)}")
    return LoraSettings(source, values)


def _unreadable(source: str, got: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(f"{source} cannot be read", got=got, hint="save the LoRA again")
