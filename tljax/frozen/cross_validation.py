"""Stratified folds, and the choice of a penalty by what heads make of images they have not seen."""

import numpy as np

_FOLDS = 5
_FOLDS_OF_MANY = 3
_MANY = 50_000  # images, above which fewer folds suffice
_REPEATS = 5  # at most
_PREDICTIONS = 1000  # out of fold that decide, where the repeats allow


def assign_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Assigns images to folds, each class evenly; several times where there are few images.

    Each class is dealt to the folds in turn. A class of two images is therefore never held out
    whole, and needs no smaller number of folds.

    Args:
      labels: (images,).
      seed: of the random order.

    Returns:
      (repeats, images), the fold in which an image is held out.
    """
    count = len(labels)
    folds = min(_FOLDS if count <= _MANY else _FOLDS_OF_MANY, count)
    repeats = int(np.clip(-(-_PREDICTIONS // count), 1, _REPEATS))
    rng = np.random.default_rng(seed)
    assigned = np.empty((repeats, count), np.int32)
    for row in assigned:
        shuffled = rng.permutation(count)
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        row[by_class] = np.arange(count) % folds
    return assigned


def choose(right: np.ndarray, loss: np.ndarray, weights: np.ndarray) -> int:
    """Chooses a strength: the least loss among those as accurate as the best, within the noise.

    The noise is the standard error of the difference to the most accurate one, image by image.

    Args:
      right: (strengths, images), between 0 and 1: whether an image is classified correctly.
      loss: (strengths, images), in nats.
      weights: (images,), of which the sum is 1.

    Returns:
      The index of the strength.
    """
    losses = loss @ weights
    accuracies = right @ weights
    best = min(np.flatnonzero(accuracies == accuracies.max()), key=losses.__getitem__)
    below = right[best] - right
    means = below @ weights
    errors = np.sqrt(np.square(below - means[:, None]) @ np.square(weights))
    return int(min(np.flatnonzero(means <= errors), key=losses.__getitem__))
