"""Whether a run beats the naive baseline, which always answers the commonest training class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tljax.runs.proportions import clopper_pearson
from tljax.runs.scores import WORDS

_IMAGES = {"test": "test", "val": "validation", "cross-validation": "training"}


def compare(accuracy: float, naive: float, images: int, on: str) -> dict[str, Any]:
    """Compares an accuracy with that of the naive baseline on the same images.

    A run beats the baseline if the whole 95 % Clopper-Pearson interval of its accuracy is above it.
    A validation accuracy that chose the weights is a little too high, and so is its interval.

    Args:
      accuracy: of the run, in [0, 1].
      naive: accuracy of the baseline, in [0, 1].
      images: number of images of which both are the shares.
      on: `test`, `val` or `cross-validation`: which images these are.

    Returns:
      The field `beats_naive` of `result.json`: `verdict`, `accuracy`, `interval`, `naive_accuracy`,
      `images` and `on`.
    """
    correct = math.floor(accuracy * images + 1e-6)  # a mean over repeated folds is no whole number
    interval = clopper_pearson(correct, images)
    return {
        "verdict": interval.low > naive,
        "accuracy": accuracy,
        "interval": list(interval),
        "naive_accuracy": naive,
        "images": images,
        "on": on,
    }


def compare_result(
    result: Mapping[str, Any],
    val: tuple[int, int],
    folds: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """As `compare`, on test images; without any on validation images, then on the folds.

    Args:
      result: of a run, or of one of its tasks: `val_accuracy` and, if it was tested,
        `test_accuracy`, `test_size` and `naive_accuracy`.
      val: number of validation images, and how many of them the baseline gets right.
      folds: `accuracy`, `naive_accuracy` and `images` of the cross-validation of a solved head that
        is the result; None: there is none.

    Returns:
      The comparison; None if no image tells.
    """
    if "test_accuracy" in result:
        naive, images = result["naive_accuracy"], result["test_size"]
        return compare(result["test_accuracy"], naive, images, "test")
    images, right = val
    if images and result["val_accuracy"] is not None:
        return compare(result["val_accuracy"], min(1.0, right / images), images, "val")
    if folds is not None:
        naive, images = folds["naive_accuracy"], folds["images"]
        return compare(folds["accuracy"], naive, images, "cross-validation")
    return None


def compare_scores(
    score: str,
    value: float,
    interval: Sequence[float],
    gain: Sequence[float],
    naive: float,
    images: int,
) -> dict[str, Any]:
    """The field `beats_naive` of a run on several labels an image, or on numbers.

    The run beats the baseline if it does so in the whole 95 % interval of their difference.

    Args:
      score: the name of the metric that is compared.
      value, interval: of the run on test images.
      gain: interval of the difference, on the same images.
      naive: of the baseline.
      images: number of test images.
    """
    return {
        "verdict": gain[0] > 0,
        "score": score,
        "value": value,
        "interval": list(interval),
        "gain": list(gain),
        "naive": naive,
        "images": images,
        "on": "test",
    }


def compared(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How a run, or one of its tasks, compares with the naive baseline; None if nothing tells.

    Args:
      result: the content of `result.json`, or of one of its `tasks`. Of an older run, without the
        field `beats_naive`, the test accuracy is compared.
    """
    found = result.get("beats_naive")
    if isinstance(found, Mapping) and _is_complete(found):
        return found
    if "beats_naive" in result:  # null, or damaged
        return None
    names = ("test_accuracy", "naive_accuracy", "test_size")
    accuracy, naive, images = (cast(Any, result.get(name)) for name in names)
    if not (_is_share(accuracy) and _is_share(naive) and isinstance(images, int) and images > 0):
        return None
    return compare(accuracy, naive, images, "test")


def describe(found: Mapping[str, Any]) -> str:
    """The figures of a comparison in words."""
    low, high = found["interval"]
    if "score" in found:
        return (
            f"{WORDS[found['score']]} {found['value']:.4f} on {found['images']:,} test images,"
            f" bootstrap 95 % interval {low:.4f} to {high:.4f}; always the same answer:"
            f" {found['naive']:.4f}"
        )
    images = f"{found['images']:,} {_IMAGES[found['on']]} images"
    fold = " out of fold" if found["on"] == "cross-validation" else ""
    return (
        f"accuracy {found['accuracy']:.4f} on {images}{fold}, exact 95 % interval {low:.4f} to"
        f" {high:.4f}; always the commonest class: {found['naive_accuracy']:.4f}"
    )


def _is_complete(found: Mapping[str, Any]) -> bool:
    """Whether a comparison that was read from a file is one."""
    interval, images = found.get("interval"), found.get("images")
    if "score" in found:
        numbers = [found.get("value"), found.get("naive"), *(interval or ())]
        return (
            isinstance(found.get("verdict"), bool)
            and found["score"] in WORDS
            and len(numbers) == 4
            and all(isinstance(number, int | float) for number in numbers)
            and isinstance(images, int)
        )
    return (
        isinstance(found.get("verdict"), bool)
        and isinstance(interval, list)
        and len(interval) == 2
        and all(map(_is_share, [*interval, found.get("accuracy"), found.get("naive_accuracy")]))
        and isinstance(images, int)
        and found.get("on") in _IMAGES
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
