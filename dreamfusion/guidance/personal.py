"""What makes a model somebody's own: LoRA weights and textual-inversion words, checked against the model, then put into it.

LoRA weights are merged into the model's own, so that a step costs nothing more. Every key of every file is used, or the
file is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.config import EmbeddingConfig, LoraConfig
from dreamfusion.errors import ConfigError
from dreamfusion.guidance.families import LAYOUTS, Family
from dreamfusion.guidance.lora_files import LoraFile, check_lora_file, merge_loras
from dreamfusion.guidance.lora_names import Layers
from dreamfusion.guidance.personal_files import check_file
from dreamfusion.guidance.words import Vocabulary, Word, check_words, unused_words
from dreamfusion.progress import notice


@dataclass(frozen=True)
class Personal:
    """Files all of which have their place in the model; nothing of them is read yet.

    Attributes:
        loras: and their weights.
        words: of textual inversion.
    """

    loras: tuple[tuple[LoraFile, float], ...] = ()
    words: tuple[Word, ...] = ()

    def merge_into(self, model: Any, part: str) -> None:
        """Add the LoRAs times their weights to one part of the model, in place; see `lora_files.merge_loras`."""
        merge_loras(model, part, self.loras)

    def vocabulary(self, tokenizer: Any, encoder: Any, part: str) -> Vocabulary:
        """The words as a text encoder reads them."""
        return Vocabulary(self.words, tokenizer, encoder, part)

    def tell_doubts(self, texts: Sequence[str]) -> None:
        """A notice for each word that no text has, whose file changes nothing, and for each LoRA whose alpha is unknown."""
        for lora, _ in self.loras:
            if lora.settings_missing:
                notice(
                    f"warning: no adapter_config.json beside {lora.path}: alpha is taken for the rank "
                    "(PEFT writes the alpha into that file)"
                )
        for word in unused_words(self.words, texts):
            notice(
                f"warning: {word.path} is not used: no text has its word '{word.text}' "
                "(write it in the prompt, or call it otherwise: --embedding FILE=WORD)"
            )


def check_files(loras: Sequence[LoraConfig], embeddings: Sequence[EmbeddingConfig]) -> None:
    """Whether the files are there and whole, before the model is: see `check_file` for what is raised."""
    for lora in loras:
        check_file(lora.file, "loras")
    for embedding in embeddings:
        check_file(embedding.file, "embeddings")


def check_personal(
    loras: Sequence[LoraConfig], embeddings: Sequence[EmbeddingConfig], family: Family, directory: Path
) -> Personal:
    """Find a place in the model for all that is in the files. Reads names and shapes, no weight.

    Raises ConfigError for a family that takes none, ModelNotFoundError for a file that is not there, and
    ModelUnsupportedError for one that does not fit, or not all of it.
    """
    if not loras and not embeddings:
        return Personal()
    if family == "deepfloyd-if":
        raise ConfigError(
            f"guidance.{'loras' if loras else 'embeddings'} does not fit the model",
            expected="Stable Diffusion 1, 2 or XL",
            got=family,
        )
    check_files(loras, embeddings)
    from dreamfusion.guidance.loading import shapes_by_settings

    encoders = [part for part in LAYOUTS[family].parts if part.startswith("text_encoder")]
    parts = ["unet", *encoders] if loras else encoders
    shapes = {part: shapes_by_settings(directory / part) for part in parts}
    layers = Layers(shapes)
    widths = {
        part: next(
            shape[1] for name, shape in shapes[part].items() if name.endswith("token_embedding.weight")
        )
        for part in encoders
    }
    return Personal(
        tuple((check_lora_file(lora.file, layers), lora.weight) for lora in loras),
        check_words(embeddings, widths),
    )
