"""Which checkpoint a name means, whether it is here, and whether score distillation can use it.

A name is an alias of `models.yaml` (`miniature`, `sd-1.5`, ...), a directory in diffusers' layout, a single safetensors
file, or a hub id (`owner/name`); an alias or a hub id may end in `@revision`, a branch, a tag or a commit. `find_model`
answers in the first second: it reads a few JSON files and headers, no weights, and loads no torch. The network is
reached by `fetch_model` only, or when probing is asked for.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import shutil
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dreamfusion.documents import reason
from dreamfusion.errors import (
    DreamfusionError,
    ModelNotFoundError,
    ModelUnsupportedError,
    OutputError,
    shown,
)
from dreamfusion.guidance.families import LAYOUTS, check_supported, family_of, missing_files
from dreamfusion.guidance.single_file import converted_directory, read_single_file, settings_for
from dreamfusion.guidance.weight_files import VARIANTS, weight_names
from dreamfusion.progress import notice

# Of the file system, not of the network.
_CANNOT_WRITE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.ENOENT,
     errno.EISDIR, errno.ENAMETOOLONG)
)  # fmt: skip
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model's files are, or where they can be fetched from.

    Args:
        name: what the user said.
        directory: the files, all there and fit for score distillation; None when they must be fetched first. Of a single
            file a conversion, maybe of another precision than will be wanted: `fetch_model` gives the one to read.
        hub_ids: the repositories to fetch from, in order, when `directory` is None.
        tried: what was looked at, one line each.
        single_file: the one file that is converted first; `settings` is where its settings and tokenizer are from.
    """

    name: str
    directory: Path | None
    hub_ids: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    single_file: Path | None = None
    settings: str = field(default="", repr=False)

    @property
    def download_command(self) -> str:
        """What the user can type to have the files in `directory`."""
        words = ["dreamfusion", "models", "download", self.name]
        if self.single_file is not None:
            words += ["--set", f"guidance.single_file_config={self.settings}"]
        return shlex.join(words)


def package_directory() -> Path:
    """The installed package's own directory, which holds the miniature."""
    return Path(str(resources.files("dreamfusion")))


@cache
def aliases() -> dict[str, dict[str, Any]]:
    """The table of `models.yaml`: alias -> {directory: ...} or {mirrors: [...]}."""
    return yaml.safe_load((Path(__file__).parent / "models.yaml").read_text(encoding="utf-8"))


def is_alias(name: str) -> bool:
    """Whether `name` means an entry of `models.yaml`, also where a file has that name; a revision may follow an @."""
    short, at, _ = name.partition("@")
    return "mirrors" in aliases().get(short, {}) or (short in aliases() and not at)


def guidance_above(name: str) -> int:
    """The timestep from which pictures of this model are guided unless the user says another: that of its alias, else 0."""
    return aliases().get(name.partition("@")[0], {}).get("guidance_above", 0)


def find_model(name: str, probe_hub: bool = False, single_file_config: str | None = None) -> ResolvedModel:
    """Say where the model `name` is, without reading a weight.

    Aliases come first, then directories and single files, then hub ids, whose local cache is looked at. A revision may
    follow an alias or a hub id after an @. With `probe_hub`
    the hub is asked whether it holds what the cache lacks; without, that is left to `fetch_model`, unless HF_HUB_OFFLINE
    is set. `single_file_config` names the model whose settings a single file is read with; None: told from the file.

    Raises ModelNotFoundError with the list of what was tried, ModelUnsupportedError for a checkpoint that is there
    but cannot be distilled.
    """
    short, at, revision = name.partition("@")
    alias = aliases().get(short)
    if alias is not None and "directory" in alias and not at:
        return _in_directory(name, package_directory() / alias["directory"])
    if alias is not None and "mirrors" in alias:
        mirrors = [pinned(mirror, revision) for mirror in alias["mirrors"]]
        return _on_hub(name, mirrors, probe_hub)
    path = path_of(name)
    # Not Path's own questions, which raise for a name that is too long or may not be looked at.
    if os.path.isdir(path):
        return _in_directory(name, path)
    if os.path.isfile(path):
        return _in_single_file(name, path, single_file_config)
    if is_hub_id(name):
        return _on_hub(name, [name], probe_hub, tried=[f"directory {shown(path, 200)}: not there"])
    raise _not_found(name, [f"aliases {', '.join(aliases())}", f"directory {shown(path, 200)}: not there"])


