"""L-BFGS for softmax regression: several problems on the same features, solved at once.

A problem is a weight for each row; the folds of a cross-validation differ in it alone. One matrix
product serves all problems. Rows are read in blocks, so that (rows, classes) logits never exist for
all rows.

The features are rotated to their principal axes, which changes neither loss nor penalty, and each
axis is scaled by about its curvature. The problem is then well conditioned however the features
correlate, so that L-BFGS takes some ten steps from the solution for a stronger penalty.
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
_LEAST_CURVATURE = 1e-8
_SMALLEST_STEP = 1e-4  # a smaller one means that float32 resolves no further decrease


class Rows(NamedTuple):
    """Rows in blocks; the last block is padded.

    Attributes:
      x: (blocks, rows, d + 1) float32: features along d axes, and a 1, which the bias multiplies.
      squares: (d + 1,), mean squares of x.
      axes: (features, d), orthonormal columns; None: the features are not rotated.
      label: (blocks, rows) int32.
      number: of rows without the padding.
    """

    x: jax.Array
    squares: jax.Array
    axes: jax.Array | None
    label: np.ndarray
    number: int

    def split(self, values: np.ndarray) -> np.ndarray:
        """(n, problems) -> (blocks, rows, problems), padded with zeros, float32."""
        blocks, size = self.label.shape
        whole = np.zeros((blocks * size, values.shape[1]), np.float32)
        whole[: self.number] = values
        return whole.reshape(blocks, size, -1)

    def join(self, values: jax.Array) -> np.ndarray:
        """(blocks, rows) -> (n,), without the padding."""
        return np.asarray(values).reshape(-1)[: self.number]


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


def make_rows(
    features: np.ndarray,
    labels: np.ndarray,
    mean: np.ndarray,
    inverse: np.ndarray,
    logits: int,
) -> Rows:
    """Standardises features, rotates them to their principal axes and puts them on a device.

    The axes are no more than there are rows. Very wide features are not rotated.

    Args:
      features: (n, features).
      labels: (n,).
      mean, inverse: (features,), what is subtracted and then multiplied.
      logits: of a row: classes, for all problems together.
    """
    n, width = features.shape
    blocks = -(-n * logits // _BLOCK)
    size = -(-n // blocks)
    x = np.zeros((blocks * size, width), np.float32)
    np.subtract(features, mean.astype(np.float32), out=x[:n])
    x[:n] *= inverse.astype(np.float32)
    label = np.zeros(blocks * size, np.int32)
    label[:n] = labels
    device = jax.local_devices()[0]
    rotation = _rotation(blocks, min(x.shape) <= _WIDEST)
    turned, squares, axes = rotation(jax.device_put(x, device), n)
    return Rows(turned, squares, axes, label.reshape(blocks, size), n)


@functools.cache
def _rotation(blocks: int, rotate: bool) -> Callable[..., Any]:
    def rotation(x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        rows, width = x.shape
        span = axes = None
        if rotate:
            if width > rows:
                span = jnp.linalg.qr(x.T)[0]
                x = _product("nd,de->ne", x, span)
            axes = jnp.linalg.eigh(_product("nd,ne->de", x, x))[1]
            x = _product("nd,de->ne", x, axes)
            axes = axes if span is None else _product("de,ef->df", span, axes)
        squares = jnp.append(jnp.square(x).sum(axis=0) / n, 1.0)
        x = jnp.append(x, jnp.ones((rows, 1)), axis=1)
        return x.reshape(blocks, rows // blocks, -1), squares, axes

    return compiled(rotation)


def start(rows: Rows, train: np.ndarray, classes: int) -> State:
    """Heads of zeros, one for each problem; for `train` see `solve`."""
    problems = train.shape[-1]
    heads = np.zeros((problems, rows.x.shape[-1], classes), np.float32)
    p = np.float32(1 / classes)
    weight = train.sum(axis=(0, 1), dtype=np.float32)
    return State(heads, np.repeat(p * (1 - p) * weight[:, None], classes, axis=1))


def solve(
    rows: Rows,
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
      train: (blocks, rows, problems), the rows' weights in the loss; their sum over rows is at most
        1.
      held: (blocks, rows, problems), 1 where a problem judges a row, else 0.
      begin: where to start.
      l2: strength of the penalty.
      tolerance: a problem is done when its gap is within this of its loss, relatively.
      most: passes over the rows, at most.
    """
    given = (rows.x, rows.squares, rows.label, train, held)
    begin = jax.device_put(begin, rows.x.device)  # as the solution is: one program serves both
    found: tuple[State, Verdict] = _solver()(*given, begin, l2, tolerance, most)
    return found


