"""The state of training: what a step changes, and the frozen variables that it does not."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from tljax.transfer.partition import Tree, merge
from tljax.transfer.plan import TransferPlan


class TrainState(struct.PyTreeNode):
    """Everything that a step changes; its buffers are donated to the step.

    Attributes:
      step: number of steps taken, an int32 scalar.
      trained: the trained parameters.
      statistics: BatchNorm statistics that training updates.
      opt_state: the optimizer's state, for the trained parameters alone.
      average: moving average of the trained parameters and of the statistics, see
        `update_average`; None: there is none. It is then evaluated, and kept as the model.
    """

    step: jax.Array
    trained: Tree
    statistics: Tree
    opt_state: Any
    average: Any = None


def create(
    plan: TransferPlan, variables: Tree, tx: optax.GradientTransformation, average: bool = False
) -> tuple[TrainState, Tree]:
    """Splits variables by the plan into (state, frozen variables).

    The state's arrays are copies: steps donate them, and the caller's stay valid. The frozen
    variables are never written or donated, and are not averaged.

    Args:
      plan: says what moves.
      variables: the model's.
      tx: the optimizer; its state covers the trained parameters alone.
      average: whether the state keeps a moving average; it starts as the variables themselves.
    """
    trained, frozen = plan.partition(variables["params"])
    updated, stored = plan.partition_statistics(
        variables.get("batch_stats", {}), variables["params"]
    )
    state = _initial(tx, average, *copy((trained, updated)))  # donates the copies
    return state, {"params": frozen, "batch_stats": stored}


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _initial(
    tx: optax.GradientTransformation, average: bool, trained: Tree, updated: Tree
) -> TrainState:
    """The state before the first step; one program instead of one for each shape."""
    kept = jax.tree.map(jnp.copy, (trained, updated)) if average else None
    return TrainState(jnp.zeros((), jnp.int32), trained, updated, tx.init(trained), kept)


def copy(tree: Any) -> Any:
    """The same arrays in memory of their own, which the next step does not overwrite."""
    if jax.process_count() > 1:  # `device_put` takes no arrays that span several hosts
        return jax.tree.map(jnp.copy, tree)
    return jax.device_put(tree, may_alias=False)


def update_average(average: Any, now: Any, taken: jax.Array, decay: float) -> Any:
    """The exponential moving average after one more step.

    After t steps it is the mean of the weights w_1 ... w_t, w_s counting decay^(t - s): it has no
    bias to its start, as Adam's moments have none (Kingma & Ba 2015, section 3). The initial
    weights w_0, perhaps with a head of zeros, count before the first step only.

    Args:
      average: after the steps before.
      now: w_t.
      taken: t, from 1.
      decay: above 0 and below 1.
    """
    log_decay = math.log(decay)
    newest = jnp.expm1(log_decay) / jnp.expm1(log_decay * taken)  # (1 - d) / (1 - d^t)
    return optax.incremental_update(now, average, newest)


def evaluated_part(state: TrainState) -> tuple[Tree, Tree]:
    """(trained parameters, statistics) that are evaluated: the averages, if the state keeps any."""
    return state.average or (state.trained, state.statistics)


def with_weights(state: TrainState, moving: tuple[Tree, Tree]) -> TrainState:
    """The state with other trained parameters and statistics, which are its average too."""
    average = None if state.average is None else moving
    return state.replace(trained=moving[0], statistics=moving[1], average=average)


def merge_variables(moving: tuple[Tree, Tree], frozen: Tree) -> Tree:
    """The model's variables, from the result of `evaluated_part` and the frozen ones."""
    variables = {"params": merge(frozen["params"], moving[0])}
    statistics = merge(frozen["batch_stats"], moving[1])
    return variables | ({"batch_stats": statistics} if statistics else {})


def model_variables(state: TrainState, frozen: Tree) -> Tree:
    """The model's variables that are evaluated, and saved as the model."""
    return merge_variables(evaluated_part(state), frozen)


def resume_state(state: TrainState) -> Any:
    """What training needs in addition to `model_variables` to resume; a checkpoint holds both.

    The optimizer's state; with a moving average also the trained parameters and statistics.
    """
    if state.average is None:
        return state.opt_state
    return {
        "optimizer": state.opt_state,
        "trained": state.trained,
        "statistics": state.statistics,
    }


def restore(state: TrainState, step: int, saved: Any) -> TrainState:
    """The state as it was saved.

    Args:
      state: from `create`, of the checkpoint's variables.
      step: of the checkpoint.
      saved: from `resume_state`.
    """
    state = state.replace(step=state.step + step)
    if state.average is None:
        return state.replace(opt_state=saved)
    return state.replace(
        opt_state=saved["optimizer"], trained=saved["trained"], statistics=saved["statistics"]
    )
