"""Linear heads on kept features, solved to convergence: softmax regression with an L2 penalty.

The penalty's strength is chosen by cross-validation, unless it is given.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from tljax.errors import InputError
from tljax.frozen.cross_validation import assign_folds, choose
from tljax.frozen.softmax_regression import Rows, State, make_rows, solve, start

_log = logging.getLogger("tljax")

_EXACT = {"tolerance": 1e-7, "most": 1000}  # of the final head
_ROUGH = {"tolerance": 3e-4, "most": 200}  # of heads that only choose, or are on the way
_CHEAP = 1 << 29  # multiplications
_CONVERGED = 1e-4  # nats above the least loss at most
_PART = 1 << 24  # numbers
_CONSTANT = 1e-6  # a feature deviates by less, relative to its size: float32's rounding


@dataclass(frozen=True)
class SolvedHead:
    """A linear head on raw features: logits are `features @ kernel + bias`.

    Attributes:
      kernel: (d, classes) float32.
      bias: (classes,) float32.
      l2: strength of the penalty.
      report: for `result.json`: `l2`; `iterations`; `loss`, mean with penalty, in nats;
        `converged`; `train_accuracy`; and after a cross-validation `cross_validation`, with
        `folds`, `repeats`, `images` that decided, out-of-fold `accuracy` and `loss` of the chosen
        strength, `naive_accuracy` of the majority class, and `grid` with `l2`, `accuracy` and
        `loss` of every strength. Where rows have weights, accuracies and losses are weighted.
      out_of_fold: (n,) int32, the class that heads predict which were not fitted on the row's
        image, by the mean of their probabilities; None without cross-validation.
    """

    kernel: np.ndarray
    bias: np.ndarray
    l2: float
    report: dict[str, Any]
    out_of_fold: np.ndarray | None


def solve_head(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    l2: float | None = None,
    weights: np.ndarray | None = None,
    views: int = 1,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> SolvedHead:
    """Solves a linear head: the minimum of mean cross-entropy + l2 / 2 * |kernel|^2.

    The kernel in the penalty is that of standardised features (mean 0, deviation 1 over the rows).
    This is scikit-learn's `LogisticRegression` with C = 1 / (l2 * n), or 2 / (l2 * n) of two
    classes, for which it has one logit. A constant feature gets weight 0; the bias is not
    penalised. The folds of the cross-validation are stratified by class.

    It runs on one device of the process, so the result does not depend on how many there are. The
    same input gives the same bits.

    Args:
      features: (n, d).
      labels: (n,), below `num_classes`.
      num_classes: of the head; a class may be without images.
      l2: strength of the penalty; None: chosen from a grid by cross-validation.
      weights: (n,), of the rows in the loss; only their ratios count. None: all the same.
      views: of each image: row r is of image r % (n // views). The views of an image are in the
        same fold.
      seed: of the folds.
      groups: (n // views,), images that are held out together; None: each is alone. A class of a
        single group is held out whole, so that cross-validation is wrong on it.

    Raises:
      InputError: if there is one class only, all features are constant or some not finite, `l2` is
        not a number above 0, or a class has a single image and `l2` is to be chosen.
    """
    x, labels = np.asarray(features, np.float32), np.asarray(labels)
    images = len(x) // views
    _check(x, labels[:images], l2, groups)
    mean, inverse = _standardisation(x)
    share = np.full(len(x), 1 / len(x)) if weights is None else weights / np.sum(weights)
    grid = strengths(x.shape[1])
    if l2 is not None:
        rows = make_rows(x, labels, mean, inverse, num_classes)
        train = rows.split(share[:, None])
        begin = start(rows, train, num_classes)
        for stronger in (strength for strength in grid if strength > l2):
            begin, _ = solve(rows, train, train, begin, stronger, **_ROUGH)
        validation, out_of_fold = {}, None
    else:
        folds = assign_folds(labels[:images], seed, groups=groups)
        held = np.tile(_held_out(folds), (views, 1))
        rows = make_rows(x, labels, mean, inverse, held.shape[1] * num_classes)
        l2, begin, out_of_fold, found = _choose_strength(
            rows, held, share, images, grid, num_classes
        )
        naive = float(np.bincount(labels, share).max())
        about = {"folds": int(folds.max()) + 1, "repeats": len(folds), "images": images}
        validation = {"cross_validation": {**about, **found, "naive_accuracy": naive}}
        # A program is compiled for each number of problems; solving copies may take less time.
        copies = held.shape[1] if x.size * held.shape[1] * num_classes < _CHEAP else 1
        train = rows.split(np.repeat(share[:, None], copies, axis=1))
        begin = jax.tree.map(lambda mean: np.repeat(mean[None], copies, axis=0), begin)
    state, verdict = jax.device_get(solve(rows, train, np.ones_like(train), begin, l2, **_EXACT))
    if not (converged := bool(verdict.gap[0] <= _CONVERGED)):
        _log.warning(
            "the linear head is not solved to convergence: after %d steps its loss may be %.2g nats"
            " above the least; a larger l2 than %.2g converges sooner",
            verdict.steps[0],
            verdict.gap[0],
            l2,
        )
    head = np.asarray(state.heads[0], np.float64)
    kernel = head[:-1] if rows.axes is None else np.asarray(rows.axes, np.float64) @ head[:-1]
    kernel = inverse[:, None] * kernel
    bias = head[-1] - mean @ kernel
    report = {
        "l2": l2,
        "iterations": int(verdict.steps[0]),
        "loss": float(verdict.loss[0]),
        "converged": converged,
        "train_accuracy": float(rows.join(verdict.right) @ share),
        **validation,
    }
    return SolvedHead(kernel.astype(np.float32), bias.astype(np.float32), l2, report, out_of_fold)


def strengths(width: int) -> list[float]:
    """Returns the grid of penalties for a number of features, from the strongest.

    It goes with the width, as the squares of standardised features add up to it.
    """
    return [width * 10.0 ** (-half / 2) for half in range(1, 15)]


def _check(x: np.ndarray, labels: np.ndarray, l2: float | None, groups: np.ndarray | None) -> None:
    """Raises InputError if no head can be solved, or no strength chosen."""
    if l2 is not None and not 0 < l2 < math.inf:
        raise InputError(f"l2 is {l2}; set it to a number above 0, e.g. 0.1, or leave it out")
    if not np.isfinite(x.sum(dtype=np.float64)):
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise InputError(
            f"the features of {bad:,} of {len(x):,} rows are not finite, so no head can be solved;"
            " check the weights that init_from names, or set dtype to float32"
        )
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise InputError(
            f"all {len(labels):,} training images are of one class, so there is nothing to solve;"
            " give images of two classes or more"
        )
    single = present[counts < 2]
    if l2 is None and groups is None and len(single):
        raise InputError(
            f"{len(single)} of {len(present)} classes have a single training image (the first is"
            f" number {single[0]}), which cross-validation cannot hold out; add images, or set l2,"
            " e.g. to 0.1, which needs no cross-validation"
        )


def _standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and 1 / deviation of each feature, float64; 0 for a constant feature."""
    mean = x.mean(axis=0, dtype=np.float64)
    parts = np.array_split(x, -(-x.size // _PART))  # no copy of all in float64
    deviation = np.sqrt(sum(np.square(part - mean).sum(axis=0) for part in parts) / len(x))
    varies = deviation > _CONSTANT * np.abs(mean)
    if not varies.any():
        raise InputError(
            f"all {x.shape[1]:,} features are the same for all {len(x):,} rows, so no head can be"
            " solved; check the images and the weights that init_from names"
        )
    return mean, np.divide(1, deviation, out=np.zeros_like(mean), where=varies)


def _held_out(folds: np.ndarray) -> np.ndarray:
    """(repeats, images) -> (images, problems), 1 where a fold holds an image out."""
    held = folds[:, None] == np.arange(folds.max() + 1)[:, None]
    return held.reshape(-1, folds.shape[1]).T.astype(np.float32)


def _choose_strength(
    rows: Rows,
    held: np.ndarray,
    share: np.ndarray,
    images: int,
    grid: Sequence[float],
    classes: int,
) -> tuple[float, State, np.ndarray, dict[str, Any]]:
    """Solves all folds with each strength, from strong to weak.

    Returns:
      The chosen strength; its solution, the mean over problems; its predictions (n,); and what is
      reported about it.
    """
    train, judged = rows.split(share[:, None] * (1 - held)), rows.split(held)
    state = start(rows, train, classes)
    means, verdicts = [], []
    for l2 in grid:
        state, verdict = solve(rows, train, judged, state, l2, **_ROUGH)
        means.append(jax.tree.map(lambda values: np.asarray(values).mean(axis=0), state))
        verdicts.append(verdict)
    right = np.array([rows.join(verdict.right) for verdict in verdicts], np.float64)
    loss = np.array([rows.join(verdict.row_loss) for verdict in verdicts], np.float64)
    parts = share.reshape(-1, images)  # views of an image in a column
    whole = np.maximum(parts.sum(axis=0), np.finfo(float).tiny)
    best = choose((right.reshape(-1, *parts.shape) * parts).sum(axis=1) / whole, whole)
    if best in (0, len(grid) - 1):
        _log.warning(
            "cross-validation chose l2 = %.3g, the %s of its grid; set l2 to try values beyond it",
            grid[best],
            "strongest" if best == 0 else "weakest",
        )
    table = [
        {"l2": strength, "accuracy": float(accuracy), "loss": float(mean_loss)}
        for strength, accuracy, mean_loss in zip(grid, right @ share, loss @ share, strict=True)
    ]
    chosen = {name: table[best][name] for name in ("accuracy", "loss")}
    predicted = rows.join(verdicts[best].predicted).astype(np.int32)
    return grid[best], means[best], predicted, {**chosen, "grid": table}
