"""Turntables, sweeps and sheets of views, as a video that any browser plays, a moving picture, or a folder of frames."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import imageio_ffmpeg
import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image, PngImagePlugin

from dreamfusion.assets.devices import device_of
from dreamfusion.assets.files import atomic_folder, atomic_path, choose_format
from dreamfusion.assets.images import check_what, cut_out, depth_millimetres, visualise
from dreamfusion.cameras import Cameras, orbit_cameras
from dreamfusion.errors import ConfigError, OutputError

Progress = Callable[[int, int], None]
Frame = UInt8[np.ndarray, "_ _ _"]

FORMATS = ("mp4", "webm", "gif", "webp", "apng", "png")
WITH_ALPHA = ("webp", "apng", "png")
CODECS = ("h264", "vp9", "av1")
# Each looks about like H.264's 18 on turntables; the speeds are those at which one core keeps up with rendering.
_ENCODERS = {
    "h264": ("libx264", ["-crf", "18"]),
    "vp9": ("libvpx-vp9", ["-crf", "24", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1"]),
    "av1": ("libsvtav1", ["-crf", "26", "-preset", "9"]),
}
FRAME_FILES = "frame-*.png"
SIZES = (16, 4096)


@runtime_checkable
class ImageRenderer(Protocol):
    """What of a renderer is needed here (`dreamfusion.rendering.renderer.Renderer` has it)."""

    @property
    def scene(self) -> Any: ...

    def render_image(self, cameras: Cameras, *, with_normals: bool = False) -> Any: ...


def turntable(
    renderer: ImageRenderer,
    *,
    frames: int = 120,
    size: int = 512,
    elevation_deg: float | int | tuple[float | int, float | int] = 15.0,
    azimuth_deg: tuple[float | int, float | int] = (0.0, 360.0),
    distance: float | int,
    fovy_deg: float | int,
    what: str | Sequence[str] = "rgb",
    transparent: bool = False,
    progress: Progress | None = None,
) -> Iterator[Frame]:
    """The frames of a turn, rendered one by one as they are asked for, so memory holds a single frame.

    Starts at the front (azimuth 0) and turns the camera towards +X. Whole turns end one frame before they come back, so
    that they loop; other sweeps reach their end.

    Args:
        renderer: of the scene.
        frames: in all, 1 or more.
        size: of the square frames in pixels, 16 to 4096.
        elevation_deg: of the camera, or where it starts and ends.
        azimuth_deg: where the camera starts and ends.
        distance, fovy_deg: of the camera; distance in world units from the origin.
        what: `rgb`, `normal`, `depth` or `opacity`; see `dreamfusion.assets.images`. Several stand side by side.
        transparent: four channels, and no background.
        progress: called with (frames done, frames in all).

    Raises:
        ConfigError: a value out of range, at the call and not at the first frame.
    """
    if frames < 1:
        raise ConfigError("number of frames", expected="1 or more", got=str(frames))
    whats = (what,) if isinstance(what, str) else tuple(what)
    elevations = elevation_deg if isinstance(elevation_deg, tuple) else (elevation_deg, elevation_deg)
    for elevation in elevations:
        _check_view(size, elevation, distance, fovy_deg, whats)
    loops = elevations[0] == elevations[1] and (azimuth_deg[1] - azimuth_deg[0]) % 360 == 0
    shares = torch.arange(frames) / (frames if loops else max(frames - 1, 1))
    azimuths, tilts = ((pair[0] + (pair[1] - pair[0]) * shares) for pair in (azimuth_deg, elevations))
    cameras = orbit_cameras(azimuths, tilts, distance, fovy_deg, size)
    return _rendered(renderer, cameras, whats, transparent, progress)


def still(
    renderer: ImageRenderer,
    *,
    size: int = 512,
    azimuth_deg: float | int = 0.0,
    elevation_deg: float | int = 15.0,
    distance: float | int,
    fovy_deg: float | int,
    what: str | Sequence[str] = "rgb",
    transparent: bool = False,
) -> Frame:
    """One picture; the arguments are those of `turntable`, azimuth 0 is the front and grows towards +X."""
    whats = (what,) if isinstance(what, str) else tuple(what)
    _check_view(size, elevation_deg, distance, fovy_deg, whats)
    cameras = orbit_cameras(azimuth_deg, elevation_deg, distance, fovy_deg, size)
    return next(_rendered(renderer, cameras, whats, transparent, None))


def depth_still(
    renderer: ImageRenderer,
    *,
    size: int = 512,
    azimuth_deg: float | int = 0.0,
    elevation_deg: float | int = 15.0,
    distance: float | int,
    fovy_deg: float | int,
) -> UInt16[np.ndarray, "h w"]:
    """One picture of depth in thousandths of a world unit; see `dreamfusion.assets.images.depth_millimetres`."""
    _check_view(size, elevation_deg, distance, fovy_deg, ("depth",))
    camera = orbit_cameras(azimuth_deg, elevation_deg, distance, fovy_deg, size)
    return depth_millimetres(renderer.render_image(camera.to(device_of(renderer))))[0]


def _check_view(
    size: int,
    elevation_deg: float | int,
    distance: float | int,
    fovy_deg: float | int,
    whats: Sequence[str],
) -> None:
    for what in whats:
        check_what(what)
    if not SIZES[0] <= size <= SIZES[1]:
        raise ConfigError("size of the pictures", expected=f"{SIZES[0]} to {SIZES[1]} pixels", got=str(size))
    if not -90 <= elevation_deg <= 90:
        raise ConfigError("elevation of the camera", expected="-90 to 90 degrees", got=str(elevation_deg))
    if not distance > 0:
        raise ConfigError("distance of the camera", expected="a positive number", got=str(distance))
    if not 0 < fovy_deg < 180:
        raise ConfigError(
            "field of view", expected="more than 0 and less than 180 degrees", got=str(fovy_deg)
        )


def _rendered(
    renderer: ImageRenderer,
    cameras: Cameras,
    whats: Sequence[str],
    transparent: bool,
    progress: Progress | None,
) -> Iterator[Frame]:
    device, radius = device_of(renderer), float(renderer.scene.radius)
    shown = cut_out if transparent else visualise
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        output = renderer.render_image(camera.to(device), with_normals="normal" in whats)
        yield np.concatenate([shown(output, what, camera.distance, radius)[0] for what in whats], axis=1)
        if progress is not None:
            progress(index + 1, len(cameras))


# ------------------------------------------------------------------------------------------------------ files


def write_video(
    frames: Iterable[Frame],
    path: Path | str,
    fps: float | int = 30.0,
    format: str | None = None,
    codec: str | None = None,
) -> Path:
    """Writes frames as they come; the file (or folder) appears only when it is complete.

    Args:
        frames: sRGB, all of one size, at least one; four channels for the formats of `WITH_ALPHA`.
        path: missing folders are made; a file that is there is replaced. For `png` it is the folder of the frames.
        fps: frames a second; a GIF counts in hundredths of a second and gets the nearest.
        format: `mp4` or `webm` (yuv420p), `gif`, `webp`, `apng`, or `png` (`frame-0000.png`, ...); None takes it from
            the path's ending.
        codec: of mp4 and webm: `h264`, `vp9` or `av1`; None is H.264 for mp4 and VP9 for webm, which takes no H.264.

    Returns:
        The path written; for `png` the path without its ending.

    Raises:
        OutputError: unknown format, or the file cannot be written.
        ConfigError: fps is not positive, or there is no such codec for the format, or in this ffmpeg.
    """
    path = Path(path)
    chosen = choose_format(path, format, FORMATS)
    if not fps > 0:
        raise ConfigError("frames a second", expected="a positive number", got=str(fps))
    if chosen == "png":
        path = path.with_suffix("") if path.suffix == ".png" else path
        with atomic_folder(path, FRAME_FILES) as folder:
            for index, frame in enumerate(_same_size(frames)):
                Image.fromarray(frame).save(folder / f"frame-{index:04d}.png")
        return path
    codec = check_codec(codec, chosen)
    with atomic_path(path) as temporary:
        if codec is not None:
            _write_film(_same_size(frames), temporary, fps, chosen, codec)
        elif chosen == "gif":
            _write_gif(_same_size(frames), temporary, fps)
        else:
            _write_moving(_same_size(frames), temporary, fps, chosen)
    return path


def check_codec(codec: str | None, format: str) -> str | None:
    """The codec for the format; None where the format has none.

    Raises:
        ConfigError: they do not go together, or the ffmpeg of this machine cannot encode it.
    """
    takes = {"mp4": CODECS, "webm": CODECS[1:]}.get(format, ())
    if codec is not None and codec not in takes:
        raise ConfigError(f"codec of {format}", expected=" or ".join(takes) or "none", got=codec)
    if not takes:
        return None
    chosen = codec or takes[0]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    there = [name for name in takes if _ENCODERS[name][0] in _encoders_of(program)]
    if chosen not in there:
        raise ConfigError(
            f"codec {chosen}",
            expected=f"an ffmpeg with {_ENCODERS[chosen][0]}",
            got=f"{program} without it",
            hint=f"take {' or '.join(there) or 'another format'}, or the ffmpeg of the package imageio-ffmpeg",
        )
    return chosen


@cache
def _encoders_of(program: str) -> frozenset[str]:
    """The names in `ffmpeg -encoders`; none where it does not run."""
    try:
        told = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout
    except OSError:
        return frozenset()
    # Six flags, the name, and what it is.
    return frozenset(words[1] for words in map(str.split, told.splitlines()) if len(words) > 1)


def _same_size(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"frames of one size are needed, got {shape} and then {frame.shape}")
        yield frame
    if shape is None:
        raise ValueError("a video needs at least one frame")


def _write_film(frames: Iterator[Frame], path: Path, fps: float | int, format: str, codec: str) -> None:
    """Half-resolution colours and, in mp4, the index at the front: what browsers play while they load."""
    encoder, quality = _ENCODERS[codec]
    first = _even(next(frames))
    height, width, _ = first.shape
    # Untagged files are shown in one of two colour matrices by chance of size and player: convert and say which.
    stream = ["-movflags", "+faststart", "-f", "mp4"] if format == "mp4" else ["-f", "webm"]
    # Else a webm has random ids, and files of equal frames differ.
    stream = ["-fflags", "+bitexact", *stream]
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    write_frames: Any = imageio_ffmpeg.write_frames
    writer: Generator[None, bytes | None, None] = write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec=encoder,
        quality=None,
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=[*quality, "-vf", "scale=out_color_matrix=bt709:out_range=tv", *tags, *stream],
    )
    sent = 0
    try:
        with _quiet_encoder():
            next(writer)
        for frame in itertools.chain([first], map(_even, frames)):
            writer.send(np.ascontiguousarray(frame).tobytes())
            sent += 1
    except OSError as error:
        # The reason; the whole command follows it. What ffmpeg itself has to say went to stderr.
        reason = str(error).partition("\n")[0]
        raise OutputError(f"ffmpeg could not write {path.suffix} video", got=reason or None) from error
    finally:
        writer.close()
    # ffmpeg's exit status is not passed on, and a full disk shows only at the end: count what is in the file.
    if _frames_in(path) != sent:
        raise OutputError(f"ffmpeg wrote less than the {sent} frames", hint="look at the disk's free space")


def _frames_in(path: Path) -> int:
    """How many frames ffmpeg finds in a film; 0 where it finds no film."""
    if path.stat().st_size == 0:
        return 0
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(path))[0] or 0
    except RuntimeError:  # with all that ffmpeg printed
        return 0


@contextmanager
def _quiet_encoder() -> Iterator[None]:
    """SVT-AV1 prints its settings past ffmpeg's log level; what is started meanwhile prints errors alone."""
    before = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SVT_LOG"]


