"""Resizes, augments and normalises images to the form that pretrained weights expect.

Resizing and augmentation run on the host, on uint8, with Pillow. `normalise` runs on the device
inside the jitted step, so that a quarter of the bytes are transferred.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tljax.data.trivial_augment import trivial_augment
from tljax.errors import InputError, did_you_mean
from tljax.models.preprocessing import INTERPOLATIONS, Preprocessing

_RESAMPLING = {name: Image.Resampling[name.upper()] for name in INTERPOLATIONS}


def normalise(images: jax.Array | np.ndarray, preprocessing: Preprocessing) -> jax.Array:
    """Returns (x / 255 - mean) / std, float32 (n, h, w, 3), of uint8 images (n, h, w, 3)."""
    mean = jnp.asarray(preprocessing.mean, jnp.float32)
    std = jnp.asarray(preprocessing.std, jnp.float32)
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std


def resize_and_centre_crop(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Applies the evaluation transform.

    The image is resized, with its aspect ratio kept, to the smallest size that covers image_size /
    crop_ratio, rounded (for a square image_size, its shorter side gets that length). Then the
    centre is cut out.

    Args:
      image: uint8 (h, w, 3).
      preprocessing: Its image_size, crop_ratio and interpolation are used.

    Returns:
      uint8 (*image_size, 3); a view of `image` if its size is unchanged.
    """
    crop = preprocessing.height_width
    minimum = [round(side / preprocessing.crop_ratio) for side in crop]
    height, width = image.shape[:2]
    # The side that needs the larger factor gets its exact length; the other is rounded down.
    by_height = minimum[0] * width >= minimum[1] * height
    new, old = (minimum[0], height) if by_height else (minimum[1], width)
    if new != old:
        height, width = height * new // old, width * new // old
        resized = Image.fromarray(image).resize(
            (width, height), _RESAMPLING[preprocessing.interpolation]
        )
        image = np.asarray(resized)
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return image[top : top + crop[0], left : left + crop[1]]


def random_resized_crop(
    image: np.ndarray,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Cuts out a random box and resizes it (Szegedy et al. 2015, "Going deeper with convolutions").

    The area of the box, as a fraction of the image, is drawn uniformly from `area`, and width /
    height log-uniformly from `ratio`. If ten boxes do not fit, the largest central box within
    `ratio` is used, as in torchvision.

    Args:
      image: uint8 (h, w, 3).
      preprocessing: Its image_size and interpolation are used.
      rng: Of the random box.
      area: Smallest and largest fraction of the image.
      ratio: Smallest and largest width / height.

    Returns:
      uint8 (*image_size, 3).
    """
    new_height, new_width = preprocessing.height_width
    left, top, width, height = _random_box(image.shape[0], image.shape[1], rng, area, ratio)
    resized = Image.fromarray(image).resize(
        (new_width, new_height),
        _RESAMPLING[preprocessing.interpolation],
        box=(left, top, left + width, top + height),
    )
    return np.asarray(resized)


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips the image horizontally with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def _random_box(
    rows: int,
    columns: int,
    rng: np.random.Generator,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draws a box inside the image: (left, top, width, height) in pixels."""
    log_ratio = np.log(ratio)
    for _ in range(10):
        target = rows * columns * rng.uniform(*area)
        aspect = np.exp(rng.uniform(*log_ratio))
        width, height = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
        if 0 < width <= columns and 0 < height <= rows:
            left = int(rng.integers(columns - width + 1))
            top = int(rng.integers(rows - height + 1))
            return left, top, width, height
    aspect = min(max(columns / rows, ratio[0]), ratio[1])
    width = min(columns, max(1, round(rows * aspect)))
    height = min(rows, max(1, round(columns / aspect)))
    return (columns - width) // 2, (rows - height) // 2, width, height


Augmentation = Callable[
    [np.ndarray, Preprocessing, np.random.Generator, tuple[float, float]], np.ndarray
]


def _no_augmentation(image, preprocessing, rng, area):
    return resize_and_centre_crop(image, preprocessing)


def _crop(image, preprocessing, rng, area):
    return random_resized_crop(image, preprocessing, rng, area)


def _resize_crop_flip(image, preprocessing, rng, area):
    """Resizing to a square and cropping a square, done as one crop with the image's aspect."""
    aspect = image.shape[1] / image.shape[0]
    crop = random_resized_crop(image, preprocessing, rng, area, (aspect, aspect))
    return random_flip(crop, rng)


def _crop_flip(image, preprocessing, rng, area):
    return random_flip(_crop(image, preprocessing, rng, area), rng)


def _trivial(image, preprocessing, rng, area):
    return trivial_augment(_crop_flip(image, preprocessing, rng, area), rng)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _no_augmentation,
    "crop": _crop,
    "crop_flip": _crop_flip,
    "resize_crop_flip": _resize_crop_flip,
    "trivial": _trivial,
}


def augmentation(name: str) -> Augmentation:
    """Returns the function (image, preprocessing, rng, crop_area) -> uint8 (*image_size, 3).

    Raises:
      InputError: There is no augmentation of that name.
    """
    if name not in AUGMENTATIONS:
        raise InputError(
            f"unknown augmentation '{name}'{did_you_mean(name, AUGMENTATIONS)}: use one of "
            f"{', '.join(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]
