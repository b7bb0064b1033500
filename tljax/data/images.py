"""Decodes image files, and converts images in memory, to RGB arrays, uint8 (h, w, 3).

Pillow decodes; this module tells the format by the content, and handles orientation, transparency,
bit depth and damaged files. Of several frames or pages the first is used. Two things change an
image and are said once: more than 8 bits a channel, and further frames.
"""

import io
import logging
import multiprocessing
import os
import re
import stat
import struct
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tljax.errors import InputError, printable

_log = logging.getLogger("tljax")

FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF"

# Files with these names are listed as images without being opened. Others are, if their content is.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf"),
    *(".jpx", ".avif", ".avifs"),
)

DEEP = ("full_range", "own_range")  # how more than 8 bits a channel become 8

MAX_BYTES = 2**30  # of a file; no image within Pillow's limit of pixels needs more

# What Pillow raises for damaged files: OSError if truncated or of an unknown format, SyntaxError
# for a broken PNG chunk, AssertionError for a missing palette, ValueError for an invalid header,
# RuntimeError for AVIF, and the other two for invalid EXIF data.
_DAMAGE = (OSError, SyntaxError, AssertionError, ValueError, RuntimeError, TypeError, struct.error)

_PIXELS_AT_ONCE = 2**20  # that are scaled in float64
_HEAD = 64  # bytes of a file that tell its format
_MANY_FRAMES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # further frames of a JPEG are previews

_TURNS = {  # what makes an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns at every image with e.g. a broken EXIF tag. `append`: a user's filters take priority.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


class Unreadable(InputError):
    """An image cannot be read; `name` is its file name, or what else identifies it."""

    def __init__(self, name: str, why: str):
        super().__init__(name, why)  # both, so that worker processes can pickle the error
        self.name = name

    def __str__(self) -> str:
        return "cannot read image {}: {}".format(*self.args)


def skipped_message(names: Collection[object]) -> str:
    """Returns a message about skipped images, with the first five names."""
    first = ", ".join(printable(name) for name in list(names)[:5])
    return f"skipped {len(names)} images that cannot be read: {first}" + ", ..." * (len(names) > 5)


def find_format(head: bytes) -> str | None:
    """Returns Pillow's name of the format that is read, from a file's first 64 bytes; else None.

    Formats for which Pillow runs another program, such as EPS, are none of them.
    """
    for format, beginnings in _BEGINNINGS.items():
        if head.startswith(beginnings):
            return None if head[8:10] == b"CR" else format  # CR2: a camera's raw file
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[14:18] in _BITMAP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6]\s+(#|\d+\s)", head):  # not every text that begins with P1
        return "PPM"
    brands = head[8:12], head[16:_HEAD]  # HEIC files may begin with mif1 too
    if head[4:8] == b"ftyp" and (brands[0] in (b"avif", b"avis") or b"avif" in brands[1]):
        return "AVIF"
    planes = head[8:10] if head[:4] == _BITMAP_HEADERS[0] else head[12:14]
    return "DIB" if head[:4] in _BITMAP_HEADERS and planes == b"\1\0" else None


_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
}
_BITMAP_HEADERS = [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]


def is_image_file(path: str | os.PathLike) -> bool:
    """Whether a regular file is an image by its content; False if it cannot be read."""
    try:
        with open(path, "rb") as content:
            return find_format(content.read(_HEAD)) is not None
    except OSError:
        return False


def decode(
    source: str | os.PathLike | bytes, name: str | None = None, deep: str = "full_range"
) -> np.ndarray:
    """Decodes an image, given as a path or as the bytes of a file; `FORMATS` are read.

    The content decides about the format, not the name. The EXIF orientation is applied. Grey,
    palette and CMYK images become RGB, transparent pixels are blended over white, and of several
    frames or pages the first is returned.

    Args:
      source: The path or the bytes.
      name: The name of the image in errors; None: its path, or the number of its bytes.
      deep: What becomes of grey images with more than 8 bits a pixel. `full_range`: all that 16
        bits can hold, 0 to 65,535, is scaled to 0 to 255. `own_range`: the smallest pixel of the
        image becomes 0 and the largest 255. Of colours with 16 bits a channel the high byte is
        kept either way.

    Returns:
      uint8 (h, w, 3).

    Raises:
      Unreadable: The file is missing, not a regular file or damaged; it has more pixels than
        `PIL.Image.MAX_IMAGE_PIXELS` (a decompression bomb); or its pixels are floats or beyond 16
        bits and `deep` is `full_range`.
    """
    if isinstance(source, bytes):
        name, data = name or f"of {len(source)} bytes", source
    else:
        name = name or os.fspath(source)
        data = _read(Path(source), name)
    format = find_format(data[:_HEAD])
    try:
        if format is None:
            raise OSError
        with Image.open(io.BytesIO(data), formats=(format,)) as image:
            _refuse_bomb(image)
            _refuse_thumbnail(image, name)
            _warn_of_frames(image, name)
            return _pixels(image, name, deep)
    except Image.DecompressionBombError as error:
        raise Unreadable(
            name, f"it has more than {Image.MAX_IMAGE_PIXELS} pixels; shrink or delete it"
        ) from error
    except _DAMAGE as error:
        raise Unreadable(
            name, f"it is truncated or not a {FORMATS} file; replace or delete it"
        ) from error


