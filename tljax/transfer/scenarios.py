"""The four classic transfer scenarios, each one line over the plan.

| scenario           | target data       | starts from           | moves                          |
|--------------------|-------------------|-----------------------|--------------------------------|
| feature_extraction | small, similar    | pretrained            | the new head                   |
| freeze_first       | small, dissimilar | pretrained            | all but the first k groups     |
| from_scratch       | large, dissimilar | the architecture only | everything                     |
| fine_tune          | large, similar    | pretrained            | everything, the backbone slower |

The head is new, hence random, unless `head="pretrained"` keeps it.
"""

import math
from typing import Any

from tljax.errors import InputError, check_known
from tljax.models.groups import Groups
from tljax.transfer.plan import TransferPlan


def feature_extraction(groups: Groups, *, head: str = "random", **plan: Any) -> TransferPlan:
    """Pretrained features, new head (Donahue et al. 2014, "DeCAF")."""
    return TransferPlan(_init(groups, head), (0,) * (len(groups) - 1) + (1,), groups=groups, **plan)


def freeze_first(groups: Groups, k: int, *, head: str = "random", **plan: Any) -> TransferPlan:
    """The first k groups frozen, the rest retrained (Yosinski et al. 2014; their "BnB", "AnB").

    Raises:
      InputError: unless 0 <= k <= number of groups - 1.
    """
    if not 0 <= k <= len(groups) - 1:
        raise InputError(
            f"k={k} is beyond this model's depth: it has {len(groups)} groups"
            f" ({', '.join(groups.names)}), so k goes from 0 to {len(groups) - 1}"
        )
    scale = (0,) * k + (1,) * (len(groups) - k)
    return TransferPlan(_init(groups, head), scale, groups=groups, **plan)


def from_scratch(groups: Groups, **plan: Any) -> TransferPlan:
    """The architecture only: every weight random, every weight trained."""
    return TransferPlan(("random",) * len(groups), (1,) * len(groups), groups=groups, **plan)


def fine_tune(
    groups: Groups, backbone: float = 0.1, decay: float = 1.0, *, head: str = "random", **plan: Any
) -> TransferPlan:
    """Everything trained, at `backbone` * `decay` ** (groups between a group and the head).

    `decay` below 1 is layer-wise learning-rate decay (Clark et al. 2020, ELECTRA, section 3.1).
    The distance of the group next to the head is 1.
    """
    last = len(groups) - 1
    scale = (*(backbone * decay ** (last - depth) for depth in range(last)), 1)
    return TransferPlan(_init(groups, head), scale, groups=groups, **plan)


def _init(groups: Groups, head: str) -> tuple[str, ...]:
    return ("pretrained",) * (len(groups) - 1) + (head,)


SCENARIOS = ("feature_extraction", "freeze_first", "from_scratch", "fine_tune")


def build(
    scenario: str,
    groups: Groups,
    *,
    k: int | None = None,
    backbone_lr_scale: float = 0.1,
    layer_decay: float = 1.0,
    **plan: Any,
) -> TransferPlan:
    """The plan of a scenario by name, with the config's fields for it.

    Raises:
      InputError: for an unknown scenario, or `freeze_first` without k.
    """
    check_known("scenario", scenario, SCENARIOS)
    for name, value in (("backbone_lr_scale", backbone_lr_scale), ("layer_decay", layer_decay)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; set it to a finite number, not negative")
    if k is not None and scenario != "freeze_first":
        raise InputError(f"k is {k}, but scenario {scenario} freezes no first k groups; unset k")
    match scenario:
        case "feature_extraction":
            return feature_extraction(groups, **plan)
        case "freeze_first":
            if k is None:
                raise InputError(
                    "scenario freeze_first needs the number of groups to freeze;"
                    f" set k to a value from 0 to {len(groups) - 1}"
                )
            return freeze_first(groups, k, **plan)
        case "from_scratch":
            return from_scratch(groups, **plan)
        case _:
            return fine_tune(groups, backbone_lr_scale, layer_decay, **plan)