class _Search(NamedTuple):
    """Where L-BFGS is in one problem: at `point`, about to try `point + step * direction`."""

    point: jax.Array  # a head, divided by the scale
    loss: jax.Array
    direction: jax.Array
    slope: jax.Array  # of the loss along the direction
    step: jax.Array
    memory: Any  # of optax
    gap: jax.Array
    steps: jax.Array

    def is_done(self, tolerance: jax.Array) -> jax.Array:
        return (self.gap <= tolerance * self.loss) | (self.step < _SMALLEST_STEP)


@functools.cache
def _solver() -> Callable[..., Any]:
    optimizer = optax.scale_by_lbfgs(_MEMORY)

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
        advance = jax.vmap(functools.partial(_advance, optimizer, tolerance))

        def proceed(carry: tuple[jax.Array, _Search]) -> tuple[jax.Array, _Search]:
            passes, search = carry
            trial = search.point + search.step[:, None, None] * search.direction
            loss, gradient = _loss_and_gradient((x, label, train), trial * scale, penalty)
            return passes + 1, advance(search, trial, loss, gradient * scale)

        def goes_on(carry: tuple[jax.Array, _Search]) -> jax.Array:
            passes, search = carry
            return (passes < most) & ~search.is_done(tolerance).all()

        first = jnp.int32(0), _begin(optimizer, begin.heads / scale)
        search = jax.lax.while_loop(goes_on, proceed, first)[1]
        heads = search.point * scale
        curvature, *judged = _judge((x, label, train, held), heads)
        return State(heads, curvature), Verdict(search.loss, search.gap, search.steps, *judged)

    return compiled(solver)


def _begin(optimizer: optax.GradientTransformation, point: jax.Array) -> _Search:
    """The state before the first pass, which accepts `point` itself."""
    zero = jnp.zeros(len(point))
    return _Search(
        point=point,
        loss=jnp.full_like(zero, jnp.finfo(jnp.float32).max),
        direction=jnp.zeros_like(point),
        slope=zero,
        step=jnp.ones_like(zero),
        memory=jax.vmap(optimizer.init)(point),
        gap=jnp.full_like(zero, jnp.inf),
        steps=jnp.full(len(point), -1),
    )


def _advance(
    optimizer: optax.GradientTransformation,
    tolerance: jax.Array,
    search: _Search,
    trial: jax.Array,
    loss: jax.Array,
    gradient: jax.Array,
) -> _Search:
    """Accepts the trial point and chooses the next direction, or shortens the step.

    The loss is convex, so backtracking suffices. Near the solution float32 no longer resolves the
    decrease of the loss, but still that of its slope, as in the line search of Hager and Zhang
    (2005).
    """
    slope = jnp.vdot(search.direction, gradient)
    falls = loss <= search.loss + 1e-4 * search.step * search.slope
    flattens = (slope <= -0.8 * search.slope) & (loss <= search.loss * (1 + 1e-6))
    update, memory = optimizer.update(gradient, search.memory, trial)
    accepted = _Search(
        point=trial,
        loss=loss,
        direction=-update,
        slope=-jnp.vdot(update, gradient),
        step=jnp.ones_like(search.step),
        memory=memory,
        gap=jnp.square(gradient).sum() / 2,  # as the curvature is about 1 after scaling
        steps=search.steps + 1,
    )
    shorter = search.slope / (search.slope - slope)
    rejected = search._replace(step=search.step * jnp.clip(shorter, 0.1, 0.5))
    chosen = _where(falls | flattens, accepted, rejected)
    return _where(search.is_done(tolerance), search, chosen)


def _loss_and_gradient(
    blocks: tuple[jax.Array, ...], heads: jax.Array, penalty: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the loss (problems,) with its penalty, and its gradient.

    Args:
      blocks: x, label, train.
      heads: (problems, d + 1, classes).
      penalty: (d + 1, 1).
    """

    def add(total: Any, block: Any) -> tuple[Any, None]:
        x, label, weight = block
        logs, is_label = _log_probabilities(x, label, heads)
        loss = -(weight * jnp.where(is_label, logs, 0.0).sum(-1)).sum(0)
        residual = weight[..., None] * (jnp.exp(logs) - is_label)
        return (total[0] + loss, total[1] + _product("nd,npk->pdk", x, residual)), None

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
    logs = jax.nn.log_softmax(_product("nd,pdk->npk", x, heads))
    return logs, jnp.arange(logs.shape[-1]) == label[:, None, None]


def _product(subscripts: str, *factors: jax.Array) -> jax.Array:
    """`einsum` in full float32, which a GPU does not multiply in by default."""
    return jnp.einsum(subscripts, *factors, precision="highest")


def _where(condition: jax.Array, then: Any, otherwise: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, condition), then, otherwise)
