"""What is solved for, and what a solution is, whatever the kind of labels."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.errors import InputError

_log = logging.getLogger("tljax")

EXACT = {"tolerance": 1e-7, "most": 1000}  # of the final head
ROUGH = {"tolerance": 3e-4, "most": 200}  # of heads that only choose, or are on the way
CHEAP = 1 << 29  # multiplications
CONVERGED = 1e-4  # nats above the least loss at most
PART = 1 << 24  # numbers
_LEAST = 0.3  # of the root mean square of all deviations: experiments/defaults
_CONSTANT = 1e-6  # a feature deviates by less, relative to its size: float32's rounding


@dataclass(frozen=True)
class SolvedHead:
    """A linear head on raw features: its outputs are `features @ kernel + bias`.

    Attributes:
      kernel: (d, outputs) float32.
      bias: (outputs,) float32.
      l2: strength of the penalty.
      report: for `result.json`: `l2`; `loss`, as `solve_head` says; and after a cross-validation
        `cross_validation`, with `folds`, `repeats`, `images` that decided, the out-of-fold `loss`
        of the chosen strength, and `grid` with `l2` and `loss` of every strength. Where rows have
        weights, they count in losses, in the grid and in figures of the training rows; in other
        figures of the cross-validation every image counts once. By the kind of labels there are
        also:
        classes: `iterations`, `converged` and `train_accuracy`; of the cross-validation `accuracy`,
        in the grid too, and `naive_accuracy` of the majority class.
        multi_label: `iterations`, `converged` and `train_mean_average_precision`; of the
        cross-validation `mean_average_precision`, and `naive_loss` and
        `naive_mean_average_precision` of always answering the share of a class. Average precision
        is not weighted, and its mean is over the classes that an image has.
        regression: `train_r2`; of the cross-validation `r2`, in the grid too, and `rmse` of each
        number, in its units, with `naive_loss` and `naive_rmse` of the training images' mean.
      out_of_fold: what heads predict that were not fitted on the row's image; None without
        cross-validation. The mean is over the repeats.
        classes: (n,) int32, the class of the highest mean probability.
        multi_label: (n, classes) float32, the mean of the probabilities.
        regression: (n, outputs) float32, the mean of the predictions, of standardised numbers.
    """

    kernel: np.ndarray
    bias: np.ndarray
    l2: float
    report: dict[str, Any]
    out_of_fold: np.ndarray | None


@dataclass(frozen=True)
class HeadProblem:
    """What a head is solved for.

    Attributes:
      x: (n, d) float32, raw features; views of an image as in `solve_head`.
      labels: (n,) or (n, outputs), of one of the kinds of labels.
      outputs: of the head.
      mean, inverse: (d,), of each feature; what is subtracted and then multiplied.
      weights: (n,) or, of several labels, (n, outputs); None: all the same.
      images: their number.
      folds: (repeats, images), the fold in which an image is held out; None: l2 is given.
      l2: strength of the penalty; None: to be chosen.
    """

    x: np.ndarray
    labels: np.ndarray
    outputs: int
    mean: np.ndarray
    inverse: np.ndarray
    weights: np.ndarray | None
    images: int
    folds: np.ndarray | None
    l2: float | None

    @functools.cached_property
    def share(self) -> np.ndarray:
        """(n,), of the rows in the loss; their sum is 1."""
        if self.weights is None or self.weights.ndim > 1:
            return self.alike
        return self.weights / np.sum(self.weights)

    @property
    def alike(self) -> np.ndarray:
        """(n,), shares of rows that count alike, as in evaluations; their sum is 1."""
        return np.full(len(self.x), 1 / len(self.x))

    @property
    def grid(self) -> list[float]:
        return strengths(self.x.shape[1])

    def held_out(self) -> np.ndarray:
        """(n, problems) float32, 1 where a fold holds a row out; all folds of all repeats."""
        assert self.folds is not None
        held = self.folds[:, None] == np.arange(self.folds.max() + 1)[:, None]
        by_image = held.reshape(-1, self.images).T.astype(np.float32)
        return np.tile(by_image, (len(self.x) // self.images, 1))

    def about_folds(self) -> dict[str, int]:
        """What is reported of the folds."""
        assert self.folds is not None
        number = int(self.folds.max()) + 1
        return {"folds": number, "repeats": len(self.folds), "images": self.images}

    def by_image(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(strengths, n) -> ((strengths, images), the mean over views; (images,), their shares)."""
        parts = self.share.reshape(-1, self.images)  # views of an image in a column
        whole = np.maximum(parts.sum(axis=0), np.finfo(float).tiny)
        return (values.reshape(-1, *parts.shape) * parts).sum(axis=1) / whole, whole

    def on_raw_features(self, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        """`kernel` and `bias` float32 of a head on standardised features, for raw ones."""
        kernel = self.inverse[:, None] * kernel
        bias = bias - self.mean @ kernel
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def strengths(width: int) -> list[float]:
    """Returns the grid of penalties for a number of features, from the strongest.

    It goes with the width, as the squares of standardised features add up to it.
    """
    return [width * 10.0 ** (-half / 2) for half in range(1, 15)]


def warn_at_the_ends(grid: Sequence[float], best: int) -> None:
    """Logs a warning if the best strength is the first or the last of the grid."""
    if best in (0, len(grid) - 1):
        _log.warning(
            "cross-validation chose l2 = %.3g, the %s of its grid; set l2 to try values beyond it",
            grid[best],
            "strongest" if best == 0 else "weakest",
        )


def warn_unless_converged(converged: bool, steps: int, gap: float, l2: float) -> None:
    if not converged:
        _log.warning(
            "the linear head is not solved to convergence: after %d steps its loss may be %.2g nats"
            " above the least; a larger l2 than %.2g converges sooner",
            steps,
            gap,
            l2,
        )


def standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and 1 / deviation of each feature, float64; 0 for a constant feature.

    A deviation counts as no less than three tenths of the root mean square of all. Some features
    of a network answer to hardly any training image. Divided by so small a deviation they are
    enormous on the test image that they do answer to, and decide alone.

    Raises:
      InputError: all features are constant.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    parts = np.array_split(x, -(-x.size // PART))  # no copy of all in float64
    deviation = np.sqrt(sum(np.square(part - mean).sum(axis=0) for part in parts) / len(x))
    varies = deviation > _CONSTANT * np.abs(mean)
    if not varies.any():
        raise InputError(
            f"all {x.shape[1]:,} features are the same for all {len(x):,} rows, so no head can be"
            " solved; check the images and the weights that init_from names"
        )
    least = _LEAST * np.sqrt(np.square(deviation).mean())
    return mean, np.divide(1, np.maximum(deviation, least), out=np.zeros_like(mean), where=varies)
