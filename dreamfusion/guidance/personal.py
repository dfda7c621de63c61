"""What makes a model somebody's own: LoRA weights (arXiv 2106.09685) and textual-inversion words (arXiv 2208.01618).

Both are read by diffusers' own loaders. LoRA weights are merged into the UNet, so that a step costs nothing more.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamfusion.config import EmbeddingConfig, LoraConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError, ModelUnsupportedError
from dreamfusion.guidance.families import Family
from dreamfusion.guidance.quiet import quiet_libraries


def check_personal(
    loras: Sequence[LoraConfig], embeddings: Sequence[EmbeddingConfig], family: Family
) -> None:
    """Say before a weight is read what would stop the run after it.

    Raises ModelNotFoundError for a file that is not there, ConfigError for a family or an installation without LoRA.
    """
    if not loras and not embeddings:
        return
    if family == "deepfloyd-if" or (embeddings and family != "stable-diffusion"):
        what = "guidance.loras" if loras else "guidance.embeddings"
        fits = "Stable Diffusion 1, 2 or XL" if loras else "Stable Diffusion 1 or 2"
        raise ConfigError(f"{what} does not fit the model", expected=fits, got=family)
    if loras and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "guidance.loras needs the package peft, which is not installed",
            hint="run pip install 'dreamfusion[lora]'",
        )
    for key, files in (
        ("loras", [lora.file for lora in loras]),
        ("embeddings", [e.file for e in embeddings]),
    ):
        for file in files:
            if Path(file).suffix != ".safetensors":
                raise ConfigError(f"guidance.{key}", expected="a safetensors file", got=file)
            if not Path(file).expanduser().is_file():
                raise ModelNotFoundError(f"guidance.{key}: there is no file {file}")


def merge_loras_into_unet(unet: Any, loras: Sequence[LoraConfig], family: Family) -> None:
    """Add each LoRA times its weight to the UNet's own weights.

    Raises ModelUnsupportedError for weights of another architecture.
    """
    for lora in loras:
        names = _add(unet, [lora], family, "unet", unet.config)
        with quiet_libraries():
            unet.set_adapters(names, [lora.weight])
            unet.fuse_lora()
            unet.unload_lora()
    unet.requires_grad_(False)


def add_loras_to_text_encoder(
    encoder: Any, loras: Sequence[LoraConfig], family: Family, component: str, unet_config: Any
) -> None:
    """Switch on the parts of each LoRA that belong to a text encoder, if it has any."""
    from diffusers.utils import set_weights_and_activate_adapters

    names = _add(encoder, loras, family, component, unet_config)
    if names:
        weights: Any = [lora.weight for lora in loras if _name(lora, loras) in names]
        set_weights_and_activate_adapters(encoder, names, weights)


def _add(
    part: Any, loras: Sequence[LoraConfig], family: Family, component: str, unet_config: Any
) -> list[str]:
    """Load what each LoRA has for a part of the model; returns the names of those that had something."""
    from diffusers.loaders.lora_pipeline import (
        StableDiffusionLoraLoaderMixin,
        StableDiffusionXLLoraLoaderMixin,
    )

    xl = family == "stable-diffusion-xl"
    loader: Any = StableDiffusionXLLoraLoaderMixin if xl else StableDiffusionLoraLoaderMixin
    added = []
    for lora in loras:
        name = _name(lora, loras)
        with _one_line(lora.file, "LoRA"):
            file = Path(lora.file).expanduser()
            state, alphas = loader.lora_state_dict(
                str(file.parent), weight_name=file.name, unet_config=unet_config
            )
            if not any(key.startswith(f"{component}.") for key in state):
                if component == "unet":
                    raise ValueError("it has nothing for a UNet")
                continue
            options: Any = {"adapter_name": name, "low_cpu_mem_usage": False}
            if component == "unet":
                loader.load_lora_into_unet(state, alphas, part, **options)
            else:
                loader.load_lora_into_text_encoder(state, alphas, part, prefix=component, **options)
        # What does not fit by its names is left out by the loaders, with no more than a word in the log.
        wanted = sum(key.startswith(f"{component}.") and "lora" in key for key in state)
        got = sum(f".{name}." in key for key in part.state_dict())
        if got < wanted:
            raise ModelUnsupportedError(
                f"the LoRA in {lora.file} belongs to another architecture",
                expected=f"{wanted} of its weights in the {component}",
                got=str(got),
            )
        added.append(name)
    return added


def _name(lora: LoraConfig, loras: Sequence[LoraConfig]) -> str:
    return f"lora{next(index for index, other in enumerate(loras) if other is lora)}"


def add_words(tokenizer: Any, encoder: Any, embeddings: Sequence[EmbeddingConfig]) -> None:
    """Teach tokenizer and text encoder the words of textual inversion; both are changed.

    Raises ModelUnsupportedError for embeddings of another width, or a word that is there already.
    """
    from diffusers.loaders import TextualInversionLoaderMixin

    class Words(TextualInversionLoaderMixin):
        """The least of a pipeline that the loader works on."""

        hf_device_map = None

        def __init__(self) -> None:
            self.tokenizer, self.text_encoder = tokenizer, encoder
            self.components = {"tokenizer": tokenizer, "text_encoder": encoder}
            self.device, self.dtype = encoder.device, encoder.dtype

    for embedding in embeddings:
        with _one_line(embedding.file, "embedding"):
            file = str(Path(embedding.file).expanduser())
            Words().load_textual_inversion(file, token=embedding.word, local_files_only=True)
    encoder.requires_grad_(False)


def spelled_out(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Texts in which a word of several vectors is written as all of them."""
    from diffusers.loaders import TextualInversionLoaderMixin

    convert = TextualInversionLoaderMixin()._maybe_convert_prompt
    return [convert(text, tokenizer) for text in texts]


@contextmanager
def _one_line(file: str, what: str) -> Iterator[None]:
    try:
        with quiet_libraries(), warnings.catch_warnings():
            # That there are several is what was asked for.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            yield
    except (ValueError, RuntimeError, KeyError, OSError, NotImplementedError, IndexError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelUnsupportedError(
            f"the {what} in {file} does not fit the model",
            got=(lines or [type(error).__name__])[-1][:160].rstrip("."),
            hint="it must have been trained on a model of the same family",
        ) from error
