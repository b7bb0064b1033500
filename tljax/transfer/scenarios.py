"""The four classic transfer scenarios, and surgical fine-tuning: each constructs a `TransferPlan`.

| scenario           | target data       | starts from           | trains                         |
|--------------------|-------------------|-----------------------|--------------------------------|
| feature_extraction | small, similar    | pretrained            | the new head                   |
| freeze_first       | small, dissimilar | pretrained            | all but the first k groups     |
| from_scratch       | large, dissimilar | the architecture only | everything                     |
| fine_tune          | large, similar    | pretrained            | everything, the backbone slower |
| surgical           | shifted in one way | pretrained           | a range of groups, the new head |

The head is new, hence random, unless `head="pretrained"` keeps the source's head. If `init_k` is
given, only the first `init_k` groups start pretrained; the groups above start random, as the head.
All constructors also take the fields `train` and `statistics` of a `TransferPlan`.
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
    """Freezes the pretrained groups and trains the new head (Donahue et al. 2014, "DeCAF").

        plan = tljax.feature_extraction(model.groups)
        plan.lr_scale  # (0.0, ..., 0.0, 1.0)

    Raises:
      InputError: unless 0 <= `init_k` <= number of groups - 1.
    """
    scale = (0,) * (len(groups) - 1) + (1,)
    return TransferPlan(_init(groups, head, init_k), scale, groups=groups, **plan)


def freeze_first(
    groups: Groups, k: int, *, head: str = "random", init_k: int | None = None, **plan: Any
) -> TransferPlan:
    """Freezes the first k groups and trains the rest.

        plan = tljax.freeze_first(model.groups, k=2)
        plan.lr_scale  # (0.0, 0.0, 1.0, ..., 1.0)

    With `init_k` = k the rest starts from random weights: "AnB" and "BnB" of Yosinski et al. 2014,
    section 2. With `init_k` = 0 the frozen features are random ones (their section 4.3).

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
    """Trains every group from random weights: only the architecture is reused.

        plan = tljax.from_scratch(model.groups)
        plan.init  # ("random", ..., "random")

    Args:
      groups: of the model.
      **plan: other fields of `TransferPlan`, e.g. `statistics`.
    """
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
    """Trains everything: the head at rate 1, other groups at `backbone` * `decay` ** distance.

        plan = tljax.fine_tune(model.groups, backbone=0.1, decay=0.9)
        plan.lr_scale  # (..., 0.1 * 0.9**2, 0.1 * 0.9, 1.0)

    The distance of a group is its number of groups from the head: 1 for the group next to it.
    `decay` below 1 is layer-wise learning-rate decay (Clark et al. 2020, ELECTRA, section 3.1).
    With `init_k` = n and `backbone` = 1 this is "AnB+" of Yosinski et al. 2014, section 2. Rates
    depend on depth alone, whether a group starts pretrained or random.

    Args:
      groups: the model's groups.
      backbone: multiple of the learning rate for the groups below the head.
      decay: further factor for each group of distance.
      spread: sets `decay` so that the input's rate is `backbone` / `spread`, see `discriminative`.
      head, init_k, **plan: see `tljax.transfer.scenarios`.

    Raises:
      InputError: if both `decay` and `spread` are set, unless `spread` is a finite number of 1 or
        more, and as `feature_extraction`.
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
    """Trains everything, at rates that fall geometrically from the head down to the input.

        plan = tljax.discriminative(model.groups, spread=100)
        plan.lr_scale  # (0.01, ..., 1.0)

    The input's rate is `backbone` / `spread` of the head's: fastai's `slice(lr / 100, lr)`. Howard
    & Ruder 2018 ("ULMFiT", section 3.2), who named such rates, instead divide by 2.6 from each
    group to the one below, whatever their number: `fine_tune(groups, 1.0, 1 / 2.6)`.

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
    """Trains the groups of depth `first` to `last`, and the head if it is new (Lee et al. 2023).

        plan = tljax.surgical(model.groups, first=1, last=2)
        plan.lr_scale  # (0.0, 1.0, 1.0, 0.0, ..., 1.0)

    The best range depends on the shift: the first blocks for corrupted images, middle blocks for
    other features of known classes, the last blocks for other labels (their section 2).

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
    """Where each group starts: the first `init_k` pretrained (None: all below the head)."""
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
            " the pretrained head above it is kept; unset init_k, or choose a new head"
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
    "head": None,  # an argument of its own in `build`, since head_init has other values
}
# The defaults of these fields are numbers, so that nobody can tell whether a user has set them.
# Scenarios that do not use them therefore ignore them.
_NEVER_UNSET = ("backbone_lr_scale", "layer_decay")
_BELOW_HEAD = ("k_last",)  # where one of these is needed, no needed field may name the head

SCENARIOS = tuple(_CONSTRUCTORS)
_ACCEPTED = {name: accepted_fields(c, _FIELD_NAMES) for name, c in _CONSTRUCTORS.items()}
FIELDS = tuple(dict.fromkeys(field for accepted in _ACCEPTED.values() for field in accepted))


def build(
    scenario: str, groups: Groups, fields: Mapping[str, Any] | None = None, **plan: Any
) -> TransferPlan:
    """The plan of a scenario by name, from the config's fields.

    Args:
      scenario: one of `SCENARIOS`.
      groups: the model's groups.
      fields: values of config fields among `FIELDS`; None: the field is not set.
      **plan: other arguments of the scenario's constructor: `head`, `train`, `statistics`.

    Raises:
      InputError: for an unknown scenario, a field that the scenario needs but that is not set, or a
        field that is set but that the scenario does not use.
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
