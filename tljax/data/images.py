"""Decodes image files, and converts images in memory, to arrays, uint8 (h, w, channels).

Pillow decodes; this module tells the format by the content, and handles damaged files. Images
become RGB or, where a number of channels is asked for, must have that number and keep all of them;
`tljax.data.pixels` does either. Two things change an image and are said once: more than 8 bits a
channel, and further frames.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from tljax.console import warn_once, was_said
from tljax.data.pixels import channels as own_channels
from tljax.data.pixels import tiff
from tljax.data.pixels.pillow import DAMAGE, refuse_bomb, refuse_thumbnail, rgb
from tljax.data.pixels.reporting import Unreadable
from tljax.errors import InputError, printable

FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF"

# Files with these names are listed as images without being opened. Others are, if their content is.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf"),
    *(".jpx", ".avif", ".avifs"),
)

MAX_BYTES = 2**30  # of a file; no image within Pillow's limit of pixels needs more

_HEAD = 64  # bytes of a file that tell its format
_MANY_FRAMES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # further frames of a JPEG are previews

# Pillow warns at every image with e.g. a broken EXIF tag. `append`: a user's filters take priority.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


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
    source: str | os.PathLike | bytes,
    name: str | None = None,
    deep: str = "full_range",
    channels: int | None = None,
) -> np.ndarray:
    """Decodes an image, given as a path or as the bytes of a file; `FORMATS` are read.

    The content decides about the format, not the name. The EXIF orientation is applied. Grey,
    palette and CMYK images become RGB, transparent pixels are blended over white, and of several
    frames or pages the first is returned.

    With `channels` an image keeps what it has: grey is one channel, and alpha is one more. Palette
    and CMYK images are RGB, with alpha if a colour is transparent. The channels of all pages of a
    TIFF are put one after the other.

    Args:
      source: The path or the bytes.
      name: The name of the image in errors; None: its path, or the number of its bytes.
      deep: What becomes of grey images with more than 8 bits a pixel. `full_range`: all that 16
        bits can hold, 0 to 65,535, is scaled to 0 to 255. `own_range`: the smallest pixel of the
        image becomes 0 and the largest 255. Of colours with 16 bits a channel the high byte is
        kept either way. With `channels` the same is done to each channel by itself, and to the
        colours of TIFFs too.
      channels: The number of channels that the image must have; None: it is made RGB.

    Returns:
      uint8 (h, w, 3) or (h, w, channels).

    Raises:
      Unreadable: The file is missing, not a regular file or damaged; it has more pixels than
        `PIL.Image.MAX_IMAGE_PIXELS` (a decompression bomb); its pixels are floats or beyond 16
        bits and `deep` is `full_range`; or it has another number of channels.
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
        if format == "TIFF" and channels is not None:
            return tiff.read(data, name, deep, channels)
        with Image.open(io.BytesIO(data), formats=(format,)) as image:
            refuse_bomb(image)
            refuse_thumbnail(image, name)
            _warn_of_frames(image, name)
            return _pixels(image, name, deep, channels)
    except Image.DecompressionBombError as error:
        raise Unreadable(
            name, f"it has more than {Image.MAX_IMAGE_PIXELS} pixels; shrink or delete it"
        ) from error
    except DAMAGE as error:
        raise Unreadable(
            name, f"it is truncated or not a {FORMATS} file; replace or delete it"
        ) from error


def as_pixels(
    image: Image.Image | np.ndarray, channels: int | None = None, name: str | None = None
) -> np.ndarray:
    """Converts an image in memory to pixels.

    Args:
      image: A Pillow image of any mode, which is treated as `decode` treats a file: turned as its
        EXIF orientation says, unless that was done already, and 16 bits scaled to 8. Or a uint8
        array (h, w, channels), or (h, w) of one channel; with `channels` None (h, w, 3), (h, w, 1)
        or (h, w), of which grey is repeated to three channels.
      channels: The number of channels that the image must have; None: it is made RGB.
      name: The name of the image in errors; None: what Pillow knows, or none.

    Returns:
      uint8 (h, w, 3) or (h, w, channels).

    Raises:
      Unreadable: The Pillow image has not been loaded yet, and its file is damaged; or its pixels
        are floats or beyond 16 bits; or it has another number of channels.
      InputError: The array has another dtype or shape.
    """
    if isinstance(image, Image.Image):
        size = f"{image.width}x{image.height}, from Pillow"
        name = name or str(getattr(image, "filename", "")) or size
        try:
            return _pixels(image, name, None, channels)
        except DAMAGE as error:
            raise Unreadable(name, "its file is damaged; replace or delete it") from error
    array, name = np.asarray(image), "an image" if name is None else f"image {name}"
    if array.dtype != np.uint8:
        raise InputError(
            f"{name} has dtype {array.dtype}, but uint8{'' if channels else ' RGB'} with values"
            " from 0 to 255 is expected; convert it before passing it (normalisation happens"
            " later)"
        )
    pixels = array[:, :, None] if array.ndim == 2 else array
    if pixels.ndim == 3 and pixels.shape[2] == (channels or 3):
        return pixels
    if channels is not None:
        also = " or (h, w)" if channels == 1 else ""
        raise InputError(
            f"{name} has shape {array.shape}, but (h, w, {channels}){also} is expected of"
            f" {channels} {'channel' if channels == 1 else 'channels'}; put channels last, or set"
            " channels to what the images have"
        )
    if pixels.ndim != 3 or pixels.shape[2] != 1:
        raise InputError(
            f"{name} has shape {array.shape}, but (h, w, 3), (h, w, 1) or (h, w) is expected; put"
            " channels last and drop any alpha channel, or say how many channels there are (the"
            " in_channels of tljax.load)"
        )
    return np.repeat(pixels, 3, axis=2)


def _pixels(image: Image.Image, name: str, deep: str | None, channels: int | None) -> np.ndarray:
    """The image as `decode` returns it; `deep` is None if the caller has no choice about it."""
    if channels is None:
        return rgb(image, name, deep)
    return own_channels.read(image, name, deep, channels)


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


def _warn_of_frames(image: Image.Image, name: str) -> None:
    if image.format not in _MANY_FRAMES or was_said("frames"):
        return
    try:
        has_more = getattr(image, "is_animated", False)
    except DAMAGE:  # in the second frame, which is not needed
        return
    if has_more:
        warn_once(
            f"of images with several frames or pages, e.g. {printable(name)}, the first is used",
            key="frames",
        )
