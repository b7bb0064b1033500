"""Recipes in stages: lists of plans, one after the other over the same data.

A recipe takes the plan that it ends with, and derives from it those that come before. Each stage
goes on from weights of the one before, but for what is frozen in it: `tljax.fit_stages` runs them.
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

    Attributes:
      plan: what moves, and how fast. Of the first stage `init` says where the groups start; in
        later ones everything is `carried`.
      share: of all steps, above 0 and up to 1.
      lr: peak learning rate; None: the run's.
      augment: what images go through; None: as in the run.
      carries: which weights the next stage starts from: the `best` on validation, or the `last`.
    """

    plan: TransferPlan
    share: float
    lr: float | None = None
    augment: str | None = None
    carries: str = "last"

    def __post_init__(self) -> None:
        check_known("way to carry weights on", self.carries, CARRIES)


def lp_ft(
    plan: TransferPlan, probe_share: float | None = None, probe_lr: float | None = None
) -> tuple[Stage, ...]:
    """A linear probe, then `plan` from the probe's head (Kumar et al. 2022, "LP-FT", section 3.4).

    A head that fits already leaves the features less to be distorted for. The head carried on is
    the one that was best on validation, since a probe's steps are there to choose it by; the probe
    sees images that are not augmented, so that their features are computed once.

    Args:
      plan: of the second stage; it has to train pretrained groups below the head.
      probe_share: of the steps for the probe; None: half.
      probe_lr: the probe's peak learning rate; None: the run's.

    Raises:
      InputError: for a plan that does not, or an impossible share or rate.
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
    """The head first, then more groups from the top in each stage (Howard & Ruder 2018, "ULMFiT",
    section 3.3), at `plan`'s rates; the last stage is `plan`.

    Stages have equal shares of the steps. The last weights of each are carried on: nothing is
    chosen before everything has moved.

    Args:
      plan: of the last stage; it has to train pretrained groups below the head. What it freezes
        stays frozen, and has no stage.
      groups_per_stage: that each stage adds; None: one, as in the paper.

    Raises:
      InputError: for a plan that does not, or less than one group.
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
    """The stages of a recipe by name, with the config's fields for it.

    Args:
      name: one of `RECIPES`; None: a run without stages, for which there are none.
      plan: of the last stage.
      fields: config fields among `FIELDS`; None as a value: not set.

    Raises:
      InputError: for an unknown recipe, or a field that is set and that it does not use.
    """
    if name is not None:
        check_known("recipe in stages", name, RECIPES)
    given = {field: value for field, value in (fields or {}).items() if value is not None}
    check_used("stages", name, _ACCEPTED, given)
    return () if name is None else _CONSTRUCTORS[name](plan, **given)


def _check_finetunes(name: str, plan: TransferPlan) -> None:
    """Raises InputError unless the plan trains the head, and pretrained groups below it.

    All of these have to be pretrained: else the first stage would fit a head to random features.
    """
    if {"random"} < set(plan.init[:-1]):
        raise InputError(
            f"stages is {name}, which begins with the head on pretrained features, but some of the"
            " groups below it start from random weights; unset init_k"
        )
    below = zip(plan.init[:-1], plan.lr_scale[:-1], strict=True)
    if not plan.lr_scale[-1] or not any(start != "random" and scale for start, scale in below):
        raise InputError(
            f"stages is {name}, which ends with the head and pretrained groups below it in motion,"
            " but this scenario's plan does not train both; use scenario fine_tune"
        )
