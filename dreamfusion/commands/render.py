"""`dreamfusion render`: a run's object as a turntable video or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreamfusion.commands.finished import find_run, load_view, output_path
from dreamfusion.errors import ConfigError
from dreamfusion.progress import Bar, result

SIZES = (16, 4096)


@dataclass(frozen=True)
class RenderRequest:
    """What the user asked for; see `dreamfusion render --help`."""

    reference: str | None
    runs: Path
    image: bool
    frames: int
    fps: float
    size: int
    azimuth_deg: float
    elevation_deg: float
    distance: float | None
    what: str
    format: str | None
    output: Path | None


def render(request: RenderRequest, device: str) -> None:
    """Render, and say where the file is.

    Raises:
        DreamfusionError: every kind that concerns a finished run, and values out of range.
    """
    _check(request)
    run = find_run(request.reference, request.runs)
    config = run.config()
    if request.what == "normal" and config.scene.normals.kind == "none":
        raise ConfigError(
            f"{run.path} has no normals", got="scene.normals.kind none", hint="render rgb, depth or opacity"
        )
    name, default = ("picture", "png") if request.image else ("turntable", "mp4")
    name = name if request.what == "rgb" else f"{name}-{request.what}"
    path = output_path(request.output, run, name, request.format, default)
    chosen = _format(request, path)
    renderer, meta = load_view(run, device)
    distance = request.distance if request.distance is not None else config.cameras.distance[1]
    fovy_deg = sum(config.cameras.fovy_deg) / 2
    if request.image:
        path = _write_image(request, path, chosen, renderer, distance, fovy_deg)
    else:
        path = _write_video(request, path, chosen, renderer, distance, fovy_deg)
    what = f"{request.size} x {request.size} px" + ("" if request.image else f", {request.frames} frames")
    result(
        f"{path}  {what}",
        event="picture" if request.image else "video",
        path=path,
        run=run.path,
        step=meta["step"],
        what=request.what,
        size=request.size,
        frames=1 if request.image else request.frames,
    )


def _write_image(
    request: RenderRequest, path: Path, format: str, renderer: object, distance: float, fovy_deg: float
) -> Path:
    from dreamfusion.assets.images import write_image
    from dreamfusion.assets.video import still

    picture = still(
        renderer,  # pyright: ignore[reportArgumentType]
        size=request.size,
        azimuth_deg=request.azimuth_deg,
        elevation_deg=request.elevation_deg,
        distance=distance,
        fovy_deg=fovy_deg,
        what=request.what,
    )
    return write_image(picture, path, format)


def _write_video(
    request: RenderRequest, path: Path, format: str, renderer: object, distance: float, fovy_deg: float
) -> Path:
    from dreamfusion.assets.video import turntable, write_video

    with Bar(f"rendering {request.what}", unit="frame") as bar:
        frames = turntable(
            renderer,  # pyright: ignore[reportArgumentType]
            frames=request.frames,
            size=request.size,
            elevation_deg=request.elevation_deg,
            distance=distance,
            fovy_deg=fovy_deg,
            what=request.what,
            progress=bar,
        )
        return write_video(frames, path, request.fps, format)


def _check(request: RenderRequest) -> None:
    checks = [
        ("--frames", request.frames >= 1, "1 or more", request.frames),
        ("--fps", 0 < request.fps <= 240, "above 0 and up to 240", request.fps),
        ("--size", SIZES[0] <= request.size <= SIZES[1], f"{SIZES[0]} to {SIZES[1]} pixels", request.size),
        ("--elevation-deg", -90 <= request.elevation_deg <= 90, "-90 to 90", request.elevation_deg),
        (
            "--distance",
            request.distance is None or request.distance > 0,
            "a number above 0",
            request.distance,
        ),
    ]
    for option, good, expected, got in checks:
        if not good:
            raise ConfigError(option, expected=expected, got=str(got))


def _format(request: RenderRequest, path: Path) -> str:
    from dreamfusion.assets.files import choose_format

    if request.image:
        return choose_format(path, request.format, ("png", "jpg", "jpeg"))
    return choose_format(path, request.format, ("mp4", "gif", "png"))
