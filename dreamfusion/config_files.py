"""From a preset or a file, `--set` and command-line options to one checked `ExperimentConfig`. No torch here.

Later sources win: the defaults of `dreamfusion.config`, then the file that `extends:` names, then the file itself,
then each `--set a.b=c`, then the command line's own options. Mappings are merged key by key, anything else is
replaced. Where a mapping changes its `kind`, the keys of the old kind are dropped with it.

YAML is read by the rules of its version 1.2: `1e-3` is a number, `no` and `on` are words.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dreamfusion import documents
from dreamfusion.config import LARGEST, LARGEST_COUNT, TOO_LARGE, ExperimentConfig
from dreamfusion.errors import ConfigError, shown

_SUFFIXES = (".yaml", ".yml")
_NOTHING = ("null", "Null", "NULL", "~", "")


# ---------------------------------------------------------------------------------------------------- yaml


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as anything but text; lists and schedules take one line."""

    def represent_mapping(self, tag: Any, mapping: Any, flow_style: bool | None = None) -> Any:
        one_line = mapping.get("kind") in ("linear", "sqrt", "warmup_cosine", "doubling")
        return super().represent_mapping(tag, mapping, flow_style=one_line)

    def represent_str(self, data: str) -> Any:
        # PyYAML folds line separators such as U+0085 when it does not escape them.
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')

    def represent_sequence(self, tag: Any, sequence: Any, flow_style: bool | None = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=True)


_Dumper.add_representer(str, _Dumper.represent_str)

for _tag, (_pattern, _first) in documents.SCALARS.items():
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, where: str) -> Any:
    """The value that `text` holds under YAML 1.2; raises ConfigError naming `where` and the line."""
    try:
        return documents.parse_yaml(text, where, error=ConfigError)
    except ConfigError as error:
        if text[:1] == "{":  # what a template begins with, YAML takes for a mapping
            error.hint = "a text that begins with a brace needs quotes: 'key=\"{view} of ...\"'"
        raise


def dump_config(config: ExperimentConfig) -> str:
    """The whole of `config` as YAML; `load_config` of that text gives an equal config."""
    data = _numbers_for_constants(config.model_dump(mode="json"))
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _numbers_for_constants(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    if data.get("kind") == "constant":
        return data["value"]
    return {key: _numbers_for_constants(value) for key, value in data.items()}


# ------------------------------------------------------------------------------------------------- presets


def presets_directory() -> Path:
    """Where the presets lie: in the package when it was installed from a wheel, beside it in a clone."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def preset_names() -> list[str]:
    """Names that `--config` and `extends:` know, sorted."""
    return sorted(path.stem for path in presets_directory().glob("*.yaml"))


def read_preset(name: str) -> str:
    """The text of the preset `name`, one of `preset_names()`."""
    path = presets_directory() / f"{name}.yaml"
    return documents.read_text(path, error=ConfigError, max_bytes=documents.YAML.bytes)


def find_config(source: str, relative_to: Path | None = None) -> Path:
    """The file of a preset's name or of a path (relative to `relative_to`, or the current directory)."""
    preset = presets_directory() / f"{source}.yaml"
    if source in preset_names():
        return preset
    path = (relative_to or Path()) / documents.expanded(source)
    if documents.is_file(path):
        return path
    if path.suffix in _SUFFIXES or len(Path(source).parts) > 1:
        raise ConfigError(
            f"config file '{path}' does not exist", hint="see the presets: dreamfusion config show"
        )
    raise ConfigError(
        f"no preset or file is called '{source}'",
        expected=f"one of {', '.join(preset_names())}, or a YAML file",
        hint=_did_you_mean(source, preset_names()),
    )


def read_config_file(path: Path, under: Path | None = None) -> dict[str, Any]:
    """The mapping in one file, `extends:` included as it stands; `under` as in `documents.regular_file`."""
    where = f"config file '{path}'"
    text = documents.read_text(
        path, error=ConfigError, max_bytes=documents.YAML.bytes, under=under, name=where
    )
    return documents.parse_yaml(text, where, error=ConfigError, shape="mapping")


# ----------------------------------------------------------------------------------------------- layering


def parse_override(text: str) -> tuple[tuple[str, ...], str]:
    """`a.b=c` as the path (a, b) and the text c; raises ConfigError when there is no key or no `=`."""
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError("--set", expected="key.path=value", got=f"'{text}'")
    return path, value.strip()


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    run: Path | None = None,
) -> ExperimentConfig:
    """One checked experiment.

    Args:
        source: a preset's name, a YAML file, or None for the defaults of `dreamfusion.config` alone.
        overrides: `a.b=c` texts in the order given, c read as YAML unless the key holds text.
        options: dotted key to value, from the command line's own options; None values are left out.
        run: the folder of the run that `source` belongs to. A stranger may have written it: it must really lie there, and
            may extend a preset but no other file.

    Raises:
        ConfigError: unknown key, value out of range, unreadable file; names the key and where it came from.
    """
    data = ExperimentConfig().model_dump(mode="json")
    origins: dict[tuple[str, ...], str] = {}
    for layer, name in _file_layers(source, run):
        data = _merge(data, layer, (), name, origins)
    return _changed(data, overrides, options, origins)


