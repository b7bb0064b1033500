"""Augmented images that are drawn once: so many fixed views of every image.

Between no augmentation, whose frozen features can be computed once, and a new crop in every epoch,
whose cannot.
"""

import numpy as np

from tljax.data.sources import Example, Source, Subset, base_of, digest, fingerprint
from tljax.data.transforms import Preprocessing, augmentation


class Views(Source):
    """`count` augmented views of each image of a data set.

    View v of image i is at v * len(source) + i. It is drawn from v and i alone, so that runs of
    different seeds see the same ones.

    Args:
      source: the data set.
      preprocessing: whose image_size the views have.
      augment: a key of `tljax.data.transforms.AUGMENTATIONS`.
      crop_area: smallest and largest share of the image that a random crop covers.
      count: views of each image.
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
        self.labels = np.tile(source.labels, count)

    def __len__(self) -> int:
        return self._count * len(self._source)

    def __getitem__(self, index: int, /) -> Example:
        view, image = divmod(index, len(self._source))
        example = self._source[image]
        rng = np.random.default_rng((view, image))
        transform = augmentation(self._augment)
        changed = transform(example["image"], self._preprocessing, rng, self._crop_area)
        return {"image": changed, "label": example["label"]}

    def fingerprint(self) -> str:
        made_by = (self._preprocessing, self._augment, self._crop_area, self._count)
        return digest(fingerprint(self._source), repr(made_by))


def fixed_views(
    source: Source,
    preprocessing: Preprocessing,
    augment: str,
    crop_area: tuple[float, float],
    count: int,
) -> Subset:
    """The `Views` of a source's images: view v of its image i at v * len(source) + i.

    An image's views are the same in whatever part of its data set it is.
    """
    base, rows = base_of(source)
    every = Views(base, preprocessing, augment, crop_area, count)
    return Subset(every, np.concatenate([view * len(base) + rows for view in range(count)]))
