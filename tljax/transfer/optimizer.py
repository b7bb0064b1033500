"""The optimizer of a plan: one inner optimizer per distinct scale, zero updates where frozen."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.errors import InputError, check_known
from tljax.models.groups import map_with_path

OPTIMIZERS = ("sgd", "adamw")  # that take steps
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

    It accepts a whole tree of parameters (frozen ones get a zero update and no state) or only the
    trained subtree. Numbers for `learning_rate` and `weight_decay` are kept in the state's
    `hyperparams`, where `optax.tree.set` changes them without a new compilation.

    Args:
      scale_of: from a parameter's path to its multiple of the learning rate; 0 = frozen.
      scales: the distinct multiples.
      name: `sgd`: momentum without Nesterov, decay added to the gradient; `adamw`: decoupled decay,
        multiplied by the group's learning rate (Loshchilov & Hutter 2019).
      learning_rate: a number, or a function of the step.
      weight_decay: a number, or a function of the step.
      decayed: regex on whole parameter paths: which parameters decay. By default only kernels: no
        biases, no norms, and not a ViT's position embedding and class token.
      momentum: for `sgd`; 0 keeps no state.
      clip_norm: largest global norm of the trained parameters' gradients, which are scaled down to
        it; None: no clipping. There is one norm for all groups, whatever their scales.
      penalty: adds the gradient of a penalty at the place of weight decay: after clipping, and
        decoupled in `adamw`.

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
    """Numbers as floats, since optax would keep an integer 1 as an integer; schedules unchanged."""
    return float(value) if isinstance(value, int | float | np.number) else value


def set_to_zero() -> optax.GradientTransformation:
    """Zero updates, without state, that leave every parameter bit-identical.

    `optax.set_to_zero` adds +0.0, which turns a parameter of -0.0 into +0.0; adding -0.0 changes no
    number.
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
    """The learning rate as a function of the step.

    Args:
      kind: `constant`; `cosine`: falls to 0 after the last step (Loshchilov & Hutter 2017); `step`:
        divided by ten at each milestone (He et al. 2016).
      peak: the rate after the warm-up.
      steps: of the whole training, warm-up included.
      warmup: steps of a linear warm-up from 0.
      milestones: for `step`, as fractions of all steps.

    Raises:
      InputError: for an unknown kind, or a warm-up that is not shorter than the training.
    """
    check_known("schedule", kind, SCHEDULES)
    if not 0 <= warmup < max(steps, 1):
        raise InputError(
            f"warmup is {warmup} steps of a training of {steps} steps; set warmup to 0 or more,"
            f" and below {max(steps, 1)}"
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
