"""L2-SP: weights are pulled back to where they started (Li, Grandvalet & Davoine 2018, "Explicit
inductive bias for transfer learning with convolutional networks", section 3).

    alpha / 2 |w - w0|^2  over what started from pretrained weights w0, and trains,
    beta / 2 |w|^2        over what is new, as the head is, and has nothing to go back to

are added to the loss, here as their gradients alpha (w - w0) and beta w.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tljax.models.groups import map_with_path


class StartState(NamedTuple):
    """The parameters that `init` saw: w0. It is saved and restored with the optimizer's state."""

    start: Any


def pull_to_start(rate: float) -> optax.GradientTransformation:
    """Adds `rate` * (w - w0) to the updates, w0 being the parameters that `init` saw."""

    def init(params: Any) -> StartState:
        # a copy: the step gives the parameters' own memory away
        return StartState(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params))

    def update(updates: Any, state: StartState, params: Any = None) -> tuple[Any, StartState]:
        pulled = jax.tree.map(
            lambda u, w, start: u + rate * (w - start), updates, params, state.start
        )
        return pulled, state

    return optax.GradientTransformation(init, update)


def l2_sp(
    alpha: float, beta: float, is_pretrained: Callable[[str], bool]
) -> optax.GradientTransformation:
    """The gradients of both penalties, added to the updates.

    Args:
      alpha: of the pull towards the start, for parameters that started from pretrained weights.
      beta: of the pull towards 0, for the others.
      is_pretrained: from a parameter's path to which of the two it is.
    """

    def of_kind(pretrained: bool) -> Callable[[Any], Any]:
        return lambda tree: map_with_path(lambda path, _: is_pretrained(path) == pretrained, tree)

    parts = []
    if alpha:
        parts.append(optax.masked(pull_to_start(alpha), of_kind(True)))
    if beta:
        parts.append(optax.add_decayed_weights(beta, mask=of_kind(False)))
    return optax.chain(*parts)
