"""The turntable: one full turn around the object, as a video that any browser plays, a GIF, or a folder of frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dreamfusion.assets.devices import device_of
from dreamfusion.assets.files import atomic_folder, atomic_path, choose_format
from dreamfusion.assets.images import check_what, visualise
from dreamfusion.cameras import Cameras, orbit_cameras, turntable_cameras
from dreamfusion.errors import ConfigError, OutputError

Progress = Callable[[int, int], None]
Frame = UInt8[np.ndarray, "_ _ 3"]

FORMATS = ("mp4", "gif", "png")
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
    elevation_deg: float | int = 15.0,
    distance: float | int,
    fovy_deg: float | int,
    what: str = "rgb",
    progress: Progress | None = None,
) -> Iterator[Frame]:
    """The frames of one turn, rendered one by one as they are asked for, so memory holds a single frame.

    Starts at the front (azimuth 0), turns the camera towards +X, and ends one frame before the front: it loops.

    Args:
        renderer: of the scene.
        frames: in the whole turn, 1 or more.
        size: of the square frames in pixels, 16 to 4096.
        elevation_deg, distance, fovy_deg: of the camera; distance in world units from the origin.
        what: `rgb`, `normal`, `depth` or `opacity`; see `dreamfusion.assets.images`.
        progress: called with (frames done, frames in all).

    Raises:
        ConfigError: a value out of range, at the call and not at the first frame.
    """
    if frames < 1:
        raise ConfigError("number of frames", expected="1 or more", got=str(frames))
    _check_view(size, elevation_deg, distance, fovy_deg, what)
    cameras = turntable_cameras(frames, elevation_deg, distance, fovy_deg, size)
    return _rendered(renderer, cameras, what, progress)


def still(
    renderer: ImageRenderer,
    *,
    size: int = 512,
    azimuth_deg: float | int = 0.0,
    elevation_deg: float | int = 15.0,
    distance: float | int,
    fovy_deg: float | int,
    what: str = "rgb",
) -> Frame:
    """One picture; the arguments are those of `turntable`, azimuth 0 is the front and grows towards +X."""
    _check_view(size, elevation_deg, distance, fovy_deg, what)
    cameras = orbit_cameras(azimuth_deg, elevation_deg, distance, fovy_deg, size)
    return next(_rendered(renderer, cameras, what, None))


def _check_view(
    size: int, elevation_deg: float | int, distance: float | int, fovy_deg: float | int, what: str
) -> None:
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
    renderer: ImageRenderer, cameras: Cameras, what: str, progress: Progress | None
) -> Iterator[Frame]:
    device, radius = device_of(renderer), float(renderer.scene.radius)
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        output = renderer.render_image(camera.to(device), with_normals=what == "normal")
        yield visualise(output, what, camera.distance, radius)[0]
        if progress is not None:
            progress(index + 1, len(cameras))


# ------------------------------------------------------------------------------------------------------ files


def write_video(
    frames: Iterable[Frame], path: Path | str, fps: float | int = 30.0, format: str | None = None
) -> Path:
    """Writes frames as they come; the file (or folder) appears only when it is complete.

    Args:
        frames: sRGB, all of one size, at least one.
        path: missing folders are made; a file that is there is replaced. For `png` it is the folder of the frames.
        fps: frames a second; a GIF counts in hundredths of a second and gets the nearest.
        format: `mp4` (H.264, yuv420p), `gif` or `png` (`frame-0000.png`, ...); None takes it from the path's ending.

    Returns:
        The path written; for `png` the path without its ending.

    Raises:
        OutputError: unknown format, or the file cannot be written.
        ConfigError: fps is not positive.
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
    with atomic_path(path) as temporary:
        (_write_mp4 if chosen == "mp4" else _write_gif)(_same_size(frames), temporary, fps)
    return path


def _same_size(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"frames of one size are needed, got {shape} and then {frame.shape}")
        yield frame
    if shape is None:
        raise ValueError("a video needs at least one frame")


def _write_mp4(frames: Iterator[Frame], path: Path, fps: float | int) -> None:
    """H.264 with half-resolution colours and the index at the front: what browsers play while they load."""
    first = _even(next(frames))
    height, width, _ = first.shape
    # Untagged files are shown in one of two colour matrices by chance of size and player: convert and say which.
    stream = ["-movflags", "+faststart", "-f", "mp4"]
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    write_frames: Any = imageio_ffmpeg.write_frames
    writer: Generator[None, bytes | None, None] = write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        quality=None,
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-crf", "18", "-vf", "scale=out_color_matrix=bt709:out_range=tv", *tags, *stream],
    )
    sent = 0
    try:
        next(writer)
        for frame in itertools.chain([first], map(_even, frames)):
            writer.send(np.ascontiguousarray(frame).tobytes())
            sent += 1
    except OSError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise OutputError(
            f"ffmpeg could not write {path.suffix} video", got=lines[-1] if lines else None
        ) from error
    finally:
        writer.close()
    # ffmpeg's exit status is not passed on, and a full disk shows only at the end: count what is in the file.
    if path.stat().st_size == 0 or imageio_ffmpeg.count_frames_and_secs(str(path))[0] != sent:
        raise OutputError(f"ffmpeg wrote less than the {sent} frames", hint="look at the disk's free space")


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
