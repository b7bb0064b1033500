"""Stratified splits: validation and test images, folds, and subsets of the training images."""

import warnings
from collections.abc import Sequence

import numpy as np

from tljax.console import warn_once
from tljax.data.labels import kind_of, strata
from tljax.data.sources import Source, Subset, groups_of
from tljax.errors import InputError, printable

_TEST_FRACTION = 0.2
_VAL_FRACTION = 0.2
_MOST_VAL = 5_000  # images: their accuracy then has a standard error of 0.7 points at most
_TRIES = 10  # orders of the groups, until every fold leaves images of every class to train on


def default_val_fraction(images: int) -> float:
    """Returns the share of the training images to validate on: a fifth, but 5,000 images at most.

    Args:
      images: number of training images, those to validate on included.
    """
    return min(_VAL_FRACTION, _MOST_VAL / images)


def random_ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ranks the images of each class in random order.

    Args:
      labels: int (n,), not negative.

    Returns:
      int (n,): the rank of each image among those of its class, from 0.
    """
    by_class = np.lexsort((rng.random(len(labels)), labels))
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def stratified_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random order in which every prefix has the class proportions of the whole.

    Each class is spread evenly: image r of the n of a class is sorted by (r + 1/2) / n. Prefixes of
    one order are nested, so a learning curve over training sizes only adds images.

    Args:
      labels: int (n,), not negative.

    Returns:
      int (n,): a permutation of 0 ... n - 1.
    """
    position = (random_ranks(labels, rng) + 0.5) / np.bincount(labels)[labels]
    return np.lexsort((rng.random(len(labels)), position))  # ties: classes of the same size


