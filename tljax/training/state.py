"""What a training run carries from step to step, and what it leaves as it is."""

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
    """

    step: jax.Array
    trained: Tree
    statistics: Tree
    opt_state: Any


def create(
    plan: TransferPlan, variables: Tree, tx: optax.GradientTransformation
) -> tuple[TrainState, Tree]:
    """Splits variables by the plan into (state, frozen variables).

    The state's arrays are copies, so that donating them leaves the caller's alone. The frozen
    variables are never written and never donated.
    """
    trained, frozen = plan.partition(variables["params"])
    updated, stored = plan.partition_statistics(
        variables.get("batch_stats", {}), variables["params"]
    )
    trained, updated = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), (trained, updated))
    state = TrainState(jnp.zeros((), jnp.int32), trained, updated, tx.init(trained))
    return state, {"params": frozen, "batch_stats": stored}


def variables_of(state: TrainState, frozen: Tree) -> Tree:
    """The model's variables: the state's merged over the frozen ones."""
    variables = {"params": merge(frozen["params"], state.trained)}
    statistics = merge(frozen["batch_stats"], state.statistics)
    return variables | ({"batch_stats": statistics} if statistics else {})