def available_stable_diffusion(probe_hub: bool = False) -> str | None:
    """The first Stable Diffusion 1 or 2 whose files are in the cache; with `probe_hub`, or on the hub."""
    for name, alias in aliases().items():
        if "mirrors" not in alias or alias["family"] != "stable-diffusion":
            continue
        try:
            found = find_model(name, probe_hub=probe_hub)
        except (ModelNotFoundError, ModelUnsupportedError):
            continue
        if found.directory is not None or probe_hub:
            return name
    return None


def fetch_model(model: ResolvedModel, half_precision: bool = False) -> Path:
    """The directory of the model's files, downloaded into the hub's cache when they are not on this machine.

    With `half_precision` the repository's fp16 weights are preferred, which halves the download.

    Raises ModelNotFoundError when no repository gives them, ModelUnsupportedError as `find_model` does, before any
    weight is downloaded.
    """
    if model.single_file is not None:
        return _from_single_file(model.single_file, model.settings, half_precision)
    if model.directory is not None:
        return model.directory
    tried = list(model.tried)
    for hub_id in model.hub_ids:
        directory = _download(hub_id, half_precision, tried)
        if directory is not None:
            return directory
    raise _not_found(model.name, tried, asked=True)


def verify_model(name: str, single_file_config: str | None = None) -> list[str]:
    """What is wrong with the files of a model that is on this machine, one line each; empty when nothing is.

    `single_file_config` is as in `find_model`.

    Beside what `find_model` looks at, every file is read: see `verification`. A single file is read as training reads it,
    and its conversion kept; with the embedded model its CLIPs are checked.

    Raises ModelNotFoundError when it is not here, ModelUnsupportedError when it cannot be distilled.
    """
    model = find_model(name, single_file_config=single_file_config)
    if model.directory is None and model.single_file is None:
        raise _not_found(name, list(model.tried))
    from dreamfusion.guidance.loading import contents_faults
    from dreamfusion.guidance.verification import file_faults, loading_faults

    if model.single_file is not None:
        faults = contents_faults(model.single_file.parent, [model.single_file])
        if faults:
            return faults
    directory = fetch_model(model)
    faults = file_faults(directory)
    for beside in aliases().get(name, {}).get("beside", ()):
        folder = package_directory() / beside
        faults += [f"{folder.name}/{fault}" for fault in file_faults(folder)]
    return faults or loading_faults(directory)


def _in_directory(name: str, directory: Path) -> ResolvedModel:
    missing = missing_files(directory)
    if missing:
        raise ModelNotFoundError(
            f"there is no whole model in {directory}: it lacks {', '.join(missing)}",
            hint="fetch it again, or name another: an alias of `dreamfusion models list`, a directory in diffusers' layout, "
            "a safetensors file, or a hub id",
        )
    check_supported(directory)
    return ResolvedModel(name, directory, tried=(f"directory {directory}",))


def _in_single_file(name: str, file: Path, settings: str | None) -> ResolvedModel:
    found = read_single_file(file)
    settings = settings_for(file, found) if settings is None else settings
    tried, directory = f"file {file}", None
    for half_precision in (False, True):
        converted = converted_directory(file, settings, half_precision)
        if (
            directory is None
            and os.path.isfile(converted / "model_index.json")
            and not missing_files(converted)
        ):
            tried, directory = f"{file}, converted to {converted}", converted
    return ResolvedModel(name, directory, tried=(tried,), single_file=file, settings=settings)


