"""TrivialAugment (Mueller & Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
Augmentation"): one operation per image, of random strength, without hyperparameters.

The operations and strengths are those of its "wide" space in torchvision. Geometric operations
use nearest-neighbour interpolation, and fill in black outside the image.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

BINS = 31  # number of strengths of an operation, evenly spaced from 0 to its largest

Operation = Callable[[Image.Image, float], Image.Image]


def _affine(coefficients: Callable[[float], tuple[float, ...]]) -> Operation:
    """Output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f); (a, ..., f) are given."""
    return lambda image, strength: image.transform(
        image.size, Image.Transform.AFFINE, coefficients(strength)
    )


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Interpolates towards a degenerate image (strength < 0), or extrapolates away from it."""
    return lambda image, strength: kind(image).enhance(1 + strength)


# name: (operation, largest strength, whether the strength may be negative). Strength 0 changes
# nothing, except for autocontrast and equalize, which have no strength.
OPERATIONS: dict[str, tuple[Operation, float, bool]] = {
    "identity": (lambda image, _: image, 0, False),
    "shear_x": (_affine(lambda s: (1, s, 0, 0, 1, 0)), 0.99, True),
    "shear_y": (_affine(lambda s: (1, 0, 0, s, 1, 0)), 0.99, True),
    "translate_x": (_affine(lambda s: (1, 0, int(s), 0, 1, 0)), 32, True),  # pixels
    "translate_y": (_affine(lambda s: (1, 0, 0, 0, 1, int(s))), 32, True),
    "rotate": (lambda image, s: image.rotate(s), 135, True),  # degrees
    "brightness": (_enhance(ImageEnhance.Brightness), 0.99, True),
    "colour": (_enhance(ImageEnhance.Color), 0.99, True),
    "contrast": (_enhance(ImageEnhance.Contrast), 0.99, True),
    "sharpness": (_enhance(ImageEnhance.Sharpness), 0.99, True),
    "posterize": (lambda image, s: ImageOps.posterize(image, 8 - round(s)), 6, False),  # bits
    # From 256 levels, as in the authors' code: with torchvision's 255, white would become black at
    # strength 0.
    "solarize": (lambda image, s: ImageOps.solarize(image, 256 - int(s)), 256, False),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, False),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, False),
}


def apply(image: np.ndarray, name: str, strength: float) -> np.ndarray:
    """Applies one of the `OPERATIONS`.

    Args:
      image: uint8 (h, w, 3).
      name: A key of `OPERATIONS`.
      strength: Within the operation's range.

    Returns:
      uint8 (h, w, 3).
    """
    operation, _, _ = OPERATIONS[name]
    return np.asarray(operation(Image.fromarray(image), strength))


def trivial_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies an operation of a strength, both drawn uniformly, with a random sign if it has one.

    Args:
      image: uint8 (h, w, 3).
      rng: Of the operation, its strength and its sign.

    Returns:
      uint8 (h, w, 3).
    """
    name = tuple(OPERATIONS)[rng.integers(len(OPERATIONS))]
    _, largest, is_signed = OPERATIONS[name]
    strength = largest * rng.integers(BINS) / (BINS - 1)
    if is_signed and rng.random() < 0.5:
        strength = -strength
    return apply(image, name, float(strength))
