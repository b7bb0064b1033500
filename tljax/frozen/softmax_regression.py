"""Softmax regression by L-BFGS: several problems on the same features, solved at once.

A problem is a weight for each row; the folds of a cross-validation differ in it alone. One matrix
product serves all problems. From the solution for a stronger penalty it takes some ten steps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tljax.devices.compiler import compiled
from tljax.frozen.lbfgs import minimise
from tljax.frozen.rows import Rows, product

_LEAST_CURVATURE = 1e-8


class State(NamedTuple):
    """Where a solution starts, or the solution itself.

    Attributes:
      heads: (problems, d + 1, classes), the bias last.
      curvature: (problems, classes), of the loss in the logits: mean p (1 - p).
    """

    heads: Any
    curvature: Any


class Verdict(NamedTuple):
    """What heads make of the rows.

    Attributes:
      loss: (problems,), of the training rows, with the penalty.
      gap: (problems,), by about how much the loss is above the least one.
      steps: (problems,), of L-BFGS.
      right, row_loss: (blocks, rows), whether a row is classified correctly and its loss in nats;
        means over the problems that hold it out.
      predicted: (blocks, rows), the class of the highest mean probability over those problems.
    """

    loss: jax.Array
    gap: jax.Array
    steps: jax.Array
    right: jax.Array
    row_loss: jax.Array
    predicted: jax.Array


def start(rows: Rows, train: np.ndarray, classes: int) -> State:
    """Heads of zeros, one for each problem; for `train` see `solve`."""
    problems = train.shape[-1]
    heads = np.zeros((problems, rows.x.shape[-1], classes), np.float32)
    p = np.float32(1 / classes)
    weight = train.sum(axis=(0, 1), dtype=np.float32)
    return State(heads, np.repeat(p * (1 - p) * weight[:, None], classes, axis=1))


def solve(
    rows: Rows,
    label: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    begin: State,
    l2: float,
    *,
    tolerance: float,
    most: float,
) -> tuple[State, Verdict]:
    """Minimises sum of weight * cross-entropy + l2 / 2 * |kernel|^2 for each problem.

    Args:
      rows: of all problems.
      label: (blocks, rows) int32.
      train: (blocks, rows, problems), the rows' weights in the loss; their sum over rows is at most
        1.
      held: (blocks, rows, problems), 1 where a problem judges a row, else 0.
      begin: where to start.
      l2: strength of the penalty.
      tolerance: a problem is done when its gap is within this of its loss, relatively.
      most: passes over the rows, at most.
    """
    given = (rows.x, rows.squares, label, train, held)
    begin = jax.device_put(begin, rows.x.device)  # as the solution is: one program serves both
    found: tuple[State, Verdict] = _solver()(*given, begin, l2, tolerance, most)
    return found


@functools.cache
def _solver() -> Callable[..., Any]:
    def solver(
        x: jax.Array,
        squares: jax.Array,
        label: jax.Array,
        train: jax.Array,
        held: jax.Array,
        begin: State,
        l2: jax.Array,
        tolerance: jax.Array,
        most: jax.Array,
    ) -> tuple[State, Verdict]:
        penalty = (l2 * jnp.ones_like(squares)).at[-1].set(0.0)[:, None]  # none on the bias
        curvature = jnp.maximum(begin.curvature, _LEAST_CURVATURE)  # for a class without images
        scale = jax.lax.rsqrt(curvature[:, None] * squares[:, None] + penalty)
        evaluate = functools.partial(_loss_and_gradient, (x, label, train), penalty)
        heads, search = minimise(evaluate, begin.heads, scale, tolerance, most)
        curvature, *judged = _judge((x, label, train, held), heads)
        return State(heads, curvature), Verdict(search.loss, search.gap, search.steps, *judged)

    return compiled(solver)


def _loss_and_gradient(
    blocks: tuple[jax.Array, ...], penalty: jax.Array, heads: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss (problems,) with its penalty, and its gradient.

    Args:
      blocks: x, label, train.
      penalty: (d + 1, 1).
      heads: (problems, d + 1, classes).
    """

    def add(total: Any, block: Any) -> tuple[Any, None]:
        x, label, weight = block
        logs, is_label = _log_probabilities(x, label, heads)
        loss = -(weight * jnp.where(is_label, logs, 0.0).sum(-1)).sum(0)
        residual = weight[..., None] * (jnp.exp(logs) - is_label)
        return (total[0] + loss, total[1] + product("nd,npk->pdk", x, residual)), None

    zero = jnp.zeros(len(heads)), jnp.zeros_like(heads)
    (loss, gradient), _ = jax.lax.scan(add, zero, blocks)
    penalised = penalty * heads
    return loss + (penalised * heads).sum((1, 2)) / 2, gradient + penalised


def _judge(blocks: tuple[jax.Array, ...], heads: jax.Array) -> tuple[jax.Array, ...]:
    """Returns `curvature`, `right`, `row_loss` and `predicted`. `blocks`: x, label, train, held."""

    def judge(curvature: jax.Array, block: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x, label, weight, held = block
        logs, is_label = _log_probabilities(x, label, heads)
        p = jnp.exp(logs)
        share = held / jnp.maximum(held.sum(-1, keepdims=True), 1.0)
        right = (share * (logs.argmax(-1) == label[:, None])).sum(-1)
        loss = -(share * jnp.where(is_label, logs, 0.0).sum(-1)).sum(-1)
        predicted = (share[..., None] * p).sum(1).argmax(-1)
        return curvature + (weight[..., None] * p * (1 - p)).sum(0), (right, loss, predicted)

    curvature, judged = jax.lax.scan(judge, jnp.zeros_like(heads[:, 0]), blocks)
    return curvature, *judged


def _log_probabilities(
    x: jax.Array, label: jax.Array, heads: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns log-probabilities (rows, problems, classes); whether a class is the label."""
    logs = jax.nn.log_softmax(product("nd,pdk->npk", x, heads))
    return logs, jnp.arange(logs.shape[-1]) == label[:, None, None]
