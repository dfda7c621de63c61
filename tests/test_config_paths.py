"""Every key that holds a path is known, and a run finds the file that was meant from every folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dreamfusion.commands.train import absolute_paths
from dreamfusion.config import ExperimentConfig, NamesFile
from dreamfusion.config_files import _members, _models
from dreamfusion.config_paths import names_file

PATHS: dict[str, str] = {
    "clip.image": "nothing",
    "clip.model": "clip",
    "clip.view_images.back": "nothing",
    "clip.view_images.front": "nothing",
    "clip.view_images.overhead": "nothing",
    "clip.view_images.side": "nothing",
    "data.path": "nothing",
    "data.truth": "nothing",
    "guidance.embeddings.file": "nothing",
    "guidance.loras.file": "nothing",
    "guidance.model": "model",
    "guidance.single_file_config": "model",
    "guidance.tiny_autoencoder.model": "hub id",
}
WORDS = {
    "prompt",
    "init",  # `find_start` makes it absolute: it may be the number of a run
    "guidance.embeddings.word",
    "guidance.negative_prompt",
    "guidance.view_prompts.template",
    *(f"guidance.view_prompts.{view}" for view in ("front", "side", "back", "overhead")),
    *(f"guidance.view_prompts.negative.{view}" for view in ("front", "side", "back", "overhead")),
}


def text_keys(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, NamesFile | None]]:
    """Dotted name of every key that takes a text, and its mark."""
    for name, field in model.model_fields.items():
        key = f"{path}{name}"
        if str in _members(field.annotation):
            yield key, names_file(field.annotation, field.metadata)
        parts = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for part in {part for annotation in parts for part in _models(annotation)}:
            yield from text_keys(part, f"{key}.")


def test_every_key_that_takes_a_text_is_a_path_or_is_none() -> None:
    marks = dict(text_keys(ExperimentConfig))
    assert {key: mark.instead for key, mark in marks.items() if mark is not None} == PATHS
    assert {key for key, mark in marks.items() if mark is None} == WORDS


def with_value(key: str, value: str) -> ExperimentConfig:
    """A config with one path in it, in its list where the key has one."""
    data: dict[str, Any] = {"data": {"path": "photos"}} if key == "data.truth" else {}
    *sections, last = key.split(".")
    if sections == ["guidance", "tiny_autoencoder"]:
        data = {"guidance": {"tiny_autoencoder": {"steps": 5}}}
    part = data
    for section in sections:
        new: Any = [{}] if section in ("loras", "embeddings") else {}
        part = part.setdefault(section, new)
        part = part[0] if isinstance(part, list) else part
    part[last] = value
    return ExperimentConfig.model_validate(data)


def value_at(config: ExperimentConfig, key: str) -> Any:
    found: Any = config
    for name in key.split("."):
        found = getattr(found[0] if isinstance(found, tuple) else found, name)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.mark.parametrize("key", PATHS)
def test_a_file_is_absolute_by_the_current_folder_and_the_home(folder: Path, key: str) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "sd1").mkdir()
    (folder / "home" / "mine").touch()
    for given, meant in [
        ("models/sd1", folder / "models" / "sd1"),
        ("./models/sd1", folder / "models" / "sd1"),
        ("~/mine", folder / "home" / "mine"),
        (str(folder / "models"), folder / "models"),
    ]:
        config = absolute_paths(with_value(key, given))
        assert value_at(config, key) == str(meant), given
        assert absolute_paths(config) == config


@pytest.mark.parametrize("key", [key for key, instead in PATHS.items() if instead != "nothing"])
def test_hub_ids_and_aliases_stay_what_they_are(folder: Path, key: str) -> None:
    names = {"model": ["miniature", "sd-2.1-base", "sd-1.5@main"], "clip": ["miniature"], "hub id": []}[
        PATHS[key]
    ]
    for name in names:  # an alias comes before a folder of its name
        (folder / name).mkdir()
    for name in [*names, "owner/model", "owner/model@main", "~nosuchuser/model"]:
        assert value_at(absolute_paths(with_value(key, name)), key) == name


@pytest.mark.parametrize("key", PATHS)
def test_what_is_not_there_keeps_its_name_for_the_message(folder: Path, key: str) -> None:
    assert value_at(absolute_paths(with_value(key, "absent.png")), key) == "absent.png"


def test_links_are_kept(folder: Path) -> None:
    (folder / "blob").touch()
    (folder / "plush.safetensors").symlink_to(folder / "blob")
    config = absolute_paths(with_value("guidance.embeddings.file", "plush.safetensors"))
    assert value_at(config, "guidance.embeddings.file") == str(folder / "plush.safetensors")
