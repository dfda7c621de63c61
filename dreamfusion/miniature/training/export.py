"""Writing the trained parts in diffusers' and transformers' own layout, half precision, as they are shipped."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from dreamfusion.guidance.weight_files import write_checksums
from dreamfusion.miniature.lexicon import Lexicon
from dreamfusion.miniature.training.models import IMAGE_SIZE, make_scheduler
from dreamfusion.miniature.training.tokenizer import copy_tokenizer

PACKAGE = Path(__file__).resolve().parents[1]
PIPELINE_FOLDER, CLIP_FOLDER, JUDGE_FOLDER = "stable-diffusion", "clip", "judge"
VOCABULARY_FILE = "vocabulary.json"
FILE_LIMIT, TOTAL_LIMIT = 16 * 2**20, 60 * 10**6
# Left free in a file of a model that is cut into several: its header names and places every tensor.
HEADER_ROOM = 2**18


def _half_copy(model: nn.Module) -> nn.Module:
    """A float16 copy in plain memory order; the learner keeps its own float32 weights."""
    import copy

    return copy.deepcopy(model).cpu().to(torch.float16).to(memory_format=torch.contiguous_format)  # pyright: ignore


def _tidy_config(path: Path, **values: object) -> None:
    # Where a model was trained is nobody's business, and it must load as float32 where nothing else is asked for.
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    config.update(values)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _replace_folder(made: Path, target: Path) -> None:
    write_checksums(made)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    shutil.move(str(made), target)


def export_pipeline(
    target: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: Path
) -> None:
    """Writes `target` whole: what `StableDiffusionPipeline.from_pretrained(target)` reads."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "made"
        pipeline = StableDiffusionPipeline(
            vae=_half_copy(vae),  # pyright: ignore[reportArgumentType]
            text_encoder=_half_copy(text),  # pyright: ignore[reportArgumentType]
            tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
            unet=_half_copy(unet),  # pyright: ignore[reportArgumentType]
            scheduler=make_scheduler(),  # pyright: ignore[reportArgumentType]
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(made, safe_serialization=True, max_shard_size=FILE_LIMIT - HEADER_ROOM)
        shutil.rmtree(made / "tokenizer")
        copy_tokenizer(tokenizer, made / "tokenizer")
        _tidy_config(made / "model_index.json")
        for part in ("vae", "unet"):
            _tidy_config(made / part / "config.json")
        _tidy_config(made / "text_encoder" / "config.json", dtype="float32")
        _replace_folder(made, target)


def export_clip(target: Path, clip: CLIPModel, tokenizer: Path) -> None:
    """Writes `target` whole: model, tokenizer and how pictures are prepared (64 px, [-1, 1])."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "made"
        half = _half_copy(clip)
        half.save_pretrained(made, safe_serialization=True)  # pyright: ignore[reportCallIssue]
        _tidy_config(made / "config.json", dtype="float32")
        copy_tokenizer(tokenizer, made)
        preprocessing = {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": IMAGE_SIZE},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
        }
        (made / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")
        _replace_folder(made, target)


def write_vocabulary(path: Path, words: Lexicon) -> None:
    """Writes the words that the miniature was trained on, by kind, with their synonyms."""
    content = {
        "words": list(words.vocabulary()),
        "nouns": {name: list(said) for name, said in words.nouns.items()},
        "colors": {name: list(said) for name, said in words.colors.items()},
        "relations": {name: list(said) for name, said in words.relations.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def shipped_sizes(package: Path = PACKAGE) -> dict[str, int]:
    """Bytes of every shipped weight file, by path inside the package."""
    return {
        str(path.relative_to(package)): path.stat().st_size for path in sorted(package.rglob("*.safetensors"))
    }
