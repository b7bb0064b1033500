"""What a training run carries from step to step, and what it leaves as it is."""

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
      average: of the trained parameters and of the statistics over the steps taken, see `averaged`;
        None: none is kept. Where there is one, it is what is evaluated and what a run leaves.
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

    The state's arrays are copies, so that donating them leaves the caller's alone. The frozen
    variables are never written, never donated, and in no average. `average` says whether the state
    keeps one; before the first step it is where training starts.
    """
    trained, frozen = plan.partition(variables["params"])
    updated, stored = plan.partition_statistics(
        variables.get("batch_stats", {}), variables["params"]
    )
    state = _begun(tx, average, *copied((trained, updated)))  # which consumes the copies
    return state, {"params": frozen, "batch_stats": stored}


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _begun(
    tx: optax.GradientTransformation, average: bool, trained: Tree, updated: Tree
) -> TrainState:
    """One program instead of one for each shape."""
    kept = jax.tree.map(jnp.copy, (trained, updated)) if average else None
    return TrainState(jnp.zeros((), jnp.int32), trained, updated, tx.init(trained), kept)


def copied(tree: Any) -> Any:
    """The same arrays in memory of their own, which the next step does not overwrite."""
    if jax.process_count() > 1:  # `device_put` takes none that lie on several hosts
        return jax.tree.map(jnp.copy, tree)
    return jax.device_put(tree, may_alias=False)


def averaged(average: Any, now: Any, taken: jax.Array, decay: float) -> Any:
    """An exponential moving average, after one more step.

    After t steps it is the mean of what they led to, w_1 ... w_t, with weights decay^(t - s), and
    so without a bias to its start, as Adam's moments are (Kingma & Ba 2015, section 3). Where
    training began, w_0, with a head of zeros perhaps, is in it before the first step alone.

    Args:
      average: of the steps before.
      now: w_t.
      taken: t, from 1.
      decay: above 0 and below 1.
    """
    log_decay = math.log(decay)
    newest = jnp.expm1(log_decay) / jnp.expm1(log_decay * taken)  # (1 - d) / (1 - d^t)
    return optax.incremental_update(now, average, newest)


def evaluated(state: TrainState) -> tuple[Tree, Tree]:
    """(trained parameters, statistics) that a run is judged by: averages, if it keeps any."""
    return state.average or (state.trained, state.statistics)


def merged(moving: tuple[Tree, Tree], frozen: Tree) -> Tree:
    """The model's variables, from what `evaluated` gives and the frozen ones."""
    variables = {"params": merge(frozen["params"], moving[0])}
    statistics = merge(frozen["batch_stats"], moving[1])
    return variables | ({"batch_stats": statistics} if statistics else {})


def variables_of(state: TrainState, frozen: Tree) -> Tree:
    """The model's variables that a run is judged by; with the rest of the state, a checkpoint."""
    return merged(evaluated(state), frozen)


def beside_variables(state: TrainState) -> Any:
    """What else a checkpoint needs, so that training goes on: the optimizer's state, and, where the
    variables are averages, those that move.
    """
    if state.average is None:
        return state.opt_state
    return {
        "optimizer": state.opt_state,
        "trained": state.trained,
        "statistics": state.statistics,
    }


def resumed(state: TrainState, step: int, beside: Any) -> TrainState:
    """The state as it was saved, from one that has a checkpoint's variables.

    Args:
      state: as `create` makes it.
      step: of the checkpoint.
      beside: as `beside_variables` gave it.
    """
    state = state.replace(step=state.step + step)
    if state.average is None:
        return state.replace(opt_state=beside)
    return state.replace(
        opt_state=beside["optimizer"], trained=beside["trained"], statistics=beside["statistics"]
    )
