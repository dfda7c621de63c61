"""What can be set, with its range and its default. No torch here: a misspelt key dies in the first second.

`ExperimentConfig` is one whole experiment. Reading it from YAML, `--set` and command-line options is the job of
`dreamfusion.config_files`; this module only says what is allowed.

Anything that changes during a run is a `Schedule`: a plain number, or a mapping such as
`{kind: linear, start: 0.98, end: 0.5, steps: 600}`; linear and sqrt without `steps` span the run, however long it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_numbers_for_a_number(cls, data: Any) -> Any:
        """What pydantic takes for a number and nobody means becomes a text that is no number: true, which it takes for 1,
        and numbers that no loop ends at and no float32 holds."""
        if not isinstance(data, dict):
            return data
        types = {name: set(_plain_types(field.annotation)) for name, field in cls.model_fields.items()}
        numbers = {name for name in types if bool not in types[name] and types[name] & {int, float}}
        limits = {name: LARGEST if float in types[name] else LARGEST_COUNT for name in numbers}
        limits |= {name: math.inf for name in numbers if _has_upper_limit(cls.model_fields[name])}
        return {key: _text_unless_a_number(value, limits[key]) if key in numbers else value
                for key, value in data.items()}  # fmt: skip


# Of float32, and of what is counted: steps, samples, units of a layer.
LARGEST = 3.4e38
LARGEST_COUNT = 10**9
# Behind a number that is refused: without it pydantic would take the text for the number.
TOO_LARGE = " or more"


def _has_upper_limit(field: FieldInfo) -> bool:
    return any(hasattr(limit, name) for limit in field.metadata for name in ("lt", "le"))


def _text_unless_a_number(value: Any, largest: float | int) -> Any:
    if isinstance(value, list | tuple):
        return [_text_unless_a_number(item, largest) for item in value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and (value > largest or value < -LARGEST):
        return (f"{value:.3g}" if abs(value) < 1e300 else "1e+300") + TOO_LARGE
    return value


def _plain_types(annotation: Any) -> Iterator[Any]:
    """`annotation` and every type inside it, such as int and None in `int | None`."""
    yield annotation
    for part in get_args(annotation):
        yield from _plain_types(part)


# ----------------------------------------------------------------------------------------------- schedules


class ConstantSchedule(_Strict):
    kind: Literal["constant"] = "constant"
    value: float

    def at(self, step: int) -> float:
        """The value at optimiser iteration `step` (any step: it never changes)."""
        return self.value

    def acts_within(self, steps: int) -> bool:
        """Whether the value differs from 0 at any of the first `steps` iterations."""
        return self.value != 0.0


class LinearSchedule(_Strict):
    """From `start` to `end` in a straight line over `steps` iterations, then `end`."""

    kind: Literal["linear"] = "linear"
    start: float
    end: float
    steps: int = Field(gt=0)

    def at(self, step: int) -> float:
        """The value at optimiser iteration `step` >= 0."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)

    def acts_within(self, steps: int) -> bool:
        """Whether the value differs from 0 at any of the first `steps` iterations."""
        return self.start != 0.0 or (self.end != 0.0 and steps > 1)


class SqrtSchedule(_Strict):
    """From `start` to `end` with the square root of the elapsed share (HiFA, arXiv 2305.18766)."""

    kind: Literal["sqrt"] = "sqrt"
    start: float
    end: float
    steps: int = Field(gt=0)

    def at(self, step: int) -> float:
        """The value at optimiser iteration `step` >= 0."""
        return self.start + (self.end - self.start) * math.sqrt(min(step / self.steps, 1.0))

    def acts_within(self, steps: int) -> bool:
        """Whether the value differs from 0 at any of the first `steps` iterations."""
        return self.start != 0.0 or (self.end != 0.0 and steps > 1)


