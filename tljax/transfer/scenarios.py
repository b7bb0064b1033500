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
from collections.abc import Callable, Mapping
from typing import Any

from tljax.errors import InputError, check_known
from tljax.models.groups import Groups
from tljax.transfer.plan import TransferPlan
from tljax.transfer.signatures import accepted_fields, check_used


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
    spread: float | None = None,
    head: str = "random",
    init_k: int | None = None,
    **plan: Any,
) -> TransferPlan:
    """Everything trained, at `backbone` * `decay` ** (groups between a group and the head).

    `decay` below 1 is layer-wise learning-rate decay (Clark et al. 2020, ELECTRA, section 3.1).
    The distance of the group next to the head is 1. With `init_k` = n and `backbone` = 1 it is
    "AnB+" of Yosinski et al. 2014, section 2. Rates go by depth, whether a group is new or not.

    `spread`, instead of `decay`: see `discriminative`.

    Raises:
      InputError: for both `spread` and `decay`, or a `spread` that is no finite number of 1 or
        more; as `feature_extraction`.
    """
    last = len(groups) - 1
    if spread is not None:
        if decay != 1.0:
            raise InputError(f"lr_spread is {spread} and layer_decay is {decay}; set one of them")
        if not (math.isfinite(spread) and spread >= 1):
            raise InputError(f"lr_spread is {spread}; set it to a finite number, 1 or more")
        decay = spread ** (-1 / last)
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
    return fine_tune(groups, backbone, spread=spread, **plan)


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

_CONSTRUCTORS: dict[str, Callable[..., TransferPlan]] = {
    "feature_extraction": feature_extraction,
    "freeze_first": freeze_first,
    "from_scratch": from_scratch,
    "fine_tune": fine_tune,
    "surgical": surgical,
}
# The config's fields for the constructors' parameters, where the names differ.
_FIELD_NAMES = {
    "first": "k",
    "last": "k_last",
    "backbone": "backbone_lr_scale",
    "decay": "layer_decay",
    "spread": "lr_spread",
    "head": None,  # given to `build` apart: its field, head_init, has other values
}
# Fields whose defaults are numbers. Scenarios that do not use them ignore them, since nothing tells
# whether the user has set them.
_NEVER_UNSET = ("backbone_lr_scale", "layer_decay")
_BELOW_HEAD = ("k_last",)  # a scenario that needs one of these counts groups below the head only

SCENARIOS = tuple(_CONSTRUCTORS)
_ACCEPTED = {name: accepted_fields(c, _FIELD_NAMES) for name, c in _CONSTRUCTORS.items()}
FIELDS = tuple(dict.fromkeys(field for accepted in _ACCEPTED.values() for field in accepted))


def build(
    scenario: str, groups: Groups, fields: Mapping[str, Any] | None = None, **plan: Any
) -> TransferPlan:
    """The plan of a scenario by name, with the config's fields for it.

    Args:
      scenario: one of `SCENARIOS`.
      groups: the model's.
      fields: config fields among `FIELDS`; None as a value: not set.
      **plan: other arguments of the scenario's constructor: `head`, `train`, `statistics`.

    Raises:
      InputError: for an unknown scenario, a field that it needs and that is not set, or one that is
        set and that it does not use.
    """
    check_known("scenario", scenario, SCENARIOS)
    given = {field: value for field, value in (fields or {}).items() if value is not None}
    for field in _NEVER_UNSET:
        value = given.get(field, 0.0)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{field} is {value}; set it to a finite number, not negative")
    may_be_unused = {field: value for field, value in given.items() if field not in _NEVER_UNSET}
    check_used("scenario", scenario, _ACCEPTED, may_be_unused)
    accepted = _ACCEPTED[scenario]
    needed = [
        field for field, parameter in accepted.items() if parameter.default is parameter.empty
    ]
    missing = " and ".join(field for field in needed if field not in given)
    if missing:
        below_head = any(field in _BELOW_HEAD for field in needed)
        raise InputError(
            f"scenario {scenario} needs {missing}; set {missing} to a value from 0 to"
            f" {len(groups) - (2 if below_head else 1)}"
        )
    arguments = {accepted[field].name: value for field, value in given.items() if field in accepted}
    return _CONSTRUCTORS[scenario](groups, **arguments, **plan)
