"""The images of a target that scores, probes and advice look at."""

import numpy as np

from tljax.data import Dataset, Source, Subset
from tljax.data.splits import random_ranks
from tljax.errors import InputError

_TWO = 2  # images of a class that cross-validation needs


def choose_images(dataset: Dataset, data: str, most: int, seed: int) -> Source:
    """Draws at most `most` training images, by class, so that each can be cross-validated.

    Raises:
      InputError: if there is one class only, a class has a single image, or `most` is too small
        for two images of each class.
    """
    if dataset.kind != "classes":
        raise InputError(
            f"the labels of '{data}' are of the kind {dataset.kind}, but sources and scenarios are"
            " compared on data of one class an image; run the scenarios themselves, with `tljax"
            " sweep`"
        )
    if len(dataset.parts) > 1:
        raise InputError(
            f"data is {data}, several data sets, but sources and scenarios are compared on one;"
            " give one data set"
        )
    train, names = dataset.train, dataset.class_names
    present, counts = np.unique(train.labels, return_counts=True)
    if len(present) < 2:
        raise InputError(
            f"all {len(train):,} training images of '{data}' are of the class"
            f" '{names[int(present[0])]}', so no features can tell classes apart; give images of"
            " two classes or more"
        )
    single = present[counts < _TWO]
    if len(single):
        raise InputError(
            f"{len(single)} of {len(present)} classes of '{data}' have a single training image (the"
            f" first is '{names[int(single[0])]}'), which cross-validation cannot hold out; add"
            " images of them, or leave these classes out"
        )
    if most < _TWO * len(present):
        raise InputError(
            f"--images is {most}, but '{data}' has {len(present)} classes, and two images of each"
            f" are needed; set it to {_TWO * len(present)} or more"
        )
    if len(train) <= most:
        return train
    rng = np.random.default_rng((seed, 2))
    ranks = random_ranks(train.labels, rng)
    position = (ranks + 0.5) / np.bincount(train.labels)[train.labels]
    order = np.lexsort((rng.random(len(train)), position, ranks >= _TWO))
    return Subset(train, np.sort(order[:most]))
