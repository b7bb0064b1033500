"""`trial_lr`: learning rates, and places on the line of WiSE-FT, that are tried before a run."""

import json
import math
from dataclasses import replace

import jax
import numpy as np

from tljax.console import console
from tljax.devices import processes
from tljax.errors import InputError
from tljax.experiment.build import Experiment
from tljax.runs.scores import WORDS, figure, rank
from tljax.training import trial
from tljax.training.setup import Setup
from tljax.transfer.partition import Tree


def settle(
    experiment: Experiment, setup: Setup, pretrained: Tree | None, *, progress: bool
) -> Experiment:
    """The experiment with the rate and the place that trials choose.

    Args:
      experiment: of a run that has not begun, with `trial_lr`.
      setup: of it.
      pretrained: its weights.
      progress: whether to show progress, and what was chosen, on stderr.

    Raises:
      InputError: if there is no line, or if nothing can be left out.
    """
    config = experiment.config
    _check(experiment, setup)
    chosen = trial.choose(
        setup,
        lambda: jax.tree.map(np.array, pretrained),  # runs may change what they are given
        config.trial_lr,
        progress=progress,
    )
    config = config.copy_and_resolve_references()
    settled = trial.settled(chosen.candidate)
    config.asked = tuple(f"{name}={json.dumps(config[name])}" for name in settled)
    config.update(settled)
    config.tried = _sentences(chosen, setup.decides)
    if progress and processes.is_first():
        console.print(f"tried: {config.tried[0]}", markup=False)
    return replace(experiment, config=config, options=replace(experiment.options, **settled))


def _check(experiment: Experiment, setup: Setup) -> None:
    """Raises InputError if there is no line to compare places on, or nothing to leave out."""
    which = f"trial_lr is {tuple(experiment.config.trial_lr)}"
    if not setup.options.wise_ft or experiment.stages:
        raise InputError(
            f"{which}, but trials compare places on the line of wise_ft, in a run of one stage; set"
            " wise_ft to True and stages to None, or leave trial_lr out"
        )
    if setup.val is not None:
        raise InputError(
            f"{which}, but there are validation images, which choose; set val_fraction to 0, or"
            " leave trial_lr out"
        )
    if not trial.enough(setup.train):
        few = int(np.sum(~trial.can_leave_out(setup.train)))
        raise InputError(
            f"{which}, but {few:,} of {len(setup.train):,} training images are of classes with"
            f" fewer than {trial.LEAST_OF_A_CLASS} images or groups, too few for {trial.FOLDS}"
            " folds; leave trial_lr out"
        )


def _sentences(chosen: trial.Chosen, decides: str) -> tuple[str, ...]:
    def named(one: trial.Candidate) -> str:
        return f"lr={one.lr:g}, wise_ft_alpha={one.alpha:g}"

    def written(one: trial.Candidate) -> str:
        ranked = chosen.scores[one]
        if not math.isfinite(ranked):
            return "it diverged"
        return figure(rank(decides, ranked), decides, digits=3)

    best, highest = chosen.candidate, max(chosen.scores.values())
    why = f"the best of {len(chosen.scores)}"
    if chosen.scores[best] < highest:
        reason = "of lower loss"
        if highest <= chosen.naive:
            reason = "as that is no better than the naive baseline"
        why = f"level with {why} within noise, and {reason}"
    left = f" ({chosen.others:,} more, of rare classes, were always trained on)"
    first = (
        f"{named(best)}: {WORDS[decides]} {written(best)} on {chosen.images:,} training images out"
        f" of fold{left if chosen.others else ''}, {why}"
        f"{'; the start is kept, so the run takes one step' if best.alpha == 0 else ''}"
    )
    others = (f"{named(one)}: {written(one)}" for one in chosen.scores if one != best)
    return (first, *others)
