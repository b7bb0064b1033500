"""Reduces numbers of more than 8 bits to 8."""

import numpy as np

from tljax.console import warn_once
from tljax.data.pixels.reporting import Unreadable
from tljax.errors import printable

DEEP = ("full_range", "own_range")  # how more than 8 bits a channel become 8

_PIXELS_AT_ONCE = 2**20  # that are scaled in float64


def to_8_bits(
    values: np.ndarray,
    name: str,
    deep: str | None,
    *,
    most: float = 65535.0,
    is_inverted: bool = False,
    alone: bool = True,
) -> np.ndarray:
    """Scales the numbers of one channel to 8 bits.

    Args:
      values: (h, w), integers or floats.
      name: of the image, in messages.
      deep: one of `DEEP`: by the range from 0 to `most`, or from the smallest to the largest
        number. None: as `full_range`, and the caller has no choice about it.
      most: what the file's numbers can be at most.
      is_inverted: whether 0 is white.
      alone: whether the image has this channel alone, i.e. is grey.

    Returns:
      uint8 (h, w).

    Raises:
      Unreadable: with `full_range`, for floats and for numbers outside the range.
    """
    known = values if values.dtype.kind != "f" else values[np.isfinite(values)]
    least = 0.0
    if deep == "own_range":
        least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    elif values.dtype.kind == "f" or known.min() < least or known.max() > most:
        what = "floats" if values.dtype.kind == "f" else "numbers beyond 16 bits"
        remedy = ", or set deep_images to own_range" if deep else ""
        raise Unreadable(name, f"its pixels are {what}; convert it to 8 bits{remedy}")
    else:
        _warn_of_range(name, deep, most, alone)
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        share = (values[start : start + rows].astype(np.float64) - least) / ((most - least) or 1)
        scaled[start : start + rows] = np.rint(np.nan_to_num(share * 255, posinf=255, neginf=0))
    return 255 - scaled if is_inverted else scaled


def _warn_of_range(name: str, deep: str | None, most: float, alone: bool) -> None:
    kind, each = ("grey images", "image") if alone else ("images", "channel of each image")
    pixel = "pixel" if alone else "number"
    way = "set deep_images to own_range" if deep else "convert them to 8 bits beforehand"
    warn_once(
        f"of {kind} with more than 8 bits{'' if alone else ' a channel'}, e.g. {printable(name)},"
        f" the range from 0 to {most:,.0f} is scaled to 8 bits; {way} to scale each {each} by its"
        f" own smallest and largest {pixel}",
        key=f"deep {kind}",
    )
