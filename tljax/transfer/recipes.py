"""Recipes in stages: several trainings in a row over the same data, each with its own plan.

A recipe is given the plan of the last stage, and derives the earlier plans from it. Each stage
starts from the weights of the stage before. `tljax.fit_stages` runs the stages.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tljax.errors import InputError, check_known
from tljax.transfer.plan import TransferPlan
from tljax.transfer.signatures import accepted_fields, check_used

CARRIES = ("best", "last")
_PROBE_SHARE = 0.5


@dataclass(frozen=True)
class Stage:
    """One of several trainings in a row.

        first = tljax.Stage(tljax.feature_extraction(groups), share=0.2, carries="best")
        second = tljax.Stage(tljax.fine_tune(groups).carried, share=0.8, lr=0.001)

    Attributes:
      plan: what trains, and how fast. In the first stage its `init` says where the groups start; in
        later stages all groups are `carried`.
      share: of all steps, above 0 and up to 1.
      lr: peak learning rate; None: the run's.
      augment: augmentation of the training images; None: the run's.
      carries: which weights the next stage starts from: the `best` on validation, or the `last`.
    """

    plan: TransferPlan
    share: float
    lr: float | None = None
    augment: str | None = None
    carries: str = "last"

    def __post_init__(self) -> None:
        check_known("value of carries", self.carries, CARRIES)


def lp_ft(
    plan: TransferPlan, probe_share: float | None = None, probe_lr: float | None = None
) -> tuple[Stage, ...]:
    """A linear probe, then `plan` from the probe's head (Kumar et al. 2022, "LP-FT", section 3.4).

        stages = tljax.lp_ft(tljax.fine_tune(model.groups), probe_share=0.3)
        [stage.share for stage in stages]  # [0.3, 0.7]

    Fine-tuning distorts the pretrained features less if the head already fits them. The second
    stage starts from the head that was best on validation. The probe's images are not augmented, so
    that their features are computed once.

    Args:
      plan: of the second stage; it has to train the head and pretrained groups below it.
      probe_share: the probe's share of the steps, between 0 and 1; None: half.
      probe_lr: the probe's peak learning rate; None: the run's.

    Returns:
      Two stages, for `tljax.fit_stages`.

    Raises:
      InputError: for another plan, or an impossible share or rate.
    """
    _check_finetunes("lp_ft", plan)
    share = _PROBE_SHARE if probe_share is None else probe_share
    if not 0 < share < 1:
        raise InputError(f"probe_share is {share}; set it between 0 and 1, both excluded")
    if probe_lr is not None and not (math.isfinite(probe_lr) and probe_lr >= 0):
        raise InputError(f"probe_lr is {probe_lr}; set it to a finite number, not negative")
    head_alone = (0.0,) * (len(plan.groups) - 1) + (1.0,)
    probe = replace(plan, lr_scale=head_alone)
    return (
        Stage(probe, share, lr=probe_lr, augment="none", carries="best"),
        Stage(plan.carried, 1 - share),
    )


def gradual_unfreezing(
    plan: TransferPlan, groups_per_stage: int | None = None
) -> tuple[Stage, ...]:
    """Trains the head first, then more groups from the top in each stage, at `plan`'s rates.

        stages = tljax.gradual_unfreezing(tljax.discriminative(model.groups), groups_per_stage=4)
        stages[0].plan.lr_scale  # (0.0, ..., 0.0, 1.0): the head alone

    After Howard & Ruder 2018 ("ULMFiT", section 3.3). Stages have equal shares of the steps. Each
    starts from the last weights of the stage before: the best weights are chosen in the last stage
    only, where everything trains.

    Args:
      plan: of the last stage; it has to train the head and pretrained groups below it. Groups that
        it freezes stay frozen, and get no stage.
      groups_per_stage: how many groups each stage adds; None: one, as in the paper.

    Returns:
      The stages, for `tljax.fit_stages`.

    Raises:
      InputError: for another plan, or less than one group.
    """
    _check_finetunes("gradual_unfreezing", plan)
    step = 1 if groups_per_stage is None else groups_per_stage
    if step < 1:
        raise InputError(f"groups_per_stage is {step}; set it to 1 or more")
    below = [depth for depth, scale in enumerate(plan.lr_scale[:-1]) if scale][::-1]  # from the top
    lowest = [len(plan.groups) - 1, *below[step - 1 :: step]]
    if lowest[-1] != below[-1]:
        lowest.append(below[-1])
    stages = []
    for number, first in enumerate(lowest):
        scale = tuple(s if depth >= first else 0.0 for depth, s in enumerate(plan.lr_scale))
        unfrozen = replace(plan, lr_scale=scale)
        stages.append(Stage(unfrozen.carried if number else unfrozen, 1 / len(lowest)))
    return tuple(stages)


_CONSTRUCTORS: dict[str, Callable[..., tuple[Stage, ...]]] = {
    "lp_ft": lp_ft,
    "gradual_unfreezing": gradual_unfreezing,
}

RECIPES = tuple(_CONSTRUCTORS)
_ACCEPTED = {name: accepted_fields(constructor) for name, constructor in _CONSTRUCTORS.items()}
FIELDS = tuple(dict.fromkeys(field for accepted in _ACCEPTED.values() for field in accepted))


def build(
    name: str | None, plan: TransferPlan, fields: Mapping[str, Any] | None = None
) -> tuple[Stage, ...]:
    """The stages of a recipe by name, from the config's fields.

    Args:
      name: one of `RECIPES`; None: a run without stages, for which the result is empty.
      plan: of the last stage.
      fields: values of config fields among `FIELDS`; None: the field is not set.

    Raises:
      InputError: for an unknown recipe, or a field that is set but that the recipe does not use.
    """
    if name is not None:
        check_known("recipe in stages", name, RECIPES)
    given = {field: value for field, value in (fields or {}).items() if value is not None}
    check_used("stages", name, _ACCEPTED, given)
    return () if name is None else _CONSTRUCTORS[name](plan, **given)


def _check_finetunes(name: str, plan: TransferPlan) -> None:
    """Raises InputError unless the plan trains the head and groups below it, all pretrained.

    With random groups below the head the first stage would fit the head to random features.
    """
    if {"random"} < set(plan.init[:-1]):
        raise InputError(
            f"stages is {name}, which first trains the head on pretrained features, but some groups"
            " below the head start from random weights; unset init_k"
        )
    below = zip(plan.init[:-1], plan.lr_scale[:-1], strict=True)
    if not plan.lr_scale[-1] or not any(start != "random" and scale for start, scale in below):
        raise InputError(
            f"stages is {name}, which needs a plan that trains the head and pretrained groups below"
            " it, but this scenario's plan does not; use scenario fine_tune"
        )
