"""The `dreamfusion` command: what can be said on the command line, and nothing of how it is done.

`--help` has to answer at once, so nothing but typer is imported here; each command imports its own work.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from dreamfusion import __version__
from dreamfusion.errors import ConfigError, DreamfusionError, echoed, of_the_machine
from dreamfusion.interrupts import EXIT_INTERRUPTED

_UsageError: Any = typer.BadParameter.__bases__[0]  # which typer does not name


class _Commands(TyperGroup):
    """Turns a user's mistake into one line on stderr and its exit code; any other exception keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            error.message = echoed(error.message)  # a word of the command line, and it may be of any length
            raise
        except DreamfusionError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (OSError, RuntimeError, MemoryError) as error:
            told = of_the_machine(error)
            if told is None:
                raise
            typer.echo(f"error: {told}", err=True)
            raise typer.Exit(told.exit_code) from error


# What may be empty: no negative prompt; and an empty prompt has an error of its own.
_TEXTS = ("prompt", "negative_prompt")


class _Command(TyperCommand):
    """Refuses empty words, which a shell makes of a variable that is not set, and finds `~` in the names of files.

    `Path("")` is the current folder: a command would read or fill that.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        written, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.get_params(ctx):
            words = written.get(str(parameter.name))
            if parameter.name not in _TEXTS and "" in (words if isinstance(words, list | tuple) else [words]):
                name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
                raise ConfigError(str(name), expected="a value", got="an empty word")
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            if isinstance(value, Path):
                ctx.params[name] = value.expanduser()
        return rest


class _App(typer.Typer):
    """As typer's, of commands of the class above."""

    def command(self, *args: Any, **options: Any) -> Any:
        return super().command(*args, cls=_Command, **options)


_SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
app = _App(
    cls=_Commands,
    help="A prompt becomes a mesh and a video. Start with: dreamfusion train 'a peacock on a surfboard'",
    **_SETTINGS,
)
config_app = _App(help="Look at the presets and at what a run would be set to.", **_SETTINGS)
app.add_typer(config_app, name="config")
models_app = _App(help="The diffusion models that can guide a scene.", **_SETTINGS)
app.add_typer(models_app, name="models")


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Guidance(StrEnum):
    sds = "sds"
    clip = "clip"
    mixed = "mixed"


class Axis(StrEnum):
    x = "x"
    y = "y"
    z = "z"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class MeshFormat(StrEnum):
    glb = "glb"
    obj = "obj"
    ply = "ply"
    stl = "stl"
    threemf = "3mf"
    usdz = "usdz"


class TextureKind(StrEnum):
    atlas = "atlas"
    vertex = "vertex"


class PictureFormat(StrEnum):
    mp4 = "mp4"
    webm = "webm"
    gif = "gif"
    webp = "webp"
    apng = "apng"
    png = "png"


class Codec(StrEnum):
    h264 = "h264"
    vp9 = "vp9"
    av1 = "av1"


class What(StrEnum):
    rgb = "rgb"
    normal = "normal"
    depth = "depth"
    opacity = "opacity"


Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to make, in quotes.", show_default=False)]
Run = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="A run's directory, number or name; left out, the latest.", show_default=False
    ),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of the numbered runs.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes the fastest there is.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Change one value; may be given again.", show_default=False
    ),
]
GuidanceOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="guidance.KEY=VALUE",
        help="Change one value of the guidance; may be given again.",
        show_default=False,
    ),
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Default: inside the run.", show_default=False)
]
RunsFolder = Annotated[Path, typer.Option(metavar="DIR", help="Folder in which the numbered run is made.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same result.", show_default=False)]
Steps = Annotated[int | None, typer.Option(help="Optimiser iterations.", show_default=False)]
ComputeDevice = Annotated[
    Device | None, typer.Option(help="Where to compute; auto takes the fastest.", show_default=False)
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="FILE[=WEIGHT]", help="LoRA of one's own; may be given again.", show_default=False
    ),
]
Embeddings = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="FILE[=WORD]",
        help="Textual-inversion word; may be given again.",
        show_default=False,
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What images should not show.", show_default=False),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Precision of the frozen model's UNet.", show_default=False),
]
_RUNS = Path("outputs")
# Of files with weights, pickles included: they are refused by name.
_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def _version(asked: bool | None) -> None:
    if asked:
        typer.echo(f"dreamfusion {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = None,
) -> None:
    pass


