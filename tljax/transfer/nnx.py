"""The network as a Flax NNX module, and the plan as the filter of what trains."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen
from flax import nnx as flax_nnx
from flax.nnx import bridge

from tljax.transfer.plan import TransferPlan


class Network(bridge.ToNNX):
    """A Linen network of tljax as an NNX module; `flax.nnx.bridge` runs it.

    Its parameters are `nnx.Param`s and its statistics `nnx.BatchStat`s, below the names of its
    parts: `network.head["kernel"]`.

    Args:
      module: the Linen module.
      variables: {"params": ..., "batch_stats": ...} of it.
      modes: what each group does in training, see `TransferPlan.modes`.
      rngs: for dropout and stochastic depth.
    """

    def __init__(
        self,
        module: linen.Module,
        variables: dict[str, Any],
        modes: dict[str, Any],
        rngs: flax_nnx.Rngs | None = None,
    ):
        super().__init__(module, rngs)
        self.to_nnx__modes = modes
        for name, part in bridge.variables.linen_vars_to_nnx_attrs(variables).items():
            setattr(self, name, flax_nnx.data(part))

    def __call__(  # type: ignore[override]
        self, images: jax.Array, train: bool = False
    ) -> Any:
        """Runs the network on normalised images (n, h, w, c), to logits (n, classes).

        With `train` each group does what the plan says: BatchNorm of groups that follow uses the
        batch and moves its statistics, which are kept here.
        """
        if not train:
            return super().__call__(images)
        modes: dict[str, Any] = self.to_nnx__modes
        return super().__call__(images, mutable=["batch_stats"], **modes)

    def variables(self) -> dict[str, Any]:
        """The variables of the Linen module as they are now."""
        inner = ("to_nnx__", "_pytree__")
        parts = {name: part for name, part in vars(self).items() if not name.startswith(inner)}
        found: dict[str, Any] = bridge.variables.nnx_attrs_to_linen_vars(parts)
        return found


class Converted(NamedTuple):
    """A network for NNX.

    Attributes:
      network: the module.
      trained: a filter of the parameters that the plan trains, for `nnx.Optimizer(wrt=...)` and
        `nnx.DiffState`.
    """

    network: Network
    trained: Callable[[tuple[Any, ...], Any], bool]


def to_nnx(
    model: linen.Module,
    variables: dict[str, Any],
    plan: TransferPlan,
    rngs: flax_nnx.Rngs | None = None,
) -> Converted:
    """Converts a network and its plan for a training loop of Flax NNX.

        network, trained = tljax.to_nnx(model, variables, tljax.freeze_first(model.groups, 2))
        tx = plan.optimizer("adamw", learning_rate=1e-4)
        optimizer = nnx.Optimizer(network, tx, wrt=trained)

    Everything else stays as it is: frozen parameters keep their bits, and `optimizer` holds no
    state for them. The arrays are shared with `variables`, not copied.

    Args:
      model: from `tljax.create` or `tljax.load`.
      variables: of the model.
      plan: what trains, and in which mode each group runs.
      rngs: for dropout and stochastic depth, e.g. `nnx.Rngs(dropout=0)`; None: neither may be on.
    """
    modes = plan.modes(variables["params"])

    def trained(path: tuple[Any, ...], value: Any) -> bool:
        is_parameter = isinstance(value, flax_nnx.Param)
        return is_parameter and plan.is_trained("/".join(map(str, path)))

    return Converted(Network(model, variables, modes, rngs), trained)
