"""How much metrics of several labels an image, and of numbers, vary with the sample of images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tljax.runs.answers import Outputs
from tljax.training.problems.multi_label import MultiLabel
from tljax.training.problems.regression import Regression

_RESAMPLES = 500
_NUMBERS = 2e8  # of all resamples together, where that leaves a hundred
_CONFIDENCE = 0.95
_LEAST = {"r2": -np.inf}  # of a metric; of all others 0
_MOST = {"rmse": np.inf, "mae": np.inf}  # likewise; of all others 1


class Intervals(NamedTuple):
    """Percentile intervals of the bootstrap over images (Efron 1979), moved by its bias.

    An image that is drawn twice ranks twice. So a class with few images has a higher average
    precision in the resamples than in truth, and with many such classes all resamples may lie above
    the value itself. The intervals are moved by what their median is off the value.

    Attributes:
      of: (low, high) of each metric, by name, 95 %.
      gain: the same of the first metric less that of the naive baseline on the same images.
    """

    of: Mapping[str, tuple[float, float]]
    gain: tuple[float, float]


def bootstrap(
    problem: MultiLabel | Regression, answers: Outputs, train_labels: np.ndarray
) -> Intervals:
    """Intervals of the metrics of answers; the same answers give the same intervals.

    Args:
      problem: of several labels an image, or of numbers.
      answers: for n images.
      train_labels: (m, ...), which the naive baseline is made of.
    """
    rng = np.random.default_rng(0)
    first = problem.metrics[0]
    naive = problem.constant(train_labels, len(answers))
    resamples = int(np.clip(_NUMBERS / answers.outputs.size, 100, _RESAMPLES))
    drawn: dict[str, list[float]] = {name: [] for name in problem.metrics}
    gains = []
    for _ in range(resamples):
        rows = rng.integers(len(answers), size=len(answers))
        labels = answers.labels[rows]
        found = problem.scores(labels, answers.outputs[rows])
        for name, value in found.items():
            drawn[name].append(value)
        gains.append(found[first] - problem.scores(labels, naive[rows])[first])
    true = problem.scores(answers.labels, answers.outputs)
    intervals = {}
    for name, values in drawn.items():
        ends = np.clip(_bounds(values, true[name]), _LEAST.get(name, 0), _MOST.get(name, 1))
        intervals[name] = float(ends[0]), float(ends[1])
    gain = true[first] - problem.scores(answers.labels, naive)[first]
    return Intervals(intervals, _bounds(gains, gain))


def _bounds(resampled: list[float], value: float) -> tuple[float, float]:
    tail = 50 * (1 - _CONFIDENCE)
    low, middle, high = np.percentile(resampled, [tail, 50, 100 - tail])
    return float(low - middle + value), float(high - middle + value)