def change_config(
    config: ExperimentConfig, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> ExperimentConfig:
    """A checked experiment with other values; see `load_config` for the arguments and what is raised."""
    return _changed(config.model_dump(mode="json"), overrides, options, {})


def _changed(
    data: dict[str, Any],
    overrides: Sequence[str],
    options: Mapping[str, Any] | None,
    origins: dict[tuple[str, ...], str],
) -> ExperimentConfig:
    for text in overrides:
        path, raw = parse_override(text)
        value = _override_value(path, raw, data)
        data = _merge(data, _nest(path, value), (), "--set", origins)
    for key, value in (options or {}).items():
        if value is not None:
            data = _merge(data, _nest(key.split("."), value), (), "command line", origins)
    return _validate(data, origins)


def _file_layers(source: str | Path | None, run: Path | None) -> Iterable[tuple[dict[str, Any], str]]:
    """Parent first. A parent has no parent of its own, so that two files tell the whole story."""
    if source is None:
        return []
    path = source if isinstance(source, Path) else find_config(source)
    data = read_config_file(path, under=run)
    if "extends" not in data:
        return [(data, path.name)]
    parent_name = data.pop("extends")
    if not isinstance(parent_name, str):
        raise ConfigError(
            f"config key 'extends' in {path.name}", expected="one preset or one file", got=shown(parent_name)
        )
    if run is not None and parent_name not in preset_names():
        raise ConfigError(
            f"config key 'extends' in {path}, which is a run's own",
            expected=f"one of the presets: {', '.join(preset_names())}",
            got=shown(parent_name),
        )
    parent_path = find_config(parent_name, relative_to=path.parent)
    parent = read_config_file(parent_path)
    if "extends" in parent:
        raise ConfigError(
            f"config key 'extends' in {path.name} names {parent_path.name}, which extends another file itself",
            expected="a file without 'extends'",
        )
    return [(parent, parent_path.name), (data, path.name)]


def _nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return value


def _merge(
    base: Any, over: Any, path: tuple[str, ...], origin: str, origins: dict[tuple[str, ...], str]
) -> Any:
    if not isinstance(over, dict):
        origins[path] = origin
        return over
    if not isinstance(base, dict) or _kind_changes(base, over, path):
        base = {}
        origins[path] = origin
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(base.get(key), value, (*path, str(key)), origin, origins)
    return merged


def _kind_changes(base: dict, over: dict, path: tuple[str, ...]) -> bool:
    """Whether `over` picks another model of a union; a `kind` that is an ordinary key changes nothing else."""
    changes = "kind" in over and over["kind"] != base.get("kind")
    return changes and len(_models(_annotation(path, base_kind=None))) != 1


def _override_value(path: tuple[str, ...], raw: str, data: dict[str, Any]) -> Any:
    value = parse_yaml(raw, f"--set {'.'.join(path)}")
    holds_text = str in _members(_annotation(path, base_kind=data))
    if (
        value is None and raw not in _NOTHING and not holds_text
    ):  # "#8" is a comment to YAML, "&x" a mark on nothing
        raise ConfigError(
            f"--set {'.'.join(path)}",
            expected="a value, or null",
            got=shown(raw),
            hint="put quotes around a text",
        )
    if not holds_text or isinstance(value, str) or (value is None and raw in ("null", "~")):
        return value
    return raw


# --------------------------------------------------------------------------------------------------- types


def _members(annotation: Any) -> list[Any]:
    """The plain types of an annotation, unions and `Annotated` unfolded."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [plain for part in typing.get_args(annotation) for plain in _members(part)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _annotation(path: Sequence[str], base_kind: Any) -> Any:
    """The type of the value at `path`; `base_kind` is the data so far, whose `kind`s choose among unions."""
    annotation: Any = ExperimentConfig
    data = base_kind
    for part in path:
        kind = data.get("kind") if isinstance(data, dict) else None
        models = [model for model in _models(annotation) if part in model.model_fields]
        chosen = [model for model in models if _kind_of(model) == kind] or models
        if not chosen:
            return None
        annotation = chosen[0].model_fields[part].annotation
        data = data.get(part) if isinstance(data, dict) else None
    return annotation


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else field.default


def _all_keys(annotation: Any = ExperimentConfig, path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    for model in _models(annotation):
        for name, field in model.model_fields.items():
            yield (*path, name)
            yield from _all_keys(field.annotation, (*path, name))


# -------------------------------------------------------------------------------------------------- errors


def _validate(data: dict[str, Any], origins: Mapping[tuple[str, ...], str]) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise _config_error(problems[0], len(problems) - 1, data, origins) from None


def _config_error(
    problem: Any, further: int, data: dict[str, Any], origins: Mapping[tuple[str, ...], str]
) -> ConfigError:
    path, parent = _plain_path(problem["loc"], data)
    if problem["type"].startswith("union_tag"):
        path, parent = (*path, "kind"), _at(data, path)
    dotted = ".".join(path)
    origin = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
    where = (f"config key '{dotted}'" if path else "the config") + (f" ({origin})" if origin else "")
    more = f" (and {further} more like it)" if further else ""
    if problem["type"] == "extra_forbidden":
        kind = parent.get("kind") if isinstance(parent, dict) else None
        of_kind = f" for kind '{kind}'" if isinstance(kind, str) else ""
        return ConfigError(f"{where} is not known{of_kind}{more}", hint=_nearest_key(path, data))
    expected = _expected(problem, path, data)
    if problem["type"] in ("missing", "union_tag_not_found"):
        return ConfigError(f"{where} is missing{more}", expected=expected)
    got = parent.get("kind") if problem["type"] == "union_tag_invalid" else problem["input"]
    if problem["type"] == "value_error" and isinstance(got, dict):
        # Keys that do not go together: the message names them, and a whole section would say less.
        return ConfigError(where + more, expected=expected)
    hint = None
    if problem["type"] in ("union_tag_invalid", "literal_error") and isinstance(got, str):
        hint = _did_you_mean(got, re.findall(r"'([^']+)'", expected))
    return ConfigError(where + more, expected=expected, got=shown(got), hint=hint)


def _plain_path(loc: Sequence[Any], data: Any) -> tuple[tuple[str, ...], Any]:
    """pydantic's place without the tags of unions, as keys of `data`, and the mapping that holds the last one."""
    path: list[str] = []
    parent = data
    for part in loc:
        if isinstance(data, dict):
            if part not in data and part == data.get("kind"):
                continue
            parent, data = data, data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int):
            parent, data = data, data[part] if part < len(data) else None
        else:
            break  # a number that stands for a constant schedule
        path.append(str(part))
    return tuple(path), parent


