"""L2-SP: weight decay towards the pretrained weights instead of 0 (Li, Grandvalet & Davoine 2018,
"Explicit inductive bias for transfer learning with convolutional networks", section 3).

    alpha / 2 |w - w0|^2  for trained parameters that start from pretrained weights w0
    beta / 2 |w|^2        for trained parameters that start random, such as a new head

The loss itself stays as it is: the gradients alpha (w - w0) and beta w are added to the updates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tljax.models.groups import map_with_path


class StartState(NamedTuple):
    """w0: the parameters that `init` was given. Saved and restored with the optimizer's state."""

    start: Any


def pull_to_start(rate: float) -> optax.GradientTransformation:
    """Adds `rate` * (w - w0) to the updates, where w0 are the parameters that `init` was given."""

    def init(params: Any) -> StartState:
        # a copy, because the training step donates the parameters' buffers
        return StartState(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params))

    def update(updates: Any, state: StartState, params: Any = None) -> tuple[Any, StartState]:
        pulled = jax.tree.map(
            lambda u, w, start: u + rate * (w - start), updates, params, state.start
        )
        return pulled, state

    return optax.GradientTransformation(init, update)


def add_l2_sp_gradients(
    alpha: float, beta: float, is_pretrained: Callable[[str], bool]
) -> optax.GradientTransformation:
    """Adds the gradients of both penalties to the updates.

    Args:
      alpha: strength of the pull towards w0, for parameters that start from pretrained weights.
      beta: strength of the pull towards 0, for the others.
      is_pretrained: whether the parameter at a path starts from pretrained weights.
    """

    def mask(pretrained: bool) -> Callable[[Any], Any]:
        return lambda tree: map_with_path(lambda path, _: is_pretrained(path) == pretrained, tree)

    parts = []
    if alpha:
        parts.append(optax.masked(pull_to_start(alpha), mask(True)))
    if beta:
        parts.append(optax.add_decayed_weights(beta, mask=mask(False)))
    return optax.chain(*parts)
