"""The four classic transfer scenarios, and a fifth, each one line over the plan.

| scenario           | target data       | starts from           | moves                          |
|--------------------|-------------------|-----------------------|--------------------------------|
| feature_extraction | small, similar    | pretrained            | the new head                   |
| freeze_first       | small, dissimilar | pretrained            | all but the first k groups     |
| from_scratch       | large, dissimilar | the architecture only | everything                     |
| fine_tune          | large, similar    | pretrained            | everything, the backbone slower |
| surgical           | shifted in one way | pretrained           | a range of groups, the new head |

The head is new, hence random, unless `head="pretrained"` keeps it. With `init_k` it is the first so
many groups alone that start pretrained; those above them start from random weights, as the head.
"""

import math
from typing import Any

from tljax.errors import InputError, check_known
from tljax.models.groups import Groups
from tljax.transfer.plan import TransferPlan


def feature_extraction(
    groups: Groups, *, head: str = "random", init_k: int | None = None, **plan: Any
) -> TransferPlan:
    """Pretrained features, new head (Donahue et al. 2014, "DeCAF").

    Raises:
      InputError: for an `init_k` that the model does not have.
    """
    scale = (0,) * (len(groups) - 1) + (1,)
    return TransferPlan(_init(groups, head, init_k), scale, groups=groups, **plan)


def freeze_first(
    groups: Groups, k: int, *, head: str = "random", init_k: int | None = None, **plan: Any
) -> TransferPlan:
    """The first k groups frozen, the rest retrained.

    With `init_k` = k the rest starts from random weights: "AnB" and "BnB" of Yosinski et al. 2014,
    section 2. With `init_k` = 0 it is random features that are frozen (their section 4.3).

    Raises:
      InputError: unless 0 <= k <= number of groups - 1; as `feature_extraction` for `init_k`.
    """
    if not 0 <= k <= len(groups) - 1:
        raise InputError(
            f"k={k} is beyond this model's depth: it has {len(groups)} groups"
            f" ({', '.join(groups.names)}), so k goes from 0 to {len(groups) - 1}"
        )
    scale = (0,) * k + (1,) * (len(groups) - k)
    return TransferPlan(_init(groups, head, init_k), scale, groups=groups, **plan)


def from_scratch(groups: Groups, **plan: Any) -> TransferPlan:
    """The architecture only: every weight random, every weight trained."""
    return TransferPlan(("random",) * len(groups), (1,) * len(groups), groups=groups, **plan)


def fine_tune(
    groups: Groups,
    backbone: float = 0.1,
    decay: float = 1.0,
    *,
    head: str = "random",
    init_k: int | None = None,
    **plan: Any,
) -> TransferPlan:
    """Everything trained, at `backbone` * `decay` ** (groups between a group and the head).

    `decay` below 1 is layer-wise learning-rate decay (Clark et al. 2020, ELECTRA, section 3.1).
    The distance of the group next to the head is 1. With `init_k` = n and `backbone` = 1 it is
    "AnB+" of Yosinski et al. 2014, section 2. Rates go by depth, whether a group is new or not.

    Raises:
      InputError: as `feature_extraction`.
    """
    last = len(groups) - 1
    scale = (*(backbone * decay ** (last - depth) for depth in range(last)), 1)
    return TransferPlan(_init(groups, head, init_k), scale, groups=groups, **plan)


def discriminative(
    groups: Groups, spread: float = 100.0, backbone: float = 1.0, **plan: Any
) -> TransferPlan:
    """Everything trained, at rates spread geometrically from the head's down to the input's.

    The input's rate is `backbone` / `spread` of the head's: fastai's `slice(lr / 100, lr)`. Howard
    & Ruder 2018 ("ULMFiT", section 3.2), who named such rates, divide by 2.6 from each group to the
    one below, whatever their number: `fine_tune(groups, 1.0, 1 / 2.6)`.

    Raises:
      InputError: unless `spread` is a finite number of 1 or more.
    """
    if not (math.isfinite(spread) and spread >= 1):
        raise InputError(f"lr_spread is {spread}; set it to a finite number, 1 or more")
    return fine_tune(groups, backbone, spread ** (-1 / (len(groups) - 1)), **plan)


