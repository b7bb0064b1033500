"""TrivialAugment (Mueller & Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
Augmentation"): one operation an image, of a random strength, and nothing to tune.

The operations and strengths are those of its "wide" space, as torchvision has them; what a
geometric operation brings in from outside is black, and pixels are taken from the nearest.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

BINS = 31  # strengths of an operation, from none to its largest

Operation = Callable[[Image.Image, float], Image.Image]


def _affine(coefficients: Callable[[float], tuple[float, ...]]) -> Operation:
    """The pixel at (x, y) comes from (a x + b y + c, d x + e y + f)."""
    return lambda image, strength: image.transform(
        image.size, Image.Transform.AFFINE, coefficients(strength)
    )


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Towards a plain image, or away from it."""
    return lambda image, strength: kind(image).enhance(1 + strength)


# name: (operation, largest strength, whether it goes both ways). Strength 0 changes nothing, but
# for the two operations that have no strength.
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
    "posterize": (lambda image, s: ImageOps.posterize(image, 8 - round(s)), 6, False),  # bits less
    # Of 256 levels, as the authors have it: from torchvision's 255 on, white would turn black at
    # strength 0.
    "solarize": (lambda image, s: ImageOps.solarize(image, 256 - int(s)), 256, False),
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, False),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, False),
}


def apply(image: np.ndarray, name: str, strength: float) -> np.ndarray:
    """One of the `OPERATIONS`, at a strength within its range.

    Args:
      image: uint8 (h, w, 3).

    Returns:
      uint8 (h, w, 3).
    """
    operation, _, _ = OPERATIONS[name]
    return np.asarray(operation(Image.fromarray(image), strength))


def trivial_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One operation, drawn uniformly, at one of `BINS` strengths, drawn uniformly, in a random
    direction where it has two.

    Args:
      image: uint8 (h, w, 3).

    Returns:
      uint8 (h, w, 3).
    """
    name = tuple(OPERATIONS)[rng.integers(len(OPERATIONS))]
    _, largest, both_ways = OPERATIONS[name]
    strength = largest * rng.integers(BINS) / (BINS - 1)
    if both_ways and rng.random() < 0.5:
        strength = -strength
    return apply(image, name, float(strength))