def _from_single_file(file: Path, settings: str, half_precision: bool) -> Path:
    """The conversion of `file` in this precision, made if it is not there; says whose settings it is read with."""
    from dreamfusion.guidance.conversion import convert, reading_note

    found = read_single_file(file)
    target = converted_directory(file, settings, half_precision)
    if not os.path.isfile(target / "model_index.json") or missing_files(target):
        directory = _settings_directory(settings)
        family = family_of(directory)
        if family != found.family:
            raise ModelUnsupportedError(
                f"{file} cannot be read with the settings of {settings}", expected=found.family, got=family
            )
        check_supported(directory)
        shutil.rmtree(target, ignore_errors=True)
        convert(file, found, directory, target, half_precision)
    check_supported(target)
    notice(reading_note(file, found, settings, target))
    return target


def _settings_directory(name: str) -> Path:
    """A directory with the settings and the tokenizer of the model `name`; its weights need not be there."""
    if name not in aliases() or "directory" in aliases()[name]:
        path = find_model(name).directory if name in aliases() else path_of(name)
        if path is not None and os.path.isfile(path / "model_index.json"):
            return path
    tried = [f"directory {shown(path_of(name), 200)}: not there"]
    for hub_id in aliases().get(name, {}).get("mirrors", [name] if is_hub_id(name) else []):
        cached = _cached_directory(hub_id)
        if cached is not None and os.path.isfile(cached / "unet" / "config.json"):
            return cached
        tried.append(f"cache of {hub_id}: not there")
        if not _offline():
            downloaded = _download(hub_id, False, tried, weights=False)
            if downloaded is not None:
                return downloaded
    raise _not_found(name, tried, offline=_offline())


def _on_hub(name: str, hub_ids: list[str], probe_hub: bool, tried: list[str] | None = None) -> ResolvedModel:
    tried = [] if tried is None else tried
    for hub_id in hub_ids:
        directory = _cached_directory(hub_id)
        missing = None if directory is None else missing_files(directory)
        if directory is not None and not missing:
            check_supported(directory)
            return ResolvedModel(name, directory, (hub_id,), (*tried, f"cache of {hub_id}"))
        tried.append(f"cache of {hub_id}: {'lacks ' + ', '.join(missing) if missing else 'not there'}")
    if _offline():
        raise _not_found(name, tried, offline=True)
    if probe_hub:
        hub_ids = [hub_id for hub_id in hub_ids if _repository_exists(hub_id, tried)]
        if not hub_ids:
            raise _not_found(name, tried)
    return ResolvedModel(name, None, tuple(hub_ids), tuple(tried))