def surgical(
    groups: Groups,
    first: int,
    last: int,
    *,
    head: str = "random",
    init_k: int | None = None,
    **plan: Any,
) -> TransferPlan:
    """The groups of depth `first` to `last` retrained, and the head if it is new (Lee et al. 2023).

    Which range suits depends on the shift: the first blocks for corrupted images, middle ones for
    other features of known classes, the last for other labels (their section 2).

    Raises:
      InputError: unless 0 <= first <= last, and `last` is below the head; as `feature_extraction`
        for `init_k`.
    """
    if not 0 <= first <= last <= len(groups) - 2:
        raise InputError(
            f"k={first} and k_last={last} are no range of this model's groups"
            f" ({', '.join(groups.names)}) below its head; choose 0 <= k <= k_last <="
            f" {len(groups) - 2}"
        )
    backbone = tuple(float(first <= depth <= last) for depth in range(len(groups) - 1))
    scale = (*backbone, 0.0 if head == "pretrained" else 1.0)
    return TransferPlan(_init(groups, head, init_k), scale, groups=groups, **plan)


def _init(groups: Groups, head: str, init_k: int | None) -> tuple[str, ...]:
    """Pretrained below the head, or only as far as `init_k` says."""
    below = len(groups) - 1
    if init_k is None:
        init_k = below
    if not 0 <= init_k <= below:
        raise InputError(
            f"init_k={init_k} is beyond this model's depth: it has {len(groups)} groups"
            f" ({', '.join(groups.names)}), so init_k goes from 0 to {below}"
        )
    if init_k < below and head == "pretrained":
        raise InputError(
            f"init_k is {init_k}, so that {groups.names[below - 1]} starts from random weights, but"
            " the pretrained head is kept above it; unset init_k, or give it a new head"
        )
    return ("pretrained",) * init_k + ("random",) * (below - init_k) + (head,)


TEXTBOOK = ("feature_extraction", "freeze_first", "from_scratch", "fine_tune")
SCENARIOS = (*TEXTBOOK, "surgical")


def build(
    scenario: str,
    groups: Groups,
    *,
    k: int | None = None,
    k_last: int | None = None,
    backbone_lr_scale: float = 0.1,
    layer_decay: float = 1.0,
    lr_spread: float | None = None,
    init_k: int | None = None,
    **plan: Any,
) -> TransferPlan:
    """The plan of a scenario by name, with the config's fields for it.

    Raises:
      InputError: for an unknown scenario, or a field that it lacks, or that means nothing to it.
    """
    check_known("scenario", scenario, SCENARIOS)
    for name, value in (("backbone_lr_scale", backbone_lr_scale), ("layer_decay", layer_decay)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; set it to a finite number, not negative")
    if k is not None and scenario not in ("freeze_first", "surgical"):
        raise InputError(f"k is {k}, but scenario {scenario} freezes no first k groups; unset k")
    if k_last is not None and scenario != "surgical":
        raise InputError(
            f"k_last is {k_last}, but scenario {scenario} freezes no groups above others; unset it"
        )
    if lr_spread is not None and scenario != "fine_tune":
        raise InputError(
            f"lr_spread is {lr_spread}, but scenario {scenario} has no rates to spread; unset it"
        )
    if lr_spread is not None and layer_decay != 1.0:
        raise InputError(
            f"lr_spread is {lr_spread} and layer_decay is {layer_decay}; set one of them"
        )
    if scenario == "from_scratch":
        if init_k is not None:
            raise InputError(
                f"init_k is {init_k}, but scenario from_scratch starts no group from pretrained"
                " weights; unset init_k"
            )
        return from_scratch(groups, **plan)
    plan["init_k"] = init_k
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
        case "surgical":
            if k is None or k_last is None:
                raise InputError(
                    "scenario surgical needs the first and the last group to train; set k and"
                    f" k_last to values from 0 to {len(groups) - 2}"
                )
            return surgical(groups, k, k_last, **plan)
        case _ if lr_spread is not None:
            return discriminative(groups, lr_spread, backbone_lr_scale, **plan)
        case _:
            return fine_tune(groups, backbone_lr_scale, layer_decay, **plan)
