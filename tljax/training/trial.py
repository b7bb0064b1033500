"""Trials before a run: what training makes of images that it leaves out.

Few images cannot spare some for validation. Trials train on a part of them and are judged on the
rest, each image once (cross-validation; Stone 1974, "Cross-validatory choice and assessment of
statistical predictions"). Each takes half of the run's steps, which chose the same as all of them
in 15 of 17 recorded trials (experiments/defaults). With three folds they cost one and a half times
as much as the run, which a small network can afford.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tljax.console import progress_bar
from tljax.data import Subset, groups_of, strata
from tljax.devices.preemption import stop_signals_wait
from tljax.devices.startup import Startup
from tljax.frozen.cross_validation import assign_folds
from tljax.runs.resume import validation_rank
from tljax.training import train_state, wise_ft
from tljax.training.loop import train
from tljax.training.make_run import Pretrained, make_run
from tljax.training.options import TrainingOptions
from tljax.training.setup import Setup
from tljax.training.step_metrics import Diverged

FOLDS = 3
LEAST_OF_A_CLASS = 2 * FOLDS - 2  # images, so that two are left to solve a head in each fold
SHARE = 0.5  # of the run's steps
_ALPHAS = (0.0, 0.5, 1.0)


class Candidate(NamedTuple):
    """A learning rate, and a place on the line of `tljax.training.wise_ft`."""

    lr: float
    alpha: float


class Chosen(NamedTuple):
    """What trials chose.

    Attributes:
      candidate: the one with the best score; of equals the one of least loss.
      accuracies: of each candidate the score out of fold, see `select_by`.
      images: number of images that decided.
    """

    candidate: Candidate
    accuracies: dict[Candidate, float]
    images: int


def choose(
    setup: Setup, pretrained: Pretrained, rates: Sequence[float], *, progress: bool = False
) -> Chosen:
    """Trains with each rate on the images of all folds but one, and compares on the one left out.

    Args:
      setup: of the run, without validation images.
      pretrained: see `make_run`.
      rates: peak learning rates to compare, at the places 0, 1/2 and 1 of the line each; 0 is the
        start of the run, and counts once.
      progress: whether to show progress on stderr.
    """
    labels = strata(setup.train.labels)
    (folds, *_) = assign_folds(labels, setup.options.seed, FOLDS, groups_of(setup.train))
    shorter = replace(setup, options=_shortened(setup))
    correct: dict[Candidate, float] = {}
    loss: dict[Candidate, float] = {}
    with progress_bar() as bar:
        used = np.unique(folds)  # fewer than FOLDS if there are fewer groups
        task = bar.add_task("trials", total=len(rates) * len(used), visible=progress)
        for lr in rates:
            for fold in used:
                found = try_once(shorter, pretrained, lr, folds == fold)
                for alpha, (right, lost) in found.items():
                    candidate = Candidate(lr if alpha else rates[0], alpha)
                    if alpha or lr == rates[0]:
                        correct[candidate] = correct.get(candidate, 0) + right
                        loss[candidate] = loss.get(candidate, 0.0) + lost
                bar.advance(task)
    best = max(correct, key=lambda candidate: (correct[candidate], -loss[candidate]))
    images = len(setup.train)
    return Chosen(best, {one: right / images for one, right in correct.items()}, images)


def _shortened(setup: Setup) -> TrainingOptions:
    """The run's options for a trial."""
    steps = max(1, round(SHARE * setup.options.total_steps(len(setup.train))))
    warmup = min(round(SHARE * setup.options.warmup), steps - 1)
    return replace(setup.options, steps=steps, epochs=1, warmup=warmup)


def try_once(
    setup: Setup, pretrained: Pretrained, lr: float, left_out: np.ndarray
) -> dict[float, tuple[float, float]]:
    """Trains without some of the images, and evaluates on those.

    Args:
      setup, pretrained: of the run.
      lr: peak learning rate.
      left_out: bool (images,).

    Returns:
      For each place on the line the score times the number of images, i.e. of accuracy the number
      of correct answers, and the sum of the losses; of a run that diverges the worst.
    """
    options = replace(setup.options, lr=lr, wise_ft=False, wise_ft_alpha=None)
    options = replace(options, eval_every=max(1, options.total_steps(int((~left_out).sum()))))
    train_images, val = (
        Subset(setup.train, np.flatnonzero(rows)) for rows in (~left_out, left_out)
    )
    part = replace(setup, options=options, train=train_images, val=val, test=None)
    with (
        stop_signals_wait(ctrl_c=False) as stop_signal,
        Startup() as startup,
        ExitStack() as opened,
    ):
        run = make_run(part, pretrained, None, startup, stop_signal, opened, progress=False)
        start = train_state.copy(train_state.evaluated_part(run.state))
        try:
            train(run)
        except Diverged:
            worst = 0.0 if setup.problem.kind == "classes" else -np.inf
            return dict.fromkeys(_ALPHAS, (worst, np.inf))
        end = train_state.evaluated_part(run.state)
        found = {}
        for alpha in _ALPHAS:
            moving = wise_ft.interpolate(start, end, alpha)
            variables = train_state.merge_variables(moving, run.frozen)
            assert run.inputs.val is not None
            one = run.evaluate(variables, run.inputs.val)
            score = validation_rank({**one.to_json(), "score": setup.decides})[0]
            found[alpha] = round(score * one.count, 6), one.loss * one.count
        return found
