"""A head for one class an image: softmax regression, its penalty chosen by accuracy."""

from typing import Any

import jax
import numpy as np

from tljax.frozen.cross_validation import choose
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
from tljax.frozen.rows import Rows, make_rows
from tljax.frozen.softmax_regression import State, solve, start


def solve_softmax(problem: HeadProblem) -> SolvedHead:
    """Solves the head; see `tljax.frozen.linear_head.solve_head`."""
    x, share, classes = problem.x, problem.share, problem.outputs
    if problem.l2 is not None:
        l2 = problem.l2
        rows = make_rows(x, problem.mean, problem.inverse, classes)
        label, train = rows.split(problem.labels, np.int32), rows.split(share[:, None])
        begin = start(rows, train, classes)
        for stronger in (strength for strength in problem.grid if strength > l2):
            begin, _ = solve(rows, label, train, train, begin, stronger, **ROUGH)
        validation, out_of_fold = {}, None
    else:
        held = problem.held_out()
        rows = make_rows(x, problem.mean, problem.inverse, held.shape[1] * classes)
        label = rows.split(problem.labels, np.int32)
        l2, begin, out_of_fold, found = _choose_strength(problem, rows, label, held)
        naive = float(np.bincount(problem.labels, problem.alike).max())
        about = {**problem.about_folds(), **found, "naive_accuracy": naive}
        validation = {"cross_validation": about}
        # A program is compiled for each number of problems; solving copies may take less time.
        copies = held.shape[1] if x.size * held.shape[1] * classes < CHEAP else 1
        train = rows.split(np.repeat(share[:, None], copies, axis=1))
        begin = jax.tree.map(lambda mean: np.repeat(mean[None], copies, axis=0), begin)
    state, verdict = jax.device_get(
        solve(rows, label, train, np.ones_like(train), begin, l2, **EXACT)
    )
    steps, gap = int(verdict.steps[0]), float(verdict.gap[0])
    warn_unless_converged(gap <= CONVERGED, steps, gap, l2)
    report = {
        "l2": l2,
        "iterations": steps,
        "loss": float(verdict.loss[0]),
        "converged": gap <= CONVERGED,
        "train_accuracy": float(rows.join(verdict.right) @ share),
        **validation,
    }
    head = np.asarray(state.heads[0], np.float64)
    raw = problem.on_raw_features(rows.unrotate(head[:-1]), head[-1])
    return SolvedHead(**raw, l2=l2, report=report, out_of_fold=out_of_fold)


def _choose_strength(
    problem: HeadProblem, rows: Rows, label: np.ndarray, held: np.ndarray
) -> tuple[float, State, np.ndarray, dict[str, Any]]:
    """Solves all folds with each strength, from strong to weak.

    Returns:
      The chosen strength; its solution, the mean over problems; its predictions (n,); and what is
      reported about it.
    """
    share, grid = problem.share, problem.grid
    train, judged = rows.split(share[:, None] * (1 - held)), rows.split(held)
    state = start(rows, train, problem.outputs)
    means, verdicts = [], []
    for l2 in grid:
        state, verdict = solve(rows, label, train, judged, state, l2, **ROUGH)
        means.append(jax.tree.map(lambda values: np.asarray(values).mean(axis=0), state))
        verdicts.append(verdict)
    right = np.array([rows.join(verdict.right) for verdict in verdicts], np.float64)
    loss = np.array([rows.join(verdict.row_loss) for verdict in verdicts], np.float64)
    best = choose(*problem.by_image(right))
    warn_at_the_ends(grid, best)
    table = [
        {"l2": strength, "accuracy": float(accuracy), "loss": float(mean_loss)}
        for strength, accuracy, mean_loss in zip(grid, right @ share, loss @ share, strict=True)
    ]
    predicted = rows.join(verdicts[best].predicted).astype(np.int32)
    found = {
        "accuracy": float((right @ problem.alike)[best]),
        "loss": table[best]["loss"],
        "grid": table,
    }
    return grid[best], means[best], predicted, found
