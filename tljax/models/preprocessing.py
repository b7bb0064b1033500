"""How a network's images are prepared: the record that models, weights and data share."""

from dataclasses import dataclass, replace

from tljax.errors import InputError, check_known, did_you_mean

ImageSize = int | tuple[int, int]
ImageShape = tuple[int, int, int]  # height, width, channels
Statistics = tuple[float, ...]

_LARGEST_SIDE = 2**16 - 1  # in pixels; a larger number in a file means that the file is damaged
_LARGEST_NUMBER = 1e30  # of a mean or a standard deviation, so that it fits float32

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")  # Pillow's

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Caffe's networks take bytes minus these means, unscaled. (Their channels are BGR: conversion
# reverses the first convolution's input channels instead, see weights/families/keras.py.)
CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)

NORMALISATIONS: dict[str, tuple[Statistics, Statistics]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": (HALF, HALF),
    "clip": (CLIP_MEAN, CLIP_STD),
    "caffe": (CAFFE_MEAN, CAFFE_STD),
}


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint expects its images.

    Attributes:
      image_size: side of the square input, or (height, width), in pixels.
      mean, std: of each channel (R, G, B, or as many as the images have), of values in [0, 1].
      interpolation: one of `INTERPOLATIONS`.
      crop_ratio: share of the shorter side that the evaluation crop keeps, in (0, 1].

    Raises:
      InputError: for a value outside these ranges.
    """

    image_size: ImageSize
    mean: Statistics
    std: Statistics
    interpolation: str = "bicubic"
    crop_ratio: float = 1.0

    def __post_init__(self):
        if isinstance(self.image_size, list):  # from JSON; a list cannot be hashed
            object.__setattr__(self, "image_size", tuple(self.image_size))
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,)
        if len(sides) not in (1, 2) or not all(_is_side(side) for side in sides):
            raise InputError(
                f"image_size is {self.image_size}; set it to 1 or more, up to {_LARGEST_SIDE:,}"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not all(isinstance(x, int | float) and abs(x) <= _LARGEST_NUMBER for x in values):
                raise InputError(f"{name} is {values}; give a number for each channel")
            object.__setattr__(self, name, tuple(float(x) for x in values))
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise InputError(
                f"mean is {self.mean} and std is {self.std}; give as many of each, and std above 0"
            )
        if not isinstance(self.crop_ratio, int | float) or not 0 < self.crop_ratio <= 1:
            raise InputError(f"crop_ratio is {self.crop_ratio}; set it above 0 and up to 1")
        if self.interpolation not in INTERPOLATIONS:
            hint = did_you_mean(self.interpolation, INTERPOLATIONS)
            raise InputError(
                f"unknown interpolation '{self.interpolation}'{hint}: use one of"
                f" {', '.join(INTERPOLATIONS)}"
            )

    @property
    def height_width(self) -> tuple[int, int]:
        return height_width(self.image_size)

    @property
    def channels(self) -> int:
        """Number of channels of the images: as many as there are means."""
        return len(self.mean)

    @property
    def image_shape(self) -> ImageShape:
        """(height, width, channels) of the images."""
        return (*self.height_width, self.channels)

    @property
    def normalisation(self) -> str:
        """Name of mean and std in `NORMALISATIONS`, or their numbers: all means, then all stds."""
        pair = (tuple(self.mean), tuple(self.std))
        for name, (mean, std) in NORMALISATIONS.items():
            if _close(mean, pair[0]) and _close(std, pair[1]):
                return name
        return " ".join(repr(float(value)) for value in (*self.mean, *self.std))

    def for_channels(self, channels: int) -> "Preprocessing":
        """The same for images with another number of channels.

        One channel gets the mean of the three. More than three channels repeat the three, as the
        first layer's weights are repeated (`tljax.weights.fitting.adapt_channels`).
        """
        if channels == self.channels:
            return self

        def adapted(values: Statistics) -> Statistics:
            if channels == 1:
                return (sum(values) / len(values),)
            return tuple(values[c % len(values)] for c in range(channels))

        return replace(self, mean=adapted(self.mean), std=adapted(self.std))


def height_width(size: ImageSize) -> tuple[int, int]:
    """(height, width) of a size that is given as one side or as both."""
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def image_shape(image: ImageSize | ImageShape) -> ImageShape:
    """(height, width, channels) of images, which are RGB where only their size is given."""
    if isinstance(image, tuple) and len(image) == 3:
        return image
    return (*height_width(image), 3)


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIDE


def parse_normalisation(text: str, channels: int = 3) -> tuple[Statistics, Statistics]:
    """(mean, std) from a name in `NORMALISATIONS` or from numbers, the inverse of
    `Preprocessing.normalisation`.

    Args:
      text: a name, six numbers (of R, G, B), or as many means and deviations as there are channels.
      channels: of the images.

    Raises:
      InputError: if the text is none of these.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        numbers = tuple(float(word) for word in text.split())
    except ValueError:
        numbers = ()
    half = len(numbers) // 2
    if len(numbers) not in (6, 2 * channels):
        if numbers and channels != 3:
            raise InputError(
                f"normalisation '{text}' has {len(numbers)} numbers, but the images have {channels}"
                f" channels; give {2 * channels}, first the means, or 6 for red, green and blue"
            )
        check_known("normalisation", text, NORMALISATIONS)
    if min(numbers[half:]) <= 0:
        which = "three" if half == 3 else str(half)
        raise InputError(
            f"normalisation '{text}' has a standard deviation of 0 or less; set the last {which}"
            " numbers above 0"
        )
    return numbers[:half], numbers[half:]


def _close(a: Statistics, b: Statistics) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 1e-5 for x, y in zip(a, b, strict=True))
