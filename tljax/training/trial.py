"""Trials before a run: what training makes of images that it leaves out.

Few images cannot spare some for validation. Trials train on a part of them and are judged on the
rest, each image once (cross-validation; Stone 1974, "Cross-validatory choice and assessment of
statistical predictions"). Each takes half of the run's steps, which chose the same as all of them
in 15 of 17 recorded trials (experiments/defaults). With three folds they cost one and a half times
as much as the run, which a small network can afford.

Of few images a hundred answers cannot tell candidates apart that are right on six more or less, but
the loss, which also says how sure a candidate is, mostly can. So a candidate has to be right on
clearly more images, or to have a lower loss, to be taken.
"""

from collections.abc import Mapping, Sequence
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
LEAST_OF_A_CLASS = FOLDS  # images, so that two are left to solve a head in each fold
SHARE = 0.5  # of the run's steps
_ALPHAS = (0.0, 1.0)  # at high rates what lies between is in no valley: worse than both, mostly
_ERRORS = 1.645  # standard errors, 5 % on one side: what a candidate of higher loss must be ahead


class Candidate(NamedTuple):
    """A learning rate, and a place on the line of `tljax.training.wise_ft`."""

    lr: float
    alpha: float


class Tried(NamedTuple):
    """What became of the images that a trial left out.

    Attributes:
      score: the metric that decides, times the number of images.
      loss: the sum over the images.
      goodness: (images,), see `Problem.goodness`.
    """

    score: float
    loss: float
    goodness: np.ndarray


class Chosen(NamedTuple):
    """What trials chose.

    Attributes:
      candidate: of those whose answers are no worse than the best one's, by 1.645 standard errors
        (see `wise_ft.no_worse`), the one of least loss. A metric that no image has by itself, such
        as macro F1, decides alone; of equals the one of least loss.
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
      rates: peak learning rates to compare, at the places 0 and 1 of the line each; 0 is the
        start of the run, and counts once.
      progress: whether to show progress on stderr.
    """
    labels = strata(setup.train.labels)
    (folds, *_) = assign_folds(labels, setup.options.seed, FOLDS, groups_of(setup.train))
    shorter = replace(setup, options=_shortened(setup))
    tried: dict[Candidate, list[Tried]] = {}
    with progress_bar() as bar:
        used = np.unique(folds)  # fewer than FOLDS if there are fewer groups
        task = bar.add_task("trials", total=len(rates) * len(used), visible=progress)
        for lr in rates:
            for fold in used:
                found = try_once(shorter, pretrained, lr, folds == fold)
                for alpha, one in found.items():
                    if alpha or lr == rates[0]:
                        candidate = Candidate(lr if alpha else rates[0], alpha)
                        tried.setdefault(candidate, []).append(one)
                bar.advance(task)
    images = len(setup.train)
    scores = {one: sum(part.score for part in parts) / images for one, parts in tried.items()}
    return Chosen(_best(tried, scores, setup.decides), scores, images)


def settled(lr: float, alpha: float) -> dict[str, float]:
    """The config fields of the run that a candidate settles."""
    fields = {"lr": lr, "wise_ft_alpha": alpha}
    if alpha:
        return fields
    # The weights that the run starts from are kept: more than one step would be for nothing.
    return fields | {"steps": 1, "warmup": 0, "eval_every": 1}


def _best(
    tried: Mapping[Candidate, Sequence["Tried"]],
    scores: Mapping[Candidate, float],
    decides: str,
) -> Candidate:
    """The candidate to take; see `Chosen`."""
    loss = {one: sum(part.loss for part in parts) for one, parts in tried.items()}
    best = max(scores, key=lambda one: (scores[one], -loss[one]))
    if decides not in wise_ft.OF_EACH_IMAGE:
        return best
    goodness = np.array([np.concatenate([p.goodness for p in parts]) for parts in tried.values()])
    equal = wise_ft.no_worse(goodness, than=list(tried).index(best), errors=_ERRORS)
    level = [one for one, is_equal in zip(tried, equal, strict=True) if is_equal]
    return min(level, key=lambda one: loss[one])


def _shortened(setup: Setup) -> TrainingOptions:
    """The run's options for a trial."""
    steps = max(1, round(SHARE * setup.options.total_steps(len(setup.train))))
    warmup = min(round(SHARE * setup.options.warmup), steps - 1)
    return replace(setup.options, steps=steps, epochs=1, warmup=warmup)


def try_once(
    setup: Setup, pretrained: Pretrained, lr: float, left_out: np.ndarray
) -> dict[float, Tried]:
    """Trains without some of the images, and evaluates on those.

    Args:
      setup, pretrained: of the run.
      lr: peak learning rate.
      left_out: bool (images,).

    Returns:
      What each place on the line made of them; of a run that diverges the worst.
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
            nothing = Tried(worst, np.inf, np.full(len(val), worst))
            return dict.fromkeys(_ALPHAS, nothing)
        end = train_state.evaluated_part(run.state)
        found = {}
        for alpha in _ALPHAS:
            moving = wise_ft.interpolate(start, end, alpha)
            variables = train_state.merge_variables(moving, run.frozen)
            assert run.inputs.val is not None
            one = run.evaluate(variables, run.inputs.val, with_answers=True)
            score = validation_rank({**one.to_json(), "score": setup.decides})[0]
            goodness = setup.problem.goodness(one.answers)
            found[alpha] = Tried(round(score * one.count, 6), one.loss * one.count, goodness)
        return found