def _at(data: Any, path: Sequence[str]) -> Any:
    for part in path:
        data = data[int(part)] if isinstance(data, list | tuple) else data.get(part)
    return data


def _expected(problem: Any, path: tuple[str, ...], data: dict[str, Any]) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "union_tag_invalid" | "union_tag_not_found":
            models = _models(_annotation(path[:-1], base_kind=data))
            return "one of " + ", ".join(repr(_kind_of(model)) for model in models)
        case "literal_error":
            return "one of " + str(context["expected"]).replace(" or ", ", ")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return _range(path, data) or "a number " + str(problem["msg"]).removeprefix("Input should be ")
        case "value_error":
            return str(context.get("error", problem["msg"]))
        case "int_parsing" if str(problem["input"]).endswith(TOO_LARGE):
            return f"an integer of at most {LARGEST_COUNT:,}"
        case "float_parsing" if str(problem["input"]).endswith(TOO_LARGE):
            return f"a number of at most {LARGEST:g}"
        case "int_parsing_size":
            return "an integer of at most 64 bits"
        case "tuple_type":
            return "a list of numbers"
        case "too_short" | "too_long":
            return f"{context.get('min_length', context.get('max_length'))} values"
        case "missing":
            return "a value" if not path[-1].isdigit() else "one more number"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "a mapping of keys"
    return str(problem["msg"]).removeprefix("Input should be ").partition(", ")[0]