def _cached_directory(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, revision = split_hub_id(hub_id)
    try:
        cached = try_to_load_from_cache(repo, "model_index.json", revision=revision)
    except (
        OSError,
        HFValidationError,
    ):  # a cache that may not be looked at, a name that the hub does not take
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _repository_exists(hub_id: str, tried: list[str]) -> bool:
    from huggingface_hub import HfApi

    repo, revision = split_hub_id(hub_id)
    try:
        HfApi().model_info(repo, revision=revision, timeout=3.0)
    except Exception as error:  # its class depends on which HTTP client this hub version uses
        tried.append(f"hub {hub_id}: {hub_reason(error, hub_id)}")
        return False
    return True


def _download(hub_id: str, half_precision: bool, tried: list[str], weights: bool = True) -> Path | None:
    from huggingface_hub import HfApi, snapshot_download

    repo, revision = split_hub_id(hub_id)
    try:
        files = {
            s.rfilename for s in HfApi().model_info(repo, revision=revision, timeout=10.0).siblings or ()
        }
        small = [f for f in files if f.count("/") <= 1 and f.endswith((".json", ".txt", "spiece.model"))]
        # The configs first: a model that cannot be distilled is refused before gigabytes are fetched.
        directory = Path(snapshot_download(repo, revision=revision, allow_patterns=small))
        family = check_supported(directory)
        if not weights:
            return directory
        wanted = [f for part in LAYOUTS[family].parts for f in _choose_weights(files, part, half_precision)]
        snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except DreamfusionError:
        raise
    except Exception as error:  # its class depends on which HTTP client this hub version uses
        check_cache(error)
        tried.append(f"hub {hub_id}: {hub_reason(error, hub_id)}")
        return None
    missing = missing_files(directory)
    if missing:
        tried.append(f"hub {hub_id}: lacks {', '.join(missing)}")
        return None
    return directory


def _choose_weights(files: set[str], component: str, half_precision: bool) -> list[str]:
    for variant in reversed(VARIANTS) if half_precision else VARIANTS:
        for name in weight_names(component, variant):
            if f"{component}/{name}" not in files:
                continue
            if not name.endswith(".json"):
                return [f"{component}/{name}"]
            # Shards are called STEM-00001-of-00002.safetensors, or STEM.fp16-00001-of-00002.safetensors in half.
            stem = name.partition(".")[0]
            dot = "" if variant is None else f".{variant}"
            shard = re.compile(rf"{component}/{stem}({re.escape(dot)}-\d|-\d+-of-\d+{re.escape(dot)}\.)")
            return [f"{component}/{name}", *sorted(f for f in files if shard.match(f))]
    return []


def _not_found(name: str, tried: list[str], offline: bool = False, asked: bool = False) -> ModelNotFoundError:
    """What to do depends on whether the hub was `asked`, or may not be."""
    short = name.partition("@")[0]
    close = difflib.get_close_matches(short, aliases(), n=1)
    fetch = f"run `dreamfusion models download {shlex.quote(name)}`"
    if asked:
        hint = (
            "look at the network and the name; or name a directory in diffusers' layout or a safetensors file"
        )
    elif short in aliases() or is_hub_id(name):
        hint = f"{fetch}; or name a directory in diffusers' layout or a safetensors file"
    else:
        hint = f"name one of {', '.join(aliases())}, a directory in diffusers' layout, a safetensors file, or a hub id"
    if close and close[0] != short:
        hint = f"did you mean '{close[0]}'? {hint}"
    if offline:
        hint = f"HF_HUB_OFFLINE is set: unset it and {hint}"
    return ModelNotFoundError(f"model {shown(name)} was not found; tried: {'; '.join(tried)}", hint=hint)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_hub_id(name: str) -> bool:
    """Whether a name looks like `owner/name` or `owner/name@revision`; a path that begins like one is none."""
    return bool(_HUB_ID.fullmatch(name)) and not name.startswith((".", "~"))


def path_of(name: str) -> Path:
    """The path that a user named, `~` read as a home directory; ModelNotFoundError where there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ModelNotFoundError(f"model {shown(name)} is not there", got=str(error).rstrip(".")) from error


def pinned(hub_id: str, revision: str) -> str:
    """The repository at `revision`, if that is not empty; else as it is."""
    return f"{split_hub_id(hub_id)[0]}@{revision}" if revision else hub_id


def split_hub_id(hub_id: str) -> tuple[str, str | None]:
    """The repository and the revision after an @, a branch, a tag or a commit; None is the main branch."""
    repo, _, revision = hub_id.partition("@")
    return repo, revision or None


def check_cache(error: Exception) -> None:
    """Raise OutputError if it was not the hub that failed, but writing into its cache on this machine."""
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        raise OutputError(
            f"what is fetched cannot be kept in {constants.HF_HUB_CACHE}",
            got=reason(error),
            hint="set HF_HOME to a folder that can be written and has room",
        ) from error


def hub_reason(error: Exception, hub_id: str) -> str:
    """Why the hub did not give a repository, in one line; for a gated one, what to do."""
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError):
        repo, _ = split_hub_id(hub_id)
        return (
            f"gated: accept its licence at https://huggingface.co/{repo} and put a token into HF_TOKEN, "
            "or run `hf auth login`"
        )
    if _offline():
        return "HF_HUB_OFFLINE is set"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
