"""Letters drawn from the fonts in matplotlib: a source task that needs no download.

White on black, 32x32, with random position, slant, size, brightness and sharpness, so that they
resemble scanned handwriting more than print.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tljax.data.sources import Example, Source, sample_digest

# Capitals, and the small letters that are not just smaller capitals: the classes of EMNIST
# "balanced" (Cohen et al. 2017) without its digits.
CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")

# The capitals in two halves, every other letter. So there are similar letters within a half (C and
# G, O and Q, P and R) and across the halves (E and F, I and J, M and N, U and V).
HALVES = {"a": CLASSES[:26:2], "b": CLASSES[1:26:2]}

# The fonts in matplotlib's mpl-data/fonts/ttf that draw every class as a distinct letter.
# cmex10, cmsy10 and LastResortHE claim letters that they do not draw; the Display, STIXNonUni
# and STIXSiz fonts have none.
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralBolIta.ttf",
    "STIXGeneralItalic.ttf",
    "cmb10.ttf",
    "cmmi10.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmti10.ttf",
    "cmtt10.ttf",
)

SIDE = 32  # pixels of an image
_SIZES = {"train": 20_000, "test": 1_000}
_MASTER = 64  # pixels of the upright drawing that an image is warped from
_INK = 44  # pixels of a letter's longer side in the master
_PENS = (1, 3, 5)  # width in pixels of the square pen that thickens a letter; 1 has no effect


class GlyphSource(Source):
    """The images of one split, drawn at first access and then kept.

    Image i depends on (split, letters, i) alone: its label is i modulo the number of letters, and
    its random numbers are seeded with (split, i). So any thread or process can draw images in any
    order.

    Args:
      split: "train" or "test".
      letters: The classes, a subset of CLASSES.
      count: Number of images; None: as many as in `embedded:glyphs`.
    """

    def __init__(self, split: str, letters: Sequence[str] = CLASSES, count: int | None = None):
        count = _SIZES[split] if count is None else count
        self._split, self._letters = split, tuple(letters)
        self.labels = np.arange(count) % len(self._letters)
        # Threads may draw the same image at once: they write the same bytes, then set the flag.
        self._images = np.empty((count, SIDE, SIDE), np.uint8)
        self._is_drawn = np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]  # a negative index counts from the end, as in a list
        label = int(self.labels[index])
        if not self._is_drawn[index]:
            rng = np.random.default_rng((list(_SIZES).index(self._split), index))
            self._images[index] = draw(self._letters[label], rng)
            self._is_drawn[index] = True
        return {"image": np.repeat(self._images[index][:, :, None], 3, axis=2), "label": label}

    def fingerprint(self) -> str:
        return sample_digest(self)

    def __reduce__(self):
        # Worker processes draw the images again, instead of copying them.
        return GlyphSource, (self._split, self._letters, len(self))


def draw(letter: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a random image of one of the CLASSES; returns uint8 (32, 32)."""
    upright = draw_upright(FONTS[rng.integers(len(FONTS))], letter, _PENS[rng.integers(len(_PENS))])
    drawn = upright.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, _random_warp(rng), Image.Resampling.BILINEAR
    )
    if rng.random() < 2 / 3:  # as if scanned at a low resolution
        coarse = int(rng.integers(7, 17))
        drawn = drawn.resize((coarse, coarse), Image.Resampling.BOX)
        drawn = drawn.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    else:
        drawn = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    brightness, noise = rng.uniform(0.6, 1), rng.uniform(0, 10)
    pixels = np.asarray(drawn) * brightness + rng.normal(0, noise, (SIDE, SIDE))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@functools.cache
def draw_upright(font: str, letter: str, pen: int) -> Image.Image:
    """Draws a letter upright, centred and scaled to fit; thickens it with `pen`: grey (64, 64)."""
    canvas = Image.new("L", (3 * _MASTER, 3 * _MASTER))
    middle = (3 * _MASTER // 2,) * 2
    ImageDraw.Draw(canvas).text(middle, letter, fill=255, font=_font(font), anchor="mm")
    ink = canvas.crop(canvas.getbbox())
    scale = _INK / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    centred = Image.new("L", (_MASTER, _MASTER))
    centred.paste(
        ink.resize((width, height), Image.Resampling.BILINEAR),
        ((_MASTER - width) // 2, (_MASTER - height) // 2),
    )
    return centred.filter(ImageFilter.MaxFilter(pen))


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, _MASTER)


def _random_warp(rng: np.random.Generator) -> tuple[float, ...]:
    """Random rotation, shear, scale and shift, in Pillow's form: from image to master pixels."""
    angle, shear = rng.uniform(-0.25, 0.25, 2)  # radians; pixels across per pixel down
    height = rng.uniform(19, 31) / _INK  # a letter's longer side, in pixels of the image
    width = height * rng.uniform(0.75, 1.15)
    shift = rng.uniform(-2, 2, 2)  # pixels
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_image = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag([width, height])
    to_master = np.linalg.inv(to_image)
    offset = _MASTER / 2 - to_master @ (SIDE / 2 + shift)
    return (*to_master[0], offset[0], *to_master[1], offset[1])
