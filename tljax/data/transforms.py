"""Resizes, augments and normalises images to the form that pretrained weights expect.

Resizing and augmentation run on the host, on uint8, with Pillow. `normalise` runs on the device
inside the jitted step, so that a quarter of the bytes are transferred. Channels are independent of
each other: alpha, or a fourth spectral band, has no effect on what the others become.
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
    """Returns (x / 255 - mean) / std, float32 (n, h, w, channels), of uint8 images."""
    mean = jnp.asarray(preprocessing.mean, jnp.float32)
    std = jnp.asarray(preprocessing.std, jnp.float32)
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std


def resize_and_centre_crop(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Applies the evaluation transform.

    The image is resized, with its aspect ratio kept, to the smallest size that covers image_size /
    crop_ratio, rounded (for a square image_size, its shorter side gets that length). Then the
    centre is cut out.

    Args:
      image: uint8 (h, w, channels).
      preprocessing: Its image_size, crop_ratio and interpolation are used.

    Returns:
      uint8 (*image_size, channels); a view of `image` if its size is unchanged.

    Raises:
      InputError: The image has another number of channels than `preprocessing`.
    """
    _check_channels(image, preprocessing)
    crop = preprocessing.height_width
    minimum = [round(side / preprocessing.crop_ratio) for side in crop]
    height, width = image.shape[:2]
    # The side that needs the larger factor gets its exact length; the other is rounded down.
    by_height = minimum[0] * width >= minimum[1] * height
    new, old = (minimum[0], height) if by_height else (minimum[1], width)
    if new != old:
        height, width = height * new // old, width * new // old
        image = _resize(image, (width, height), preprocessing)
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
      image: uint8 (h, w, channels).
      preprocessing: Its image_size and interpolation are used.
      rng: Of the random box.
      area: Smallest and largest fraction of the image.
      ratio: Smallest and largest width / height.

    Returns:
      uint8 (*image_size, channels).

    Raises:
      InputError: The image has another number of channels than `preprocessing`.
    """
    _check_channels(image, preprocessing)
    new_height, new_width = preprocessing.height_width
    left, top, width, height = _random_box(image.shape[0], image.shape[1], rng, area, ratio)
    box = (left, top, left + width, top + height)
    return _resize(image, (new_width, new_height), preprocessing, box)


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips the image horizontally with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def _check_channels(image: np.ndarray, preprocessing: Preprocessing) -> None:
    if image.shape[2] != preprocessing.channels:
        raise InputError(
            f"an image has {image.shape[2]} channels, but the network takes"
            f" {preprocessing.channels}; load the data with channels={preprocessing.channels}, or"
            f" the network with in_channels={image.shape[2]}"
        )


def _resize(
    image: np.ndarray,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    box: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """The image, or a box of it, resized to (width, height), each channel by itself."""
    resampling = _RESAMPLING[preprocessing.interpolation]
    if image.shape[2] == 3:  # as three channels at once, which takes less time
        return np.asarray(Image.fromarray(image).resize(size, resampling, box))
    # Of two or four at once Pillow would take the last for alpha, and weight the others by it.
    channels = [Image.fromarray(image[:, :, c]) for c in range(image.shape[2])]
    return np.stack([np.asarray(c.resize(size, resampling, box)) for c in channels], axis=2)


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


def augmentation(name: str, channels: int = 3) -> Augmentation:
    """Returns the function (image, preprocessing, rng, crop_area) -> uint8 (*image_size, channels).

    Raises:
      InputError: There is no augmentation of that name, or none for that number of channels.
    """
    if name not in AUGMENTATIONS:
        raise InputError(
            f"unknown augmentation '{name}'{did_you_mean(name, AUGMENTATIONS)}: use one of "
            f"{', '.join(AUGMENTATIONS)}"
        )
    if name == "trivial" and channels != 3:
        raise InputError(
            "augment is trivial, whose operations on colours and contrast are defined for RGB, but"
            f" the images have {channels} channels; set augment to crop_flip"
        )
    return AUGMENTATIONS[name]