@app.command()
def train(
    prompt: Prompt,
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Preset or YAML file; chosen for the machine if left out."),
    ] = None,
    overrides: Overrides = None,
    output: RunsFolder = _RUNS,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; the prompt's words if left out.", show_default=False)
    ] = None,
    seed: Seed = None,
    steps: Steps = None,
    device: ComputeDevice = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH|HUB-ID", help="Frozen model that guides the scene.", show_default=False
        ),
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option(
            metavar="GB", help="GPU memory to plan for; what is free if left out.", show_default=False
        ),
    ] = None,
    lora: Loras = None,
    embedding: Embeddings = None,
    negative_prompt: NegativePrompt = None,
    dtype: DtypeOption = None,
    guidance: Annotated[
        Guidance | None,
        typer.Option(help="Type of guidance: diffusion, CLIP (Dream Fields), or both.", show_default=False),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="RUN|MESH", help="Start from this object.", show_default=False),
    ] = None,
    init_up: Annotated[
        Axis | None,
        typer.Option(
            help="Axis that points up in the mesh's file, y if left out; OBJ, PLY and STL do not say, CAD files are often z.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config, the modules and the cost, and exit.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --dry-run: take ten steps and report their speed.")
    ] = False,
) -> None:
    """Make a 3D object from PROMPT, in a new run under outputs/."""
    from dreamfusion.commands.train import TrainRequest, train

    if probe and not dry_run:
        raise typer.BadParameter("goes with --dry-run", param_hint="'--probe'")
    options = {
        "seed": seed,
        "training.steps": steps,
        "device": None if device is None else device.value,
        "guidance.model": model,
        "vram_gb": vram,
        **_personal(lora, embedding, negative_prompt, dtype),
        "init": init,
        "init_up": None if init_up is None else init_up.value,
    }
    if config is None and guidance in (Guidance.clip, Guidance.mixed):
        config = "dream-fields"
    chosen = (*_guidance(guidance), *(overrides or ()))
    train(TrainRequest(prompt, config, chosen, options, output, name, dry_run, probe))


def _guidance(kind: Guidance | None) -> list[str]:
    """What --guidance stands for as --set texts, before the user's own: both parts can have schedules."""
    match kind:
        case Guidance.clip:
            return ["clip={}"]
        case Guidance.mixed:
            return ["clip.sds_weight=1.0"]
        case Guidance.sds:
            return ["clip=null"]
        case None:
            return []


@app.command()
def fit(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", help="Blender, nerfstudio, instant-ngp or COLMAP folder.", show_default=False
        ),
    ],
    config: Annotated[str, typer.Option(metavar="NAME|FILE", help="Preset or YAML file.")] = "fit",
    overrides: Overrides = None,
    output: RunsFolder = _RUNS,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; the folder's if left out.", show_default=False)
    ] = None,
    seed: Seed = None,
    steps: Steps = None,
    device: ComputeDevice = None,
    downscale: Annotated[
        int | None, typer.Option(metavar="N", help="Make the pictures N times smaller.", show_default=False)
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="MESH", help="True mesh, to score the geometry with.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config and the modules, and exit.")
    ] = False,
) -> None:
    """Make a 3D object from posed pictures, in a new run under outputs/.

    Measures PSNR and SSIM on the views that were held out, at the end.
    """
    from dreamfusion.commands.fit import FitRequest, fit

    options = {
        "seed": seed,
        "training.steps": steps,
        "device": None if device is None else device.value,
        "data.downscale": downscale,
    }
    fit(FitRequest(dataset, config, tuple(overrides or ()), options, output, name, truth, dry_run))


