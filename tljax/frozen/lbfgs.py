"""L-BFGS for several convex problems on the same features, solved at once.

One pass over the rows serves all problems. A problem is the weights of a head; each has a line
search and a memory of its own, and rests when it is done.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_MEMORY = 10  # pairs that L-BFGS keeps
_SMALLEST_STEP = 1e-4  # a smaller one means that float32 resolves no further decrease


class Search(NamedTuple):
    """Where L-BFGS is in one problem: at `point`, about to try `point + step * direction`."""

    point: jax.Array  # a head, divided by the scale
    loss: jax.Array
    direction: jax.Array
    slope: jax.Array  # of the loss along the direction
    step: jax.Array
    memory: Any  # of optax
    gap: jax.Array  # by about how much the loss is above the least one
    steps: jax.Array

    def is_done(self, tolerance: jax.Array) -> jax.Array:
        return (self.gap <= tolerance * self.loss) | (self.step < _SMALLEST_STEP)


def minimise(
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    heads: jax.Array,
    scale: jax.Array,
    tolerance: jax.Array,
    most: jax.Array,
) -> tuple[jax.Array, Search]:
    """Returns the heads with the least loss, and where the search ended. Call it in a program.

    Args:
      evaluate: heads -> (loss, (problems,); gradient, like the heads).
      heads: (problems, ...), where to start.
      scale: like the heads, 1 / sqrt(about the curvature).
      tolerance: a problem is done when its gap is within this of its loss, relatively.
      most: passes over the rows, at most.
    """
    optimizer = optax.scale_by_lbfgs(_MEMORY)
    advance = jax.vmap(functools.partial(_advance, optimizer, tolerance))

    def proceed(carry: tuple[jax.Array, Search]) -> tuple[jax.Array, Search]:
        passes, search = carry
        step = search.step.reshape(-1, *[1] * (heads.ndim - 1))
        trial = search.point + step * search.direction
        loss, gradient = evaluate(trial * scale)
        return passes + 1, advance(search, trial, loss, gradient * scale)

    def goes_on(carry: tuple[jax.Array, Search]) -> jax.Array:
        passes, search = carry
        return (passes < most) & ~search.is_done(tolerance).all()

    first = jnp.int32(0), _begin(optimizer, heads / scale)
    search = jax.lax.while_loop(goes_on, proceed, first)[1]
    return search.point * scale, search


def _begin(optimizer: optax.GradientTransformation, point: jax.Array) -> Search:
    """The state before the first pass, which accepts `point` itself."""
    zero = jnp.zeros(len(point))
    return Search(
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
    search: Search,
    trial: jax.Array,
    loss: jax.Array,
    gradient: jax.Array,
) -> Search:
    """Accepts the trial point and chooses the next direction, or shortens the step.

    The loss is convex, so backtracking suffices. Near the solution float32 no longer resolves the
    decrease of the loss, but still that of its slope, as in the line search of Hager and Zhang
    (2005).
    """
    slope = jnp.vdot(search.direction, gradient)
    falls = loss <= search.loss + 1e-4 * search.step * search.slope
    flattens = (slope <= -0.8 * search.slope) & (loss <= search.loss * (1 + 1e-6))
    update, memory = optimizer.update(gradient, search.memory, trial)
    accepted = Search(
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


def _where(condition: jax.Array, then: Any, otherwise: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, condition), then, otherwise)
