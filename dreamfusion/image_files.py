"""The one reader of image files: photographs, masks, example images, textures.

The content decides what a file is, never its name: PNG, JPEG, WebP and TIFF are read, and no other decoder (or program, such as
Ghostscript for EPS) is started. What is read is right, or refused in one line:

| stored as | read as |
|---|---|
| 1, 2, 4, 8 bits of grey, a palette, RGB, each with or without opacity or a transparent colour | as it is |
| 12 or 16 bits of grey | v / (2^bits - 1), rounded to 8 bits |
| 16 bits of RGB | the upper 8 bits |
| YCbCr | RGB, by JPEG's matrix (JFIF) |
| CMYK without a colour profile | R = (1 - C) (1 - K), and so on |
| CMYK with a profile, L*a*b*, 32-bit integers, floating point, signed numbers, a 16-bit transparent colour | refused |
| animations; TIFF with several pages that are not reduced versions of the first | refused |
| MPO (JPEG with further images after it) | the first image |

Colour profiles of RGB images are not applied: values are taken for sRGB. An EXIF orientation is applied if the caller asks for it
(`upright`); a TIFF's is always, by Pillow.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dreamfusion.documents import open_regular
from dreamfusion.errors import DreamfusionError

# The only decoders that are ever tried.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
# Pillow's own limit, above which it warns of files that unpack to more than a machine holds.
MAX_PIXELS = 89_478_485
# As many pixels of four 16-bit channels, and room for metadata.
MAX_BYTES = 1 << 30
_EXPECTED = "a PNG, JPEG, WebP or TIFF image"

# First bytes of other files that carry an image's name now and then, for the message only.
_OTHERS = (
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"%PDF", "a PDF"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"8BPS", "a Photoshop file"),
    (b"DDS ", "a DDS texture"),
    (b"\xabKTX", "a KTX texture"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?R", "a Radiance HDR image"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL", "a JPEG XL"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
    (b"<", "a text of tags (SVG, HTML)"),
)
_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What Pillow's modes are called, where they are refused.
_REFUSED = {
    "I": "32-bit integer pixels",
    "F": "floating-point pixels",
    "LAB": "L*a*b* colours",
}
_WITH_ALPHA = ("LA", "La", "PA", "RGBA")
_PLAIN = ("1", "L", "P", "RGB", "YCbCr", "CMYK", *_WITH_ALPHA)
# A transparent grey is stored as so many bits as the pixels have, which Pillow spreads over 0..255.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
# EXIF orientation to (transpose, then flip rows, then flip columns).
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
# TIFF 6.0's tags.
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 254, 258, 262, 339


@dataclass(frozen=True)
class ImageHead:
    """What a file says of itself before its pixels.

    Attributes:
        width, height: in pixels, as they are stored.
        has_alpha: whether it has an opacity, or a transparent colour.
        is_turned: its EXIF orientation swaps width and height for display.
    """

    width: int
    height: int
    has_alpha: bool
    is_turned: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def read_head(
    source: Path | bytes | io.BufferedIOBase, error: type[DreamfusionError], name: str | None = None
) -> ImageHead:
    """Size and kind of an image, without its pixels; refuses whatever `read_image` refuses at this point.

    Args:
        source, error, name: as for `read_image`.
    """
    with _opened(source, error, name) as image:
        has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
        turned = not isinstance(image, TiffImageFile) and _orientation(image) >= 5
        return ImageHead(*image.size, has_alpha, turned)


def read_image(
    source: Path | bytes | io.BufferedIOBase,
    error: type[DreamfusionError],
    name: str | None = None,
    *,
    upright: bool = False,
) -> UInt8[np.ndarray, "h w 4"]:
    """Red, green, blue (not multiplied with the opacity) and opacity, 8 bits each.

    Args:
        source: a regular file's path, its bytes, or a binary file that can seek.
        error: the class to raise.
        name: how the source is called in errors; None: its path.
        upright: turn it as its EXIF orientation says.

    Raises:
        DreamfusionError: as `error`, in one line: no regular file, none of the four formats, damaged or cut off, more than
            `MAX_PIXELS`, pixels that have no certain meaning, several images in one; see the module's table.
    """
    with _opened(source, error, name) as image:
        if isinstance(image, PngImageFile):
            image.verify()  # decoding looks at no checksum of the pixels' chunks
    with _opened(source, error, name) as image:
        rgba = _rgba(image)
        # Pillow has turned a TIFF already.
        number = _orientation(image) if upright and not isinstance(image, TiffImageFile) else 1
    transposed, up_down, left_right = _TURNS.get(number, _TURNS[1])
    rgba = rgba.swapaxes(0, 1) if transposed else rgba
    return np.ascontiguousarray(rgba[:: -1 if up_down else 1, :: -1 if left_right else 1])


def _called(source: Path | bytes | io.BufferedIOBase, name: str | None) -> str:
    return name or (str(source) if isinstance(source, Path) else "the image")


@contextmanager
def _opened(
    source: Path | bytes | io.BufferedIOBase, error: type[DreamfusionError], name: str | None
) -> Iterator[Image.Image]:
    """The image, its head read and checked; whatever decoding raises in the block becomes `error`."""
    called = _called(source, name)
    with _stream(source, error, called) as stream, warnings.catch_warnings():
        # Odd metadata is no one's business; too many pixels are, and Pillow warns of them before it decodes.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(stream, formats=FORMATS) as image:  # pyright: ignore[reportArgumentType]
                _check(image, error, called)
                yield image
        except (DreamfusionError, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
            raise _too_large(error, called, None) from bomb
        except UnidentifiedImageError as unknown:
            stream.seek(0)
            raise error(
                f"{called} cannot be read", expected=_EXPECTED, got=_kind(stream.read(64))
            ) from unknown
        except (
            Exception
        ) as broken:  # decoders raise anything on damaged files: SyntaxError, struct.error, KeyError
            raise error(f"{called} is damaged or cut off", got=str(broken)[:120] or None) from broken


@contextmanager
def _stream(
    source: Path | bytes | io.BufferedIOBase, error: type[DreamfusionError], called: str
) -> Iterator[io.BufferedIOBase]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if not isinstance(source, Path):
        source.seek(0)
        yield source
        return
    with open_regular(source, error=error, max_bytes=MAX_BYTES, name=called) as file:
        assert isinstance(file, io.BufferedIOBase)
        yield file


def _check(image: Image.Image, error: type[DreamfusionError], called: str) -> None:
    """Refuse what the head already shows."""
    if image.width < 1 or image.height < 1:
        raise error(f"{called} has no pixels")
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(error, called, f"{image.width} x {image.height}")
    if isinstance(image, PngImageFile | WebPImageFile) and image.n_frames > 1:
        raise error(f"{called} is an animation", expected="a still image", got=f"{image.n_frames} frames")
    if (reason := _without_meaning(image)) is not None:
        raise error(
            f"the pixels of {called} are not supported",
            expected="8 or 16 bits of grey, RGB or RGBA",
            got=reason,
            hint="convert the image",
        )
    if isinstance(image, TiffImageFile) and (pages := _further_pages(image)):
        raise error(f"{called} has {pages + 1} pages", expected="one image")


def _too_large(error: type[DreamfusionError], called: str, got: str | None) -> DreamfusionError:
    return error(
        f"{called} is too large",
        expected=f"at most {MAX_PIXELS / 1e6:.0f} million pixels",
        got=got,
        hint="scale it down first",
    )


def _without_meaning(image: Image.Image) -> str | None:
    """Why the values of the pixels cannot be brought to 8 bits with certainty; None: they can."""
    if image.mode not in _PLAIN and not image.mode.startswith("I;16"):
        return _REFUSED.get(image.mode, f"pixels of the kind {image.mode}")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return "CMYK with a colour profile"
    if isinstance(image, TiffImageFile) and 2 in image.tag_v2.get(_SAMPLE_FORMAT, ()):
        return "signed numbers"
    if image.mode == "RGB" and "transparency" in image.info and _raw_mode(image) == "RGB;16B":
        return "a 16-bit transparent colour"
    return None


def _further_pages(image: TiffImageFile) -> int:
    """How many pages follow the first that are not reduced versions or masks of it."""
    count = 0
    for page in range(1, image.n_frames):
        image.seek(page)
        # NewSubfileType: bit 0 is a reduced version, bit 2 a transparency mask.
        count += not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 0b101
    image.seek(0)
    return count


def _raw_mode(image: Image.Image) -> str:
    """How the file lays its pixels out ("RGB;16B"); known until they are decoded."""
    assert isinstance(image, ImageFile.ImageFile)
    arguments = image.tile[0].args if image.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _rgba(image: Image.Image) -> UInt8[np.ndarray, "h w 4"]:
    if image.mode in ("1", "L") or image.mode.startswith("I;16"):
        return _grey(image)
    if image.mode == "La":  # multiplied with the opacity
        image = image.convert("LA")
    if image.mode in ("YCbCr", "CMYK"):
        image = image.convert("RGB")
    return np.array(image.convert("RGBA"))


def _grey(image: Image.Image) -> UInt8[np.ndarray, "h w 4"]:
    """Grey of 1 to 16 bits, and one of its values transparent if the file says so."""
    raw, key = _raw_mode(image), image.info.get("transparency")
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        largest = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
        # Pillow inverts "white is 0" for 8 bits and fewer only.
        white_is_zero = tags.get(_PHOTOMETRIC) == 0
        grey = ((largest - values if white_is_zero else values) * 255 + largest // 2) // largest
    else:
        values = grey = np.asarray(image.convert("L"))
        key = None if key is None else 255 * (key > 0) if image.mode == "1" else key * _GREY_STEPS.get(raw, 1)
    alpha = np.full(values.shape, 255) if key is None else np.where(values == key, 0, 255)
    return np.stack([grey, grey, grey, alpha], axis=-1).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    number = image.getexif().get(ExifTags.Base.Orientation, 1)
    return number if isinstance(number, int) else 1


def _kind(head: bytes) -> str:
    """What a file is that no decoder knows."""
    if not head:
        return "an empty file"
    if head.startswith(_HEADS):
        return "a damaged file, or an unusual variety"
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    return next((kind for start, kind in _OTHERS if head.startswith(start)), "something else")