def _personal(
    lora: list[str] | None, embedding: list[str] | None, negative_prompt: str | None, dtype: Dtype | None
) -> dict[str, Any]:
    """Config keys of what is added to a model, for every command that takes it."""
    return {
        "guidance.loras": _pairs(lora, "weight"),
        "guidance.embeddings": _pairs(embedding, "word"),
        "guidance.negative_prompt": negative_prompt,
        "guidance.dtype": None if dtype is None else dtype.value,
    }


def _pairs(texts: list[str] | None, second: str) -> list[dict[str, str]] | None:
    """FILE or FILE=VALUE as mappings; None when the option was left out."""
    if not texts:
        return None
    pairs = [(text, None) if "=" not in text else _split(text) for text in texts]
    return [{"file": file} if value is None else {"file": file, second: value} for file, value in pairs]


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of nobody
        return False


def _split(text: str) -> tuple[str, str | None]:
    """FILE and VALUE of a text with =, which either may have too: a file that is there decides, the longest first."""
    places = [place for place, character in enumerate(text) if character == "="]
    splits = [(text, None), *((text[:place], text[place + 1 :]) for place in reversed(places))]
    for file, value in splits:
        if _is_file(file):
            return file, value
    # None is there: "a=b.safetensors" is a file's name, and whatever comes after an ending is a value.
    ended = [split for split in splits if Path(split[0]).suffix.lower() in _ENDINGS]
    return (ended or splits[1:])[0]