def stratified_split(
    labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Splits off `fraction` of every class, rounded.

    A class with two or more images keeps at least one on each side; a single image is kept.

    Args:
      labels: int (n,), not negative.
      fraction: Between 0 and 1.

    Returns:
      (kept, split_off): sorted indices, int (m,) and int (n - m,).
    """
    counts = np.bincount(labels)
    taken = np.where(counts > 1, np.clip(np.rint(counts * fraction), 1, counts - 1), 0)
    is_split_off = random_ranks(labels, rng) < taken[labels]
    return np.flatnonzero(~is_split_off), np.flatnonzero(is_split_off)


def grouped_folds(labels: np.ndarray, groups: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Assigns images to folds of about the same class proportions, with no group in two of them.

    Args:
      labels: int (n,), not negative.
      groups: int (n,): which images belong together.
      number: of folds, 2 or more.
      seed: of the random order.

    Returns:
      int (n,): the fold of each image.

    Raises:
      InputError: there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if (found := len(np.unique(groups))) < number:
        raise InputError(
            f"there are {found} groups of images, too few for {number} parts of which each holds"
            " whole groups; add images of further groups"
        )
    if np.bincount(labels).max() < number:  # no class could be spread over the folds
        labels = np.zeros_like(labels)
    folds = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of classes with fewer images than folds
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, held) in enumerate(splitter.split(labels, labels, groups)):
            folds[held] = fold
    return folds


def assign_to_folds(
    source: Source, class_names: Sequence[str], number: int, seed: int
) -> np.ndarray:
    """Assigns each image to a fold: about the same of every class to each, and whole groups.

    Without groups, folds differ by one image at most, in all and of each class.

    Args:
      source: n images.
      class_names: in the order of the labels.
      number: of folds, 2 or more.
      seed: of the random order.

    Returns:
      int (n,): the fold of each image, from 0.

    Raises:
      InputError: There are fewer images, images of a class, or groups than folds; or a fold would
        hold all images of a class, so that none were left to train on.
    """
    parts, groups = strata(source.labels), groups_of(source)
    counts = np.bincount(parts)
    classes = np.flatnonzero(counts) if kind_of(source.labels) == "classes" else np.array([], int)
    if len(source) < number:
        raise InputError(f"folds is {number}, but there are {len(source)} images; set it lower")
    for label in classes[counts[classes] < number]:
        raise InputError(
            f"folds is {number}, but the class '{printable(class_names[label])}' has"
            f" {counts[label]} images; set folds to {counts[label]} or less, or add images"
        )
    rng = np.random.default_rng(seed)
    if groups is None:
        folds = np.empty(len(source), np.int64)
        folds[np.lexsort((rng.random(len(source)), parts))] = np.arange(len(source)) % number
        return folds
    if (found := len(np.unique(groups))) < number:
        raise InputError(
            f"folds is {number}, but there are {found} groups of images, which stay together; set"
            f" folds to {found} or less, or add images of further groups"
        )
    for _ in range(_TRIES):
        folds = grouped_folds(parts, groups, number, int(rng.integers(1 << 31)))
        by_fold = np.zeros((number, len(counts)), int)
        np.add.at(by_fold, (folds, parts), 1)
        if by_fold.any(axis=1).all() and (by_fold[:, classes] < counts[classes]).all():
            return folds
    alone = [label for label in classes if len(np.unique(groups[parts == label])) == 1]
    why = f"; all images of '{printable(class_names[alone[0]])}' are of one group" if alone else ""
    raise InputError(
        f"{number} folds of whole groups would leave a fold without images, or without a class to"
        f" train on{why}; set fewer folds, or add images of further groups"
    )


class HeldOut(Subset):
    """Test images that `split_off_test` took of `source`, as the data has none of its own."""


def split_off(
    source: Source, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Splits off `fraction` of every class; where images belong together, of whole groups.

    Groups are dealt into n folds, n = round(1 / fraction), but no more folds than groups. One fold
    is split off, whose size is nearest to 1/n of the images. Of a fraction above a half,
    n = round(1 / (1 - fraction)), and one fold is kept.

    Args:
      source: n images.
      fraction: Between 0 and 1.

    Returns:
      (kept, split_off): sorted indices, int (m,) and int (n - m,).

    Raises:
      InputError: There is one group, or a class would be split off whole.
    """
    groups, parts = groups_of(source), strata(source.labels)
    if kind_of(source.labels) != "classes":
        counts = np.bincount(parts)  # strata of one image are one, from which some are split off
        parts = np.where(counts[parts] == 1, len(counts), parts)
    if groups is None:
        return stratified_split(parts, fraction, rng)
    wanted, there = round(1 / min(fraction, 1 - fraction)), len(np.unique(groups))
    number = max(2, min(wanted, there))
    if number < wanted:
        warn_once(
            f"{len(source):,} images of {there} groups can be split into {number} parts at most, as"
            f" a group stays whole: one of {number} is split off where one of {wanted} was wanted"
        )
    folds = grouped_folds(parts, groups, number, int(rng.integers(1 << 31)))
    classes = np.unique(parts) if kind_of(source.labels) == "classes" else np.array([], int)
    sizes = np.bincount(folds, minlength=number)
    for fold in np.argsort(abs(sizes - len(folds) / number), kind="stable"):
        away = (folds == fold) == (fraction <= 0.5)
        if away.any() and np.isin(classes, parts[~away]).all():
            return np.flatnonzero(~away), np.flatnonzero(away)
    raise InputError(
        f"the groups of images cannot be split into {number} parts so that every class is left; add"
        " images of further groups"
    )


def split_off_test(train: Source, name: object, remedy: str) -> tuple[Subset, HeldOut]:
    """Returns (train, test) for data without test images: a fifth of each class is for testing.

    The test images are `HeldOut`: cross-validation puts them back.

    The split is a property of the data: it does not depend on the seed of an experiment, and
    changes only when images are added or removed.

    Args:
      train: All images.
      name: Of the data, for the error.
      remedy: What a user can do instead of adding images, for the error.

    Raises:
      InputError: No class has two images.
    """
    kept, test = split_off(train, _TEST_FRACTION, np.random.default_rng(0))
    if len(test) == 0:
        raise InputError(
            f"{name} has one image per class, so none can be kept for testing; add images or "
            f"{remedy}"
        )
    return Subset(train, kept), HeldOut(train, test)
