"""Text embeddings on the disk, for text encoders that take longer to load than a run should wait.

One safetensors file a text. Its name is a hash of the model (which files, in which revision), of the precision that the
encoder ran in, and of the text as it is encoded, view words included; the negative prompt is a text like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dreamfusion.temporary import sweep, temporary_name

_FORMAT = 2


class EmbeddingCache:
    """The embeddings of one model's text encoder, in the hub's folder.

    Args:
        directory: the model's files.
        root: where embeddings are kept; None: HF_HOME/dreamfusion/embeddings.
        precision: that the text encoder runs in.
    """

    def __init__(self, directory: Path, root: Path | None = None, precision: str = "float32") -> None:
        if root is None:
            from huggingface_hub import constants

            root = Path(constants.HF_HOME) / "dreamfusion" / "embeddings"
        self.root, self._model, self._precision = root, _fingerprint(directory), precision

    def path(self, text: str) -> Path:
        """Where the embedding of `text` is kept, whether it is there or not."""
        key = json.dumps([_FORMAT, self._model, self._precision, text])
        return self.root / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def get(self, text: str) -> Float[Tensor, "tokens d"] | None:
        """The embedding, or None where there is none or its file is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path(text))["tokens"]
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, text: str, tokens: Float[Tensor, "tokens d"]) -> None:
        """Keep an embedding; its file appears whole or not at all. A folder that cannot be written is left alone."""
        from safetensors.torch import save

        scratch = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            sweep(self.root)
            scratch = temporary_name(self.path(text))
            scratch.write_bytes(save({"tokens": tokens.contiguous()}, metadata={"text": text}))
            os.replace(scratch, self.path(text))
        except OSError:
            # A cache that is full or not writable costs time in the next run, nothing else.
            if scratch is not None:
                scratch.unlink(missing_ok=True)


def _fingerprint(directory: Path) -> list[list[str | int]]:
    """The text encoder's and the tokenizer's files: in the hub's cache the name of the blob, elsewhere size and time."""
    files = sorted(
        f for part in ("text_encoder", "tokenizer") for f in (directory / part).glob("*") if f.is_file()
    )
    found: list[list[str | int]] = []
    for file in files:
        target, state = file.resolve(), file.stat()
        stored = "blobs" in target.parts
        found.append(
            [target.name, state.st_size] if stored else [str(target), state.st_size, state.st_mtime_ns]
        )
    return found
