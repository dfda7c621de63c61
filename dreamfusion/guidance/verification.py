"""Whether the files of a model are whole, and whether training could begin with them: every file is read.

The second question is put to the code that training itself runs, so that what is called whole here also trains.
"""

from __future__ import annotations

from pathlib import Path

import torch

from dreamfusion.config import GuidanceConfig
from dreamfusion.errors import DreamfusionError
from dreamfusion.guidance.costs import guidance_cost
from dreamfusion.guidance.families import check_supported
from dreamfusion.guidance.loaders import load_guidance
from dreamfusion.guidance.loading import contents_faults, load_part, readable
from dreamfusion.guidance.weight_files import CHECKSUMS, checksum_fault, checksums

_WEIGHTS = (".safetensors", ".bin")


def file_faults(directory: Path) -> list[str]:
    """What is wrong with the files in `directory`, one line each.

    Each is compared with the checksum that it was downloaded or shipped with. Of weights without one the shapes are
    compared with the settings', and every number must be finite.
    """
    files = [
        f for f in directory.rglob("*") if f.is_file() and ".cache" not in f.relative_to(directory).parts
    ]
    found = {file: checksum_fault(file, directory) for file in sorted(files) if file.name != CHECKSUMS}
    faults = [f"{file.relative_to(directory)} {fault}" for file, fault in found.items() if fault]
    shipped = checksums(directory)
    faults += [f"{name} is missing" for name in sorted(shipped) if not (directory / name).is_file()]
    if shipped:
        others = [str(file.relative_to(directory)) for file, fault in found.items() if fault is None]
        faults += [f"{name} is not in {CHECKSUMS}" for name in others]
    unknown = [file for file, fault in found.items() if fault is None and file.suffix in _WEIGHTS]
    return faults + contents_faults(directory, unknown)


def loading_faults(directory: Path) -> list[str]:
    """Why guidance could not be made of the files in `directory`; empty when it can.

    Every part is read on the CPU as training reads it, a text is encoded, and a step is taken with shapes alone.
    """
    config = GuidanceConfig.model_validate({"model": str(directory), "view_prompts": {"rule": "none"}})
    try:
        load_guidance(config, "a", torch.device("cpu"), directory)
        if check_supported(directory) == "deepfloyd-if":
            # What it says may have come from the cache of embeddings.
            load_part(directory, "text_encoder", torch.bfloat16, torch.device("cpu"), "T5EncoderModel")
        with readable("the settings of the UNet and the autoencoder"):
            guidance_cost(config, directory, views=1)
    except DreamfusionError as error:
        return [str(error)]
    return []
