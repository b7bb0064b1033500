"""The plan: one immutable value that takes the four decisions of a transfer.

Where each group's weights start, which parameters move, how fast, and in which mode the rest runs.
Optimizer labels, the gradient's partition, BatchNorm and dropout modes and the plan table are all
derived from it, so that they cannot disagree about what is frozen.
"""

import functools
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import optax

from tljax.errors import InputError
from tljax.models.groups import Groups, leaf_paths
from tljax.transfer import l2_sp as l2_sp_lib
from tljax.transfer import optimizer as optimizer_lib
from tljax.transfer import partition as partition_lib
from tljax.transfer.partition import Tree

INITS = ("pretrained", "random", "carried")


@dataclass(frozen=True)
class TransferPlan:
    """How each group of a model takes part in a transfer. Tuples run from the input to the head.

    Attributes:
      init: per group, `"pretrained"`, `"random"`, or `"carried"`: as an earlier stage left it (see
        `tljax.transfer.recipes`).
      lr_scale: per group, the multiplier of the learning rate; 0 = frozen.
      train: regex on whole parameter paths; a parameter that does not match it is frozen whatever
        its group's scale (`.*bias` for BitFit, Ben Zaken et al. 2022).
      statistics: `"follow"`: BatchNorm uses batch statistics exactly where its group trains;
        `"stored"`: nowhere.
      groups: the model's groups, `model.groups`.
    """

    init: tuple[str, ...]
    lr_scale: tuple[float, ...]
    train: str = ".*"
    statistics: str = "follow"
    groups: Groups = field(kw_only=True)

    def __post_init__(self) -> None:
        for name in ("init", "lr_scale"):
            value = getattr(self, name)
            if len(value) != len(self.groups):
                raise InputError(
                    f"the plan's {name} has {len(value)} entries for {len(self.groups)} groups"
                    f" ({', '.join(self.groups.names)}); give one per group"
                )
        object.__setattr__(self, "init", tuple(self.init))
        object.__setattr__(self, "lr_scale", tuple(float(scale) for scale in self.lr_scale))
        if not set(self.init) <= set(INITS):
            raise InputError(f"the plan's init is {self.init}; use {' or '.join(map(repr, INITS))}")
        if not all(math.isfinite(scale) and scale >= 0 for scale in self.lr_scale):
            raise InputError(f"the plan's lr_scale is {self.lr_scale}; use finite numbers >= 0")
        if not any(self.lr_scale):
            raise InputError("the plan trains nothing; give at least one group an lr_scale above 0")
        if self.statistics not in ("follow", "stored"):
            raise InputError(f"statistics is '{self.statistics}'; use 'follow' or 'stored'")
        try:
            re.compile(self.train)
        except re.error as error:
            raise InputError(f"train='{self.train}' is not a regular expression: {error}") from None

    # --- which parameter moves, and how fast: everything below asks these three ---------------

    @functools.cache  # noqa: B019  (plans are few, immutable and live as long as the process)
    def scale(self, path: str) -> float:
        """Learning-rate multiplier of the parameter at `path`; 0 = frozen."""
        depth = self.groups.depth(path)
        return float(self.lr_scale[depth]) if re.fullmatch(self.train, path) else 0.0

    def is_trained(self, path: str) -> bool:
        """Whether the parameter at `path` moves."""
        return self.scale(path) > 0

    def trained_groups(self, params: Tree) -> tuple[bool, ...]:
        """Per group, whether any of its parameters moves. `params` may be abstract."""
        trained = {self.groups.depth(path) for path in leaf_paths(params) if self.is_trained(path)}
        if not trained:
            raise InputError(
                f"the plan trains nothing: no parameter of a group that trains matches"
                f" train='{self.train}'"
            )
        return tuple(depth in trained for depth in range(len(self.groups)))

    @property
    def carried(self) -> "TransferPlan":
        """The same plan, but for groups that start as an earlier stage left them."""
        return replace(self, init=("carried",) * len(self.groups))

    def starts_pretrained(self, path: str) -> bool:
        """Whether the parameter at `path` starts from pretrained weights."""
        return self.init[self.groups.depth(path)] == "pretrained"

    # --- what is derived ------------------------------------------------------------------------

    def modes(self, params: Tree) -> dict[str, tuple[bool, ...]]:
        """Keyword arguments of `model.apply` for a training step.

        Dropout and stochastic depth are active in the groups that train; BatchNorm uses batch
        statistics in those too, or nowhere.
        """
        trained = self.trained_groups(params)
        follow = self.statistics == "follow"
        return {"train": trained, "batch_statistics": tuple(t and follow for t in trained)}

    def frozen_prefix(self, params: Tree) -> int:
        """Number of leading groups that do not train: their output is a function of the image."""
        return self.trained_groups(params).index(True)

    def partition(self, params: Tree) -> tuple[Tree, Tree]:
        """Splits parameters into (trained, frozen); `tljax.merge` puts them together again."""
        return partition_lib.split(params, self.is_trained)

    def partition_statistics(self, batch_stats: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Splits BatchNorm statistics into (updated by training, stored)."""
        updated = self.modes(params)["batch_statistics"]
        return partition_lib.split(batch_stats, lambda path: updated[self.groups.depth(path)])

    def optimizer(
        self, name: str = "sgd", *, l2_sp: tuple[float, float] = (0.0, 0.0), **options: Any
    ) -> optax.GradientTransformation:
        """The plan's optax transformation.

        Args:
          name, **options: see `tljax.transfer.optimizer.build`.
          l2_sp: alpha and beta of `tljax.transfer.l2_sp`, whose start is what `init` of the
            transformation sees; (0, 0): none.
        """
        if any(l2_sp):
            options["penalty"] = l2_sp_lib.l2_sp(*l2_sp, self.starts_pretrained)
        return optimizer_lib.build(self.scale, self.lr_scale, name, **options)

    def check_l2_sp(self, alpha: float, beta: float, params: Tree) -> None:
        """Raises InputError if a penalty of L2-SP has nothing to act on. `params` may be abstract.

        What is `carried` did not start at its stage's start.
        """
        trained = [path for path in leaf_paths(params) if self.is_trained(path)]
        kinds = {self.init[self.groups.depth(path)] for path in trained}
        for name, value, kind in (("alpha", alpha, "pretrained"), ("beta", beta, "random")):
            if value and kind not in kinds:
                raise InputError(
                    f"l2_sp_{name} is {value}, but the plan trains nothing whose init is {kind};"
                    " set it to 0, or choose another scenario"
                )

    def initialise(self, random: Tree, pretrained: Tree | None) -> Tree:
        """Variables with each group taken from `random` or `pretrained`, as `init` says.

        What is carried is taken from `pretrained`: there the stage before has left it.
        """
        return partition_lib.initialise(self.groups, self.init, random, pretrained)

    def to_json(self) -> dict[str, Any]:
        """The four decisions, as they stand in `result.json`."""
        return {
            "init": list(self.init),
            "lr_scale": list(self.lr_scale),
            "train": self.train,
            "statistics": self.statistics,
        }
