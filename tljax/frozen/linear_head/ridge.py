"""A head for numbers: ridge regression of standardised numbers, in closed form.

The sums of products of a fold's rows, subtracted from those of all rows, leave those of its
training rows. So the rows are multiplied once, and each fold and strength is one Cholesky
factorisation, in float64 on the processor. Its time grows with the cube of the width, or of the
number of rows, if that is less. The penalty is chosen by the squared error out of fold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from tljax.data.labels import mean_and_deviation
from tljax.errors import InputError
from tljax.frozen.cross_validation import choose_by_loss
from tljax.frozen.linear_head.problem import PART, HeadProblem, SolvedHead, warn_at_the_ends


class _Sums(NamedTuple):
    """Over some rows: products of features and 1 (r + 1, r + 1), and with targets (r + 1, m)."""

    products: np.ndarray
    targets: np.ndarray

    def less(self, other: "_Sums") -> "_Sums":
        return _Sums(self.products - other.products, self.targets - other.targets)

    def solution(self, l2: float) -> np.ndarray:
        """The head (r + 1, m); the bias is last, and has no penalty."""
        penalised = self.products.copy()
        penalised.flat[: -1 : len(penalised) + 1] += l2
        try:
            factor = cho_factor(penalised, overwrite_a=True, check_finite=False)
        except LinAlgError:
            raise InputError(
                f"l2 is {l2}, too small for features of which some follow from others; set it to"
                " 1e-6 or more, or leave it out"
            ) from None
        return np.asarray(cho_solve(factor, self.targets, check_finite=False))


@dataclass(frozen=True)
class _Regression:
    """Attributes:
    problem: what is solved for.
    targets: (n, m), standardised.
    span: (d, r), orthonormal: of more features than rows, what the rows span; None: r is d.
    """

    problem: HeadProblem
    targets: np.ndarray
    span: np.ndarray | None

    def blocks(self, rows: np.ndarray, columns: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, (b, r + 1): features along `span`, and a 1) of some of the rows.

        `columns`: what is computed of a row, if more than its features.
        """
        number = -(-len(rows) * max(columns, self.problem.x.shape[1]) // PART)
        for block in np.array_split(rows, number):
            x = standardise(self.problem, block)
            x = x if self.span is None else x @ self.span
            yield block, np.append(x, np.ones((len(block), 1)), axis=1)

    def sums(self, rows: np.ndarray) -> _Sums:
        size, outputs = self.problem.x.shape[1], self.targets.shape[1]
        size = 1 + (size if self.span is None else self.span.shape[1])
        total = _Sums(np.zeros((size, size)), np.zeros((size, outputs)))
        for block, x in self.blocks(rows):
            weighted = x * self.problem.share[block, None]
            total.products[:] += weighted.T @ x
            total.targets[:] += weighted.T @ self.targets[block]
        return total

    def predictions(
        self, total: _Sums, folds: Sequence[tuple[np.ndarray, _Sums]], strengths: Sequence[float]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, (strengths, b, m)) of the rows that folds hold out.

        Args:
          total: of all rows.
          folds: rows that are held out, and their sums.
          strengths: of the penalty.
        """
        for held, of_held in folds:
            rest = total.less(of_held)
            heads = np.stack([rest.solution(l2) for l2 in strengths])
            for block, x in self.blocks(held, len(strengths) * heads.shape[-1]):
                yield block, x @ heads

    def around(self, share: np.ndarray) -> np.ndarray:
        """(m,), mean squares of the targets around their mean; rows count by their share."""
        return share @ np.square(self.targets - share @ self.targets)

    def r2(self, squared: np.ndarray, share: np.ndarray) -> np.ndarray:
        """(..., m) mean squared errors -> (...), the mean over numbers; a constant one counts 0."""
        around = np.broadcast_to(self.around(share), squared.shape)
        ratio = np.divide(squared, around, out=np.ones_like(squared), where=around > 0)
        return (1 - ratio).mean(axis=-1)


def standardise(problem: HeadProblem, rows: np.ndarray) -> np.ndarray:
    """Returns standardised features of some rows, float64."""
    return (problem.x[rows] - problem.mean) * problem.inverse


def solve_ridge(problem: HeadProblem) -> SolvedHead:
    """Solves the head; see `tljax.frozen.linear_head.solve_head`."""
    mean, deviation = mean_and_deviation(problem.labels[: problem.images])
    n, width = problem.x.shape
    rows = np.arange(n)
    span = np.linalg.qr(standardise(problem, rows).T)[0] if width > n else None
    regression = _Regression(problem, (problem.labels - mean) / deviation, span)
    validation, out_of_fold, l2 = {}, None, problem.l2
    if problem.folds is None:
        assert l2 is not None
        total = regression.sums(rows)
    else:
        each = [np.flatnonzero(held) for held in problem.held_out().T]
        folds = [(held, regression.sums(held)) for held in each]
        once = [sums for _, sums in folds[: int(problem.folds.max()) + 1]]  # all rows once
        total = _Sums(*(np.sum(parts, axis=0) for parts in zip(*once, strict=True)))
        l2, out_of_fold, found = _choose_strength(regression, total, folds)
        found["rmse"], found["naive_rmse"] = (
            (deviation * np.array(found[name])).tolist() for name in ("rmse", "naive_rmse")
        )
        validation = {"cross_validation": {**problem.about_folds(), **found}}
    head = total.solution(l2)
    kernel, bias = head[:-1], head[-1]
    squared = np.zeros_like(mean)
    for block, x in regression.blocks(rows):
        squared += problem.share[block] @ np.square(x @ head - regression.targets[block])
    report = {
        "l2": l2,
        "loss": float(squared.mean() + l2 * np.square(kernel).sum() / len(mean)),
        "train_r2": float(regression.r2(squared, problem.share)),
        **validation,
    }
    raw = problem.on_raw_features(kernel if span is None else span @ kernel, bias)
    return SolvedHead(**raw, l2=l2, report=report, out_of_fold=out_of_fold)


def _choose_strength(
    regression: _Regression, total: _Sums, folds: Sequence[tuple[np.ndarray, _Sums]]
) -> tuple[float, np.ndarray, dict[str, Any]]:
    """Returns the chosen strength, its predictions out of fold (n, m), and what is reported."""
    problem, targets = regression.problem, regression.targets
    assert problem.folds is not None
    grid, repeats = problem.grid, len(problem.folds)
    losses = np.zeros((len(grid), len(targets)))
    squared = np.zeros((len(grid), targets.shape[1]))
    alike = np.zeros_like(squared)  # every image counts once
    for rows, predicted in regression.predictions(total, folds, grid):
        error = np.square(predicted - targets[rows]) / repeats
        losses[:, rows] += error.mean(axis=-1)
        squared += problem.share[rows] @ error
        alike += problem.alike[rows] @ error
    best = choose_by_loss(*problem.by_image(losses))
    warn_at_the_ends(grid, best)
    out_of_fold = np.zeros(targets.shape, np.float64)
    for rows, (predicted,) in regression.predictions(total, folds, [grid[best]]):
        out_of_fold[rows] += predicted / repeats
    table = [
        {"l2": l2, "loss": float(errors.mean()), "r2": float(regression.r2(errors, problem.share))}
        for l2, errors in zip(grid, squared, strict=True)
    ]
    found = {
        "loss": table[best]["loss"],
        "r2": float(regression.r2(alike[best], problem.alike)),
        "rmse": np.sqrt(alike[best]),
        "naive_loss": float(regression.around(problem.share).mean()),
        "naive_rmse": np.sqrt(regression.around(problem.alike)),
        "grid": table,
    }
    return grid[best], out_of_fold.astype(np.float32), found
