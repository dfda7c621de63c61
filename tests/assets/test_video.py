"""Turntables and pictures: what comes first, where things stand, and what a player finds in the file."""

from __future__ import annotations

import gc
import re
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.assets import video
from dreamfusion.assets.images import contact_sheet, depth_millimetres, visualise, write_image
from dreamfusion.assets.video import check_codec, still, turntable, write_video
from dreamfusion.errors import ConfigError, OutputError

VIEW: dict[str, Any] = {"distance": 3.0, "fovy_deg": 40.0}


def centre_of(image: np.ndarray, channel: int) -> Any:
    """Column and row, from -1 to 1, of the pixels in which `channel` stands out."""
    values = image.astype(float)
    stands_out = values[..., channel] - values.sum(-1) / 3 > 60
    if stands_out.sum() < 3:
        return None
    rows, columns = np.nonzero(stands_out)
    size = image.shape[0]
    return (columns.mean() + 0.5) / size * 2 - 1, (rows.mean() + 0.5) / size * 2 - 1


def decoded(path: Path, height: int, width: int) -> np.ndarray:
    """All frames of a video, by ffmpeg alone."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, height, width, 3)


def moving_bars(count: int, height: int, width: int) -> list[np.ndarray]:
    frames = np.full((count, height, width, 3), 40, dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[:, (i * 3) % width : (i * 3) % width + width // 4] = (200, 60, 30)
    return list(frames)


def test_the_turn_starts_at_the_front_and_turns_towards_x(toys):
    frames = list(turntable(toys.SlowRenderer(toys.head()), frames=4, size=32, elevation_deg=0, **VIEW))
    assert len(frames) == 4 and frames[0].shape == (32, 32, 3) and frames[0].dtype == np.uint8
    for frame in frames:
        hat = centre_of(frame, 2)
        assert hat is not None and hat[1] < -0.3 and abs(hat[0]) < 0.1  # up is up in every frame
    nose, ear = [[centre_of(frame, channel) for frame in frames] for channel in (0, 1)]
    assert abs(nose[0][0]) < 0.1 and ear[0][0] > 0.3  # front: the nose in the middle, +X on the right
    assert nose[1][0] < -0.3 and abs(ear[1][0]) < 0.1  # from +X: the ear in the middle, the front on the left
    assert nose[2] is None and ear[2][0] < -0.3  # from behind
    assert nose[3][0] > 0.3 and ear[3] is None  # from -X


def test_frames_are_rendered_one_at_a_time(toys):
    renderer, done = toys.SlowRenderer(toys.head()), []
    frames = turntable(renderer, frames=50, size=16, progress=lambda *share: done.append(share), **VIEW)
    next(frames)
    asked = renderer.scene.field.asked
    next(frames)
    assert renderer.scene.field.asked == 2 * asked
    assert done == [(1, 50)]


def test_still_is_the_turntables_frame(toys):
    renderer = toys.SlowRenderer(toys.head())
    frames = list(turntable(renderer, frames=4, size=24, elevation_deg=20, **VIEW))
    assert np.array_equal(still(renderer, size=24, azimuth_deg=90, elevation_deg=20, **VIEW), frames[1])


def test_each_what_shows_what_it_says(toys):
    renderer = toys.SlowRenderer(toys.Solid(toys.ball(0.5), peak=2000, sharpness=1000))
    view: dict[str, Any] = {"size": 33, "elevation_deg": 0.0, **VIEW}
    opacity = still(renderer, what="opacity", **view)
    assert (opacity[16, 16] == 255).all() and (opacity[0, 0] == 0).all()
    normal = still(renderer, what="normal", **view)
    assert np.abs(normal[16, 16].astype(int) - [128, 128, 255]).max() <= 3  # +Z towards the camera
    right = still(renderer, what="normal", azimuth_deg=90, **view)
    assert np.abs(right[16, 16].astype(int) - [255, 128, 128]).max() <= 3  # +X towards the camera
    assert normal[10, 16, 1] > 150 > 110 > normal[22, 16, 1]  # up is green
    assert (normal[0, 0] == 255).all()
    depth = still(renderer, what="depth", **view)
    # The ball's front is at 2.5; the scene's ball reaches from 2 (255) to 4 (0.15 of 255).
    assert depth[16, 16, 0] == pytest.approx(255 * (1 - 0.85 * 0.25), abs=4)
    assert depth[16, 16, 0] > depth[16, 9, 0] > 0 and (depth[0, 0] == 0).all()


def test_visualise_refuses_what_it_does_not_know():
    with pytest.raises(ConfigError, match="rgb, normal, depth, opacity"):
        visualise(None, "albedo", torch.ones(1), 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"size": 8},
        {"size": 9999},
        {"elevation_deg": 91},
        {"distance": 0.0},
        {"fovy_deg": 180.0},
        {"what": "albedo"},
    ],
)
def test_options_out_of_range_are_refused_at_the_call(toys, options):
    with pytest.raises(ConfigError):
        turntable(toys.SlowRenderer(toys.head()), **{**VIEW, **options})


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47)])
def test_mp4_plays_in_a_browser(tmp_path, height, width):
    frames = moving_bars(7, height, width)
    path = write_video(iter(frames), tmp_path / "new" / "turn.mp4", fps=12)
    probe = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True
    ).stderr
    even = f"{width + width % 2}x{height + height % 2}"
    assert re.search(rf"Video: h264 .*yuv420p\(tv, bt709.*{even}.* 12 fps", probe), probe
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index comes first: it plays while it loads
    assert b"isom" in data[:40]
    read = decoded(path, height + height % 2, width + width % 2)
    assert read.shape == (7, height + height % 2, width + width % 2, 3)
    # Colours come back but for compression and halved chroma: compare inside the bar and outside it.
    difference = np.abs(read[:, :height, :width].astype(int) - np.stack(frames))
    assert np.median(difference) <= 3 and difference.mean() < 8


def test_mp4_has_the_right_colours_in_large_flat_areas(tmp_path):
    for colour in ((200, 30, 30), (30, 180, 40), (20, 40, 220), (128, 128, 128)):
        frame = np.full((64, 64, 3), colour, dtype=np.uint8)
        read = decoded(write_video([frame] * 2, tmp_path / "flat.mp4"), 64, 64)
        assert np.abs(read[0, 32, 32].astype(int) - colour).max() <= 4, colour


def test_gif_loops_and_keeps_size_count_and_speed(tmp_path):
    frames = moving_bars(9, 33, 47)
    path = write_video(frames, tmp_path / "turn.gif", fps=20)
    with Image.open(path) as gif:
        assert gif.n_frames == 9 and gif.size == (47, 33)  # type: ignore[attr-defined]
        assert gif.info["loop"] == 0 and gif.info["duration"] == 50
        for index in range(9):
            gif.seek(index)
            shown = np.asarray(gif.convert("RGB")).astype(int)
            assert np.abs(shown - frames[index]).max() <= 8


def test_the_gifs_palette_holds_colours_that_come_later(tmp_path):
    colours = [(0, 0, 0), (200, 30, 30), (30, 180, 40), (20, 40, 220)]
    frames = [np.full((20, 20, 3), colour, dtype=np.uint8) for colour in colours]
    with Image.open(write_video(frames, tmp_path / "turn.gif")) as gif:
        for index, colour in enumerate(colours):
            gif.seek(index)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - colour).max() <= 8, colour


def test_png_frames_are_exact_and_replace_only_frames(tmp_path):
    frames = moving_bars(5, 20, 30)
    folder = write_video(frames, tmp_path / "turn", format="png")
    assert [p.name for p in sorted(folder.iterdir())] == [f"frame-{i:04d}.png" for i in range(5)]
    assert all(np.array_equal(iio.imread(folder / f"frame-{i:04d}.png"), frames[i]) for i in range(5))
    assert write_video(frames[:2], tmp_path / "turn.png") == folder
    assert len(list(folder.iterdir())) == 2
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        write_video(frames, folder, format="png")
    assert (folder / "thesis.txt").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("format", ["mp4", "gif", "png"])
def test_frames_that_break_leave_nothing_behind(tmp_path, format):
    def breaking():
        yield from moving_bars(3, 32, 32)
        raise RuntimeError("the field is gone")

    with pytest.raises(RuntimeError):
        write_video(breaking(), tmp_path / f"turn.{format}")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at least one"):
        write_video([], tmp_path / f"turn.{format}")
    with pytest.raises(ValueError, match="one size"):
        write_video([*moving_bars(1, 32, 32), *moving_bars(1, 32, 48)], tmp_path / f"turn.{format}")
    assert list(tmp_path.iterdir()) == []


def test_a_video_cut_short_is_an_error_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(video.imageio_ffmpeg, "count_frames_and_secs", lambda path: (2, 0.1))
    with pytest.raises(OutputError, match="less than the 4 frames"):
        write_video(moving_bars(4, 32, 32), tmp_path / "turn.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_ffmpeg_cannot_read_again_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(video._ENCODERS, "h264", ("libx264", ["-t", "0.001", "-frames:v", "0"]))
    with pytest.raises(OutputError) as told:
        write_video(moving_bars(4, 32, 32), tmp_path / "turn.mp4")
    assert str(told.value).startswith("ffmpeg wrote less than the 4 frames") and "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_that_ends_early_is_told_with_the_reason(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(video._ENCODERS, "h264", ("libx264", ["-no_such_option", "1"]))
    # More than a pipe holds, so that the end of the reader is noticed while frames are sent.
    with pytest.raises(OutputError, match=r"could not write .mp4 video: got .*[Bb]roken pipe") as told:
        write_video(moving_bars(8, 256, 256), tmp_path / "turn.mp4")
    assert "FFMPEG" not in str(told.value) and "no_such_option" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
    # The library leaves the pipe of an ffmpeg that has ended to the garbage collector, which would complain in another test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del told
        gc.collect()


def test_unknown_formats_and_speeds_are_refused(tmp_path):
    with pytest.raises(OutputError, match="mp4, webm, gif, webp, apng, png"):
        write_video(moving_bars(1, 32, 32), tmp_path / "turn.avi")
    with pytest.raises(ConfigError, match="frames a second"):
        write_video(moving_bars(1, 32, 32), tmp_path / "turn.mp4", fps=0)


def test_contact_sheet_puts_images_in_reading_order():
    images = np.stack([np.full((4, 6, 3), value, dtype=np.uint8) for value in (10, 20, 30, 40, 50)])
    sheet = contact_sheet(images, columns=3, gap=2)
    assert sheet.shape == (2 * 6 + 2, 3 * 8 + 2, 3)
    assert sheet[3, 3, 0] == 10 and sheet[3, 11, 0] == 20 and sheet[3, 19, 0] == 30
    assert sheet[9, 3, 0] == 40 and sheet[9, 11, 0] == 50 and sheet[9, 19, 0] == 255
    assert contact_sheet(images, gap=2).shape == (8, 5 * 8 + 2, 3)


def test_depth_of_16_bits_is_rounded_and_only_where_more_than_half_is_stopped():
    opacity = torch.tensor([[[0.0, 0.3, 0.5], [0.51, 1.0, 1.0]]])
    depth = torch.tensor([[[0.0, 2.0, 2.0], [2.0, 1.2346, 99.0]]])
    found = depth_millimetres(SimpleNamespace(opacity=opacity, depth=depth))
    assert found.tolist() == [[[0, 0, 0], [2000, 1235, 65535]]] and found.dtype == np.uint16


@pytest.mark.parametrize(("distance", "near"), [(3.0, 2.0), (1.0, 0.0), (0.5, 0.0)])
def test_depth_is_white_at_the_balls_near_side_or_at_a_camera_within_it(distance, near):
    depth = torch.tensor([[[near, near + 1.0, near + 2.0, near + 9.0]]])
    output = SimpleNamespace(opacity=torch.ones_like(depth), depth=depth)
    grey = visualise(output, "depth", torch.tensor([distance]), 1.0)[0, 0, :, 0]
    assert grey.tolist() == [255, 147, 38, 38]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 9, 10, 16, 17, 63, 64])
@pytest.mark.parametrize("columns", [None, 1, 3, 100])
def test_a_sheet_has_each_image_once_and_no_empty_row_or_column(count, columns):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    sheet = contact_sheet(images, columns=columns, gap=1)
    found = sheet[1::2, 1::2, 0]
    assert found.shape[1] == min(columns or count, count) and (found[-1] < 255).any()
    assert found.ravel()[:count].tolist() == list(range(count)) and (found.ravel()[count:] == 255).all()
    sheet[1::2, 1::2] = 255
    assert (sheet == 255).all()


def test_write_image_is_exact_and_atomic(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(iio.imread(write_image(image, tmp_path / "a" / "still.png")), image)
    with pytest.raises(OutputError, match="png, jpg, jpeg"):
        write_image(image, tmp_path / "still.tiff")
    with pytest.raises(OutputError, match="cannot write"):
        write_image(image, tmp_path / "a" / "still.png" / "b.png")


# ----------------------------------------------------------------------------- sweeps, alpha, and further formats


def azimuths(toys, monkeypatch, **options) -> tuple[list[float], list[float]]:
    seen = []
    monkeypatch.setattr(video, "_rendered", lambda renderer, cameras, *rest: seen.append(cameras) or iter([]))
    list(turntable(toys.SlowRenderer(toys.head()), size=16, **VIEW, **options))
    return seen[0].azimuth_deg.tolist(), seen[0].elevation_deg.tolist()


def test_sweeps_reach_their_ends_and_whole_turns_loop(toys, monkeypatch):
    around, level = azimuths(toys, monkeypatch, frames=4)
    assert around == pytest.approx([0, 90, -180, -90]) and level == [15.0] * 4
    around, level = azimuths(toys, monkeypatch, frames=3, azimuth_deg=(-30, 30), elevation_deg=(0, 60))
    assert around == pytest.approx([-30, 0, 30], abs=1e-4) and level == pytest.approx([0, 30, 60])
    # A turn that climbs does not come back to where it began.
    around, level = azimuths(toys, monkeypatch, frames=3, elevation_deg=(0, 60))
    assert level == pytest.approx([0, 30, 60])
    assert azimuths(toys, monkeypatch, frames=1)[0] == [0.0]


def test_several_kinds_stand_side_by_side(toys):
    renderer = toys.SlowRenderer(toys.head())
    pair = still(renderer, size=24, what=("rgb", "opacity"), **VIEW)
    assert pair.shape == (24, 48, 3)
    assert np.array_equal(pair[:, :24], still(renderer, size=24, **VIEW))
    assert np.array_equal(pair[:, 24:], still(renderer, size=24, what="opacity", **VIEW))


@pytest.mark.parametrize("what", ["rgb", "normal", "depth", "opacity"])
def test_without_a_background_the_colours_are_the_objects_own(toys, what):
    renderer = toys.SlowRenderer(toys.head())
    clear = still(renderer, size=32, what=what, transparent=True, **VIEW).astype(float)
    solid = still(renderer, size=32, what=what, **VIEW).astype(float)
    alpha = clear[..., 3:] / 255
    assert clear.shape == (32, 32, 4) and alpha.min() == 0 and alpha.max() > 0.99
    # Laid over the background that the plain picture has, it is the plain picture.
    background = 255 if what in ("rgb", "normal") else 0
    assert np.abs(clear[..., :3] * alpha + background * (1 - alpha) - solid).max() <= 2


def test_depth_of_16_bits_is_in_thousandths_of_a_unit(toys, tmp_path):
    renderer = toys.SlowRenderer(toys.Solid(toys.ball(0.5), sharpness=400, peak=1000))
    depth = video.depth_still(renderer, size=33, elevation_deg=0.0, **VIEW)
    assert depth.dtype == np.uint16
    # The ball's front is at 3 - 0.5 in the middle of the picture; nothing is seen in its corner.
    assert depth[16, 16] == pytest.approx(2500, abs=20) and depth[0, 0] == 0
    again = Image.open(write_image(depth, tmp_path / "depth.png"))
    assert again.mode.startswith("I;16") and np.array_equal(np.asarray(again), depth)


@pytest.mark.parametrize("format", ["webp", "apng"])
def test_moving_pictures_keep_every_pixel_and_their_alpha(tmp_path, format):
    frames = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in moving_bars(4, 20, 24)]
    for index, frame in enumerate(frames):
        frame[: index + 1, :, 3] = 0
    path = write_video(frames, tmp_path / f"a.{format}", fps=20)
    with Image.open(path) as opened:
        again: Any = opened
        assert again.n_frames == 4
        for index, frame in enumerate(frames):
            again.seek(index)
            shown = np.asarray(again.convert("RGBA"))
            assert again.info["duration"] == 50
            assert np.array_equal(shown[..., 3], frame[..., 3])
            assert np.array_equal(shown[shown[..., 3] > 0], frame[frame[..., 3] > 0])


@pytest.mark.parametrize(("name", "codec", "word"), [
    ("a.mp4", None, "h264"), ("a.mp4", "vp9", "vp9"), ("a.mp4", "av1", "av1"), ("a.webm", None, "vp9"), ("a.webm", "av1", "av1"),
])  # fmt: skip
def test_the_codec_is_the_one_asked_for_and_the_film_the_same(tmp_path, capfd, name, codec, word):
    frames = moving_bars(6, 64, 96)
    path = write_video(frames, tmp_path / name, codec=codec)
    # Encoders have a lot to say of their settings, and nobody asked.
    assert capfd.readouterr() == ("", "")
    told = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", path], capture_output=True, text=True
    ).stderr
    assert f"Video: {word}" in told and "yuv420p" in told and "bt709" in told
    found = decoded(path, 64, 96).astype(float)
    assert len(found) == 6 and np.abs(found - np.stack(frames)).mean() < 6


def test_a_codec_that_the_format_does_not_take_is_refused(tmp_path):
    for format, codec in (("webm", "h264"), ("gif", "vp9"), ("mp4", "theora")):
        with pytest.raises(ConfigError, match=f"codec of {format}"):
            write_video(moving_bars(2, 16, 16), tmp_path / f"a.{format}", codec=codec)
    assert list(tmp_path.iterdir()) == []


def ffmpeg_without(encoder: str, folder: Path) -> str:
    """A program that lists this machine's encoders but one, and encodes nothing."""
    program = folder / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\n"{imageio_ffmpeg.get_ffmpeg_exe()}" -hide_banner -encoders | grep -v {encoder}\n'
    )
    program.chmod(0o755)
    return str(program)


def test_an_ffmpeg_without_the_encoder_is_one_line_before_the_first_frame(tmp_path, monkeypatch, capfd):
    program = ffmpeg_without("libsvtav1", tmp_path)
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: program)

    def frames():
        raise AssertionError("nothing is rendered")
        yield

    with pytest.raises(ConfigError) as told:
        write_video(frames(), tmp_path / "a.mp4", codec="av1")
    assert str(told.value).startswith(
        f"codec av1: expected an ffmpeg with libsvtav1, got {program} without it"
    )
    assert "take h264 or vp9" in str(told.value).lower() and "\n" not in str(told.value)
    assert check_codec("vp9", "mp4") == "vp9" and check_codec(None, "mp4") == "h264"
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"codec h264: expected an ffmpeg with libx264.*another format"):
        check_codec(None, "mp4")
    assert check_codec(None, "gif") is None
    assert capfd.readouterr() == ("", "")
