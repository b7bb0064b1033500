"""A fixed number of augmented views of every image, the same in all epochs and runs.

Frozen features of fixed views can be cached; those of crops drawn anew in every epoch cannot.
"""

import numpy as np

from tljax.data.sources import (
    Example,
    Source,
    Subset,
    digest,
    fingerprint,
    unwrap_subset,
    weights_of,
)
from tljax.data.transforms import Preprocessing, augmentation


class Views(Source):
    """`count` augmented views of each image of a data set.

    View v of image i is at index v * len(source) + i. Its random numbers depend on v and i alone,
    so runs with different seeds use the same views.

    Args:
      source: The images.
      preprocessing: The views have its image_size.
      augment: A key of `tljax.data.transforms.AUGMENTATIONS`.
      crop_area: Smallest and largest fraction of the image that a random crop covers.
      count: Number of views of each image.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        augment: str,
        crop_area: tuple[float, float],
        count: int,
    ):
        self._source = source
        self._preprocessing = preprocessing
        self._augment, self._crop_area, self._count = augment, crop_area, count
        self.labels = np.concatenate([source.labels] * count)
        weights = weights_of(source)
        self.weights = None if weights is None else np.tile(weights, count)

    def __len__(self) -> int:
        return self._count * len(self._source)

    def __getitem__(self, index: int, /) -> Example:
        view, image = divmod(index, len(self._source))
        example = self._source[image]
        rng = np.random.default_rng((view, image))
        transform = augmentation(self._augment, self._preprocessing.channels)
        augmented = transform(example["image"], self._preprocessing, rng, self._crop_area)
        return {**example, "image": augmented}

    def fingerprint(self) -> str:
        settings = (self._preprocessing, self._augment, self._crop_area, self._count)
        return digest(fingerprint(self._source), repr(settings))


def fixed_views(
    source: Source,
    preprocessing: Preprocessing,
    augment: str,
    crop_area: tuple[float, float],
    count: int,
) -> Subset:
    """Returns the `Views` of the images of `source`: view v of image i at v * len(source) + i.

    They are drawn by the images' rows in the whole data set, so an image has the same views in
    every subset. Args as of `Views`.
    """
    base, rows = unwrap_subset(source)
    views = Views(base, preprocessing, augment, crop_area, count)
    return Subset(views, np.concatenate([view * len(base) + rows for view in range(count)]))
