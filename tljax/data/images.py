"""From an image file, or an image in memory, to the one form everything else reads: RGB bytes.

That form is a uint8 array (h, w, 3). Pillow decodes; what is decided here is what happens to
orientation, transparency, depth and damage.
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

MAX_BYTES = 2**30  # of a file: no image under Pillow's limit of pixels needs more

# What Pillow raises for damaged files: truncation and an unknown format are OSErrors, a broken PNG
# chunk is a SyntaxError, a palette that is missing an AssertionError, nonsense in a header a
# ValueError, and in EXIF data the other two.
_DAMAGE = (OSError, SyntaxError, AssertionError, ValueError, TypeError, struct.error)

# Of a broken tag, say, Pillow warns for every image in which there is one. Other filters go first.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


class Unreadable(InputError):
    """An image file that cannot be read; `name` is the file's, as it was given."""

    def __init__(self, name: str, why: str):
        super().__init__(name, why)  # as pickle will call it, on the way from a worker process
        self.name = name

    def __str__(self) -> str:
        return "cannot read image {}: {}".format(*self.args)


def skipped_message(names: Collection[object]) -> str:
    """What to tell about images that were left out, with the first five of their names."""
    first = ", ".join(printable(name) for name in list(names)[:5])
    return f"skipped {len(names)} images that cannot be read: {first}" + ", ..." * (len(names) > 5)


def decode(source: str | os.PathLike | bytes, name: str | None = None) -> np.ndarray:
    """Decode a JPEG, PNG, WebP or BMP image, given as a path or as the bytes of a file.

    The image is turned as its EXIF orientation says. Grey, palette and CMYK images become RGB,
    16-bit grey is scaled to 8 bits, and transparent pixels are blended over white.

    Args:
      source: The path or the bytes.
      name: What an error calls the image; None: its path, or the number of its bytes.

    Returns:
      uint8 (h, w, 3).

    Raises:
      Unreadable: The file is missing, is no file, is damaged, or has more pixels than
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
    """An image in memory as uint8 (h, w, 3).

    Args:
      image: A Pillow image of any mode, or a uint8 array (h, w, 3), (h, w, 1) or (h, w); grey
        is repeated to three channels.

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
    """The bytes of a regular file: to read a pipe would wait for ever, a device never end."""
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
    """Pillow raises at twice its limit only; between once and twice it merely warns."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255 instead of scaling
        grey = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
        return as_rgb(np.rint(grey).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
