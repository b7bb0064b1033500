"""L-BFGS for softmax regression: several problems on the same features, solved at once.

A problem is a weight for each row; the folds of a cross-validation differ in it alone. One matrix
product serves all problems. Rows are read in blocks, so that (rows, classes) logits never exist for
all rows.

The features are rotated to their principal axes (`rotate`), which changes neither loss nor penalty,
and each axis is scaled by what its curvature is about. The problem is then well conditioned however
the features correlate, and L-BFGS takes some ten steps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.devices.compiler import compiled

_MEMORY = 10  # pairs that L-BFGS keeps
_BLOCK = 1 << 21  # logits at once
_WIDEST = 2048  # features; the principal axes of more take longer than they save
_CURVATURE = 0.25  # of the loss along an axis of variance 1; at most 0.5
_SMALLEST_STEP = 1e-4  # a smaller one means that float32 resolves no further decrease


class Rows(NamedTuple):
    """The rows of all problems, in blocks; the last block is padded with rows of weight 0.

    Attributes:
      x: (blocks, rows, d) float32.
      label: (blocks, rows) int32.
      train: (blocks, rows, problems), the rows' weights in the loss; their sum over rows is at most
        1.
      held: (blocks, rows, problems), 1 where a problem's head is judged, else 0.
      variance: (d,), of the features.
    """

    x: jax.Array
    label: jax.Array
    train: jax.Array
    held: jax.Array
    variance: jax.Array


class Heads(NamedTuple):
    """Heads, or their gradients: kernel (problems, d, classes), bias (problems, classes)."""

    kernel: jax.Array
    bias: jax.Array


class Solution(NamedTuple):
    """What `solve` found.

    Attributes:
      heads: one for each problem.
      loss: (problems,), with the penalty.
      gap: (problems,), by how much the loss is above the least one, at most.
      steps: (problems,), of L-BFGS.
      right, row_loss: (blocks, rows), whether a row is classified correctly and its loss in nats;
        means over the problems that hold it.
      predicted: (blocks, rows), the class of the highest mean probability over those problems.
    """

    heads: Heads
    loss: jax.Array
    gap: jax.Array
    steps: jax.Array
    right: jax.Array
    row_loss: jax.Array
    predicted: jax.Array


def rotate(x: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Rotates standardised features (n, d) to their principal axes, of which there are at most n.

    Returns:
      The rotated features (n, axes); their variances (axes,); the axes (d, axes), orthonormal
      columns. Very wide features stay as they are; their axes are None.
    """
    rows = jax.device_put(x, jax.local_devices()[0])
    if min(x.shape) > _WIDEST:
        return rows, jnp.square(rows).mean(axis=0), None
    rotated: tuple[jax.Array, jax.Array, jax.Array] = _rotation()(rows)
    return rotated


