"""The kinds of labels. Which one a data set has follows from the array of its labels alone.

classes      int64 (n,)               one class an image, numbered from 0
multi_label  uint8 (n, classes)       1: the image has the label; any number of them
regression   float32 (n, outputs)     numbers in their own units
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tljax.console import warn_once
from tljax.errors import InputError

Kind = Literal["classes", "multi_label", "regression"]
KINDS: tuple[Kind, ...] = ("classes", "multi_label", "regression")

TOO_CLOSE = (
    "which are too close together for their size: 32-bit floats round their differences away;"
    " subtract a constant"
)
_COARSE = 0.01  # rounding errors, in deviations of the numbers
_PARTS = 10  # of the range of numbers, that splits keep in proportion
_PART = 10  # images of a part at least, so that a share of each can be split off


def kind_of(labels: np.ndarray) -> Kind:
    """Returns which kind of labels these are.

    Example:
      kind_of(np.array([0, 2, 1]))  # "classes"
    """
    if labels.ndim == 1:
        return "classes"
    return "regression" if labels.dtype.kind == "f" else "multi_label"


def as_labels(labels: Any, count: int) -> np.ndarray:
    """Returns labels as one of the three kinds of arrays.

    Args:
      labels: integers (n,) from 0; 0 and 1, or booleans, (n, classes); or floats (n,) or
        (n, outputs).
      count: the number of images, n.

    Raises:
      InputError: There are no images, the labels are of no kind, or a number is not finite.
    """
    array = np.asarray(labels)
    if count == 0:
        raise InputError("the data has no images; pass at least one")
    if array.shape[:1] != (count,) or array.ndim > 2 or 0 in array.shape:
        raise InputError(
            f"there are {count} images, but the labels have shape {array.shape}; pass one label "
            "for each image, or a row of labels"
        )
    if array.dtype.kind == "f":
        if bad := int((~np.isfinite(array)).sum()):
            raise InputError(
                f"{bad:,} numbers among the labels are not finite; leave these images out"
            )
        numbers = array.reshape(count, -1)
        for number, values in enumerate(numbers.T):
            if are_too_close(values):
                raise InputError(
                    f"column {number} of the labels has numbers from {values.min():g} to"
                    f" {values.max():g}, {TOO_CLOSE}"
                )
        return numbers.astype(np.float32)
    if array.ndim == 2:
        if array.dtype.kind not in "iub" or not np.isin(array, (0, 1)).all():
            raise InputError(
                f"the labels have shape {array.shape} and dtype {array.dtype}, but of several "
                "labels an image 0 and 1 are expected, and of numbers floats; convert them"
            )
        return array.astype(np.uint8)
    if array.dtype.kind not in "iu" or array.min() < 0:
        raise InputError(
            f"the labels have dtype {array.dtype} and begin with {array[0]!s}, but integers from 0 "
            "are expected; number the classes from 0"
        )
    return array.astype(np.int64)


def as_given_labels(labels: Any, count: int) -> np.ndarray:
    """Returns the labels of arrays in Python as `as_labels` does.

    The kind follows from dtype and shape, so arrays that look like another kind are refused, or
    warned of where they may be meant as they are.

    Raises:
      InputError: See `as_labels`; or they are classes in a column, or in one-hot rows of floats.
    """
    array = np.asarray(labels)
    if array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] == 1 and len(array) == count:
        raise InputError(
            f"the labels have shape {array.shape} and dtype {array.dtype}; flatten them, with"
            " labels.reshape(-1), if they are classes, or pass booleans for one label that an image"
            " has or not"
        )
    found = as_labels(array, count)
    kind = kind_of(found)
    one_hot = kind != "classes" and found.shape[1] > 1 and _are_one_hot(found)
    if kind == "regression" and one_hot:
        raise InputError(
            f"the labels have shape {array.shape} and dtype {array.dtype}, and each row has a"
            " single 1, the rest 0; pass labels.argmax(axis=1) for classes"
        )
    if kind == "regression" and (found == np.round(found)).all():
        warn_once(
            f"the labels of shape {array.shape} are floats, so they are numbers to predict, though"
            " all of them are whole; pass integers for classes, or for several labels an image"
        )
    if kind == "multi_label" and one_hot:
        warn_once(
            f"the labels have shape {array.shape}, so each image may have several, though each has"
            " exactly one; pass labels.argmax(axis=1) for classes"
        )
    return found


def _are_one_hot(rows: np.ndarray) -> bool:
    return bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())


def are_too_close(values: np.ndarray) -> bool:
    """Returns whether float32 rounds numbers (n,) so that their differences are lost or coarse.

    Example:
      are_too_close(np.array([1.7e9, 1.7e9 + 1]))  # True: both are 1.7e9 as float32
    """
    exact = values.astype(np.float64)
    lost = np.abs(exact - values.astype(np.float32)).max()
    return bool(lost > _COARSE * exact.std() > 0)


def label_at(labels: np.ndarray, index: int) -> Any:
    """Returns the label of one image: an int of a class, else uint8 or float32 (m,)."""
    label = labels[index]
    return int(label) if labels.ndim == 1 else label


def batch_of(labels: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Returns labels as a batch holds them: int32 (b,) of classes, else float32 (b, m)."""
    array = np.asarray(labels)
    return array.astype(np.int32 if array.ndim == 1 else np.float32)


def strata(labels: np.ndarray) -> np.ndarray:
    """Returns int64 (n,), what splits and folds keep in proportion.

    Of classes the class. Of several labels the rarest one that the image has (images without any
    are a stratum of their own), so that rare labels are on both sides of a split: the first step of
    Sechidis et al. 2011, "On the stratification of multi-label data". Of numbers the tenth of the
    images that the first number is in; of fewer than 100 images, parts of at least ten.

    Example:
      strata(np.array([[1, 1], [1, 0], [0, 0]], np.uint8))  # 1, 0, 2
    """
    kind = kind_of(labels)
    if kind == "classes" or not len(labels):
        return labels.reshape(len(labels), -1)[:, 0].astype(np.int64)
    if kind == "multi_label":
        rarity = np.argsort(labels.sum(axis=0), kind="stable")
        has_any = labels.any(axis=1)
        rarest = rarity[labels[:, rarity].argmax(axis=1)]
        return np.where(has_any, rarest, labels.shape[1]).astype(np.int64)
    first, parts = labels[:, 0], max(1, min(_PARTS, len(labels) // _PART))
    edges = np.unique(np.quantile(first, np.linspace(0, 1, parts + 1)[1:-1]))
    return np.searchsorted(edges, first, side="right").astype(np.int64)


def mean_and_deviation(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each number over the images, by which numbers are standardised.

    Args:
      numbers: (n, outputs).

    Returns:
      Two arrays float64 (outputs,); the deviation of a number that is always the same is 1.
    """
    exact = numbers.astype(np.float64)
    deviation = exact.std(axis=0)
    deviation[deviation == 0] = 1.0
    return exact.mean(axis=0), deviation


def constant_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds which of several labels tell no image from another.

    Args:
      labels: uint8 (n, classes), 0 or 1.

    Returns:
      (never, always): the numbers of the labels that no image has, and of those that all have.
    """
    counts = labels.sum(axis=0, dtype=np.int64)
    return np.flatnonzero(counts == 0), np.flatnonzero(counts == len(labels))
