"""Which layer a name in a LoRA file means, for the names that different programs write.

    lora_unet_down_blocks_0_attentions_0_proj_in        kohya, the layer's path with underscores
    lora_unet_input_blocks_1_1_proj_in                  kohya for SDXL: blocks as Stability's own code names them
    unet.down_blocks.0.attentions.0.proj_in             diffusers
    base_model.model.down_blocks.0...                   PEFT; the part of the model is not named
    unet...attn1.processor.to_q_lora                    diffusers before 0.22: attention processors
    diffusion_model.input_blocks.1.1.proj_in            ComfyUI
    lycoris_down_blocks_0_attentions_0_proj_in          LyCORIS by itself; the part of the model is not named

All of them are equal, but for a prefix and Stability's blocks, once every dot is an underscore.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count

Shape = tuple[int, ...]

# The longest first: "text_encoder" begins "text_encoder_2" too.
_PREFIXES = {
    "lora_unet_": "unet",
    "unet_": "unet",
    "diffusion_model_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "text_encoder_2_": "text_encoder_2",
    "text_encoder_": "text_encoder",
    "text_encoders_clip_l_transformer_": "text_encoder",
    "text_encoders_clip_g_transformer_": "text_encoder_2",
}
# Those that name no part of the model: PEFT's, LyCORIS'.
_NO_PART = re.compile("^(base_model_model|lycoris)_")
_INNER = {
    "resnets": {
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_MID = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
# What attention processors call the projections of CLIP.
_CLIP_PROCESSOR = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class Layers:
    """The layers of a model that LoRA weights can change.

    Args:
        parameters: part of the model ("unet", "text_encoder", ...) -> parameter's name -> shape.

    Attributes:
        shapes: part -> layer's path -> shape of its weight, "out in" or "out in height width".
    """

    def __init__(self, parameters: Mapping[str, Mapping[str, Shape]]) -> None:
        self.shapes = {
            part: {
                name.removesuffix(".weight"): tuple(shape)
                for name, shape in names.items()
                if name.endswith(".weight") and len(shape) > 1
            }
            for part, names in parameters.items()
        }
        self._paths: dict[str, dict[str, str]] = {}
        for part, paths in self.shapes.items():
            original = _original_blocks(paths)
            aliases = self._paths.setdefault(part, {})
            for path in paths:
                for alias in _aliases(path, part, original):
                    aliases[_flat(alias)] = path

    def find(self, name: str) -> list[tuple[str, str]]:
        """The part and path of each layer that `name` can mean: none, one, or one for each part that has it."""
        flat = _NO_PART.sub("", _flat(name))
        parts = list(self.shapes)
        for prefix, part in _PREFIXES.items():
            if flat.startswith(prefix):
                flat, parts = flat.removeprefix(prefix), [part]
                break
        flat = _NO_PART.sub("", flat).removeprefix("text_model_").replace("_processor_to_", "_to_")
        return [(part, path) for part in parts if (path := self._paths.get(part, {}).get(flat)) is not None]


def original_name(path: str, paths: Mapping[str, Shape]) -> str | None:
    """What Stability's own code calls a layer of a UNet; None where it has no other name.

    Args:
        path: of the layer in diffusers' UNet2DConditionModel.
        paths: all of that UNet's layers, which decide how blocks are counted.
    """
    return _original(path, _original_blocks(paths))


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _aliases(path: str, part: str, original: Mapping[str, str]) -> Iterator[str]:
    if part == "unet":
        for name in (path, _original(path, original)):
            if name is not None:
                yield name
                yield re.sub(r"\.to_out\.0$", ".to_out", name)
        return
    path = path.removeprefix("text_model.")
    yield path
    before, _, last = path.rpartition(".")
    if last in _CLIP_PROCESSOR:
        yield f"{before}.{_CLIP_PROCESSOR[last]}"


def _original(path: str, blocks: Mapping[str, str]) -> str | None:
    if path in _OUTER:
        return _OUTER[path]
    words = path.split(".")
    length = 3 if words[0] == "mid_block" else 4
    block, inner = ".".join(words[:length]), ".".join(words[length:])
    if block not in blocks:
        return None
    return f"{blocks[block]}.{_INNER.get(words[length - 2], {}).get(inner, inner)}"


def _original_blocks(paths: Mapping[str, Shape]) -> dict[str, str]:
    """Block of diffusers' UNet -> block of Stability's, which counts through all levels."""
    there = {".".join(path.split(".")[:4]) for path in paths if path.startswith(("down_blocks", "up_blocks"))}
    names = {f"mid_block.{ours}": theirs for ours, theirs in _MID.items()}
    place = 1
    for level in _levels("down_blocks", there):
        for index in _levels(f"{level}.resnets", there):
            _name_pair(names, level, index, f"input_blocks.{place}")
            place += 1
        if f"{level}.downsamplers.0" in there:
            names[f"{level}.downsamplers.0"] = f"input_blocks.{place}.0"
            place += 1
    place = 0
    for level in _levels("up_blocks", there):
        for index in _levels(f"{level}.resnets", there):
            _name_pair(names, level, index, f"output_blocks.{place}")
            place += 1
        after = 2 if f"{level}.attentions.0" in there else 1
        names[f"{level}.upsamplers.0"] = f"output_blocks.{place - 1}.{after}"
    return names


def _levels(name: str, there: set[str]) -> Iterator[str]:
    """`name`.0, `name`.1, ... as far as any block begins so."""
    for index in count():
        level = f"{name}.{index}"
        if not any(f"{block}.".startswith(f"{level}.") for block in there):
            return
        yield level


def _name_pair(names: dict[str, str], level: str, resnet: str, block: str) -> None:
    names[resnet] = f"{block}.0"
    names[f"{level}.attentions.{resnet.rpartition('.')[2]}"] = f"{block}.1"
