"""What the libraries log: advice is dropped, what they leave out of a file is shown."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from dreamfusion.errors import ModelUnsupportedError
from dreamfusion.guidance.loading import load_part
from dreamfusion.guidance.quiet import quiet_libraries

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.mark.parametrize(("text", "shown"), [
    ("Passing `x` is deprecated, use `y`.", False),
    ("Defaulting to unsafe serialization.", False),
    ("Set `ignore_mismatched_sizes=True` to load them.", False),
    ("The config attributes {'x': 1} are not expected and will be ignored.", True),
    ("Some weights were not used when initializing: ['x']", True),
    ("Loading adapter weights led to unexpected keys: x.", True),
    ("No LoRA keys associated to UNet found; skipping them.", True),
    ("Some weights are newly initialized: ['x']", False),  # an exception of ours
    ("IGNORING x", True),
])  # fmt: skip
@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_only_what_is_left_out_is_shown(
    capfd: pytest.CaptureFixture[str], library: str, text: str, shown: bool
):
    logger = logging.getLogger(f"{library}.loaders.own")
    with quiet_libraries():
        logger.warning(f"\x1b[1m{text}\x1b[0m\nand a\x1b[2J second line")
        logger.info(text)
        logger.error(text)
    told = capfd.readouterr()
    line = f"warning: {library}: {text} and a\\x1b[2J second line\n"
    assert (told.out, told.err) == ("", line if shown else "")


def test_what_was_set_is_put_back_after_an_error():
    libraries = {"diffusers": diffusers_logging, "transformers": transformers_logging}
    state = [(lib.get_verbosity(), logging.getLogger(name).handlers[:]) for name, lib in libraries.items()]
    with pytest.raises(RuntimeError), quiet_libraries(), quiet_libraries():
        raise RuntimeError
    assert state == [(lib.get_verbosity(), logging.getLogger(n).handlers[:]) for n, lib in libraries.items()]


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_of_a_model_that_have_no_place_are_named(
    tiny_sd1: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], part: str
):
    shutil.copytree(tiny_sd1 / part, tmp_path / part)
    file = tmp_path / part / f"{WEIGHTS[part]}.safetensors"
    load_part(tmp_path, part, torch.float32, torch.device("cpu"))
    assert capfd.readouterr().err == ""
    save_file(load_file(file) | {"own.extra": torch.zeros(2)}, file, metadata={"format": "pt"})
    if part == "text_encoder":  # older files of encoders have names that mean nothing any more
        load_part(tmp_path, part, torch.float32, torch.device("cpu"))
        told = capfd.readouterr().err
        assert "own.extra" in told and told.startswith("warning: ") and told.count("\n") == 1
    else:
        with pytest.raises(ModelUnsupportedError, match=r"own\.extra"):
            load_part(tmp_path, part, torch.float32, torch.device("cpu"))
        assert capfd.readouterr().err == ""


def test_settings_that_a_part_does_not_know_are_named(
    tiny_sd1: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_sd1 / "unet", tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"own_setting": 1}))
    load_part(tmp_path, "unet", torch.float32, torch.device("cpu"))
    assert "'own_setting': 1" in capfd.readouterr().err


@pytest.mark.parametrize(("setting", "shown"), [("skip_prk_steps", False), ("own_setting", True)])
def test_a_samplers_settings_may_be_another_samplers(
    capfd: pytest.CaptureFixture[str], setting: str, shown: bool
):
    """Stable Diffusion 2.1's own file, a DDIM, has PNDM's skip_prk_steps."""
    from diffusers import DDIMScheduler

    with quiet_libraries():
        DDIMScheduler.from_config(
            {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, setting: True}
        )
    assert (setting in capfd.readouterr().err) == shown
