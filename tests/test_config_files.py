"""Layering, YAML 1.2, and that each mistake is told with its place and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dreamfusion import config_files
from dreamfusion.config import ExperimentConfig, GridsFieldConfig, LinearSchedule, MLPFieldConfig
from dreamfusion.config_files import dump_config, load_config, parse_yaml
from dreamfusion.errors import ConfigError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------- yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.5e+2", 150.0),
        (".5", 0.5),
        ("-2", -2),
        ("010", 10),  # octal in YAML 1.1
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("1_000", "1_000"),  # 1000 in YAML 1.1
        ("2024-01-01", "2024-01-01"),  # a date in YAML 1.1
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'true'", "true"),
        ("[1e-3, no]", [0.001, "no"]),
        ("{kind: linear}", {"kind": "linear"}),
    ],
)
def test_yaml_1_2_scalars(text: str, value: object) -> None:
    read = parse_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_a_key_twice_is_an_error_and_not_the_last_one() -> None:
    with pytest.raises(ConfigError, match=r"here, line 2, column 1 .*'a' is given twice"):
        parse_yaml("a: 1\na: 2\n", "here")


@pytest.mark.parametrize("text", ["training: &a {steps: *a}", "a: &b [1, *b]"])
def test_a_part_that_holds_itself_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not readable as YAML.*recursive"):
        parse_yaml(text, "here")
    assert parse_yaml("a: &b [1, 2]\nc: *b\n", "here") == {"a": [1, 2], "c": [1, 2]}


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.sampled_from(["no", "1e-3", "1e3", "010", "null", "", "~", "true", "0x1f", "1:30", "a: b"]),
    )
)
def test_any_prompt_survives_a_dump(prompt: str) -> None:
    config = ExperimentConfig(prompt=prompt)
    dumped = dump_config(config)
    assert parse_yaml(dumped, "dump")["prompt"] == prompt
    # The run's config is read by others' YAML 1.1 too.
    assert yaml.safe_load(dumped)["prompt"] == prompt


@pytest.mark.parametrize("name", config_files.preset_names())
def test_a_dump_loads_to_an_equal_config(name: str, tmp_path: Path) -> None:
    config = load_config(name, ["losses.opacity={kind: linear, start: 0.9, end: 0.4, steps: 10}"])
    assert load_config(written(tmp_path, "dump.yaml", dump_config(config))) == config


# ----------------------------------------------------------------------------------------------- layering


def test_later_sources_win(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.yaml", "extends: miniature\ntraining: {steps: 7}\nseed: 3\n")
    config = load_config(str(path), ["training.steps=8", "seed=4"], {"seed": 5, "device": None})
    assert (config.training.steps, config.seed, config.device) == (8, 5, "auto")
    assert config.training.preview_every == load_config("miniature").training.preview_every
    assert load_config(str(path)).training.steps == 7


def test_mappings_are_merged_and_lists_are_replaced() -> None:
    config = load_config("miniature", ["scene.field.resolutions=[8]", "scene.field={features: 5}"])
    assert isinstance(config.scene.field, GridsFieldConfig)
    assert (config.scene.field.resolutions, config.scene.field.features) == ((8,), 5)
    assert config.scene.field.hidden_width == 32


def test_another_kind_drops_the_keys_of_the_first() -> None:
    config = load_config("miniature", ["scene.field.kind=mlp", "scene.field.width=64"])
    assert config.scene.field == MLPFieldConfig(width=64)
    # blob_density means another thing there: the paper's 5 and not the linear blob's 10
    assert config.scene.field.blob_density == 5.0


def test_naming_the_same_kind_again_drops_nothing() -> None:
    config = load_config("miniature", ["scene.field.features=7", "scene.field.kind=grids"])
    assert isinstance(config.scene.field, GridsFieldConfig)
    assert config.scene.field.features == 7


def test_a_kind_without_a_union_drops_nothing() -> None:
    config = load_config("miniature", ["scene.normals.epsilon=0.5", "scene.normals.kind=analytic"])
    assert config.scene.normals.epsilon == 0.5


def test_schedules_turn_into_numbers_and_back() -> None:
    assert load_config("miniature", ["guidance.timestep_max=0.9"]).guidance.timestep_max.at(500) == 0.9
    schedule = load_config(
        "miniature", ["losses.opacity={kind: linear, start: 0, end: 1, steps: 4}"]
    ).losses.opacity
    assert schedule == LinearSchedule(start=0, end=1, steps=4)
    assert load_config("miniature", ["optimizer.lr=1e-3"]).optimizer.lr.at(0) == 0.001


@pytest.mark.parametrize("kind", ["linear", "sqrt"])
def test_a_schedule_without_steps_spans_the_run(kind: str) -> None:
    schedule = f"losses.opacity={{kind: {kind}, start: 0, end: 1}}"
    numbers = (["training.steps=50"], 50), (["training.steps=1e3"], 1000), (["training.steps='70'"], 70)
    for sets, steps in (([], 600), *numbers):
        opacity = load_config("miniature", [schedule, *sets]).losses.opacity
        assert opacity.at(steps) == 1.0
        assert opacity.at(steps - 1) < 1.0
    assert load_config("miniature", ["training.steps=2000"]).guidance.timestep_max.at(1999) > 0.5


@pytest.mark.parametrize("text", ["no", "12", "1e-3", "true", "a = b", "[x]", "null hypothesis"])
def test_text_stays_text(text: str) -> None:
    assert load_config("miniature", [f"guidance.negative_prompt={text}"]).guidance.negative_prompt == text


def test_text_may_be_null_where_it_may_be_absent() -> None:
    sets = ["guidance.view_prompts.back=a back", "guidance.view_prompts.back=null"]
    assert load_config("miniature", sets[:1]).guidance.view_prompts.back == "a back"
    assert load_config("miniature", sets).guidance.view_prompts.back is None


def test_extends_looks_beside_the_file_and_only_once(tmp_path: Path) -> None:
    written(tmp_path, "base.yaml", "seed: 11\n")
    written(tmp_path, "child.yaml", "extends: base.yaml\n")
    grandchild = written(tmp_path, "grandchild.yaml", "extends: child.yaml\n")
    assert load_config(str(tmp_path / "child.yaml")).seed == 11
    with pytest.raises(ConfigError, match=r"child\.yaml, which extends another file"):
        load_config(str(grandchild))
    both = written(tmp_path, "both.yaml", "extends: [base.yaml, child.yaml]\n")
    with pytest.raises(ConfigError, match="one preset or one file"):
        load_config(str(both))


# ------------------------------------------------------------------------------------------------- presets


def test_the_presets_are_there() -> None:
    names = [
        "dream-fields",
        "fast",
        "fit",
        "if",
        "low-vram",
        "miniature",
        "paper",
        "quality",
        "stable-diffusion",
    ]
    assert config_files.preset_names() == names


@pytest.mark.parametrize("name", config_files.preset_names())
def test_each_preset_names_its_model_and_its_field(name: str) -> None:
    from dreamfusion.guidance.models import aliases

    config = load_config(name)
    assert config.guidance.model in aliases()
    kinds = {"miniature": "grids", "dream-fields": "grids", "fit": "grids", "paper": "mlp"}
    assert config.scene.field.kind == kinds.get(name, "hashgrid")
    # The ball must not swallow the camera.
    if name != "paper":
        assert config.cameras.distance[0] > config.scene.radius * 0.7


def test_the_paper_preset_is_the_paper() -> None:
    config = load_config("paper")
    assert isinstance(config.scene.field, MLPFieldConfig)
    covariance = config.scene.field.covariance
    assert (covariance.at(0), covariance.at(5000), covariance.at(15000)) == pytest.approx((5e-2, 2e-3, 2e-3))
    assert config.guidance.guidance_scale == 1 + 100
    assert config.training.steps == 15_000
    assert config.cameras.views_per_step == 4
    assert (config.optimizer.lr.at(0), config.losses.orientation.at(5000)) == (1e-9, 1e-2)


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "guidance.guidance_scal=3",
            "'guidance.guidance_scal' (--set) is not known. Did you mean 'guidance.guidance_scale'?",
        ),
        ("guidnce.guidance_scale=3", "Did you mean 'guidance'?"),
        ("steps=3", "Did you mean 'training.steps'?"),
        ("blorp=1", "The keys here are prompt, seed,"),
        (
            "scene.field.kind=gris",
            "expected one of 'mlp', 'hashgrid', 'grids', got 'gris'. Did you mean 'grids'?",
        ),
        (
            "scene.field.width=8",
            "not known for kind 'grids'. It belongs to kind 'mlp', so set scene.field.kind",
        ),
        ("training.steps=0", "'training.steps' (--set): expected a number > 0, got 0"),
        ("rendering.termination=2", "expected a number from 0 to 1, got 2"),
        ("seed=true", "'seed' (--set): expected a valid integer, got 'true'"),
        (
            "rendering.termination=false",
            "'rendering.termination' (--set): expected a valid number, got 'false'",
        ),
        ("cameras.distance=[true, 2]", "'cameras.distance.0' (--set): expected a valid number, got 'true'"),
        (
            "optimizer.lr={kind: linear, start: true, end: 0, steps: 5}",
            "'optimizer.lr.start' (--set): expected",
        ),
        ("cameras.distance=[3, 2]", "expected two numbers, the smaller one first, got [3, 2]"),
        ("cameras.distance=3", "expected a list of numbers, got 3"),
        ("cameras.distance=[1]", "is missing: expected one more number"),
        ("cameras.distance=[1, a]", "'cameras.distance.1' (--set): expected a valid number, got 'a'"),
        ("guidance.timestep_max=foo", "expected a valid number, got 'foo'"),
        ("guidance.weighting=sigma", "Did you mean 'sigma2'?"),
        ("optimizer.lr=.nan", "expected a finite number, got nan"),
        ("training.steps=[1", "--set training.steps, line 1"),
        ("training.steps", "--set: expected key.path=value, got 'training.steps'"),
        ("=3", "--set: expected key.path=value"),
        ("scene=3", "expected a mapping of keys, got 3"),
        ("scene.field.resolutions=[1, 2]", "'scene.field.resolutions.0' (--set) (and 2 more like it)"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_its_cure(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("miniature", [override])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_names_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.yaml", "extends: miniature\ntraining:\n  stepps: 7\n")
    with pytest.raises(
        ConfigError, match=r"'training\.stepps' \(mine\.yaml\) is not known.*'training\.steps'"
    ):
        load_config(str(path))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("miniatur", "Did you mean 'miniature'?"),
        ("nowhere.yaml", "config file 'nowhere.yaml' does not exist"),
        ("some/where", "does not exist"),
    ],
)
def test_a_config_that_is_not_there(source: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "word", "a: [", "a:\n\tb: 1\n"])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(str(written(tmp_path, "mine.yaml", text)))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine\.yaml' cannot be read"):
        load_config(str(tmp_path / "mine.yaml"))


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(str(written(tmp_path, "empty.yaml", "# nothing\n"))) == ExperimentConfig()


# --------------------------------------------------------------------------------------- sizes of pictures


def test_pictures_double_in_equal_parts_of_the_run() -> None:
    text = "cameras.resolution={kind: doubling, start: 64, end: 256, steps: 300}"
    resolution = load_config("miniature", [text]).cameras.resolution
    assert [resolution.at(step) for step in (0, 99, 100, 199, 200, 299, 300, 10_000)] == [
        *(64, 64, 128, 128, 256, 256, 256, 256),
    ]
    assert resolution.largest == 256
    assert load_config("miniature", ["cameras.resolution=48"]).cameras.resolution.at(7) == 48
    spanning = ["cameras.resolution={kind: doubling, start: 64, end: 128}", "training.steps=50"]
    over_the_run = load_config("miniature", spanning).cameras.resolution
    assert [over_the_run.at(step) for step in (24, 25)] == [64, 128]
    flat = load_config("miniature", ["cameras.resolution={kind: doubling, start: 64, end: 64, steps: 3}"])
    assert flat.cameras.resolution.at(9) == 64
    assert "resolution: 64\n" in dump_config(load_config("miniature"))
    assert text.partition("=")[2] in dump_config(load_config("miniature", [text]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{kind: doubling, start: 64, end: 200, steps: 10}", "expected an end that is start times a power of 2"),
        ("{kind: doubling, start: 64, end: 32, steps: 10}", "expected an end that is start times a power of 2"),
        ("4", "expected a number from 8 to 2048, got 4"),
        ("{kind: twice, start: 64, end: 32, steps: 10}", "expected one of 'constant', 'doubling'"),
        ("big", "cameras.resolution' .*expected a valid integer"),
    ],
)  # fmt: skip
def test_a_wrong_size_is_told(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("miniature", [f"cameras.resolution={value}"])


@pytest.mark.parametrize("raw", ["#8", "&x", "!!null", "# 8"])
def test_what_yaml_takes_for_nothing_is_no_value(raw: str) -> None:
    with pytest.raises(ConfigError, match=r"--set vram_gb"):
        load_config("miniature", [f"vram_gb={raw}"])
    assert load_config("miniature", ["vram_gb=~"]).vram_gb is None
    assert load_config("miniature", [f"prompt={raw}"]).prompt == raw