@functools.cache
def _rotation() -> Callable[..., Any]:
    def rotation(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        n, d = x.shape
        span = None
        if d > n:
            span = jnp.linalg.qr(x.T)[0]
            x = _product("nd,de->ne", x, span)
        variance, axes = jnp.linalg.eigh(_product("nd,ne->de", x, x) / n)
        x = _product("nd,de->ne", x, axes)
        if span is not None:
            axes = _product("de,ef->df", span, axes)
        return x, jnp.maximum(variance, 0.0), axes

    return compiled(rotation)


def make_rows(
    x: jax.Array,
    variance: jax.Array,
    labels: np.ndarray,
    classes: int,
    train: np.ndarray,
    held: np.ndarray,
) -> Rows:
    """Puts rows in blocks.

    Args:
      x, variance: from `rotate`.
      labels: (n,).
      classes: number of classes.
      train, held: (n, problems), as in `Rows`.
    """
    n, problems = train.shape
    blocks = -(-n * problems * classes // _BLOCK)
    size = -(-n // blocks)

    def split(values: Any) -> jax.Array:
        padding = [(0, blocks * size - n)] + [(0, 0)] * (values.ndim - 1)
        whole = jnp.pad(jax.device_put(values, x.device), padding)
        return whole.reshape(blocks, size, *values.shape[1:])

    weights, judged = (values.astype(np.float32) for values in (train, held))
    return Rows(split(x), split(labels.astype(np.int32)), split(weights), split(judged), variance)


def zero_heads(rows: Rows, classes: int) -> Heads:
    """Returns heads of zeros, one for each problem."""
    problems = rows.train.shape[-1]
    kernel = jnp.zeros((problems, len(rows.variance), classes), device=rows.x.device)
    return Heads(kernel, jnp.zeros((problems, classes), device=rows.x.device))


def solve(rows: Rows, start: Heads, l2: float, tolerance: float, most: int) -> Solution:
    """Minimises sum of weight * cross-entropy + l2 / 2 * |kernel|^2 for each problem.

    Args:
      rows: of the problems.
      start: heads to start from.
      l2: strength of the penalty.
      tolerance: a problem is done when its loss is known to be within this of the least one.
      most: passes over the rows, at most.
    """
    solution: Solution = _solver()(rows, start, l2, tolerance, most)
    return solution


class _Search(NamedTuple):
    """Where L-BFGS is in one problem: at `point`, about to try `point + step * direction`."""

    point: Heads
    loss: jax.Array
    direction: Heads
    slope: jax.Array  # of the loss along the direction
    step: jax.Array
    memory: Any  # of optax
    gap: jax.Array
    steps: jax.Array

    def is_done(self, tolerance: jax.Array) -> jax.Array:
        return (self.gap <= tolerance) | (self.step < _SMALLEST_STEP)


@functools.cache
def _solver() -> Callable[..., Any]:
    optimizer = optax.scale_by_lbfgs(_MEMORY)

    def solution(
        rows: Rows, start: Heads, l2: jax.Array, tolerance: jax.Array, most: jax.Array
    ) -> Solution:
        kernel_scale = jax.lax.rsqrt(_CURVATURE * rows.variance + l2)[:, None]
        scale = Heads(kernel_scale, jax.lax.rsqrt(_CURVATURE + l2))
        advance = jax.vmap(
            functools.partial(_advance, optimizer, scale, l2, tolerance), in_axes=(0, 0, 0, 0)
        )

        def proceed(carry: tuple[jax.Array, _Search]) -> tuple[jax.Array, _Search]:
            passes, search = carry
            trial = jax.vmap(_move)(search.point, search.step, search.direction)
            loss, gradient = _loss_and_gradient(rows, _times(trial, scale), l2)
            return passes + 1, advance(search, trial, loss, _times(gradient, scale))

        def goes_on(carry: tuple[jax.Array, _Search]) -> jax.Array:
            passes, search = carry
            return (passes < most) & ~search.is_done(tolerance).all()

        point = jax.tree.map(jnp.divide, start, scale)
        begin = jnp.int32(0), _begin(optimizer, point)
        search = jax.lax.while_loop(goes_on, proceed, begin)[1]
        heads = _times(search.point, scale)
        return Solution(heads, search.loss, search.gap, search.steps, *_judge(rows, heads))

    return compiled(solution)


def _begin(optimizer: optax.GradientTransformation, point: Heads) -> _Search:
    """The state before the first pass, which accepts `point` itself."""
    zero, infinite = jnp.zeros(len(point.bias)), jnp.full(len(point.bias), jnp.inf)
    return _Search(
        point=point,
        loss=infinite,
        direction=jax.tree.map(jnp.zeros_like, point),
        slope=zero,
        step=jnp.ones_like(zero),
        memory=jax.vmap(optimizer.init)(point),
        gap=infinite,
        steps=jnp.full(len(point.bias), -1),
    )


def _advance(
    optimizer: optax.GradientTransformation,
    scale: Heads,
    l2: jax.Array,
    tolerance: jax.Array,
    search: _Search,
    trial: Heads,
    loss: jax.Array,
    gradient: Heads,
) -> _Search:
    """Accepts the trial point and chooses the next direction, or shortens the step.

    The loss is convex, so backtracking suffices. Near the solution float32 no longer resolves the
    decrease of the loss, but still that of its slope, as in the line search of Hager and Zhang
    (2005).
    """
    slope = _dot(search.direction, gradient)
    falls = loss <= search.loss + 1e-4 * search.step * search.slope
    flattens = (slope <= -0.8 * search.slope) & (loss <= search.loss + 1e-6 * jnp.abs(search.loss))
    updates, memory = optimizer.update(gradient, search.memory, trial)
    plain = jax.tree.map(jnp.divide, gradient, scale)
    accepted = _Search(
        point=trial,
        loss=loss,
        direction=jax.tree.map(jnp.negative, updates),
        slope=-_dot(updates, gradient),
        step=jnp.ones_like(search.step),
        memory=memory,
        # A function that is convex by l2 at least is so far above its minimum, at most.
        gap=_dot(plain, plain) / (2 * l2),
        steps=search.steps + 1,
    )
    shorter = search.slope / (search.slope - slope)
    rejected = search._replace(step=search.step * jnp.clip(shorter, 0.1, 0.5))
    chosen = _where(falls | flattens, accepted, rejected)
    return _where(search.is_done(tolerance), search, chosen)


def _loss_and_gradient(rows: Rows, heads: Heads, l2: jax.Array) -> tuple[jax.Array, Heads]:
    """Returns the loss (problems,) with its penalty, and its gradient."""

    def add(total: Any, block: Any) -> tuple[Any, None]:
        x, label, weight = block
        logits = _logits(x, heads)
        is_label = jnp.arange(logits.shape[-1]) == label[:, None, None]
        logs = jax.nn.log_softmax(logits)
        loss = -(weight * jnp.where(is_label, logs, 0.0).sum(-1)).sum(0)
        residual = weight[..., None] * (jnp.exp(logs) - is_label)
        gradient = Heads(_product("nd,npk->pdk", x, residual), residual.sum(0))
        return jax.tree.map(jnp.add, total, (loss, gradient)), None

    zero = jnp.zeros(len(heads.bias)), jax.tree.map(jnp.zeros_like, heads)
    (loss, gradient), _ = jax.lax.scan(add, zero, (rows.x, rows.label, rows.train))
    penalty = l2 / 2 * jnp.square(heads.kernel).sum((1, 2))
    return loss + penalty, Heads(gradient.kernel + l2 * heads.kernel, gradient.bias)


def _judge(rows: Rows, heads: Heads) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `right`, `row_loss` and `predicted` of `Solution`."""

    def judge(block: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, label, held = block
        logs = jax.nn.log_softmax(_logits(x, heads))
        is_label = jnp.arange(logs.shape[-1]) == label[:, None, None]
        share = held / jnp.maximum(held.sum(-1, keepdims=True), 1.0)
        right = (share * (logs.argmax(-1) == label[:, None])).sum(-1)
        loss = -(share * jnp.where(is_label, logs, 0.0).sum(-1)).sum(-1)
        return right, loss, (share[..., None] * jnp.exp(logs)).sum(1).argmax(-1)

    return jax.lax.map(judge, (rows.x, rows.label, rows.held))


def _logits(x: jax.Array, heads: Heads) -> jax.Array:
    """(rows, problems, classes)."""
    return _product("nd,pdk->npk", x, heads.kernel) + heads.bias


def _product(subscripts: str, *factors: jax.Array) -> jax.Array:
    """`einsum` in full float32, which a GPU does not multiply in by default."""
    return jnp.einsum(subscripts, *factors, precision="highest")


def _times(heads: Heads, scale: Heads) -> Heads:
    return jax.tree.map(jnp.multiply, heads, scale)


def _move(point: Heads, step: jax.Array, direction: Heads) -> Heads:
    return jax.tree.map(lambda p, d: p + step * d, point, direction)


def _dot(a: Heads, b: Heads) -> jax.Array:
    return jnp.vdot(a.kernel, b.kernel) + jnp.vdot(a.bias, b.bias)


def _where(condition: jax.Array, then: Any, otherwise: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, condition), then, otherwise)
