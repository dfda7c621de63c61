"""`dreamfusion models`: the names that `--model` knows, fetching one, and checking one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dreamfusion.commands.own_files import changed_guidance
from dreamfusion.commands.tables import print_table
from dreamfusion.config import ExperimentConfig
from dreamfusion.errors import ConfigError, ModelNotFoundError, ModelUnsupportedError
from dreamfusion.progress import busy, check_printed, event, notice, result


def print_models() -> None:
    """The alias table with what is on this machine, as a table, or as JSON lines where stdout is no terminal."""
    from dreamfusion.guidance.models import aliases

    rows = [("model", "here", "pixels", "predicts", "download", "memory", "licence")]
    for name, alias in aliases().items():
        state = _state(name)
        event(name=name, state=state, **alias)
        size = alias.get("download_gb")
        licence = alias["licence"] + (", gated" if alias.get("gated") else "")
        rows.append(
            (
                name,
                state,
                str(alias["resolution"]),
                {"epsilon": "noise", "v_prediction": "v"}[alias["prediction_type"]],
                "" if size is None else f"{size} GB",
                f"{alias['memory_gb']} GiB",
                licence,
            )
        )
    if sys.stdout.isatty():
        print_table(rows)
        print(
            "\nfetch one: dreamfusion models download NAME; directories, safetensors files and hub ids work too"
        )
    check_printed()


def _state(name: str) -> str:
    from dreamfusion.guidance.models import find_model

    try:
        return "no" if find_model(name).directory is None else "yes"
    except ModelNotFoundError:  # offline, or a part is missing
        return "no"
    except ModelUnsupportedError:
        return "broken"


def download_model(name: str, overrides: Sequence[str], half_precision: bool) -> None:
    """Fetch the model, and say where it lies.

    Args:
        overrides: `--set` texts, of which `guidance.single_file_config` alone is taken.

    Raises:
        ConfigError, ModelNotFoundError, ModelUnsupportedError.
    """
    from dreamfusion.guidance.models import fetch_model, find_model

    model = find_model(name, single_file_config=_settings(name, overrides, "models download"))
    # A single file may be here in another precision.
    if model.directory is not None and model.single_file is None:
        notice(f"{name} is here already")
        directory = model.directory
    else:
        with busy(f"fetching {name}"):
            directory = fetch_model(model, half_precision)
    result(str(directory), event="model", name=name, path=directory)


def _settings(name: str, overrides: Sequence[str], command: str) -> str | None:
    """Whose settings a single file is read with; ConfigError for any other key, and where the model is no single file."""
    settings = changed_guidance(
        ExperimentConfig(), overrides, {"guidance.model": name}, ("single_file_config",), command
    ).single_file_config
    if settings is not None:
        from dreamfusion.guidance.models import find_model

        if find_model(name, single_file_config=settings).single_file is None:
            raise ConfigError(
                f"--set guidance.single_file_config: {name} is no single file", hint="leave it out"
            )
    return settings


def verify_model(name: str, overrides: Sequence[str]) -> bool:
    """Read and check the model's files; False when one of them is not what it should be.

    Args:
        overrides: as `download_model` takes them.

    Raises:
        ConfigError, ModelNotFoundError, ModelUnsupportedError.
    """
    from dreamfusion.guidance.models import find_model
    from dreamfusion.guidance.models import verify_model as faults_of

    settings = _settings(name, overrides, "models verify")
    with busy(f"reading {name}"):
        faults = faults_of(name, settings)
    for fault in faults:
        result(f"{name}: {fault}", event="fault", name=name, text=fault)
    if not faults:
        directory = find_model(name, single_file_config=settings).directory
        result(f"{name} is whole: {directory}", event="whole", name=name)
    check_printed()
    return not faults
