"""The channels that an image holds: grey is one, colour three, and alpha is one more."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tljax.data.pixels.pillow import is_deep_grey, load_upright
from tljax.data.pixels.reporting import Unreadable

_KINDS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}


def read(image: Image.Image, name: str, deep: str | None, channels: int) -> np.ndarray:
    """Returns uint8 (h, w, channels) of an image that Pillow opened; see `tljax.data.decode`.

    Raises:
      Unreadable: it has another number of channels.
    """
    check(name, [count(image)], channels)
    return of_page(image, name, deep)


def count(image: Image.Image) -> int:
    """Number of channels of an image that Pillow opened; nothing is decoded."""
    return 1 if is_deep_grey(image) else len(_mode(image))


def of_page(image: Image.Image, name: str, deep: str | None, alone: bool = True) -> np.ndarray:
    """All channels of an image that Pillow opened, uint8 (h, w, channels).

    Args:
      image: a whole image, or a page of one.
      name, deep, alone: see `tljax.data.pixels.depth.to_8_bits`.
    """
    image = load_upright(image, name, deep, alone)
    mode = _mode(image)
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def check(name: str, pages: Sequence[int], channels: int) -> None:
    """Raises Unreadable unless the pages' channels are as many as wanted."""
    found = sum(pages)
    if found == channels:
        return
    if len(pages) == 1:
        what = _KINDS.get(found, "one page")
    elif len(set(pages)) == 1:
        what = f"{len(pages)} pages of {pages[0]}"
    else:
        what = f"{len(pages)} pages"
    raise Unreadable(
        name,
        f"it has {found} {'channel' if found == 1 else 'channels'} ({what}), but channels is"
        f" {channels}; convert it, or set channels to {found} if all images have that many",
    )


def _mode(image: Image.Image) -> str:
    """Pillow's mode that has the image's channels, one letter each."""
    colour = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return f"{colour}A" if image.has_transparency_data else colour
