"""`embedded:NAME`: data sets made from files that other Python packages ship; nothing to download.

All images are uint8 (32, 32, 3):
- digits: scikit-learn's 1,797 handwritten digits, 500 of them for testing;
- digits_shifted: the same digits, rotated, with less contrast and noise;
- textures: tiles of ten of scikit-image's photographs; its validation images are a part of each
  photograph of their own, the others' are split off the training images (`datasets.load`);
- glyphs: letters drawn from matplotlib's fonts;
- glyphs_a, glyphs_b: glyphs of 13 capitals each, A, C, E, ... and B, D, F, ...: two similar tasks
  without a common class, with 200 test images per class.
"""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from tljax.data.folder import find_in_package
from tljax.data.glyphs import CLASSES, HALVES, GlyphSource
from tljax.data.images import decode
from tljax.data.sources import ArraySource, Dataset, Source
from tljax.data.splits import stratified_order
from tljax.errors import InputError, did_you_mean

_SIDE = 32
_TEST_DIGITS = 500
_TEST_HALF_GLYPHS = 2_600  # of glyphs_a and glyphs_b: enough to measure a few points of accuracy

# Class name -> file in scikit-image's data folder; all of them ship in its wheel.
_PHOTOGRAPHS = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "coffee": "coffee.png",
    "cat": "chelsea.png",
    "galaxies": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
    "retina": "retina.jpg",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
}
_CROP = 512  # pixels: photographs are cropped to this size, so that classes are of similar size
# Shares of each photograph's columns. With equal shares on both sides of the training tiles,
# validation tiles are as far from training tiles as test tiles are. Validation tiles among the
# training tiles would be easier than test tiles: neighbouring tiles look alike.
_VAL_COLUMNS, _TEST_COLUMNS = 0.25, 0.25

_Splits = tuple[Source, Source | None, Source]  # train, val, test


def load(name: str) -> Dataset:
    """Returns the data set `name`, which is built once per process.

    Raises:
      InputError: There is no data set of that name.
    """
    _check_name(name)
    return _build(name)


def read_class_names(name: str) -> tuple[str, ...]:
    """Returns the names of the classes; builds nothing.

    Raises:
      InputError: There is no data set of that name.
    """
    _check_name(name)
    return _REGISTRY[name][0]


def _check_name(name: str) -> None:
    if name not in _REGISTRY:
        raise InputError(
            f"unknown embedded data '{name}'{did_you_mean(name, _REGISTRY)}: use one of "
            f"{', '.join(f'embedded:{known}' for known in _REGISTRY)}"
        )


@functools.lru_cache
def _build(name: str) -> Dataset:
    classes, build = _REGISTRY[name]
    train, val, test = build()
    return Dataset(f"embedded:{name}", classes, train, val, test)


def _digits() -> _Splits:
    """White on black, upscaled from 8x8; the split into train and test is fixed."""
    # Each line is an image: 64 pixels from 0 to 16, and the label.
    table = np.loadtxt(find_in_package("sklearn", "datasets/data/digits.csv.gz"), delimiter=",")
    small, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    small = np.rint(small * (255 / 16)).astype(np.uint8)
    images = np.stack([_upscale(image) for image in small])
    order = stratified_order(labels, np.random.default_rng(0))
    test, train = np.sort(order[:_TEST_DIGITS]), np.sort(order[_TEST_DIGITS:])
    return ArraySource(images[train], labels[train]), None, ArraySource(images[test], labels[test])


def _digits_shifted() -> _Splits:
    """The digits, rotated by up to 25 degrees, on a grey background with less contrast and noise.

    The random numbers depend on the split and the index of the image alone.
    """
    shifted = []
    train, _, test = _digits()
    for split, source in enumerate((train, test)):
        images = [
            _shift(source[i]["image"][..., 0], np.random.default_rng((split, i)))
            for i in range(len(source))
        ]
        shifted.append(ArraySource(np.stack(images), source.labels))
    return shifted[0], None, shifted[1]


def _shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotates a grey image, uint8 (h, w), reduces its contrast and adds noise."""
    angle = rng.uniform(-25, 25)
    rotated = Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR)
    pixels = 40 + np.asarray(rotated, np.float64) * 0.6 + rng.normal(0, 15, image.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _upscale(image: np.ndarray) -> np.ndarray:
    resized = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _textures() -> _Splits:
    """Grey tiles that do not overlap: 1,166 for training, 592 for validation, 592 for testing.

    The left quarter of each photograph is for validation, the right one for testing. Grey, because
    colour alone would distinguish most of these photographs.
    """
    photographs = find_in_package("skimage", "data")
    strips: list[list[np.ndarray]] = [[], [], []]  # train, val, test
    for file in _PHOTOGRAPHS.values():
        tiles = _tiles(decode(photographs / file))
        borders = [round(tiles.shape[1] * share) for share in (_VAL_COLUMNS, 1 - _TEST_COLUMNS)]
        val, train, test = np.split(tiles, borders, axis=1)
        for strip, part in zip(strips, (train, val, test), strict=True):
            strip.append(part.reshape(-1, _SIDE, _SIDE))
    train_source, val_source, test_source = map(_class_per_group, strips)
    return train_source, val_source, test_source


def _tiles(photograph: np.ndarray) -> np.ndarray:
    """Cuts the centre of uint8 (h, w, 3), in grey, into uint8 (rows, columns, 32, 32)."""
    grey = np.asarray(Image.fromarray(photograph).convert("L"))
    rows, columns = (min(side, _CROP) // _SIDE for side in grey.shape)
    top, left = (grey.shape[0] - rows * _SIDE) // 2, (grey.shape[1] - columns * _SIDE) // 2
    centre = grey[top : top + rows * _SIDE, left : left + columns * _SIDE]
    return centre.reshape(rows, _SIDE, columns, _SIDE).swapaxes(1, 2)


def _class_per_group(groups: list[np.ndarray]) -> ArraySource:
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return ArraySource(np.concatenate(groups), labels)


def _glyphs() -> _Splits:
    return GlyphSource("train"), None, GlyphSource("test")


def _half_glyphs(letters: tuple[str, ...]) -> _Splits:
    return GlyphSource("train", letters), None, GlyphSource("test", letters, _TEST_HALF_GLYPHS)


# Name -> (class names, function that returns the splits).
_REGISTRY: dict[str, tuple[tuple[str, ...], Callable[[], _Splits]]] = {
    "digits": (tuple("0123456789"), _digits),
    "digits_shifted": (tuple("0123456789"), _digits_shifted),
    "textures": (tuple(_PHOTOGRAPHS), _textures),
    "glyphs": (CLASSES, _glyphs),
    "glyphs_a": (HALVES["a"], functools.partial(_half_glyphs, HALVES["a"])),
    "glyphs_b": (HALVES["b"], functools.partial(_half_glyphs, HALVES["b"])),
}
