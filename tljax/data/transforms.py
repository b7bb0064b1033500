"""From images of any size to the one a checkpoint expects.

Geometry runs on the host, on uint8, with Pillow; `normalise` runs on the device inside the
jitted step, so that a quarter of the bytes travel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tljax.errors import InputError, did_you_mean

_RESAMPLING = {method.name.lower(): method for method in Image.Resampling}


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint expects its images.

    Attributes:
      image_size: Side of the square input, in pixels.
      mean, std: Per channel (R, G, B), of values in [0, 1].
      interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
      crop_ratio: Share of the shorter side that the evaluation crop keeps, in (0, 1].

    Raises:
      InputError: A value that no image can be brought to.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_ratio: float = 1.0

    def __post_init__(self):
        if self.image_size < 1:
            raise InputError(f"image_size is {self.image_size}; set it to 1 or more")
        if not 0 < self.crop_ratio <= 1:
            raise InputError(f"crop_ratio is {self.crop_ratio}; set it above 0 and up to 1")
        if self.interpolation not in _RESAMPLING:
            hint = did_you_mean(self.interpolation, _RESAMPLING)
            raise InputError(
                f"unknown interpolation '{self.interpolation}'{hint}: use one of "
                f"{', '.join(_RESAMPLING)}"
            )


def normalise(images: jax.Array | np.ndarray, preprocessing: Preprocessing) -> jax.Array:
    """uint8 images (n, h, w, 3) as float32 (x / 255 - mean) / std."""
    mean = jnp.asarray(preprocessing.mean, jnp.float32)
    std = jnp.asarray(preprocessing.std, jnp.float32)
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std


def resize_and_centre_crop(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The evaluation transform.

    The shorter side becomes image_size / crop_ratio, rounded, with the aspect kept; then the
    central square is cut out.

    Args:
      image: uint8 (h, w, 3).

    Returns:
      uint8 (s, s, 3) with s the image size; the image itself if nothing is to be done.
    """
    size = preprocessing.image_size
    shorter = round(size / preprocessing.crop_ratio)
    height, width = image.shape[:2]
    if (side := min(height, width)) != shorter:
        height, width = height * shorter // side, width * shorter // side
        resized = Image.fromarray(image).resize(
            (width, height), _RESAMPLING[preprocessing.interpolation]
        )
        image = np.asarray(resized)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def random_resized_crop(
    image: np.ndarray,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Cut out a random box and resize it (Szegedy et al. 2015, "Going deeper with convolutions").

    The box covers a share of the image drawn uniformly from `area`, with width / height drawn
    log-uniformly from `ratio`. After ten boxes that do not fit, the largest central box within
    `ratio` is taken, as torchvision does.

    Args:
      image: uint8 (h, w, 3).

    Returns:
      uint8 (s, s, 3) with s the image size.
    """
    size = preprocessing.image_size
    left, top, width, height = _random_box(image.shape[0], image.shape[1], rng, area, ratio)
    resized = Image.fromarray(image).resize(
        (size, size),
        _RESAMPLING[preprocessing.interpolation],
        box=(left, top, left + width, top + height),
    )
    return np.asarray(resized)


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror left and right with probability one half."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def _random_box(
    rows: int,
    columns: int,
    rng: np.random.Generator,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels, inside the image."""
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


def _crop_flip(image, preprocessing, rng, area):
    return random_flip(_crop(image, preprocessing, rng, area), rng)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _no_augmentation,
    "crop": _crop,
    "crop_flip": _crop_flip,
}


def augmentation(name: str) -> Augmentation:
    """Look up a function (image, preprocessing, rng, crop area) -> uint8 (s, s, 3).

    Raises:
      InputError: There is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise InputError(
            f"unknown augmentation '{name}'{did_you_mean(name, AUGMENTATIONS)}: use one of "
            f"{', '.join(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]