@app.command()
def resume(
    run: Run = None,
    output: Annotated[
        Path, typer.Option("--output", "--runs", metavar="DIR", help="Folder of the numbered runs.")
    ] = _RUNS,
    device: Annotated[
        Device | None, typer.Option(help="Another device than the run began on.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            metavar="N",
            help="N steps in all, to train a finished run further.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Continue RUN from its last checkpoint.

    With --steps, schedules keep their lengths: one that has ended keeps its last value.
    """
    from dreamfusion.commands.train import resume

    resume(run, output, None if device is None else device.value, steps)


@app.command()
def export(
    run: Run = None,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Write the surface as a mesh (what export does).")
    ] = True,
    format: Annotated[
        MeshFormat | None,
        typer.Option(help="By the file's ending if left out, else glb.", show_default=False),
    ] = None,
    resolution: Annotated[int, typer.Option(metavar="N", help="Cells along the scene's diameter.")] = 128,
    threshold: Annotated[
        str, typer.Option(metavar="auto|X", help="Density of the surface; auto matches the renders.")
    ] = "auto",
    faces: Annotated[
        int | None,
        typer.Option(help="At most about so many; 0 keeps all. [default: 40000]", show_default=False),
    ] = None,
    smooth: Annotated[int, typer.Option(metavar="N", help="Rounds of Taubin smoothing.")] = 0,
    close_holes: Annotated[
        int, typer.Option(metavar="CELLS", help="Fill holes up to twice as many cells wide.")
    ] = 0,
    solid: Annotated[bool, typer.Option("--solid", help="Fill the inside, which no view has shown.")] = False,
    height_cm: Annotated[
        float | None,
        typer.Option(help="Real height of the object; world units if left out.", show_default=False),
    ] = None,
    texture: Annotated[
        TextureKind | None,
        typer.Option(
            help="Colours as a picture, or at vertices; by the format if left out.", show_default=False
        ),
    ] = None,
    texture_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Side of the texture in texels.  [default: 1024]", show_default=False),
    ] = None,
    unwrap_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time limit for xatlas; on timeout or 0, the box atlas is used.  [default: 30]",
            show_default=False,
        ),
    ] = None,
    normal_map: Annotated[
        bool, typer.Option("--normal-map", help="glb, obj: bake what --faces takes away as a normal map.")
    ] = False,
    unlit: Annotated[bool, typer.Option("--unlit", help="glb: show the colours without any light.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Draw the file from eight views and compare with the NeRF.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Write a page beside the glb that shows it and the run, offline.")
    ] = False,
    output: OutputFile = None,
    runs: Runs = _RUNS,
    device: DeviceOption = Device.auto,
) -> None:
    """Write RUN's object as a mesh with a texture."""
    from dreamfusion.commands.export import ExportRequest, export_mesh

    chosen = None if format is None else format.value
    level = _threshold(threshold)
    request = ExportRequest(
        reference=run,
        runs=runs,
        format=chosen,
        resolution=resolution,
        threshold=level,
        faces=faces,
        smooth=smooth,
        close_holes=close_holes,
        solid=solid,
        height_cm=height_cm,
        texture=None if texture is None else texture.value,
        texture_size=texture_size,
        unwrap_limit_s=unwrap_limit,
        normal_map=normal_map,
        unlit=unlit,
        check=check,
        page=page,
        output=output,
    )
    export_mesh(request, device.value)


def _threshold(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither 'auto' nor a number", param_hint="'--threshold'"
        ) from None


@app.command()
def render(
    run: Run = None,
    video: Annotated[bool, typer.Option("--video", help="One turn around the object (the default).")] = False,
    image: Annotated[bool, typer.Option("--image", help="One picture.")] = False,
    sheet: Annotated[
        int | None,
        typer.Option(metavar="N", help="N views around the object on one picture.", show_default=False),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames of the video.  [default: 120]", show_default=False)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second of the video.  [default: 30]", show_default=False)
    ] = None,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 512,
    azimuth_deg: Annotated[
        float, typer.Option(help="Of the picture, or where a turn begins: 0 is the front, 90 its left.")
    ] = 0.0,
    elevation_deg: Annotated[
        float | None,
        typer.Option(help="Of the camera: 90 looks straight down.  [default: 15.0]", show_default=False),
    ] = None,
    distance: Annotated[
        float | None, typer.Option(help="Of the camera; as in training if left out.", show_default=False)
    ] = None,
    azimuth_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="FROM TO", help="Azimuths of the video; a whole turn if left out.", show_default=False
        ),
    ] = None,
    elevation_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="FROM TO", help="Elevations of the video; level if left out.", show_default=False
        ),
    ] = None,
    what: Annotated[
        list[What] | None,
        typer.Option(
            help="What the pixels show; given again, side by side.  [default: rgb]", show_default=False
        ),
    ] = None,
    transparent: Annotated[
        bool, typer.Option("--transparent", help="No background: png, webp or apng with alpha.")
    ] = False,
    depth_16bit: Annotated[
        bool, typer.Option("--depth-16bit", help="Depth in thousandths of a unit, as a png of 16 bits.")
    ] = False,
    poster: Annotated[bool, typer.Option("--poster", help="Also write the video's first frame.")] = False,
    codec: Annotated[
        Codec | None,
        typer.Option(help="Video codec; left out: h264 for mp4, vp9 for webm.", show_default=False),
    ] = None,
    format: Annotated[
        PictureFormat | None,
        typer.Option(
            help="By the file's ending if left out, else mp4; a video's png is a folder.", show_default=False
        ),
    ] = None,
    output: OutputFile = None,
    runs: Runs = _RUNS,
    device: DeviceOption = Device.auto,
) -> None:
    """Render RUN's object as a turntable video, a picture or a sheet of views."""
    from dreamfusion.commands.render import RenderRequest, render

    if video + image + (sheet is not None) > 1:
        raise typer.BadParameter("choose one of --video, --image and --sheet")
    chosen = None if format is None else format.value
    if (image or sheet is not None) and chosen not in (None, "png", "webp"):
        raise typer.BadParameter("a picture is a png or webp", param_hint="'--format'")
    request = RenderRequest(
        reference=run,
        runs=runs,
        kind="image" if image else "video" if sheet is None else "sheet",
        views=sheet if sheet is not None else 1,
        frames=frames,
        fps=fps,
        size=size,
        azimuth_deg=azimuth_deg,
        elevation_deg=elevation_deg,
        azimuth_range_deg=azimuth_range,
        elevation_range_deg=elevation_range,
        distance=distance,
        what=tuple(kind.value for kind in what or [What.rgb]),
        transparent=transparent,
        depth_16bit=depth_16bit,
        poster=poster,
        codec=None if codec is None else codec.value,
        format=chosen,
        output=output,
    )
    render(request, device.value)


