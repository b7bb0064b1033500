"""The optimizer of a plan: one inner optimizer per distinct scale, zero updates for frozen."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.errors import InputError, check_known
from tljax.models.groups import map_with_path

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine", "step")
_FROZEN = "frozen"

Schedule = Callable[[Any], Any]


def build(
    scale_of: Callable[[str], float],
    scales: Iterable[float],
    name: str = "sgd",
    *,
    learning_rate: float | Schedule,
    weight_decay: float | Schedule = 0.0,
    decayed: str = ".*kernel",
    momentum: float = 0.9,
    clip_norm: float | None = None,
    penalty: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Builds the optax transformation of a plan.

    It serves a whole tree of parameters (frozen ones get a zero update and no state) as well as the
    trained subtree alone. `learning_rate` and `weight_decay`, unless they are schedules, live in
    the state's `hyperparams`, where `optax.tree.set` changes them without a new compilation.

    Args:
      scale_of: from a parameter's path to its multiple of the learning rate; 0 = frozen.
      scales: the distinct multiples.
      name: `sgd`: Nesterov-free momentum, decay added to the gradient; `adamw`: decoupled decay,
        which scales with the group's rate (Loshchilov & Hutter 2019).
      learning_rate: a number, or a function of the step.
      weight_decay: a number, or a function of the step.
      decayed: regex on whole parameter paths: what is decayed. By default kernels only: neither
        biases nor norms, nor a ViT's position embedding and class token.
      momentum: of SGD; 0 keeps no state.
      clip_norm: if not None, gradients are scaled so that the global norm of the trained ones is at
        most this. One norm over all groups: a clip inside would give each scale its own.
      penalty: adds the gradient of a penalty, where and as weight decay is added: after the clip,
        and decoupled in `adamw`.

    Raises:
      InputError: for an unknown optimizer.
    """
    check_known("optimizer", name, OPTIMIZERS)

    def is_decayed(tree: Any) -> Any:
        return map_with_path(lambda path, _: re.fullmatch(decayed, path) is not None, tree)

    def is_trained(tree: Any) -> Any:
        return map_with_path(lambda path, _: scale_of(path) > 0, tree)

    def label(scale: float) -> str:
        return repr(float(scale)) if scale else _FROZEN

    def labels(tree: Any) -> Any:
        return map_with_path(lambda path, _: label(scale_of(path)), tree)

    def transformation(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(weight_decay, mask=is_decayed)
        if penalty is not None:
            decay = optax.chain(decay, penalty)

        def inner(scale: float) -> optax.GradientTransformation:
            descend = optax.scale(-learning_rate * scale)
            if name == "adamw":
                return optax.chain(optax.scale_by_adam(), decay, descend)
            if momentum:
                return optax.chain(decay, optax.trace(momentum), descend)
            return optax.chain(decay, descend)

        by_scale = {label(scale): inner(scale) for scale in set(scales) if scale}
        groupwise = optax.multi_transform(by_scale | {_FROZEN: set_to_zero()}, labels)
        if clip_norm is None:
            return groupwise
        clip = optax.masked(optax.clip_by_global_norm(clip_norm), is_trained)
        return optax.chain(clip, groupwise)

    return optax.inject_hyperparams(transformation)(
        learning_rate=_as_float(learning_rate), weight_decay=_as_float(weight_decay)
    )


def _as_float(value: Any) -> Any:
    """Plain numbers as floats: an integer 1 would live in the state as an integer."""
    return float(value) if isinstance(value, int | float | np.number) else value


def set_to_zero() -> optax.GradientTransformation:
    """Stateless zero updates that leave the parameters as they are to the last bit.

    `optax.set_to_zero` gives +0.0, and a parameter of -0.0 plus +0.0 is +0.0; adding -0.0 changes
    no number.
    """
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates)
    )


def learning_rate_schedule(
    kind: str,
    peak: float,
    steps: int,
    *,
    warmup: int = 0,
    milestones: Sequence[float] = (0.3, 0.6, 0.9),
) -> Schedule:
    """Learning rate as a function of the step: linear warm-up from 0, then one of

    `constant`; `cosine`, to 0 after the last step (Loshchilov & Hutter 2017); `step`: a tenth at
    each milestone, a fraction of all steps (He et al. 2016).

    Raises:
      InputError: for an unknown kind, or a warm-up that outlasts the training.
    """
    check_known("schedule", kind, SCHEDULES)
    if not 0 <= warmup < max(steps, 1):
        raise InputError(
            f"warmup is {warmup} steps of a training of {steps} steps; make it shorter, or the"
            " training longer"
        )
    if kind == "cosine":
        main = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    elif kind == "step":
        drops = {round(fraction * steps) - warmup: 0.1 for fraction in milestones}
        main = optax.piecewise_constant_schedule(peak, drops)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])
