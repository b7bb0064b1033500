"""A head for several labels an image: one-vs-rest logistic regression.

One strength of the penalty serves all classes. It is chosen by the loss out of fold, not by mean
average precision: of a class with few images the ranks change by steps, and are undefined in a fold
without one, while the loss is a mean over images, whose noise can be told. The classes are solved
in parts, so that the memory does not grow with their number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tljax.console import warn_once
from tljax.frozen.cross_validation import choose_by_loss
from tljax.frozen.linear_head.problem import (
    CHEAP,
    CONVERGED,
    EXACT,
    ROUGH,
    HeadProblem,
    SolvedHead,
    warn_at_the_ends,
    warn_unless_converged,
)
from tljax.frozen.logistic_regression import Labels, State, solve, start
from tljax.frozen.rows import Rows, make_rows

_HEADS = 1 << 22  # numbers of all heads of a part; L-BFGS keeps some thirty as many
_LABELS = 1 << 26  # of all rows of a part


def solve_logistic(problem: HeadProblem) -> SolvedHead:
    """Solves the head; see `tljax.frozen.linear_head.solve_head`."""
    _warn_of_constant_classes(problem)
    held = None if problem.folds is None else problem.held_out()
    problems = 1 if held is None else held.shape[1]
    parts = _parts(problem, problems)
    rows = make_rows(problem.x, problem.mean, problem.inverse, problems * max(map(len, parts)))
    validation, out_of_fold, l2 = {}, None, problem.l2
    if held is None:
        assert l2 is not None
        begins = [_approach(problem, rows, part) for part in parts]
    else:
        l2, begins, out_of_fold, found = _choose_strength(problem, rows, held, parts)
        validation = {"cross_validation": {**problem.about_folds(), **found}}
    # A program is compiled for each number of problems; solving copies may take less time.
    copies = problems if problem.x.size * problems * len(parts[0]) < CHEAP else 1
    solved = [
        _solve_part(problem, rows, part, begin, l2, copies)
        for part, begin in zip(parts, begins, strict=True)
    ]
    heads, loss, gaps, steps, precision = (
        np.concatenate(of, -1) for of in zip(*solved, strict=True)
    )
    gap = float(gaps.max())
    warn_unless_converged(gap <= CONVERGED, int(steps.max()), gap, l2)
    report = {
        "l2": l2,
        "iterations": int(steps.max()),
        "loss": float(loss.mean()),
        "converged": gap <= CONVERGED,
        "train_mean_average_precision": float(np.nanmean(precision)),
        **validation,
    }
    raw = problem.on_raw_features(rows.unrotate(heads[:-1]), heads[-1])
    return SolvedHead(**raw, l2=l2, report=report, out_of_fold=out_of_fold)


def _parts(problem: HeadProblem, problems: int) -> list[np.ndarray]:
    """The classes in parts, which are solved one after the other."""
    rows, width = problem.x.shape
    size = min(_HEADS // (problems * (min(rows, width) + 1)), _LABELS // rows)
    number = -(-problem.outputs // max(1, size))
    return np.array_split(np.arange(problem.outputs), number)


def _labels(problem: HeadProblem, rows: Rows, part: np.ndarray) -> Labels:
    """The labels of a part of the classes; the weights of a class have the mean 1."""
    has, weights = rows.split(problem.labels[:, part], np.uint8), problem.weights
    if weights is None or weights.ndim == 1:
        return Labels(has, None)
    mean = weights[:, part].mean(axis=0, dtype=np.float64)
    return Labels(has, rows.split(weights[:, part] / np.where(mean > 0, mean, 1)))


def _approach(problem: HeadProblem, rows: Rows, part: np.ndarray) -> Any:
    """Where to start for a given strength: at about the solution for the next stronger one."""
    labels, train = _labels(problem, rows, part), rows.split(problem.share[:, None])
    state = start(rows, labels, train)
    assert problem.l2 is not None
    for stronger in (strength for strength in problem.grid if strength > problem.l2):
        state, _ = solve(rows, labels, train, train, state, stronger, **ROUGH)
    return np.asarray(state.heads[0])


def _solve_part(
    problem: HeadProblem, rows: Rows, part: np.ndarray, begin: np.ndarray, l2: float, copies: int
) -> tuple[np.ndarray, ...]:
    """Heads (d + 1, classes); loss, gap, steps and average precision (classes,)."""
    labels = _labels(problem, rows, part)
    train = rows.split(np.repeat(problem.share[:, None], copies, axis=1))
    state = _from(start(rows, labels, train), begin)
    state, verdict = jax.device_get(
        solve(rows, labels, train, np.ones_like(train), state, l2, **EXACT)
    )
    precision = _average_precision(problem.labels[:, part], rows.join(verdict.probability))
    found = (verdict.loss[0], verdict.gap[0], verdict.steps[0], precision)
    return np.asarray(state.heads[0], np.float64).T, *found


def _from(state: State, heads: np.ndarray) -> State:
    """The state with heads (classes, d + 1) to start from, but where a class is constant."""
    return state._replace(heads=np.where(state.varies[..., None] > 0, heads, state.heads))


def _choose_strength(
    problem: HeadProblem, rows: Rows, held: np.ndarray, parts: Sequence[np.ndarray]
) -> tuple[float, list[np.ndarray], np.ndarray, dict[str, Any]]:
    """Solves all folds with each strength, from strong to weak.

    Returns:
      The chosen strength; of each part its heads, the mean over problems; the probabilities out of
      fold (n, classes); and what is reported about it.
    """
    grid, share = problem.grid, problem.share
    train, judged = rows.split(share[:, None] * (1 - held)), rows.split(held)
    losses = np.zeros((len(grid), len(share)))
    means: list[list[np.ndarray]] = []
    for part in parts:
        labels = _labels(problem, rows, part)
        state, of_part = start(rows, labels, train), []
        for at, l2 in enumerate(grid):
            state, verdict = solve(rows, labels, train, judged, state, l2, **ROUGH)
            losses[at] += rows.join(verdict.row_loss)
            of_part.append(np.asarray(state.heads).mean(axis=0))
        means.append(of_part)
    losses /= problem.outputs
    best = choose_by_loss(*problem.by_image(losses))
    warn_at_the_ends(grid, best)
    out_of_fold = np.empty(problem.labels.shape, np.float32)
    for part, of_part in zip(parts, means, strict=True):  # all at once would take too much memory
        labels = _labels(problem, rows, part)
        state = _from(start(rows, labels, train), of_part[best])
        _, verdict = solve(rows, labels, train, judged, state, grid[best], **ROUGH)
        out_of_fold[:, part] = rows.join(verdict.probability)
    table = [{"l2": l2, "loss": float(loss)} for l2, loss in zip(grid, losses @ share, strict=True)]
    found = {
        "loss": table[best]["loss"],
        "mean_average_precision": float(
            np.nanmean(_average_precision(problem.labels, out_of_fold))
        ),
        **_naive(problem),
        "grid": table,
    }
    return grid[best], [of_part[best] for of_part in means], out_of_fold, found


def _naive(problem: HeadProblem) -> dict[str, float]:
    """What always answering the share of a class would have."""
    has, weights = problem.labels, problem.weights
    if weights is None or weights.ndim == 1:
        p = np.einsum("n,nc->c", problem.share, has)
    else:
        whole = weights.sum(axis=0, dtype=np.float64)
        p = np.einsum("nc,nc->c", weights, has, dtype=np.float64) / np.where(whole > 0, whole, 1)
    p = np.clip(p, 1e-300, 1)
    q = np.clip(1 - p, 1e-300, 1)
    shares = has.mean(axis=0)
    return {
        "naive_loss": float(-(p * np.log(p) + q * np.log(q)).mean()),
        "naive_mean_average_precision": float(shares[shares > 0].mean()),
    }


def _average_precision(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(classes,), NaN of a class that no row has."""
    from sklearn.metrics import average_precision_score

    return np.array(
        [
            average_precision_score(has, p) if has.any() else np.nan
            for has, p in zip(labels.T, probability.T, strict=True)
        ]
    )


def _warn_of_constant_classes(problem: HeadProblem) -> None:
    shares = problem.labels.mean(axis=0)
    if constant := int(((shares == 0) | (shares == 1)).sum()):
        warn_once(  # trials and folds solve heads for the same images
            f"{constant} of {problem.outputs} classes are on all training images or on none, so the"
            " head gives them the same probability for every image"
        )
