"""The channels of all pages of a TIFF.

Pillow reads most TIFFs. It has no mode for others that instruments and satellites write: more than
four samples a pixel, or three and more that are not colours. And of colours with 16 bits it keeps
8. Such files are read by `tifffile`, if it is installed.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tljax.data.pixels import channels as channels_of
from tljax.data.pixels.depth import to_8_bits
from tljax.data.pixels.pillow import (
    DAMAGE,
    drops_bits,
    is_reduced,
    refuse_bomb,
    refuse_thumbnail,
    stored_form,
    tag,
    turn,
)
from tljax.data.pixels.reporting import Unreadable

_INSTALL = "pip install 'tljax[tiff]'"
_IMAGE_DEPTH = 32997  # tag: number of slices of a page that is a volume
_NUMBERS_OR_RGB = (0, 1, 2)  # photometric interpretations: 0 is white, 0 is black, RGB


def read(data: bytes, name: str, deep: str, channels: int) -> np.ndarray:
    """Returns uint8 (h, w, channels): the channels of all pages, one after the other.

    Pages that are smaller versions of others are left out.

    Args:
      data: the bytes of the file.
      name, deep: see `tljax.data.pixels.depth.to_8_bits`.
      channels: the number that they must be in all.

    Raises:
      Unreadable: they are another number, the pages differ in size, or the file is damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            refuse_thumbnail(image, name)
            counts = _count(image)
            if counts is not None:
                channels_of.check(name, list(counts.values()), channels)
                return _stack([_page(image, n, name, deep, channels) for n in counts], name)
    except Image.UnidentifiedImageError:  # a kind that Pillow lacks, or damage
        pass
    return _read_with_tifffile(data, name, deep, channels)


def _count(image: Image.Image) -> dict[int, int] | None:
    """Number of channels of each page by its number; None if Pillow lacks or changes some."""
    counts = {}
    try:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            if is_reduced(image):
                continue
            refuse_bomb(image)
            if not _is_exact(image):
                return None
            counts[number] = channels_of.count(image)
    except (*DAMAGE, EOFError):
        return None
    return counts


def _is_exact(image: Image.Image) -> bool:
    """Whether Pillow gives all samples of a page, all their bits, and changes none by another."""
    samples = tag(image, ExifTags.Base.SamplesPerPixel) or 1
    is_premultiplied = "a" in str(stored_form(image)[0])
    is_volume = (tag(image, _IMAGE_DEPTH) or 1) != 1
    drops = drops_bits(image) or is_volume or samples > len(image.getbands())
    return not (drops or is_premultiplied)


def _page(image: Image.Image, number: int, name: str, deep: str, channels: int) -> np.ndarray:
    image.seek(number)
    return channels_of.of_page(image, name, deep, alone=channels == 1)


def _stack(pages: Sequence[np.ndarray], name: str) -> np.ndarray:
    sizes = sorted({page.shape[:2] for page in pages})
    if len(sizes) > 1:
        small, large = (f"{width}x{height}" for height, width in (sizes[0], sizes[-1]))
        raise Unreadable(
            name, f"its pages differ in size, e.g. {small} and {large}; resize them to one"
        )
    return pages[0] if len(pages) == 1 else np.concatenate(pages, axis=2)


def _read_with_tifffile(data: bytes, name: str, deep: str, channels: int) -> np.ndarray:
    try:
        import tifffile  # here, because few images need it
    except ImportError:
        raise Unreadable(
            name, f"it is a TIFF whose channels Pillow does not read as they are; {_INSTALL}"
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            whole: list[Any] = list(file.pages)
            pages = [page for page in whole if not page.is_reduced]
            if not pages:
                raise OSError("it has no page")
            channels_of.check(name, [_samples(page, name) for page in pages], channels)
            return _stack([_pixels(page, name, deep, channels) for page in pages], name)
    except (Unreadable, Image.DecompressionBombError):
        raise
    except Exception as error:  # of any type, if the file is damaged
        if "imagecodecs" in str(error):
            kind = str(getattr(pages[0].compression, "name", "unknown"))
            raise Unreadable(
                name, f"it is a TIFF with {kind} compression, which needs a codec; {_INSTALL}"
            ) from None
        raise OSError(str(error)) from error


def _samples(page: Any, name: str) -> int:
    """Number of channels of a page of tifffile's."""
    if int(page.photometric) not in _NUMBERS_OR_RGB:
        raise Unreadable(name, f"its colours are {page.photometric.name}; convert it to RGB")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise Unreadable(
            name, f"a page of it has the axes {page.axes}; write one page for each channel"
        )
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and page.imagewidth * page.imagelength > limit:
        raise Image.DecompressionBombError
    return int(page.samplesperpixel)


def _pixels(page: Any, name: str, deep: str, channels: int) -> np.ndarray:
    """The channels of a page of tifffile's, uint8 (h, w, samples)."""
    stored = np.asarray(page.asarray())
    if page.axes == "YX":
        stored = stored[:, :, None]
    elif page.axes == "SYX":
        stored = np.moveaxis(stored, 0, 2)
    orientation = page.tags.valueof(int(ExifTags.Base.Orientation))
    planes = []
    for channel in range(stored.shape[2]):
        plane = _as_8_bits(stored[:, :, channel], page, name, deep, channels)
        planes.append(np.asarray(turn(Image.fromarray(plane), orientation)))
    return np.stack(planes, axis=2)


def _as_8_bits(plane: np.ndarray, page: Any, name: str, deep: str, channels: int) -> np.ndarray:
    is_inverted = int(page.photometric) == 0
    if plane.dtype == bool:
        plane = plane.astype(np.uint8) * 255
    if plane.dtype == np.uint8:
        return 255 - plane if is_inverted else np.ascontiguousarray(plane)
    if plane.dtype.kind not in "iuf":
        raise Unreadable(name, f"its pixels are {plane.dtype} numbers; convert them to floats")
    most = 4095.0 if page.bitspersample == 12 else 65535.0
    alone = channels == 1
    return to_8_bits(plane, name, deep, most=most, is_inverted=is_inverted, alone=alone)
