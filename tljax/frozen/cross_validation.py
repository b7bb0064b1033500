"""Stratified folds, and choices by what heads make of images that they were not fitted on."""

import numpy as np

from tljax.data.splits import grouped_folds

_FOLDS = 5
_FOLDS_OF_MANY = 3
_MANY = 50_000  # images, above which fewer folds suffice
_REPEATS = 5  # at most
_PREDICTIONS = 1000  # out of fold that decide, where the repeats allow


def assign_folds(
    labels: np.ndarray, seed: int, number: int | None = None, groups: np.ndarray | None = None
) -> np.ndarray:
    """Assigns images to folds, each class evenly; several times where there are few images.

    Each class is dealt to the folds in turn. A class of two images is therefore never held out
    whole, and needs no smaller number of folds.

    Args:
      labels: (images,).
      seed: of the random order.
      number: of folds; None: 5, or 3 of many images. There are fewer if there are fewer groups.
      groups: (images,), which images belong together: they are held out together. None: each is
        alone.

    Returns:
      (repeats, images), the fold in which an image is held out.

    Raises:
      InputError: all images are of one group.
    """
    count = len(labels)
    folds = min(number or (_FOLDS if count <= _MANY else _FOLDS_OF_MANY), count)
    if groups is not None:
        folds = max(2, min(folds, len(np.unique(groups))))
    repeats = int(np.clip(-(-_PREDICTIONS // count), 1, _REPEATS))
    rng = np.random.default_rng(seed)
    assigned = np.empty((repeats, count), np.int32)
    for row in assigned:
        if groups is not None:
            row[:] = grouped_folds(labels, groups, folds, int(rng.integers(1 << 31)))
            continue
        shuffled = rng.permutation(count)
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        row[by_class] = np.arange(count) % folds
    return assigned


def choose(right: np.ndarray, weights: np.ndarray) -> int:
    """Chooses a strength among those that are as accurate as the best, within the noise.

    The noise is one standard error of the best accuracy (the one-standard-error rule: Breiman et
    al. 1984, "Classification and Regression Trees", section 3.4.3). The best of few images is the
    best by chance. The choice is a third of the way from the strongest to the weakest of those as
    good: rather strong, because the images to come differ more than those of a fold.

    Args:
      right: (strengths, images), from the strongest, between 0 and 1: whether an image is
        classified correctly.
      weights: (images,), of which the sum is 1.

    Returns:
      The index of the strength.
    """
    accuracies = np.minimum(right @ weights, 1.0)  # rounding
    best = accuracies.max()
    noise = np.sqrt(best * (1 - best) * np.square(weights).sum())
    return _rather_strong(accuracies >= best - noise)


def choose_by_loss(losses: np.ndarray, weights: np.ndarray) -> int:
    """Chooses a strength among those whose loss is as low as the lowest, within the noise.

    The noise is one standard error of the difference, image by image: what is hard with one
    strength is hard with the next, so the difference tells more than the losses by themselves. The
    place among those as good is that of `choose`.

    Args:
      losses: (strengths, images), from the strongest.
      weights: (images,), of which the sum is 1.

    Returns:
      The index of the strength.
    """
    above = losses - losses[np.argmin(losses @ weights)]
    mean = above @ weights
    noise = np.sqrt(np.square(above - mean[:, None]) @ np.square(weights))
    return _rather_strong(mean <= noise)


def _rather_strong(as_good: np.ndarray) -> int:
    """The index a third of the way from the first to the last that is as good as the best."""
    found = np.flatnonzero(as_good)
    return int(found[(len(found) - 1) // 3])


def within_noise(right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns whether each row's accuracy is within one standard error of the best row's.

    Of the difference, image by image: for a choice between features, the first being the cheapest.
    The standard error is that of the images on which the two differ, if both were equally good
    (McNemar 1947). For arguments see `choose`.
    """
    below = right[np.argmax(right @ weights)] - right
    return below @ weights <= np.sqrt(np.square(below) @ np.square(weights))