class WarmupCosineSchedule(_Strict):
    """Linear from `start` to `peak` over `warmup_steps`, then a half cosine to `end` at `steps`."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    start: float
    peak: float
    end: float
    warmup_steps: int = Field(gt=0)
    steps: int = Field(gt=0)

    @model_validator(mode="after")
    def _order(self) -> WarmupCosineSchedule:
        if self.warmup_steps >= self.steps:
            raise ValueError("warmup_steps smaller than steps")
        return self

    def at(self, step: int) -> float:
        """The value at optimiser iteration `step` >= 0."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        share = min((step - self.warmup_steps) / (self.steps - self.warmup_steps), 1.0)
        return self.end + (self.peak - self.end) * 0.5 * (1.0 + math.cos(math.pi * share))

    def acts_within(self, steps: int) -> bool:
        """Whether the value differs from 0 at any of the first `steps` iterations."""
        return (
            self.start != 0.0
            or (self.peak != 0.0 and steps > 1)
            or (self.end != 0.0 and steps > self.warmup_steps + 1)
        )


def _number_is_constant(value: object) -> object:
    # Dumped configs hold the mapping; people write the number. A string comes from YAML's reading of `1e-3`.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return {"kind": "constant", "value": value}
    return value


Schedule = Annotated[
    Annotated[
        ConstantSchedule | LinearSchedule | SqrtSchedule | WarmupCosineSchedule, Field(discriminator="kind")
    ],
    BeforeValidator(_number_is_constant),
]


def constant(value: float) -> ConstantSchedule:
    """A schedule that never changes, for defaults."""
    return ConstantSchedule(value=value)


