"""What Pillow says of an image, and how its image becomes RGB."""

import struct
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tljax.console import warn_once
from tljax.data.pixels.depth import to_8_bits
from tljax.data.pixels.reporting import Unreadable
from tljax.errors import printable

# What Pillow raises for damaged files: OSError if truncated or of an unknown format, SyntaxError
# for a broken PNG chunk, AssertionError for a missing palette, ValueError for an invalid header,
# RuntimeError for AVIF, and the other two for invalid EXIF data.
DAMAGE = (OSError, SyntaxError, AssertionError, ValueError, RuntimeError, TypeError, struct.error)

_TURNS = {  # what makes an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def rgb(image: Image.Image, name: str, deep: str | None) -> np.ndarray:
    """The image as `tljax.data.decode` returns it, uint8 (h, w, 3).

    `deep` is None if the caller has no choice about it.
    """
    image = load_upright(image, name, deep)
    if image.has_transparency_data:
        image = _over_white(image.convert("RGBA"), name)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _over_white(image: Image.Image, name: str) -> Image.Image:
    """Blends an image of mode RGBA over white, and says so of the first with such pixels."""
    blended = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    opacity = np.asarray(image.getchannel("A"))
    if (opacity < 255).any():
        warn_once(
            f"of images with transparent pixels, e.g. {printable(name)}, these are blended over"
            " white",
            key="transparent pixels",
        )
        if (np.asarray(blended) == 255).all() and not _is_empty(image):
            warn_once(
                "nothing is left of images that are white on transparent, or transparent"
                f" throughout, e.g. {printable(name)}; blend such images over a dark colour first,"
                " or remove their transparency",
                key="white on white",
            )
    return blended


def _is_empty(image: Image.Image) -> bool:
    """Whether an image of mode RGBA is transparent throughout, and of one colour below that."""
    pixels = np.asarray(image)
    return not pixels[..., 3].any() and bool((pixels == pixels[0, 0]).all())


def load_upright(
    image: Image.Image, name: str, deep: str | None, alone: bool = True
) -> Image.Image:
    """Loads an image, reduces deep grey to 8 bits, and turns it as its EXIF orientation says.

    Args:
      image: as Pillow opened it.
      name, deep, alone: see `to_8_bits`.
    """
    if drops_bits(image):
        warn_once(
            f"of colour images with 16 bits a channel, e.g. {printable(name)}, the upper 8 bits"
            " are used",
            key="deep colours",
        )
    image.load()
    how = orientation(image)
    if is_deep_grey(image):  # Pillow would clip at 255 instead of scaling
        image = Image.fromarray(_deep_grey(image, name, deep, alone))
    return turn(image, how)


def is_deep_grey(image: Image.Image) -> bool:
    """Whether a pixel is one number of 12, 16 or 32 bits, or a float."""
    return image.mode.startswith(("I", "F"))


def turn(image: Image.Image, orientation: Any) -> Image.Image:
    """The image, made upright."""
    how = _TURNS.get(orientation)
    return image if how is None else image.transpose(how)


def _deep_grey(image: Image.Image, name: str, deep: str | None, alone: bool) -> np.ndarray:
    """Scales grey of 12, 16 or 32 bits, or floats, to uint8 (h, w); see `to_8_bits`."""
    return to_8_bits(
        np.asarray(image),
        name,
        deep,
        most=4095.0 if tag(image, ExifTags.Base.BitsPerSample) == (12,) else 65535.0,
        is_inverted=tag(image, ExifTags.Base.PhotometricInterpretation) == 0,  # 0 is white
        alone=alone,
    )


def orientation(image: Image.Image) -> Any:
    """The EXIF orientation; None if the image does not say."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:  # of the EXIF data; the pixels are whole
        return None


def tag(image: Image.Image, number: int) -> Any:
    """A tag of a TIFF; None if it has none, or the image is of another format."""
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(number)


def drops_bits(image: Image.Image) -> bool:
    """Whether Pillow is about to drop the lower 8 of 16 bits: it says so before it loads."""
    if is_deep_grey(image):
        return False
    form, *more = stored_form(image)
    is_wide_ppm = image.format == "PPM" and any(isinstance(x, int) and x > 255 for x in more)
    return is_wide_ppm or (isinstance(form, str) and ";16" in form)


def stored_form(image: Image.Image) -> tuple[Any, ...]:
    """How an image that is not loaded yet is stored, e.g. RGB;16B, and further arguments."""
    tile = getattr(image, "tile", None)
    if not tile:
        return (None,)
    stored = tile[0][3]
    return stored if isinstance(stored, tuple) and stored else (stored,)


def refuse_bomb(image: Image.Image) -> None:
    """Raises above Pillow's limit; Pillow itself only warns up to twice the limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError


def refuse_thumbnail(image: Image.Image, name: str) -> None:
    """Raises for the raw files of cameras: TIFFs whose first image is a thumbnail."""
    if is_reduced(image):
        raise Unreadable(name, "its first image is a thumbnail; convert it to a JPEG or PNG file")


def is_reduced(image: Image.Image) -> bool:
    """Whether this page of a TIFF is a smaller version of another one."""
    kind = tag(image, ExifTags.Base.NewSubfileType)
    return isinstance(kind, int) and bool(kind & 1)
