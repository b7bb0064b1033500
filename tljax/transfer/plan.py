"""The plan: one immutable value that holds the four decisions of a transfer.

They are: where each group's weights start, which parameters train, how fast, and whether BatchNorm
uses batch statistics. Optimizer labels, the gradient's partition, BatchNorm and dropout modes and
the plan table are all derived from the plan, so that they agree about what is frozen.
"""

import functools
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import optax

from tljax.errors import InputError
from tljax.models.groups import Groups, leaf_paths
from tljax.transfer import optimizer, partition
from tljax.transfer.l2_sp import add_l2_sp_gradients
from tljax.transfer.partition import Tree

INITS = ("pretrained", "random", "carried")


@dataclass(frozen=True)
class TransferPlan:
    """How each group of a model takes part in a transfer. Tuples run from the input to the head.

    The scenarios' constructors (`tljax.fine_tune`, ...) build plans. Others can be written out:

        groups = tljax.create("resnet10_32", num_classes=10).groups  # stem, 4 blocks, head
        plan = tljax.TransferPlan(
            ("pretrained",) * 5 + ("random",), (0, 0, 0, 0.1, 0.1, 1), groups=groups
        )

    Attributes:
      init: per group, `"pretrained"`, `"random"`, or `"carried"`: as the stage before left it (see
        `tljax.transfer.recipes`).
      lr_scale: per group, the multiplier of the learning rate; 0 = frozen.
      train: regex on whole parameter paths; a parameter that does not match is frozen whatever its
        group's scale (`.*bias` for BitFit, Ben Zaken et al. 2022).
      statistics: `"follow"`: BatchNorm uses batch statistics in the groups that train, and stored
        ones elsewhere; `"stored"`: stored ones everywhere.
      groups: the model's groups, `model.groups`.

    Raises:
      InputError: for a value that is not one of the above, or a plan that trains nothing.
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

    # --- which parameters train, and how fast: the rest is derived from these -------------------

    @functools.cache  # noqa: B019  (plans are few, immutable and live as long as the process)
    def scale(self, path: str) -> float:
        """Learning-rate multiplier of the parameter at `path`; 0 = frozen."""
        depth = self.groups.depth(path)
        return float(self.lr_scale[depth]) if re.fullmatch(self.train, path) else 0.0

    def is_trained(self, path: str) -> bool:
        """Whether the parameter at `path` trains."""
        return self.scale(path) > 0

    def trained_groups(self, params: Tree) -> tuple[bool, ...]:
        """Per group, whether any of its parameters trains. `params` may be abstract."""
        trained = {self.groups.depth(path) for path in leaf_paths(params) if self.is_trained(path)}
        if not trained:
            raise InputError(
                f"the plan trains nothing: no parameter of a group that trains matches"
                f" train='{self.train}'"
            )
        return tuple(depth in trained for depth in range(len(self.groups)))

    @property
    def carried(self) -> "TransferPlan":
        """The same plan, with all groups starting as the stage before left them."""
        return replace(self, init=("carried",) * len(self.groups))

    def starts_pretrained(self, path: str) -> bool:
        """Whether the parameter at `path` starts from pretrained weights."""
        return self.init[self.groups.depth(path)] == "pretrained"

    # --- what is derived ------------------------------------------------------------------------

    def modes(self, params: Tree) -> dict[str, tuple[bool, ...]]:
        """Keyword arguments of `model.apply` for a training step.

        Dropout and stochastic depth are active in the groups that train. BatchNorm uses batch
        statistics in the same groups, or in none if `statistics` is `"stored"`.
        """
        trained = self.trained_groups(params)
        follow = self.statistics == "follow"
        return {"train": trained, "batch_statistics": tuple(t and follow for t in trained)}

    def frozen_prefix(self, params: Tree) -> int:
        """Number of groups below the first that trains: their output for an image never changes."""
        return self.trained_groups(params).index(True)

    def partition(self, params: Tree) -> tuple[Tree, Tree]:
        """Splits parameters into (trained, frozen); `tljax.merge` is the inverse."""
        return partition.split(params, self.is_trained)

    def partition_statistics(self, batch_stats: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Splits BatchNorm statistics into (updated by training, stored)."""
        updated = self.modes(params)["batch_statistics"]
        return partition.split(batch_stats, lambda path: updated[self.groups.depth(path)])

    def optimizer(
        self, name: str = "sgd", *, l2_sp: tuple[float, float] = (0.0, 0.0), **options: Any
    ) -> optax.GradientTransformation:
        """The plan's optax transformation.

        Args:
          name, **options: see `tljax.transfer.optimizer.build`.
          l2_sp: alpha and beta of `tljax.transfer.l2_sp`; (0, 0): no penalty. The pull is towards
            the parameters that the transformation's `init` is given.
        """
        if any(l2_sp):
            options["penalty"] = add_l2_sp_gradients(*l2_sp, self.starts_pretrained)
        return optimizer.build(self.scale, self.lr_scale, name, **options)

    def check_l2_sp(self, alpha: float, beta: float, params: Tree) -> None:
        """Raises InputError if a penalty of L2-SP has nothing to act on. `params` may be abstract.

        A `carried` group is neither: its stage does not start from the source's weights.
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

        Carried groups are taken from `pretrained`, where callers pass the stage before's variables.
        """
        return partition.initialise(self.groups, self.init, random, pretrained)

    def to_json(self) -> dict[str, Any]:
        """The four decisions, as `result.json` has them."""
        return {
            "init": list(self.init),
            "lr_scale": list(self.lr_scale),
            "train": self.train,
            "statistics": self.statistics,
        }
