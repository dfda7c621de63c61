"""One reader for image files: every mode of every format is right or refused, and only four formats are read at all."""

from __future__ import annotations

import ast
import io
import os
import random
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import dreamfusion
from dreamfusion import image_files
from dreamfusion.errors import DatasetError
from dreamfusion.image_files import read_head, read_image

Pixel = tuple[int, int, int, int]
A, B = (200, 30, 60), (10, 240, 120)


def png(
    depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (2, 1)
) -> bytes:
    """A PNG of one row, by its specification (ISO/IEC 15948), for what Pillow does not write."""
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"\0" + rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def tiff(
    photometric: int, bits: tuple[int, ...], pixels: bytes, *tags: tuple[int, int], big: bool = False
) -> bytes:
    """A TIFF 6.0 of one strip, 2 x 1 pixels, for what Pillow does not write; colours 1 and 2 of a palette are A and B."""
    order = ">" if big else "<"
    entries = dict([(256, 2), (257, 1), (259, 1), (262, photometric), (277, len(bits)), (278, 1), *tags])
    count = len(entries) + 3 + (photometric == 3)
    after = 8 + 2 + 12 * count + 4
    short = struct.pack(f"{order}{len(bits)}H", *bits)
    body = short if len(short) > 4 else b""
    rows = {number: struct.pack(f"{order}HHIHH", number, 3, 1, value, 0) for number, value in entries.items()}
    rows[258] = struct.pack(f"{order}HHI", 258, 3, len(bits)) + (
        struct.pack(f"{order}I", after) if body else short.ljust(4, b"\0")
    )
    if photometric == 3:
        colours = [[0, a, b, *[0] * 253] for a, b in zip(A, B, strict=True)]
        rows[320] = struct.pack(f"{order}HHII", 320, 3, 768, after + len(body))
        body += struct.pack(f"{order}768H", *[257 * value for channel in colours for value in channel])
    rows[273] = struct.pack(f"{order}HHII", 273, 4, 1, after + len(body))
    rows[279] = struct.pack(f"{order}HHII", 279, 4, 1, len(pixels))
    directory = struct.pack(f"{order}H", count) + b"".join(rows[key] for key in sorted(rows)) + b"\0" * 4
    return (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", 8) + directory + body + pixels


def saved(mode: str, values: list[Any], kind: str, **options: Any) -> bytes:
    image = Image.new(mode, (2, 1))
    for index, value in enumerate(values):
        image.putpixel((index, 0), value)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def palette(kind: str, **options: Any) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([*A, *B])
    image.putdata([0, 1])
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opaque(*colours: tuple[int, int, int] | int) -> list[Pixel]:
    return [(c, c, c, 255) if isinstance(c, int) else (*c, 255) for c in colours]


LOSSLESS = {"lossless": True, "exact": True}
RIGHT: dict[str, tuple[bytes, list[Pixel], bool]] = {
    # What Pillow itself writes.
    "1 png": (saved("1", [0, 255], "PNG"), opaque(0, 255), False),
    "1 tiff": (saved("1", [0, 255], "TIFF"), opaque(0, 255), False),
    "L png": (saved("L", [7, 200], "PNG"), opaque(7, 200), False),
    "L tiff": (saved("L", [7, 200], "TIFF"), opaque(7, 200), False),
    "L jpeg": (saved("L", [100, 100], "JPEG"), opaque(100, 100), False),
    "L png with a transparent grey": (
        saved("L", [7, 200], "PNG", transparency=7), [(7, 7, 7, 0), (200, 200, 200, 255)], True
    ),
    "LA png": (saved("LA", [(7, 50), (200, 0)], "PNG"), [(7, 7, 7, 50), (200, 200, 200, 0)], True),
    "LA tiff": (saved("LA", [(7, 50), (200, 0)], "TIFF"), [(7, 7, 7, 50), (200, 200, 200, 0)], True),
    "P png": (palette("PNG"), opaque(A, B), False),
    "P tiff": (palette("TIFF"), opaque(A, B), False),
    "P png with a transparent index": (palette("PNG", transparency=1), [(*A, 255), (*B, 0)], True),
    "P png with opacities": (palette("PNG", transparency=b"\x40\x80"), [(*A, 64), (*B, 128)], True),
    "RGB png": (saved("RGB", [A, B], "PNG"), opaque(A, B), False),
    "RGB png with a transparent colour": (
        saved("RGB", [A, B], "PNG", transparency=B), [(*A, 255), (*B, 0)], True
    ),
    "RGB tiff": (saved("RGB", [A, B], "TIFF"), opaque(A, B), False),
    "RGB tiff, LZW": (saved("RGB", [A, B], "TIFF", compression="tiff_lzw"), opaque(A, B), False),
    "RGB webp": (saved("RGB", [A, B], "WEBP", **LOSSLESS), opaque(A, B), False),
    "RGB jpeg": (saved("RGB", [(90, 90, 90)] * 2, "JPEG"), opaque(90, 90), False),
    "RGBA png": (saved("RGBA", [(*A, 3), (*B, 250)], "PNG"), [(*A, 3), (*B, 250)], True),
    "RGBA tiff": (saved("RGBA", [(*A, 3), (*B, 250)], "TIFF"), [(*A, 3), (*B, 250)], True),
    "RGBA webp": (saved("RGBA", [(*A, 3), (*B, 250)], "WEBP", **LOSSLESS), [(*A, 3), (*B, 250)], True),
    "I;16 png": (saved("I;16", [257 * 7, 40000], "PNG"), opaque(7, 156), False),
    "I;16 tiff": (saved("I;16", [257 * 7, 40000], "TIFF"), opaque(7, 156), False),
    "I;16 png, rounded": (saved("I;16", [128, 65406], "PNG"), opaque(0, 254), False),
    "I;16 png, white": (saved("I;16", [0, 65535], "PNG"), opaque(0, 255), False),
    "CMYK tiff": (
        saved("CMYK", [(255, 0, 0, 0), (0, 0, 255, 127)], "TIFF"), opaque((0, 255, 255), (128, 128, 0)), False
    ),
    "CMYK jpeg": (saved("CMYK", [(0, 0, 0, 55)] * 2, "JPEG"), opaque(200, 200), False),
    "YCbCr tiff": (saved("YCbCr", [(128, 128, 128), (76, 85, 255)], "TIFF"), opaque(128, (254, 0, 0)), False),
    # By hand: depths and byte orders.
    "1-bit png, 1 transparent": (png(1, 0, b"\x40", (b"tRNS", b"\0\1")), [(0, 0, 0, 255), (255, 255, 255, 0)], True),
    "La tiff": (
        tiff(1, (8, 8), bytes([100, 128, 0, 0]), (338, 1)), [(199, 199, 199, 128), (0, 0, 0, 0)], True
    ),
    "PA tiff": (tiff(3, (8, 8), bytes([1, 40, 2, 50]), (338, 2)), [(*A, 40), (*B, 50)], True),
    "1-bit png, 0 transparent": (
        png(1, 0, b"\x40", (b"tRNS", b"\0\0")), [(0, 0, 0, 0), (255, 255, 255, 255)], True
    ),
    "2-bit png, 1 transparent": (
        png(2, 0, b"\x60", (b"tRNS", b"\0\1")), [(85, 85, 85, 0), (170, 170, 170, 255)], True
    ),
    "4-bit png, 15 transparent": (
        png(4, 0, b"\x1f", (b"tRNS", b"\0\x0f")), [(17, 17, 17, 255), (255, 255, 255, 0)], True
    ),
    "16-bit png, one of them transparent": (
        png(16, 0, b"\x12\x34\x12\x35", (b"tRNS", b"\x12\x35")), [(18, 18, 18, 255), (18, 18, 18, 0)], True
    ),
    "16-bit grey and opacity png": (
        png(16, 4, b"\x12\x34\x40\x00\xff\xff\x80\x00"), [(18, 18, 18, 64), (255, 255, 255, 128)], True
    ),
    "16-bit RGB png": (
        png(16, 2, b"\x12\x34\x00\x00\xff\xff\x80\x00\x40\x00\x01\x00"), opaque((18, 0, 255), (128, 64, 1)), False
    ),
    "16-bit RGBA png": (
        png(16, 6, b"\x12\x34\x00\x00\xff\xff\x80\x00" * 2), [(18, 0, 255, 128)] * 2, True
    ),
    "12-bit tiff": (tiff(1, (12,), b"\x80\x0f\xff"), opaque(128, 255), False),
    "16-bit tiff, big endian": (
        tiff(1, (16,), b"\x07\x07\x9c\x40", big=True), opaque(7, 156), False
    ),
    "16-bit tiff, white is 0": (tiff(0, (16,), b"\x00\x00\xff\xff"), opaque(255, 0), False),
    "8-bit tiff, white is 0": (tiff(0, (8,), b"\x00\xf0"), opaque(255, 15), False),
    "16-bit RGB tiff": (
        tiff(2, (16, 16, 16), struct.pack("<6H", 0x1234, 0, 65535, 0x8000, 0x4000, 0x100)),
        opaque((18, 0, 255), (128, 64, 1)), False,
    ),
    "tiff, associated opacity": (
        tiff(2, (8,) * 4, bytes([100, 50, 0, 128, 0, 0, 0, 0]), (338, 1)), [(199, 99, 0, 128), (0, 0, 0, 0)], True
    ),
    "tiff, a fourth channel that is none": (
        tiff(2, (8,) * 4, bytes([100, 50, 0, 128, 1, 2, 3, 0]), (338, 0)), opaque((100, 50, 0), (1, 2, 3)), False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_every_mode_has_its_exact_values(name: str, tmp_path: Path) -> None:
    data, expected, has_alpha = RIGHT[name]
    path = tmp_path / "image.anything"  # the content says what it is
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        assert [tuple(map(int, pixel)) for pixel in read_image(source, DatasetError)[0]] == expected
        assert read_head(source, DatasetError) == image_files.ImageHead(2, 1, has_alpha)


def frames(kind: str, **options: Any) -> bytes:
    first, second = (Image.new("RGB", (2, 2), colour) for colour in (A, B))
    stream = io.BytesIO()
    first.save(stream, kind, save_all=True, append_images=[second], **options)
    return stream.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n"
REFUSED: dict[str, tuple[bytes, str]] = {
    "EPS": (EPS, "expected a PNG, JPEG, WebP or TIFF image, got PostScript (EPS)"),
    "GIF": (saved("L", [0, 1], "GIF"), "got a GIF"),
    "BMP": (saved("RGB", [A, B], "BMP"), "got a BMP"),
    "PPM": (saved("RGB", [A, B], "PPM"), "got something else"),
    "PDF": (saved("RGB", [A, B], "PDF"), "got a PDF"),
    "DDS": (saved("RGBA", [(*A, 1), (*B, 1)], "DDS"), "got a DDS texture"),
    "TGA": (saved("RGB", [A, B], "TGA"), "got something else"),
    "AVIF": (b"\0\0\0\x20ftypavif", "got a HEIC, AVIF or video file"),
    "SVG": (b"<svg/>", "got a text of tags"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer"),
    "nothing": (b"", "got an empty file"),
    "I": (saved("I", [0, 70000], "TIFF"), "got 32-bit integer pixels"),
    "signed": (tiff(1, (16,), b"\0\0\1\0", (339, 2)), "got 32-bit integer pixels"),
    "signed bytes": (tiff(1, (8,), b"\0\1", (339, 2)), "got signed numbers"),
    "F": (saved("F", [0.0, 1.0], "TIFF"), "got floating-point pixels"),
    "LAB": (saved("LAB", [(1, 2, 3)] * 2, "TIFF"), "got L*a*b* colours"),
    "CMYK profile": (saved("CMYK", [(0, 0, 0, 9)] * 2, "JPEG", icc_profile=b"p" * 128), "CMYK with a colour profile"),
    "key": (png(16, 2, b"\0" * 12, (b"tRNS", b"\0" * 6)), "a 16-bit transparent colour"),
    "APNG": (frames("PNG"), "is an animation: expected a still image, got 2 frames"),
    "WebP": (frames("WEBP"), "is an animation"),
    "pages": (frames("TIFF"), "has 2 pages: expected one image"),
    "16-bit float": (tiff(1, (16,), b"\0\0\1\0", (339, 3)), "a damaged file, or an unusual variety"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_what_it_is(name: str, tmp_path: Path) -> None:
    data, reason = REFUSED[name]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    for read in (read_image, read_head):
        with pytest.raises(DatasetError, match=re.escape(reason)) as caught:
            read(path, DatasetError)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_program_is_started_for_an_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def started(*_: object, **__: object) -> Any:
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(DatasetError, match="PostScript"):
        read_image(tmp_path / "a.png", DatasetError)


def test_the_first_image_of_a_phones_mpo_is_taken() -> None:
    grey, other = Image.new("RGB", (2, 1), (90, 90, 90)), Image.new("RGB", (2, 1), A)
    stream = io.BytesIO()
    grey.save(stream, "MPO", save_all=True, append_images=[other])
    assert read_image(stream, DatasetError)[0, 0].tolist() == [90, 90, 90, 255]


@pytest.mark.parametrize(("kind", "is_read"), [(0, False), (1, True), (2, False), (4, True), (5, True)])
def test_pages_that_are_reduced_versions_or_masks_of_the_first_are_no_obstacle(
    kind: int, is_read: bool
) -> None:
    data = bytearray(frames("TIFF", compression="raw"))
    # NewSubfileType of the second page: bit 0 is a reduced version, bit 1 a page of several, bit 2 a mask. Here it takes the
    # place of the tag of its compression.
    (at,) = struct.unpack_from("<I", data, 4)
    (at,) = struct.unpack_from("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0])
    (count,) = struct.unpack_from("<H", data, at)
    rows = [bytes(data[at + 2 + 12 * k : at + 14 + 12 * k]) for k in range(count)]
    assert struct.unpack_from("<H", rows[3])[0] == 259  # Compression: 1 is the default
    rows[3] = struct.pack("<HHII", 254, 4, 1, kind)
    data[at + 2 : at + 2 + 12 * count] = b"".join(sorted(rows))
    if is_read:
        assert read_image(bytes(data), DatasetError)[0, 0].tolist() == [*A, 255]
        return
    with pytest.raises(DatasetError, match="has 2 pages"):
        read_image(bytes(data), DatasetError)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_is_applied_where_it_is_asked_for(kind: str, number: int) -> None:
    image = Image.fromarray((np.arange(48 * 32) % 251).astype(np.uint8).reshape(32, 48)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    stream = io.BytesIO()
    image.save(stream, kind, exif=exif)
    with Image.open(stream) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGBA"))
        stored = np.asarray(opened.convert("RGBA"))
    assert np.array_equal(read_image(stream, DatasetError, upright=True), expected)
    assert np.array_equal(read_image(stream, DatasetError), stored)
    head = read_head(stream, DatasetError)
    assert (head.size, head.is_turned) == ((48, 32), number >= 5)


@pytest.mark.parametrize("size", [(60000, 60000), (9500, 9500), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_one_is_decoded(size: tuple[int, int]) -> None:
    """Above Pillow's limit (a warning there), twice that (an error), and more than an integer holds."""
    data = png(8, 0, b"\0" * 10, size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for read in (read_image, read_head):
            with pytest.raises(
                DatasetError, match=r"a\.png is too large: expected at most 89 million pixels"
            ):
                read(data, DatasetError, "a.png")


def test_exactly_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", 6)
    assert read_image(saved("L", [1, 2], "PNG"), DatasetError).shape == (1, 2, 4)
    stream = io.BytesIO()
    Image.new("L", (3, 2)).save(stream, "PNG")
    assert read_image(stream, DatasetError).shape == (2, 3, 4)
    for size in ((7, 1), (4, 2)):
        Image.new("L", size).save(stream := io.BytesIO(), "PNG")
        with pytest.raises(DatasetError, match=f"got {size[0]} x {size[1]}"):
            read_image(stream, DatasetError)
    Image.new("L", (1, 1)).save(stream := io.BytesIO(), "PNG")
    assert read_image(stream, DatasetError).shape == (1, 1, 4)


def test_pillows_own_limit_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(DatasetError, match="the image is too large"):
        read_image(saved("L", [1, 2], "PNG"), DatasetError)


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved("L", [1, 2], "PNG"))
    monkeypatch.setattr(image_files, "MAX_BYTES", path.stat().st_size)
    assert read_image(path, DatasetError).shape == (1, 2, 4)
    monkeypatch.setattr(image_files, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(DatasetError, match="bytes"):
        read_image(path, DatasetError)
    monkeypatch.undo()
    assert image_files.MAX_BYTES == 2**30 and image_files.MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def test_odd_metadata_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    opens = Image.open

    def warns(*arguments: Any, **options: Any) -> Any:
        warnings.warn("corrupt EXIF data", UserWarning, stacklevel=1)
        return opens(*arguments, **options)

    monkeypatch.setattr(Image, "open", warns)
    assert read_image(saved("L", [1, 2], "PNG"), DatasetError).shape == (1, 2, 4)


def sources() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    found = {}
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
        found[kind] = stream.getvalue()
    return found


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_cut_off_file_is_refused_wherever_it_is_cut(kind: str) -> None:
    data = sources()[kind]
    for length in range(0, len(data) - 16, 37):
        with pytest.raises(DatasetError, match=r"^a\.png ") as caught:
            read_image(data[:length], DatasetError, "a.png")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_damage_is_one_line_and_never_another_exception(kind: str) -> None:
    data, rng = sources()[kind], random.Random(0)
    whole = read_image(data, DatasetError)
    for _ in range(60):
        bent = bytearray(data)
        # Metadata is small: half of the damage goes there.
        for _ in range(rng.randint(1, 4)):
            bent[rng.randrange(len(data) if rng.random() < 0.5 else 60)] = rng.randrange(256)
        try:
            read = read_image(bytes(bent), DatasetError, "a.png")
        except DatasetError as refused:
            assert "\n" not in str(refused)
        else:
            # PNG has checksums everywhere; the others cannot notice a value that is another one.
            assert kind != "PNG" or np.array_equal(read, whole)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "fifo.png", tmp_path / "folder.png", Path("/dev/zero")):
        with pytest.raises(DatasetError, match="where a regular file is expected"):
            read_image(path, DatasetError)
    for path in (tmp_path / "absent.png", Path("a\0b"), Path("x" * 300)):
        with pytest.raises(DatasetError, match="cannot be read "):
            read_image(path, DatasetError)


def test_nobody_else_opens_image_files() -> None:
    """`Image.open` and its kin, under whatever name they are imported."""
    package = Path(dreamfusion.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "image_files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                where = f"{path}:{node.lineno}"
                assert node.attr not in ("imread", "get_reader", "imopen"), where
                assert not (node.attr == "open" and ast.unparse(node.value).endswith("Image")), where
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("PIL", "imageio", "skimage.io")
            ):
                assert not {"open", "imread", "imopen"} & {alias.name for alias in node.names}, path