def _range(path: tuple[str, ...], data: dict[str, Any]) -> str | None:
    """ "a number from 0 to 1", from the limits in the key's own declaration."""
    parent = _annotation(path[:-1], base_kind=data)
    fields = [m.model_fields[path[-1]] for m in _models(parent) if path[-1] in m.model_fields]
    # A number that stands for a constant has the limits of its value.
    numbers = [m for m in _models(_annotation(path, base_kind=data)) if _kind_of(m) == "constant"]
    fields = [m.model_fields["value"] for m in numbers] or fields
    if not fields:
        return None
    limits = {}
    for part in fields[0].metadata:
        part = part.metadata if isinstance(part, FieldInfo) else [part]
        for limit in part:
            limits |= {n: getattr(limit, n) for n in ("gt", "ge", "lt", "le") if hasattr(limit, n)}
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    if not limits:
        return None
    if limits.keys() == {"ge", "le"}:
        return f"a number from {limits['ge']:g} to {limits['le']:g}"
    return "a number " + " and ".join(f"{signs[n]} {limits[n]:g}" for n in signs if n in limits)


def _nearest_key(path: tuple[str, ...], data: dict[str, Any]) -> str:
    """Where the key may have been meant: in another kind, beside it, or under that name anywhere."""
    parent, word = path[:-1], path[-1]
    union = _models(_annotation(parent, base_kind=data))
    other_kinds = [_kind_of(model) for model in union if word in model.model_fields]
    if other_kinds:
        return f"it belongs to kind '{other_kinds[0]}', so set {'.'.join((*parent, 'kind'))} to that as well"
    kind = _at(data, parent).get("kind")
    models = [model for model in union if _kind_of(model) == kind] or union
    beside = [name for model in models for name in model.model_fields]
    near = difflib.get_close_matches(word, beside, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{'.'.join((*parent, near[0]))}'?"
    same_name = sorted({key for key in _all_keys() if key[-1] == word}, key=lambda key: (len(key), key))
    if same_name:
        return f"did you mean '{'.'.join(same_name[0])}'?"
    return f"the keys here are {', '.join(beside)}"


def _did_you_mean(word: str, known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