def as_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """Converts an image in memory to RGB.

    Args:
      image: A Pillow image of any mode, which is treated as `decode` treats a file: turned as its
        EXIF orientation says, unless that was done already, and 16 bits scaled to 8. Or a uint8
        array (h, w, 3), (h, w, 1) or (h, w); grey is repeated to three channels.

    Returns:
      uint8 (h, w, 3).

    Raises:
      Unreadable: The Pillow image has not been loaded yet, and its file is damaged; or its pixels
        are floats or beyond 16 bits.
      InputError: The array has another dtype or shape.
    """
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "")) or f"{image.width}x{image.height}, from Pillow"
        try:
            return _pixels(image, name, None)
        except _DAMAGE as error:
            raise Unreadable(name, "its file is damaged; replace or delete it") from error
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise InputError(
            f"an image has dtype {array.dtype}, but uint8 RGB with values from 0 to 255 is "
            "expected; convert it before passing it (normalisation happens later)"
        )
    if array.ndim == 3 and array.shape[2] == 3:
        return array
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] != 1:
        raise InputError(
            f"an image has shape {array.shape}, but (h, w, 3), (h, w, 1) or (h, w) is expected; "
            "put channels last and drop any alpha channel"
        )
    return np.repeat(array, 3, axis=2)


def _read(path: Path, name: str) -> bytes:
    """Reads a regular file only: reading a pipe could block forever, a device could be endless."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(name, "it is not a file; remove it or give the files in it")
        if status.st_size > MAX_BYTES:
            raise Unreadable(name, f"it is larger than {MAX_BYTES:,} bytes; shrink or delete it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the name has a zero byte
        why = f"{getattr(error, 'strerror', None) or error}; check the path and its permissions"
        raise Unreadable(name, why) from error


def _refuse_bomb(image: Image.Image) -> None:
    """Raises above Pillow's limit; Pillow itself only warns up to twice the limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError


def _refuse_thumbnail(image: Image.Image, name: str) -> None:
    """Raises for the raw files of cameras: TIFFs whose first image is a thumbnail."""
    kind = _tag(image, ExifTags.Base.NewSubfileType)
    if isinstance(kind, int) and kind & 1:
        raise Unreadable(name, "its first image is a thumbnail; convert it to a JPEG or PNG file")


def _tag(image: Image.Image, tag: int) -> Any:
    """A tag of a TIFF; None if it has none, or the image is of another format."""
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(tag)


def _pixels(image: Image.Image, name: str, deep: str | None) -> np.ndarray:
    """The image as `decode` returns it; `deep` is None if the caller has no choice about it."""
    if _has_deep_colours(image):
        _warn_once(
            "deep colours",
            f"of colour images with 16 bits a channel, e.g. {printable(name)}, the upper 8 bits"
            " are used",
        )
    image.load()
    if (turn := _TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode.startswith(("I", "F")):  # Pillow would clip at 255 instead of scaling
        return as_rgb(_deep_grey_as_8_bits(image, name, deep))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:  # of the EXIF data; the pixels are whole
        return None


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether Pillow is about to drop the lower 8 of 16 bits: it says so before it loads."""
    tile = getattr(image, "tile", None)
    if image.mode.startswith("I") or not tile:
        return False
    stored = tile[0][3]  # the pixels' form, e.g. RGB;16B, alone or with further arguments
    form, *more = stored if isinstance(stored, tuple) and stored else (stored,)
    is_wide_ppm = image.format == "PPM" and any(isinstance(x, int) and x > 255 for x in more)
    return is_wide_ppm or (isinstance(form, str) and ";16" in form)


def _deep_grey_as_8_bits(image: Image.Image, name: str, deep: str | None) -> np.ndarray:
    """Scales grey of 12, 16 or 32 bits, or floats, to uint8 (h, w); see `decode`."""
    grey = np.asarray(image)
    known = grey if grey.dtype.kind != "f" else grey[np.isfinite(grey)]
    least, most = 0.0, 4095.0 if _tag(image, ExifTags.Base.BitsPerSample) == (12,) else 65535.0
    if deep == "own_range":
        least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    elif image.mode.startswith("F") or known.min() < least or known.max() > most:
        what = "floats" if image.mode.startswith("F") else "numbers beyond 16 bits"
        remedy = ", or set deep_images to own_range" if deep else ""
        raise Unreadable(name, f"its pixels are {what}; convert it to 8 bits{remedy}")
    else:
        way = "set deep_images to own_range" if deep else "convert them to 8 bits beforehand"
        _warn_once(
            "deep grey",
            f"of grey images with more than 8 bits, e.g. {printable(name)}, the range from 0 to"
            f" {most:,.0f} is scaled to 8 bits; {way} to scale each image by its own smallest and"
            " largest pixel",
        )
    scaled = np.empty(grey.shape, np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // grey.shape[1])
    for start in range(0, len(grey), rows):
        share = (grey[start : start + rows].astype(np.float64) - least) / ((most - least) or 1)
        scaled[start : start + rows] = np.rint(np.nan_to_num(share * 255, posinf=255, neginf=0))
    is_inverted = _tag(image, ExifTags.Base.PhotometricInterpretation) == 0  # 0 is white
    return 255 - scaled if is_inverted else scaled


def _warn_of_frames(image: Image.Image, name: str) -> None:
    if image.format not in _MANY_FRAMES or "frames" in _said:
        return
    try:
        has_more = getattr(image, "is_animated", False)
    except _DAMAGE:  # in the second frame, which is not needed
        return
    if has_more:
        _warn_once(
            "frames",
            f"of images with several frames or pages, e.g. {printable(name)}, the first is used",
        )


def _warn_once(what: str, message: str) -> None:
    """Warns at the first image of its kind; processes that read ahead leave it to the main one."""
    if what not in _said and multiprocessing.parent_process() is None:
        _said.add(what)
        _log.warning(message)


_said: set[str] = set()