def _even(frame: Frame) -> Frame:
    """yuv420p needs even sides; the last row or column is repeated where one is missing."""
    height, width, _ = frame.shape
    return (
        np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if height % 2 or width % 2
        else frame
    )


def _write_gif(frames: Iterator[Frame], path: Path, fps: float | int) -> None:
    """One palette of 256 colours for the whole turn, so that colours do not flicker from frame to frame."""
    pictures = [Image.fromarray(frame) for frame in frames]
    shown = pictures[:: max(1, len(pictures) // 16)]
    sample = np.concatenate([np.asarray(p.resize((64, 64), Image.Resampling.NEAREST)) for p in shown])
    palette = Image.fromarray(sample).quantize(256)
    indexed = [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]
    hundredths = max(2, round(100 / fps))
    indexed[0].save(
        path, format="GIF", save_all=True, append_images=indexed[1:], duration=hundredths * 10, loop=0
    )


def _write_moving(frames: Iterator[Frame], path: Path, fps: float | int, format: str) -> None:
    """WebP or APNG, with alpha where the frames have it; both lossless, so that edges stay clean over any page."""
    pictures = [Image.fromarray(frame) for frame in frames]
    duration = max(1, round(1000 / fps))
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": pictures[1:],
        "duration": duration,
        "loop": 0,
    }
    if format == "webp":
        pictures[0].save(path, format="WEBP", lossless=True, **options)
    else:
        # Each frame replaces the one before: blended, the past would show through clear places.
        pictures[0].save(path, format="PNG", disposal=PngImagePlugin.Disposal.OP_BACKGROUND,
                         blend=PngImagePlugin.Blend.OP_SOURCE, **options)  # fmt: skip
