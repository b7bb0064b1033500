"""What a result says of several labels an image, and of numbers, beside the metrics."""

import logging
from typing import Any

import numpy as np

from tljax.runs.answers import Outputs
from tljax.runs.baseline import compare_scores
from tljax.training.problems.intervals import bootstrap
from tljax.training.problems.multi_label import MultiLabel
from tljax.training.problems.problem import Evaluation, Problem
from tljax.training.problems.regression import Regression

_log = logging.getLogger("tljax")


def compare_outputs(
    problem: Problem, train_labels: np.ndarray, tested: Evaluation | None
) -> dict[str, Any]:
    """Returns `test_intervals` and `beats_naive` of `result.json`.

    Args:
      problem: of several labels an image, or of numbers.
      train_labels: (n, m), which the naive baseline is made of.
      tested: with answers; None: there are no test images.
    """
    if tested is None or not isinstance(problem, MultiLabel | Regression):
        return {"beats_naive": None}
    assert isinstance(tested.answers, Outputs)
    if isinstance(problem, Regression):
        _warn_of_far_numbers(train_labels, tested.answers.outputs)
    found = bootstrap(problem, tested.answers, train_labels)
    first = problem.metrics[0]
    naive = problem.naive(train_labels, tested.labels)[first]
    return {
        "test_intervals": {name: list(bounds) for name, bounds in found.of.items()},
        "beats_naive": compare_scores(
            first, tested.metrics[first], found.of[first], found.gain, naive, tested.count
        ),
    }


def name_classes(summary: dict[str, Any]) -> None:
    """Gives the metrics of each class the class's name, where the result knows the names."""
    names = summary.pop("class_names", None)
    if names is None or "test_by_class" not in summary:
        return
    summary["test_by_class"] = {
        metric: dict(zip(names, values, strict=True))
        for metric, values in summary["test_by_class"].items()
    }


def _warn_of_far_numbers(train_labels: np.ndarray, predicted: np.ndarray) -> None:
    """Warns of predictions far from all training numbers: R2 and RMSE depend on each."""
    low, high = train_labels.min(axis=0), train_labels.max(axis=0)
    room = (high - low) / 2
    far = int(((predicted < low - room) | (predicted > high + room)).any(axis=1).sum())
    if far:
        _log.warning(
            "of %d of %d test images a predicted number lies outside the training numbers by more"
            " than half of their range: look at these images in the report; the mean absolute error"
            " depends on them less than R2",
            *(far, len(predicted)),
        )
