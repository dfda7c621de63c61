"""`dreamfusion render`: a run's object as a video, a picture or a sheet of views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.commands.finished import check_folder, find_run, load_view, output_path
from dreamfusion.errors import ConfigError
from dreamfusion.progress import Bar, result

if TYPE_CHECKING:
    from dreamfusion.rendering.renderer import Renderer

SIZES = (16, 4096)
VIDEOS = ("mp4", "webm", "gif", "webp", "apng", "png")
WITH_ALPHA = ("png", "webp", "apng")
MAX_SHEET = 64
ELEVATION_DEG = 15.0
FRAMES = 120
FPS = 30.0
MAX_FRAMES = 100_000
# A hundred turns; and where float32 still tells the near side of the object from the far one.
MAX_TURN_DEG = 36_000
MAX_DISTANCE = 10_000


@dataclass(frozen=True)
class RenderRequest:
    """What the user asked for; see `dreamfusion render --help`.

    Attributes:
        kind: `video`, `image` or `sheet`.
        views: of the sheet.
        azimuth_deg, elevation_deg: of the picture, or where the video's turn and the sheet begin; no elevation is
            `ELEVATION_DEG`.
        azimuth_range_deg, elevation_range_deg: of the video; None is a whole turn at `elevation_deg`.
        what: one or more, side by side.
        depth_16bit: thousandths of a world unit instead of a picture for people.
        poster: also write the video's first frame.
    """

    reference: str | None
    runs: Path
    kind: str
    views: int
    frames: int | None
    fps: float | None
    size: int
    azimuth_deg: float
    elevation_deg: float | None
    azimuth_range_deg: tuple[float, float] | None
    elevation_range_deg: tuple[float, float] | None
    distance: float | None
    what: tuple[str, ...]
    transparent: bool
    depth_16bit: bool
    poster: bool
    codec: str | None
    format: str | None
    output: Path | None

    @property
    def frame_count(self) -> int:
        """Of the video."""
        return FRAMES if self.frames is None else self.frames

    @property
    def level_deg(self) -> float:
        """The elevation that holds where there is no range."""
        return ELEVATION_DEG if self.elevation_deg is None else self.elevation_deg


def render(request: RenderRequest, device: str) -> None:
    """Render, and say where the file is.

    Raises:
        DreamfusionError: every kind that concerns a finished run, and values out of range.
    """
    _check(request)
    run = find_run(request.reference, request.runs)
    config = run.config()
    if "normal" in request.what and config.scene.normals.kind == "none":
        raise ConfigError(
            f"{run.path} has no normals", got="scene.normals.kind none", hint="render rgb, depth or opacity"
        )
    name = {"image": "picture", "sheet": "sheet", "video": "turntable"}[request.kind]
    name = name if request.what == ("rgb",) else f"{name}-{'-'.join(request.what)}"
    default = "mp4" if request.kind == "video" else "png"
    if request.kind == "video" and request.transparent:
        default = "webp"
    path = output_path(request.output, run, name, request.format, default)
    chosen = _format(request, path)
    renderer, meta = load_view(run, device)
    distance = request.distance if request.distance is not None else config.cameras.distance[1]
    view = {"size": request.size, "distance": distance, "fovy_deg": sum(config.cameras.fovy_deg) / 2}
    write = _write_video if request.kind == "video" else _write_picture
    path = write(request, path, chosen, renderer, view)
    frames = request.frame_count if request.kind == "video" else 1
    told = f", {frames} frames" if request.kind == "video" else ""
    views = f"{request.views} views of " if request.kind == "sheet" else ""
    result(
        f"{path}  {views}{len(request.what) * request.size} x {request.size} px{told}",
        event="picture" if request.kind == "image" else request.kind,
        path=path,
        run=run.path,
        step=meta["step"],
        what="+".join(request.what),
        size=request.size,
        frames=frames,
    )


def _write_picture(
    request: RenderRequest, path: Path, format: str, renderer: Renderer, view: dict[str, Any]
) -> Path:
    from dreamfusion.assets.images import contact_sheet
    from dreamfusion.assets.video import depth_still, still, turntable

    place = {"azimuth_deg": request.azimuth_deg, "elevation_deg": request.level_deg}
    if request.depth_16bit:
        return _keep(depth_still(renderer, **place, **view), path, format)
    looks = {"what": request.what, "transparent": request.transparent}
    if request.kind == "image":
        return _keep(still(renderer, **place, **view, **looks), path, format)
    import numpy as np

    with Bar("rendering the views", unit="view") as bar:
        frames = turntable(
            renderer,
            frames=request.views,
            azimuth_deg=_turn(request),
            elevation_deg=request.level_deg,
            progress=bar,
            **view,
            **looks,
        )
        pictures = np.stack(list(frames))
    return _keep(contact_sheet(pictures, columns=math.ceil(math.sqrt(request.views))), path, format)


def _keep(image: Any, path: Path, format: str) -> Path:
    from dreamfusion.assets.images import write_image

    check_folder(path)
    return write_image(image, path, format)


def _write_video(
    request: RenderRequest, path: Path, format: str, renderer: Renderer, view: dict[str, Any]
) -> Path:
    from dreamfusion.assets.video import turntable, write_video

    check_folder(path)
    with Bar(f"rendering {' and '.join(request.what)}", unit="frame") as bar:
        frames = turntable(
            renderer,
            frames=request.frame_count,
            azimuth_deg=request.azimuth_range_deg or _turn(request),
            elevation_deg=request.elevation_range_deg or request.level_deg,
            what=request.what,
            transparent=request.transparent,
            progress=bar,
            **view,
        )
        kept: list[Any] = []

        def noting_the_first() -> Any:
            for frame in frames:
                kept[:] = kept or [frame]
                yield frame

        path = write_video(
            noting_the_first(), path, FPS if request.fps is None else request.fps, format, request.codec
        )
    if request.poster:
        _keep(kept[0], path.with_name(f"{path.stem}-poster.png"), "png")
    return path


def _turn(request: RenderRequest) -> tuple[float, float]:
    """Once around, from the azimuth that was asked for."""
    return (request.azimuth_deg, request.azimuth_deg + 360.0)


def _check(request: RenderRequest) -> None:
    elevations = [request.level_deg, *(request.elevation_range_deg or ())]
    azimuths = [request.azimuth_deg, *(request.azimuth_range_deg or ())]
    checks = [
        ("--frames", 1 <= request.frame_count <= MAX_FRAMES, f"1 to {MAX_FRAMES:,}", request.frames),
        ("--fps", request.fps is None or 0 < request.fps <= 240, "above 0 and up to 240", request.fps),
        ("--sheet", 1 <= request.views <= MAX_SHEET, f"1 to {MAX_SHEET} views", request.views),
        ("--size", SIZES[0] <= request.size <= SIZES[1], f"{SIZES[0]} to {SIZES[1]} pixels", request.size),
        *(("--elevation-deg", -90 <= value <= 90, "-90 to 90", value) for value in elevations),
        *(("--azimuth-deg", abs(value) <= MAX_TURN_DEG, f"at most {MAX_TURN_DEG:,} either way", value) for value in azimuths),
        (
            "--azimuth-range",
            request.azimuth_range_deg is None or request.azimuth_deg == 0,
            "no --azimuth-deg beside it: the range says where to begin",
            f"--azimuth-deg {request.azimuth_deg:g}",
        ),
        (
            "--elevation-range",
            request.elevation_range_deg is None or request.elevation_deg is None,
            "no --elevation-deg beside it: the range says where to begin",
            f"--elevation-deg {request.level_deg:g}",
        ),
        (
            "--distance",
            request.distance is None or 0 < request.distance <= MAX_DISTANCE,
            f"above 0 and up to {MAX_DISTANCE:,}",
            request.distance,
        ),
        (
            "--depth-16bit",
            not request.depth_16bit or (request.kind == "image" and request.what == ("depth",)),
            "--image --what depth",
            f"{request.kind} of {'+'.join(request.what)}",
        ),
        ("--transparent", not (request.transparent and request.kind == "sheet"), "a picture or a video", "a sheet"),
        *((option, request.kind == "video" or not given, "a video", f"--{request.kind}") for option, given in (
            ("--frames", request.frames),
            ("--fps", request.fps),
            ("--azimuth-range", request.azimuth_range_deg),
            ("--elevation-range", request.elevation_range_deg),
            ("--poster", request.poster),
            ("--codec", request.codec),
        )),
    ]  # fmt: skip
    for option, good, expected, got in checks:
        if not good:
            raise ConfigError(option, expected=expected, got=str(got))


def _format(request: RenderRequest, path: Path) -> str:
    from dreamfusion.assets.files import STILLS, choose_format

    chosen = choose_format(path, request.format, VIDEOS if request.kind == "video" else STILLS)
    if request.transparent and chosen not in WITH_ALPHA:
        raise ConfigError("--transparent", expected="one of " + ", ".join(WITH_ALPHA), got=chosen)
    if request.depth_16bit and chosen != "png":
        raise ConfigError("--depth-16bit", expected="png", got=chosen)
    if request.kind == "video":
        from dreamfusion.assets.video import check_codec

        check_codec(request.codec, chosen)
    return chosen
