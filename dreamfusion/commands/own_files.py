"""LoRAs and textual-inversion words that a user adds to a model: the same checks for every command that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamfusion.config import ExperimentConfig, GuidanceConfig
from dreamfusion.config_files import change_config, parse_override
from dreamfusion.errors import ConfigError


def check_own_files(guidance: GuidanceConfig) -> tuple[str, ...]:
    """Whether the files are there and fit the model, as far as that is on this machine; no weight is read.

    What must fit a diffusion model that is still to be fetched is looked at after it.

    Returns:
        The words of textual inversion.

    Raises:
        ConfigError, ModelNotFoundError, ModelUnsupportedError.
    """
    if not guidance.loras and not guidance.embeddings:
        return ()
    from dreamfusion.guidance.families import family_of
    from dreamfusion.guidance.models import find_model
    from dreamfusion.guidance.personal import check_files, check_personal

    check_files(guidance.loras, guidance.embeddings)
    directory = find_model(guidance.model, single_file_config=guidance.single_file_config).directory
    if directory is None:
        return ()
    personal = check_personal(guidance.loras, guidance.embeddings, family_of(directory), directory)
    return tuple(word.text for word in personal.words)


def refuse_own_files(guidance: GuidanceConfig) -> None:
    """ConfigError for files that nothing will read: no diffusion model guides the run."""
    for key, files in (("loras", guidance.loras), ("embeddings", guidance.embeddings)):
        if files:
            raise ConfigError(
                f"guidance.{key}: no diffusion model guides this run",
                got=files[0].file,
                hint="leave it out, or use --guidance sds or mixed",
            )


def changed_guidance(
    base: ExperimentConfig,
    overrides: Sequence[str],
    options: dict[str, Any],
    used: Sequence[str],
    command: str,
) -> GuidanceConfig:
    """The guidance of `base` with the command line's changes.

    Args:
        overrides: `--set` texts, of which only keys of the guidance that the command uses are taken.
        options: dotted key to value; None values are left out.
        used: those keys.
        command: its name, for the error.

    Raises:
        ConfigError: another key, or a value that it cannot have.
    """
    for text in overrides:
        path, _ = parse_override(text)
        if path[0] != "guidance" or path[1:2] not in [(key,) for key in used]:
            raise ConfigError(
                f"--set {'.'.join(path)}: {command} does not use it",
                expected=", ".join(f"guidance.{key}" for key in used),
            )
    return change_config(base, overrides, options).guidance