def _telling_steps(*schedules: Schedule) -> list[int]:
    """Steps at which a mistake in schedules shows: where they bend, and some in between."""
    bends = [
        getattr(each, name) for each in schedules for name in ("warmup_steps", "steps") if hasattr(each, name)
    ]
    longest = max(bends, default=0)
    return sorted({0, *bends, *(longest * part // 64 for part in range(64))})


class ConstantResolution(_Strict):
    kind: Literal["constant"] = "constant"
    value: int = Field(ge=8, le=2048)

    @property
    def largest(self) -> int:
        return self.value

    def at(self, step: int) -> int:
        """Pixels at optimiser iteration `step` (any step: they never change)."""
        return self.value


class DoublingResolution(_Strict):
    """`start` pixels, then twice, four times ... as many, up to `end`; each size for an equal part of `steps` iterations."""

    kind: Literal["doubling"] = "doubling"
    start: int = Field(ge=8, le=2048)
    end: int = Field(ge=8, le=2048, description="start times a power of 2")
    steps: int = Field(
        gt=0, description="iterations by which the last part has passed; it goes on after them"
    )

    @model_validator(mode="after")
    def _powers(self) -> DoublingResolution:
        if self.start << self._doublings != self.end:
            raise ValueError("an end that is start times a power of 2")
        return self

    @property
    def _doublings(self) -> int:
        return max(self.end // self.start, 1).bit_length() - 1

    @property
    def largest(self) -> int:
        return self.end

    def at(self, step: int) -> int:
        """Pixels at optimiser iteration `step` >= 0."""
        return self.start << min(step * (self._doublings + 1) // self.steps, self._doublings)


Resolution = Annotated[
    Annotated[ConstantResolution | DoublingResolution, Field(discriminator="kind")],
    BeforeValidator(_number_is_constant),
]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("two numbers, the smaller one first")
    return pair


@dataclass(frozen=True)
class NamesFile:
    """Marks a key that holds the path of a file or folder (`dreamfusion.config_files.with_absolute_paths`).

    Attributes:
        instead: what else it may hold: nothing, a hub id, an alias of a diffusion model or a CLIP's name.
    """

    instead: Literal["nothing", "hub id", "model", "clip"] = "nothing"


FilePath = Annotated[str, NamesFile()]
FileOrHubId = Annotated[str, NamesFile("hub id")]
FileOrModel = Annotated[str, NamesFile("model")]
FileOrClip = Annotated[str, NamesFile("clip")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Elevation = Annotated[float, Field(ge=-90.0, le=90.0)]
FieldOfView = Annotated[float, Field(gt=0.0, lt=180.0)]
Rgb = tuple[Fraction, Fraction, Fraction]
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
ElevationRange = Annotated[tuple[Elevation, Elevation], AfterValidator(_ordered)]
FieldOfViewRange = Annotated[tuple[FieldOfView, FieldOfView], AfterValidator(_ordered)]


# --------------------------------------------------------------------------------------------------- scene


class MLPFieldConfig(_Strict):
    """The paper's field: mip-NeRF 360's integrated positional encoding and a residual MLP (DreamFusion, App. A.2)."""

    kind: Literal["mlp"] = "mlp"
    degrees: int = Field(default=8, ge=1, le=16, description="octaves of the encoding, 2^0 .. 2^(degrees-1)")
    width: int = Field(default=128, ge=8)
    blocks: int = Field(default=5, ge=1)
    covariance: Schedule = LinearSchedule(start=5e-2, end=2e-3, steps=5000)
    blob_density: float = Field(
        default=5.0, description="height of the gaussian blob added before the activation"
    )
    blob_std: Positive = 0.2


class HashGridFieldConfig(_Strict):
    """Instant-NGP's multi-resolution hash grid with threestudio's linear blob (arXiv 2201.05989; 2211.10440)."""

    kind: Literal["hashgrid"] = "hashgrid"
    levels: int = Field(default=16, ge=1, le=24)
    features_per_level: int = Field(default=2, ge=1, le=8)
    log2_table_size: int = Field(default=19, ge=8, le=24)
    base_resolution: int = Field(default=16, ge=2)
    max_resolution: int = Field(default=4096, ge=2)
    start_level: int = Field(default=8, ge=1, description="levels in use at the start")
    level_every: int = Field(default=500, gt=0, description="steps between two further levels")
    level_from: int = Field(default=2000, ge=0, description="step at which the first further level comes in")
    hidden_width: int = Field(default=64, ge=8)
    hidden_layers: int = Field(default=1, ge=1)
    blob_density: float = 10.0
    blob_radius: Positive = 0.5

    @model_validator(mode="after")
    def _coarse_to_fine(self) -> HashGridFieldConfig:
        if self.max_resolution < self.base_resolution:
            raise ValueError("max_resolution of at least base_resolution")
        return self


class GridsFieldConfig(_Strict):
    """Dense grids of several resolutions, summed and read by one trilinear interpolation: the fastest on a CPU."""

    kind: Literal["grids"] = "grids"
    resolutions: tuple[Annotated[int, Field(ge=4, le=512)], ...] = Field(
        default=(16, 32, 64),
        min_length=1,
        description="cells a side; fastest if each is twice the one before",
    )
    density_gain: Positive = Field(
        default=20.0, description="raw density per unit of a grid's value: a learning rate"
    )
    colour_gain: Positive = Field(
        default=3.0, description="raw colour per unit of a grid's value: a learning rate"
    )
    hidden_layers: int = Field(
        default=0, ge=0, description="of an MLP that makes the colour; 0: the grids are the colour"
    )
    hidden_width: int = Field(default=32, ge=8)
    features: int = Field(
        default=4, ge=1, le=32, description="channels of the colour's grids when there is an MLP"
    )
    blob_density: float = 10.0
    blob_radius: Positive = 0.5


FieldConfig = Annotated[MLPFieldConfig | HashGridFieldConfig | GridsFieldConfig, Field(discriminator="kind")]


class EnvironmentBackgroundConfig(_Strict):
    """A learned colour for each ray direction (DreamFusion, sec. 3.1)."""

    kind: Literal["environment"] = "environment"
    degrees: int = Field(default=4, ge=1, le=10, description="octaves of the direction's encoding")
    width: int = Field(default=32, ge=4)


class SolidBackgroundConfig(_Strict):
    kind: Literal["solid"] = "solid"
    rgb: Rgb = (1.0, 1.0, 1.0)


class RandomBackgroundConfig(_Strict):
    """One random colour per view and step, so that the object cannot hide in the background."""

    kind: Literal["random"] = "random"
    low: Fraction = 0.0
    high: Fraction = 1.0
    eval_rgb: Rgb = (1.0, 1.0, 1.0)


class AugmentedBackgroundConfig(_Strict):
    """Blurred noise, a checkerboard or a Fourier texture behind each view (Dream Fields, arXiv 2112.01455)."""

    kind: Literal["augmented"] = "augmented"
    squares: int = Field(default=8, ge=1, le=64, description="of the checkerboard, along a side")
    blur_std: float = Field(default=10.0, ge=0.0, description="largest std of the blur, in pixels")
    eval_rgb: Rgb = (1.0, 1.0, 1.0)


BackgroundConfig = Annotated[
    EnvironmentBackgroundConfig | SolidBackgroundConfig | RandomBackgroundConfig | AugmentedBackgroundConfig,
    Field(discriminator="kind"),
]


class NormalsConfig(_Strict):
    """Where surface normals come from; `none` allows albedo shading only."""

    kind: Literal["analytic", "finite_difference", "none"] = "finite_difference"
    epsilon: Positive = Field(
        default=1e-2, description="half the distance of the finite difference, in world units"
    )


class SceneConfig(_Strict):
    radius: Positive = Field(
        default=1.0, description="radius of the ball that holds the scene, in world units"
    )
    field: FieldConfig = GridsFieldConfig()
    background: BackgroundConfig = RandomBackgroundConfig()
    normals: NormalsConfig = NormalsConfig()


# ----------------------------------------------------------------------------------------------- rendering


class OccupancyConfig(_Strict):
    """The grid that knows where space is thin, and takes fewer samples there (Instant-NGP, App. E.2)."""

    enabled: bool = True
    resolution: int = Field(default=32, ge=4, le=256)
    alpha_threshold: Fraction = Field(
        default=0.01,
        description="a cell whose opacity over a 64th of the ball's diameter is below this gets a share of the "
        "samples, which stand for all; the same for any samples_per_ray",
    )
    decay: Fraction = Field(default=0.95, description="per update, of densities that random points found")
    update_every: int = Field(default=16, gt=0)
    warmup_steps: int = Field(default=64, ge=0, description="steps in which every cell counts as occupied")


class ShadingConfig(_Strict):
    """The paper's shading schedule (DreamFusion, App. A.2)."""

    albedo_steps: int = Field(default=1000, ge=0, description="steps of pure albedo at the start")
    shaded_probability: Fraction = 0.75
    textureless_probability: Fraction = Field(
        default=0.5, description="share of the shaded steps that are textureless"
    )
    ambient: Fraction = 0.1
    diffuse: Fraction = 0.9
    light_distance: PositiveRange = Field(
        default=(0.8, 1.5),
        description="from the origin; a light inside something solid is moved outwards until it is free",
    )
    light_jitter: float = Field(
        default=1.0, ge=0.0, description="std of the light's position around the camera's"
    )


class RenderingConfig(_Strict):
    samples_per_ray: int = Field(
        default=64, ge=2, le=4096, description="steps along a ray through the ball's diameter"
    )
    field_chunk: int | None = Field(
        default=None,
        ge=1024,
        description="samples of the field at once in training; None: all, which is fastest",
    )
    termination: Fraction = Field(default=1e-3, description="transmittance below which a ray is ended")
    occupancy: OccupancyConfig = OccupancyConfig()
    shading: ShadingConfig = ShadingConfig()


DEFAULT_FOVY_DEG = (41.0, 71.0)


class CameraConfig(_Strict):
    """The distribution of training cameras, in degrees and world units (DreamFusion, sec. 3.2)."""

    views_per_step: int = Field(default=1, ge=1, le=64)
    view_spacing: Literal["sectors", "antithetic"] = Field(
        default="sectors",
        description="views of a step: one at random in each sector, or at equal angles (MV-SDI)",
    )
    resolution: Resolution = ConstantResolution(value=64)
    distance: PositiveRange = (1.0, 1.5)
    elevation_deg: ElevationRange = (-10.0, 90.0)
    uniform_area_probability: Fraction = Field(
        default=0.5, description="share of views with elevation uniform in area, the rest is uniform in angle"
    )
    uniform_area_elevation_deg: ElevationRange | None = Field(
        default=None, description="range of the views that are uniform in area; None: elevation_deg"
    )
    azimuth_deg: Range = (-180.0, 180.0)
    fovy_deg: FieldOfViewRange = DEFAULT_FOVY_DEG
    focal_length: PositiveRange | None = Field(
        default=None,
        description="uniform, in image widths, in the place of fovy_deg, which then follows from it",
    )
    position_jitter: float = Field(
        default=0.1, ge=0.0, description="half width of the uniform jitter of the position"
    )
    target_jitter: float = Field(default=0.2, ge=0.0, description="std of the look-at point")
    up_jitter: float = Field(default=0.02, ge=0.0, description="std of the up vector")
    track_centre: Fraction = Field(
        default=0.0,
        description="memory of the running mean of what is seen, which cameras then turn around; 0: the origin stays",
    )

    @model_validator(mode="before")
    @classmethod
    def _field_of_view_follows_the_focal_length(cls, data: Any) -> Any:
        """Whoever needs one field of view, such as a preview, finds it in `fovy_deg` whichever of the two was given.

        The default of `fovy_deg` counts as not given: files and options are laid over a dump of all defaults.
        """
        if not isinstance(data, dict) or data.get("focal_length") is None:
            return data
        given = data.get("fovy_deg")
        if given not in (None, DEFAULT_FOVY_DEG, list(DEFAULT_FOVY_DEG)):
            return data
        try:
            shortest, longest = sorted(float(focal) for focal in data["focal_length"])
            return {**data, "fovy_deg": (fovy_deg_of(longest), fovy_deg_of(shortest))}
        except (TypeError, ValueError, ZeroDivisionError):  # reported once, at its own place
            return data

    @model_validator(mode="after")
    def _one_field_of_view(self) -> CameraConfig:
        if self.focal_length is not None:
            expected = tuple(fovy_deg_of(focal) for focal in reversed(self.focal_length))
            if any(abs(a - b) > 1e-3 for a, b in zip(self.fovy_deg, expected, strict=True)):
                low, high = expected
                raise ValueError(
                    f"one of fovy_deg and focal_length, and the other null: this focal_length is a fovy_deg "
                    f"of {low:.2f} to {high:.2f}"
                )
        return self


def fovy_deg_of(focal_length: float) -> float:
    """The vertical field of view, in degrees, of a square image whose focal length is so many of its widths."""
    return math.degrees(2.0 * math.atan(0.5 / focal_length))


# ------------------------------------------------------------------------------------------------ guidance


VIEWS: tuple[str, ...] = ("front", "side", "back", "overhead")
"""The views that prompts name."""
SIDES: tuple[str, ...] = ("left", "right")
"""What a model that tells them apart may be asked for in the place of "side"."""


class ViewNegativesConfig(_Strict):
    """What a view must not show, in the place of `guidance.negative_prompt`; None: that one."""

    front: str | None = None
    side: str | None = None
    back: str | None = None
    overhead: str | None = None


def _with_prompt(template: str) -> str:
    if "{prompt}" not in template:
        raise ValueError("a text with {prompt} in it")
    return template


class ViewPromptConfig(_Strict):
    """Which words are added for which camera (three rules in use, see docs/method.md)."""

    rule: Literal["none", "nearest", "threestudio", "interpolate"] = "nearest"
    overhead_elevation_deg: float = Field(default=60.0, ge=0.0, le=90.0)
    front_halfwidth_deg: float = Field(default=45.0, gt=0.0, le=90.0)
    split_sides: bool = Field(
        default=False,
        description='"left" and "right" view for a model that tells them apart, instead of "side"',
    )
    template: Annotated[str, AfterValidator(_with_prompt)] = Field(
        default="{prompt}, {view} view", description="{prompt} and {view} are filled in"
    )
    front: str | None = Field(default=None, description="whole text for the front; None: from the template")
    side: str | None = Field(default=None, description="for both sides")
    back: str | None = None
    overhead: str | None = None
    negative: ViewNegativesConfig = ViewNegativesConfig()


class UniformTimesteps(_Strict):
    """Each view draws its own timestep (DreamFusion, sec. 3.2)."""

    kind: Literal["uniform"] = "uniform"


class DreamTimeTimesteps(_Strict):
    """One timestep for all views, falling over the run, slowest where it matters most (DreamTime, arXiv 2306.12422)."""

    kind: Literal["dreamtime"] = "dreamtime"
    steps: int = Field(gt=0, description="length of the descent, in optimiser iterations")
    centre: Range = Field(default=(0.5, 0.8), description="where most steps are spent: m2 and m1, as shares")
    spread: tuple[Positive, Positive] = Field(
        default=(0.1, 0.3), description="s2 below and s1 above, as shares"
    )


TimestepSampling = Annotated[UniformTimesteps | DreamTimeTimesteps, Field(discriminator="kind")]


class SDSConfig(_Strict):
    """Score distillation (DreamFusion, eq. 3)."""

    kind: Literal["sds"] = "sds"


class CSDConfig(_Strict):
    """The classifier's half of the score alone (arXiv 2310.19415)."""

    kind: Literal["csd"] = "csd"
    negative_weight: Schedule = Field(
        default=constant(0.0), description="0: against no text; 1: against the negative prompt"
    )


class SDIConfig(_Strict):
    """Noise by DDIM inversion of the render (arXiv 2405.15891)."""

    kind: Literal["sdi"] = "sdi"
    inversion_guidance_scale: float = Field(
        default=-6.5,
        description="s on the way to the noise; if left out -6.5, and -7.5 with perp_neg, which are SDI's -7.5",
    )
    inversion_steps: int = Field(
        default=10,
        ge=1,
        le=100,
        description="calls of the model on the way to the last timestep; to another its share of them",
    )
    eta: Fraction = Field(default=0.0, description="random part of each of these steps; SDI's is 0.3")

    def steps_to(self, share: float) -> int:
        """Calls of the model on the way to a timestep, given as a share of the schedule's length."""
        return max(1, int(self.inversion_steps * share + 1e-6))


Objective = Annotated[SDSConfig | CSDConfig | SDIConfig, Field(discriminator="kind")]


class LoraConfig(_Strict):
    """LoRA weights of one's own, added to the model's (arXiv 2106.09685)."""

    file: FilePath = Field(description="a safetensors file")
    weight: float = Field(default=1.0, description="times the change that the file makes")


class EmbeddingConfig(_Strict):
    """A word of textual inversion (arXiv 2208.01618)."""

    file: FilePath = Field(description="a safetensors file")
    word: str | None = Field(
        default=None,
        pattern=r"\S",
        description="how prompts call it; None: as the file does, or the file's name",
    )


class TinyAutoencoderConfig(_Strict):
    """A small encoder for the first part of a run (TAESD's layout); nothing for models without an autoencoder."""

    model: FileOrHubId | None = Field(
        default=None, description="directory in diffusers' layout, or hub id; None: the family's TAESD"
    )
    steps: int = Field(gt=0, description="optimiser iterations before the model's own autoencoder takes over")


class GuidanceConfig(_Strict):
    """Score distillation from a frozen diffusion model (DreamFusion, eq. 3)."""

    model: FileOrModel = Field(
        default="miniature", description="alias, directory in diffusers' layout, safetensors file, or hub id"
    )
    single_file_config: FileOrModel | None = Field(
        default=None,
        description="alias or directory whose settings and tokenizer a single file is read with; None: told from the file",
    )
    tiny_autoencoder: TinyAutoencoderConfig | None = None
    loras: tuple[LoraConfig, ...] = ()
    embeddings: tuple[EmbeddingConfig, ...] = ()
    guidance_scale: float = Field(default=10.0, description="s in eps_uncond + s (eps_cond - eps_uncond)")
    guidance_rescale: Fraction = Field(
        default=0.0,
        description="share in which the guided output is scaled back to the conditional one's spread",
    )
    negative_prompt: str = ""
    objective: Objective = SDSConfig()
    perp_neg: bool = Field(default=False, description="push the other views away; needs view prompts")
    weighting: Literal["sigma2", "uniform", "score_matching", "denoised"] = "sigma2"
    timestep_min: Schedule = constant(0.02)
    timestep_max: Schedule = constant(0.98)
    timestep_sampling: TimestepSampling = UniformTimesteps()
    view_prompts: ViewPromptConfig = ViewPromptConfig()
    image_size: int | None = Field(
        default=None, ge=8, description="side the render is scaled to; None: the model's own"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    slices: bool = Field(
        default=False,
        description="one UNet row at a time, autoencoder computed again on the way back: less memory",
    )

    @model_validator(mode="before")
    @classmethod
    def _inversion_as_perp_neg_counts_it(cls, data: Any) -> Any:
        """SDI's public code says -7.5 for cond + s (cond - uncond), and for uncond + s (...) with Perp-Neg."""
        objective = data.get("objective") if isinstance(data, dict) else None
        if isinstance(objective, dict) and objective.get("kind") == "sdi" and data.get("perp_neg") is True:
            return {**data, "objective": {"inversion_guidance_scale": -7.5, **objective}}
        return data

    @model_validator(mode="after")
    def _fits(self) -> GuidanceConfig:
        if self.perp_neg and self.view_prompts.rule == "none":
            raise ValueError("perp_neg with a view_prompts.rule other than none")
        if self.perp_neg and self.objective.kind == "csd":
            raise ValueError("perp_neg with objective.kind sds or sdi")
        if self.guidance_rescale and self.objective.kind == "csd":
            raise ValueError("guidance_rescale with objective.kind sds or sdi")
        return self

    @model_validator(mode="after")
    def _timesteps_in_order(self) -> GuidanceConfig:
        for step in _telling_steps(self.timestep_min, self.timestep_max):
            low, high = self.timestep_min.at(step), self.timestep_max.at(step)
            if not 0.0 <= low <= high <= 1.0:
                raise ValueError(
                    "0 <= timestep_min <= timestep_max <= 1 at every step, "
                    f"and at step {step} they are {low:g} and {high:g}"
                )
        return self


class ViewImagesConfig(_Strict):
    """An example picture for each direction; None: `clip.image`."""

    front: FilePath | None = None
    side: FilePath | None = None
    back: FilePath | None = None
    overhead: FilePath | None = None


JUDGE = "judge"
"""The package's second CLIP: `dreamfusion eval` looks with it, and nothing may be guided by it."""


class ClipConfig(_Strict):
    """Dream Fields: a CLIP's similarity as guidance (arXiv 2112.01455); the options of dreamfields-3D."""

    model: FileOrClip = Field(
        default="miniature",
        description="directory of transformers' layout or hub id; miniature: the package's own",
    )
    weight: Schedule = constant(1.0)
    sds_weight: Schedule = Field(default=constant(0.0), description="of score distillation beside it")
    copies: int = Field(
        default=8,
        ge=1,
        le=64,
        description="times that the CLIP sees each view: other background, crop and colours",
    )
    colour_jitter: Fraction = Field(
        default=0.0, description="brightness, contrast and saturation of a copy change by up to this share"
    )
    crop: Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)] = Field(
        default=(0.9, 1.0), description="side of a crop, as a share of the picture's"
    )
    image: FilePath | None = Field(default=None, description="example picture, counted as much as the text")
    view_images: ViewImagesConfig = ViewImagesConfig()
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the CLIP; auto: bfloat16 where the hardware multiplies it, else float32",
    )

    def mixes(self, steps: int) -> bool:
        """Whether score distillation pulls beside it at any of so many iterations."""
        # A schedule is monotone between its corners, and these are among the steps; what follows the run does not count.
        telling = (*_telling_steps(self.sds_weight), steps - 1)
        return any(self.sds_weight.at(step) != 0.0 for step in telling if step < steps)

    @model_validator(mode="after")
    def _judge_guides_nothing(self) -> ClipConfig:
        if self.model == JUDGE:
            raise ValueError(
                f"another clip.model than {JUDGE!r}, which is kept for judging what others guided"
            )
        return self


# ------------------------------------------------------------------------------------------------ training


class OptimizerConfig(_Strict):
    lr: Schedule = constant(1e-2)
    background_lr_scale: float = Field(default=0.1, ge=0.0)
    decoder_lr_scale: float = Field(default=1.0, gt=0.0, description="for the small MLP behind a grid")
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    eps: Positive = 1e-15
    max_grad_norm: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _downhill(self) -> OptimizerConfig:
        for step in _telling_steps(self.lr):
            if self.lr.at(step) < 0.0:
                raise ValueError(f"lr >= 0 at every step, and at step {step} it is {self.lr.at(step):g}")
        return self


class LossConfig(_Strict):
    """Weights of the losses beside score distillation; that one is divided by the number of latent values."""

    orientation: Schedule = constant(0.0)
    opacity: Schedule = constant(0.0)
    entropy: Schedule = constant(0.0)
    convexity: Schedule = constant(0.0)
    z_variance: Schedule = constant(0.0)
    transmittance: Schedule = constant(0.0)
    transmittance_target: Schedule = Field(
        default=LinearSchedule(start=0.4, end=0.88, steps=500), description="share of light that may pass"
    )


class TrainingConfig(_Strict):
    steps: int = Field(default=600, gt=0)
    preview_every: int = Field(default=100, gt=0)
    preview_size: int = Field(default=128, ge=16, le=1024)
    checkpoint_every: int = Field(default=200, gt=0)
    keep_checkpoints: int = Field(default=2, ge=1)
    collapse_patience: int = Field(
        default=100, gt=0, description="steps of opacity 0 or 1 after which a run is stopped"
    )
    max_skipped_steps: int = Field(
        default=50, gt=0, description="steps in a row with non-finite gradients before a stop"
    )


class PosedImagesConfig(_Strict):
    """Pictures with known cameras that a scene is fitted to, in the place of a prompt."""

    path: FilePath = Field(min_length=1, description="folder, or a transforms.json")
    downscale: int = Field(default=1, ge=1, le=16, description="pictures are made this many times smaller")
    radius: float | None = Field(
        default=None, gt=0.0, description="of the scene's ball, in the dataset's units; None: found by itself"
    )
    rays_per_step: int = Field(default=4096, ge=1, le=2**20)
    truth: FilePath | None = Field(
        default=None, description="true mesh in the dataset's world, to score the geometry with at the end"
    )


SPANNING_KINDS = ("linear", "sqrt", "dreamtime", "doubling")


def _spanning(data: object, steps: object) -> object:
    """`data` with `steps` filled into every schedule that has none."""
    if not isinstance(data, dict):
        return data
    filled = {key: _spanning(value, steps) for key, value in data.items()}
    if filled.get("kind") in SPANNING_KINDS:
        filled.setdefault("steps", steps)
    return filled


class ExperimentConfig(_Strict):
    """One whole experiment, as it is written into the run's directory."""

    prompt: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    vram_gb: float | None = Field(
        default=None,
        gt=0.0,
        le=1e6,
        description="GiB that a run is planned for; None: what is free on the device",
    )
    scene: SceneConfig = SceneConfig()
    rendering: RenderingConfig = RenderingConfig()
    cameras: CameraConfig = CameraConfig()
    data: PosedImagesConfig | None = None
    init: str | None = Field(
        default=None, description="a run's directory or a mesh's file that the scene starts from"
    )
    init_up: Literal["x", "y", "z"] = Field(
        default="y", description="the axis that points up in the mesh's file; OBJ, PLY and STL do not say"
    )
    guidance: GuidanceConfig = GuidanceConfig()
    clip: ClipConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    losses: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _axis_belongs_to_a_mesh(self) -> ExperimentConfig:
        if self.init_up != "y" and self.init is None:
            raise ValueError("init (--init) with init_up (--init-up), which is about that mesh")
        return self

    @model_validator(mode="before")
    @classmethod
    def _schedules_span_the_run(cls, data: object) -> object:
        training = data.get("training", {}) if isinstance(data, dict) else {}
        steps = training.get("steps") if isinstance(training, dict) else getattr(training, "steps", None)
        try:
            span = TrainingConfig.model_validate({} if steps is None else {"steps": steps}).steps
        except ValidationError:  # told once, at its own place
            span = TrainingConfig().steps
        return _spanning(data, span)
