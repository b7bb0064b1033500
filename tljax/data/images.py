"""Decodes image files, and converts images in memory, to RGB arrays, uint8 (h, w, 3).

Pillow decodes; this module handles orientation, transparency, bit depth and damaged files.
"""

import io
import os
import stat
import struct
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tljax.errors import InputError, printable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

MAX_BYTES = 2**30  # of a file; no image within Pillow's limit of pixels needs more

# What Pillow raises for damaged files: OSError if truncated or of an unknown format, SyntaxError
# for a broken PNG chunk, AssertionError for a missing palette, ValueError for an invalid header,
# and the other two for invalid EXIF data.
_DAMAGE = (OSError, SyntaxError, AssertionError, ValueError, TypeError, struct.error)

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


def decode(source: str | os.PathLike | bytes, name: str | None = None) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP or BMP image, given as a path or as the bytes of a file.

    The EXIF orientation is applied. Grey, palette and CMYK images become RGB, 16-bit grey is scaled
    to 8 bits, and transparent pixels are blended over white.

    Args:
      source: The path or the bytes.
      name: The name of the image in errors; None: its path, or the number of its bytes.

    Returns:
      uint8 (h, w, 3).

    Raises:
      Unreadable: The file is missing, not a regular file or damaged, or it has more pixels than
        `PIL.Image.MAX_IMAGE_PIXELS` (a decompression bomb).
    """
    if isinstance(source, bytes):
        name, data = name or f"of {len(source)} bytes", source
    else:
        name = name or os.fspath(source)
        data = _read(Path(source), name)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(image)
            ImageOps.exif_transpose(image, in_place=True)
            return _pixels(image)
    except Image.DecompressionBombError as error:
        raise Unreadable(
            name, f"it has more than {Image.MAX_IMAGE_PIXELS} pixels; shrink or delete it"
        ) from error
    except _DAMAGE as error:
        raise Unreadable(
            name, "it is truncated or not a JPEG, PNG, WebP or BMP file; replace or delete it"
        ) from error


def as_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """Converts an image in memory to RGB.

    Args:
      image: A Pillow image of any mode, or a uint8 array (h, w, 3), (h, w, 1) or (h, w); grey
        is repeated to three channels.

    Returns:
      uint8 (h, w, 3).

    Raises:
      InputError: The array has another dtype or shape.
    """
    if isinstance(image, Image.Image):
        return _pixels(image)
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


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip at 255 instead of scaling
        grey = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
        return as_rgb(np.rint(grey).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