@app.command()
def view(
    run: Run = None,
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    runs: Runs = _RUNS,
) -> None:
    """Show RUN in a browser, and follow it while it trains."""
    from dreamfusion.commands.view import view

    view(run, runs, host, port)


@app.command()
def sample(
    prompt: Prompt,
    view: Annotated[
        str,
        typer.Option(
            metavar="VIEW,...",
            help="Add a view's words: front, side, back, overhead, none, all; left, right.",
        ),
    ] = "none",
    seed: Annotated[str, typer.Option(metavar="N,...", help="Same seed, same image.")] = "0",
    guidance_scale: Annotated[str, typer.Option(metavar="S,...", help="1 is no guidance.")] = "7.5",
    guidance_above: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1000,
            metavar="T",
            help="Timesteps below T are not guided; miniature 500, others 0.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=64, help="Seeds from --seed on; 4.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 50,
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help="diffusers' sampler, such as DPMSolverMultistep.")
    ] = "DDIM",
    model: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="The frozen model.")] = "miniature",
    lora: Loras = None,
    embedding: Embeddings = None,
    negative_prompt: NegativePrompt = None,
    dtype: DtypeOption = None,
    overrides: GuidanceOverrides = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The sheet; default: in outputs/samples/.", show_default=False),
    ] = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Show the frozen model's own images of PROMPT, as a sheet and one by one.

    Several views, seeds and scales, with commas, make a grid. Look here first when an object fails: what the model
    cannot draw, it cannot teach.

    --set takes single_file_config, loras, embeddings, negative_prompt, image_size, dtype and slices of guidance.
    """
    from dreamfusion.commands.sample import SampleRequest, sample

    options = {"guidance.model": model, **_personal(lora, embedding, negative_prompt, dtype)}
    chosen = tuple(overrides or ())
    request = SampleRequest(
        prompt, view, seed, guidance_scale, guidance_above, count, steps, scheduler, options, chosen, output
    )
    sample(request, device.value)


@app.command()
def diffuse(
    source: Annotated[
        str, typer.Argument(metavar="IMAGE|RUN", help="A picture's file, or a run.", show_default=False)
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What it shows; a run's own if left out.", show_default=False)
    ] = None,
    timesteps: Annotated[
        str, typer.Option(metavar="X,Y,...", help="Noise levels, shares of the schedule.")
    ] = "0.1,0.3,0.5,0.7,0.9",
    guidance_scale: Annotated[
        float | None, typer.Option(help="1 is no guidance; as in training if left out.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same noise.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH|HUB-ID", help="The frozen model.", show_default=False),
    ] = None,
    lora: Loras = None,
    embedding: Embeddings = None,
    negative_prompt: NegativePrompt = None,
    dtype: DtypeOption = None,
    overrides: GuidanceOverrides = None,
    azimuth_deg: Annotated[float, typer.Option(help="Of the view: 0 is the front.")] = 0.0,
    elevation_deg: Annotated[float, typer.Option(help="Of the view.")] = 15.0,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: in the run or outputs/diffused/.", show_default=False),
    ] = None,
    runs: Runs = _RUNS,
    device: DeviceOption = Device.auto,
) -> None:
    """Show what the frozen model says of a picture, step by step.

    A sheet: noised versions, predicted noise, denoised image, SDS gradient.

    --set takes those keys of guidance that `sample` takes, weighting and view_prompts.
    """
    from dreamfusion.commands.diffuse import DiffuseRequest, diffuse

    options = {
        "guidance.model": model,
        "guidance.guidance_scale": guidance_scale,
        **_personal(lora, embedding, negative_prompt, dtype),
    }
    chosen = tuple(overrides or ())
    request = DiffuseRequest(
        source, prompt, timesteps, seed, options, chosen, azimuth_deg, elevation_deg, runs, output
    )
    diffuse(request, device.value)


@app.command("eval")
def evaluate(
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Left out: all runs of the folder.", show_default=False),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Train one run per line first; resumes a batch.", show_default=False
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More captions to rank among.", show_default=False),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH|HUB-ID", help="The judge; the package's second CLIP.", show_default=False
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Config for new runs.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "--runs", metavar="DIR", help="Folder of the runs and the scores.")
    ] = _RUNS,
    device: DeviceOption = Device.auto,
) -> None:
    """Judge runs by a CLIP: R-Precision, likeness, faces, views.

    Writes scores.csv and scores.png into the folder of the runs.
    """
    from dreamfusion.commands.evaluate import EvalRequest, evaluate

    chosen = tuple(references or ())
    request = EvalRequest(chosen, prompts, captions, clip, config, tuple(overrides or ()), output)
    evaluate(request, device.value)


@app.command("runs")
def list_runs(
    output: Annotated[
        Path, typer.Option("--output", "--runs", metavar="DIR", help="Folder of the numbered runs.")
    ] = _RUNS,
) -> None:
    """List all runs."""
    from dreamfusion.commands.tables import print_runs

    print_runs(output)


@config_app.command("show")
def config_show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Preset or YAML file; left out: lists them.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print everything that NAME sets, as YAML that --config takes."""
    from dreamfusion.commands.tables import print_config, print_presets

    if name is None and not overrides:
        print_presets()
    else:
        print_config(name, tuple(overrides or ()))


