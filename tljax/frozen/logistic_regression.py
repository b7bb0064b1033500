"""One-vs-rest logistic regression by L-BFGS: all classes of several problems, solved at once.

A problem is a weight for each row; the folds of a cross-validation differ in it alone. Each class
of a problem is by itself, with a line search of its own. One matrix product serves all.
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


class Labels(NamedTuple):
    """The labels of some classes, in the blocks of the rows.

    Attributes:
      has: (blocks, rows, classes) uint8.
      weight: (blocks, rows, classes) float32, of row and class, the mean of a class being 1; None:
        all the same.
    """

    has: np.ndarray
    weight: np.ndarray | None


class State(NamedTuple):
    """Where a solution starts, or the solution itself.

    Attributes:
      heads: (problems, classes, d + 1), the bias last.
      curvature: (problems, classes), of the loss in the logits: mean p (1 - p).
      varies: (problems, classes) float32, 0 where all rows of the problem have the class, or none:
        such a class has no loss, and its head does not change.
    """

    heads: Any
    curvature: Any
    varies: Any


class Verdict(NamedTuple):
    """What heads make of the rows.

    Attributes:
      loss: (problems, classes), of the training rows, with the penalty.
      gap: (problems, classes), by about how much the loss is above the least one.
      steps: (problems, classes), of L-BFGS.
      row_loss: (blocks, rows), in nats, the sum over the classes; mean over the problems that hold
        the row out.
      probability: (blocks, rows, classes), mean over those problems.
    """

    loss: jax.Array
    gap: jax.Array
    steps: jax.Array
    row_loss: jax.Array
    probability: jax.Array


def start(rows: Rows, labels: Labels, train: np.ndarray) -> State:
    """Heads with a bias alone, of the class's share of the rows; for `train` see `solve`.

    A class that all n rows of a problem have, or none, gets the share as if half a row differed
    (Jeffreys' prior), which is finite.
    """
    counts = functools.partial(np.einsum, "brp,brc->pc", optimize=True)
    weight = 1.0 if labels.weight is None else labels.weight
    positive = counts(train, labels.has * np.float32(weight))
    negative = counts(train, (1 - labels.has) * np.float32(weight))
    total, number = positive + negative, (train > 0).sum(axis=(0, 1))[:, None]
    varies = (positive > 0) & (negative > 0)
    log_odds = np.log(np.where(varies, positive, 1)) - np.log(np.where(varies, negative, 1))
    rarely = np.sign(positive - negative) * np.log(2 * number + 1)
    heads = np.zeros((*total.shape, rows.x.shape[-1]), np.float32)
    heads[..., -1] = np.where(varies, log_odds, rarely)
    curvature = positive * negative / np.where(varies, total, 1)
    return State(heads, curvature.astype(np.float32), varies.astype(np.float32))


def solve(
    rows: Rows,
    labels: Labels,
    train: np.ndarray,
    held: np.ndarray,
    begin: State,
    l2: float,
    *,
    tolerance: float,
    most: float,
) -> tuple[State, Verdict]:
    """Minimises sum of weight * cross-entropy + l2 / 2 * |kernel|^2, of each problem and class.

    Args:
      rows: of all problems.
      labels: of the classes.
      train: (blocks, rows, problems), the rows' weights in the loss; their sum over rows is at most
        1.
      held: (blocks, rows, problems), 1 where a problem judges a row, else 0.
      begin: where to start.
      l2: strength of the penalty.
      tolerance: a class is done when its gap is within this of its loss, relatively.
      most: passes over the rows, at most.
    """
    given = (rows.x, rows.squares, labels, train, held)
    begin = jax.device_put(begin, rows.x.device)  # as the solution is: one program serves both
    found: tuple[State, Verdict] = _solver()(*given, begin, l2, tolerance, most)
    return found


@functools.cache
def _solver() -> Callable[..., Any]:
    def solver(
        x: jax.Array,
        squares: jax.Array,
        labels: Labels,
        train: jax.Array,
        held: jax.Array,
        begin: State,
        l2: jax.Array,
        tolerance: jax.Array,
        most: jax.Array,
    ) -> tuple[State, Verdict]:
        penalty = (l2 * jnp.ones_like(squares)).at[-1].set(0.0)  # none on the bias
        curvature = jnp.maximum(begin.curvature, _LEAST_CURVATURE).reshape(-1, 1)
        scale = jax.lax.rsqrt(curvature * squares + penalty)
        shape = begin.varies.shape
        evaluate = functools.partial(_loss_and_gradient, (x, labels, train), begin.varies, penalty)
        heads = begin.heads.reshape(-1, len(squares))
        heads, search = minimise(evaluate, heads, scale, tolerance, most)
        curvature, *judged = _judge((x, labels, train, held), begin.varies, heads)
        found = State(heads.reshape(begin.heads.shape), curvature, begin.varies)
        searched = (search.loss, search.gap, search.steps)
        return found, Verdict(*(values.reshape(shape) for values in searched), *judged)

    return compiled(solver)


def _loss_and_gradient(
    blocks: tuple[Any, ...], varies: jax.Array, penalty: jax.Array, heads: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss (problems * classes,) with its penalty, and its gradient.

    Args:
      blocks: x, labels, train.
      varies: (problems, classes).
      penalty: (d + 1,).
      heads: (problems * classes, d + 1).
    """

    def add(total: Any, block: Any) -> tuple[Any, None]:
        x, labels, train = block
        sign, loss, p = _cross_entropy(x, labels.has, heads, varies.shape)
        weight = _weight(train, labels) * varies
        residual = (weight * sign * p).reshape(len(x), -1)
        added = (weight * loss).sum(0), product("nd,np->pd", x, residual)
        return jax.tree.map(jnp.add, total, added), None

    zero = jnp.zeros(varies.shape), jnp.zeros_like(heads)
    (loss, gradient), _ = jax.lax.scan(add, zero, blocks)
    penalised = penalty * heads
    return loss.reshape(-1) + (penalised * heads).sum(-1) / 2, gradient + penalised


def _judge(blocks: tuple[Any, ...], varies: jax.Array, heads: jax.Array) -> tuple[jax.Array, ...]:
    """Returns `curvature`, `row_loss` and `probability`. `blocks`: x, labels, train, held."""

    def judge(curvature: jax.Array, block: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        x, labels, train, held = block
        sign, loss, wrong = _cross_entropy(x, labels.has, heads, varies.shape)
        curved = (_weight(train, labels) * varies * wrong * (1 - wrong)).sum(0)
        share = (held / jnp.maximum(held.sum(-1, keepdims=True), 1.0))[..., None]
        row_loss = (_weight(share[..., 0], labels) * loss).sum((1, 2))
        probability = (share * jnp.where(sign > 0, wrong, 1 - wrong)).sum(1)
        return curvature + curved, (row_loss, probability)

    curvature, judged = jax.lax.scan(judge, jnp.zeros_like(varies), blocks)
    return curvature, *judged


def _weight(rows: jax.Array, labels: Labels) -> jax.Array:
    """(rows, problems) -> (rows, problems, classes), times the weight of row and class."""
    weight = rows[..., None]
    return weight if labels.weight is None else weight * labels.weight[:, None]


def _cross_entropy(
    x: jax.Array, has: jax.Array, heads: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns -1 where a row has the class, else 1; its loss; and the probability to be wrong.

    (rows, 1, classes), (rows, problems, classes) and (rows, problems, classes).
    """
    logits = product("nd,pd->np", x, heads).reshape(-1, *shape)
    sign = 1 - 2 * has[:, None].astype(jnp.float32)
    against = sign * logits
    small = jnp.exp(-jnp.abs(against))
    loss = jnp.maximum(against, 0) + jnp.log1p(small)
    return sign, loss, jnp.where(against > 0, 1.0, small) / (1 + small)
