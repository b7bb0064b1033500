"""Stratified splits: who goes to validation, and which images a smaller training set keeps."""

import numpy as np

from tljax.data.sources import Source, Subset
from tljax.errors import InputError

_TEST_FRACTION = 0.2


def random_ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int (n,): the place of each image in a random order of its own class, from 0.

    Args:
      labels: int (n,), not negative.
    """
    by_class = np.lexsort((rng.random(len(labels)), labels))
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every prefix has the class proportions of the whole.

    The r-th image of a class of n stands at (r + 1/2) / n of the way, as if each class were laid
    out evenly over the same line. Prefixes of one order are nested, so a learning curve
    over training sizes adds images and never swaps them.

    Args:
      labels: int (n,), not negative.

    Returns:
      int (n,): a permutation of 0 ... n - 1.
    """
    position = (random_ranks(labels, rng) + 0.5) / np.bincount(labels)[labels]
    return np.lexsort((rng.random(len(labels)), position))  # classes of one size tie


def carve(
    labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split off `fraction` of every class, rounded.

    Of a class with two or more images at least one goes to each side; a lone image stays.

    Args:
      labels: int (n,), not negative.
      fraction: Between 0 and 1.

    Returns:
      Sorted indices (kept, carved).
    """
    counts = np.bincount(labels)
    taken = np.where(counts > 1, np.clip(np.rint(counts * fraction), 1, counts - 1), 0)
    carved = random_ranks(labels, rng) < taken[labels]
    return np.flatnonzero(~carved), np.flatnonzero(carved)


def carve_test(train: Source, where: object, instead: str) -> tuple[Subset, Subset]:
    """(train, test) of data that came without test images: a fifth of each class is for testing.

    That split belongs to the data: it does not depend on the seed of an experiment, and changes
    only when images are added or removed.

    Args:
      train: All images.
      where: What to call the data.
      instead: What a user may add or name instead.

    Raises:
      InputError: No class has two images.
    """
    kept, carved = carve(train.labels, _TEST_FRACTION, np.random.default_rng(0))
    if len(carved) == 0:
        raise InputError(
            f"{where} has one image a class, so none can be kept for testing; add images or "
            f"{instead}"
        )
    return Subset(train, kept), Subset(train, carved)