@models_app.command("list")
def models_list() -> None:
    """List the names that --model knows, and which of them are on this machine."""
    from dreamfusion.commands.models import print_models

    print_models()


Model = Annotated[str, typer.Argument(metavar="NAME", help="One of `models list`, a path or a hub id.")]


@models_app.command("download")
def models_download(
    name: Model,
    overrides: GuidanceOverrides = None,
    full_precision: Annotated[
        bool, typer.Option("--full-precision", help="float32 weights; half is enough for a GPU.")
    ] = False,
) -> None:
    """Fetch NAME into the hub's cache, from its first mirror that answers; convert a single file.

    --set takes guidance.single_file_config, for a single file that does not say what it is.
    """
    from dreamfusion.commands.models import download_model

    download_model(name, tuple(overrides or ()), half_precision=not full_precision)


@models_app.command("verify")
def models_verify(name: Model, overrides: GuidanceOverrides = None) -> None:
    """Check that NAME's files are whole and that it can guide a scene.

    --set takes guidance.single_file_config, for a single file that does not say what it is.
    """
    from dreamfusion.commands.models import verify_model

    if not verify_model(name, tuple(overrides or ())):
        raise typer.Exit(1)


@app.command()
def doctor(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that runs would be written to.")
    ] = _RUNS,
) -> None:
    """Say what this machine can do and what is missing.

    Lists the words that the embedded model knows, too.
    """
    from dreamfusion.commands.tables import print_findings

    if not print_findings(output):
        raise typer.Exit(1)


def main() -> None:
    """What `dreamfusion.__main__` runs."""
    app(prog_name="dreamfusion")


if __name__ == "__main__":
    main()
