"""What `tljax advise` chooses among: scenarios by the default rule, each with its cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_collections

from tljax import experiment
from tljax.analysis.cost import group_flops
from tljax.config import load
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.experiment.default_rule import OF_STEPS
from tljax.models import tracing
from tljax.training import trial


@dataclass(frozen=True)
class Strategy:
    """A scenario, as the default rule runs it.

    Attributes:
      name: of its scenario.
      experiment: built from its config.
      cost: forward passes of one image, of the whole network: training, trials and features.
    """

    name: str
    experiment: Experiment
    cost: float

    @property
    def k(self) -> int | None:
        """Number of frozen groups, where the scenario has one."""
        return self.experiment.config.k if self.name == "freeze_first" else None


PROBE = "feature_extraction"
FINE_TUNE = "fine_tune"
NAMES = (PROBE, "freeze_first", FINE_TUNE, "from_scratch")
IN_WORDS = {
    PROBE: "a linear head on the pretrained features",
    "freeze_first": "the first {k} groups frozen, the others retrained",
    FINE_TUNE: "pretrained weights, all of them trained",
    "from_scratch": "the architecture only, trained from random weights",
}


def build_all(overrides: Sequence[str]) -> dict[str, Strategy]:
    """Builds the strategies for a target and a source.

    Args:
      overrides: `--config.FIELD=VALUE`: the data, the source, the model, and what else is set by
        hand.

    Returns:
      Each by its name.

    Raises:
      InputError: for whatever is wrong in the overrides.
    """
    for word in overrides:
        if (field := field_of(word)) in ("scenario", "hyperrule", "stages"):
            raise InputError(
                f"advice compares the scenarios by the default rule, so {field} cannot be set;"
                f" leave out {word}, or train with it: `tljax train`"
            )
    return {name: _build(name, config_of(name, overrides)) for name in NAMES}


def config_of(name: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of a strategy's scenario page, with the overrides that are for it."""
    return load(name, overrides_for(name, overrides))


def overrides_for(name: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that a strategy uses.

    The probe is solved, so that what is said about steps is not for it; k is for `freeze_first`.
    """
    unused = set(OF_STEPS) if name == PROBE else set()
    unused |= {"k"} if name != "freeze_first" else set()
    return [word for word in overrides if field_of(word) not in unused]


def field_of(word: str) -> str:
    """The field that an override `--config.FIELD=VALUE` sets."""
    return word.removeprefix("--config.").partition("=")[0]


def _build(name: str, config: ml_collections.ConfigDict) -> Strategy:
    built = experiment.build(config)
    images = len(experiment.load_data(built.config).train)
    return Strategy(name, built, cost(built, images))


def cost(built: Experiment, images: int) -> float:
    """Forward passes of one image that a run costs, by the law of `tljax.analysis.cost`.

    A step costs (3 - 2 phi) forward passes of its images, where phi is the share of the groups
    below the first one that trains. A solved head costs the features of the training images.

    Args:
      built: of the run.
      images: number of training images.
    """
    options = built.options
    if options.solves:
        return float(images)
    model, shape = built.model, built.preprocessing.image_shape
    variables: Any = tracing.abstract_variables(model, shape)
    flops = group_flops(model, variables, shape)
    frozen = built.plan.frozen_prefix(variables["params"])
    share = sum(flops[:frozen]) / sum(flops)
    steps = options.total_steps(images) * trainings(built.config)
    return steps * options.batch_size * (3 - 2 * share) + images


def trainings(config: ml_collections.ConfigDict) -> float:
    """How often a run trains: once, and before it a part of that for each trial."""
    return 1 + trial.SHARE * trial.FOLDS * len(config.trial_lr)
