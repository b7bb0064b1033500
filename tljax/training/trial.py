"""Trials before a run: what training makes of images that it leaves out.

Few images cannot spare some for validation. Trials train on a part of them and are judged on the
rest, each image once (cross-validation; Stone 1974, "Cross-validatory choice and assessment of
statistical predictions"). Each takes half of the run's steps, which chose the same as all of them
in 15 of 17 recorded trials (experiments/defaults). With three folds they cost one and a half times
as much as the run, which a small network can afford.

With 100 images, a difference of six right answers is noise. The loss separates candidates better,
once each is as sure of its answers as its errors allow: training makes networks surer, right or
wrong (see `tljax.training.problems.calibration`). So a candidate must be right on clearly more
images than the others, or have a lower loss after calibration, to be taken. A start that is right
on no more images than the naive baseline has learnt nothing that is worth keeping: it must be right
on clearly more than the end.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tljax.console import progress_bar
from tljax.data import Source, Subset, groups_of, strata
from tljax.data.labels import kind_of
from tljax.data.sources import groups_of_each_class
from tljax.devices.preemption import stop_signals_wait
from tljax.devices.startup import Startup
from tljax.frozen.cross_validation import assign_folds
from tljax.runs.scores import rank
from tljax.training import train_state, wise_ft
from tljax.training.loop import train
from tljax.training.make_run import Pretrained, make_run
from tljax.training.options import TrainingOptions
from tljax.training.problems import Evaluation, Problem
from tljax.training.run import Run
from tljax.training.setup import Setup
from tljax.training.step_metrics import Diverged

FOLDS = 3
LEAST_OF_A_CLASS = FOLDS  # images or groups, so that two are left to solve a head in each fold
LEAST_JUDGED = 0.5  # of the images, below which too few decide
SHARE = 0.5  # of the run's steps
# At high rates the weights between start and end are mostly worse than both.
_START, _END = 0.0, 1.0
ERRORS = 1.645  # standard errors, 5 % on one side: what a candidate of higher loss must be ahead


class Candidate(NamedTuple):
    """A learning rate, and a place on the line of `tljax.training.wise_ft`."""

    lr: float
    alpha: float


class Tried(NamedTuple):
    """What became of the images that a trial left out.

    Attributes:
      score: the metric that decides, times the number of images.
      naive: the same of the naive baseline.
      goodness: (images,), see `Problem.goodness`.
      evaluation: with answers; None if the trial diverged.
    """

    score: float
    naive: float
    goodness: np.ndarray
    evaluation: Evaluation | None


class Chosen(NamedTuple):
    """What trials chose.

    Attributes:
      candidate: of those whose answers are no worse than the best one's by 1.645 standard errors,
        the one of least loss after calibration; see `wise_ft.best_of`. A start that is no better
        than the naive baseline is none of them, unless it is the only one.
      scores: of each candidate the metric that decides, out of fold, so that the highest is the
        best (see `tljax.runs.scores.rank`); -inf if it diverged.
      naive: the same of the naive baseline; -inf if the metric has none.
      images: number of images that decided.
      others: number of images that always trained, see `can_leave_out`.
    """

    candidate: Candidate
    scores: dict[Candidate, float]
    naive: float
    images: int
    others: int


def choose(
    setup: Setup, pretrained: Pretrained, rates: Sequence[float], *, progress: bool = False
) -> Chosen:
    """Returns what `try_all` says is best."""
    tried = try_all(setup, pretrained, rates, progress=progress)
    start = next(iter(tried.values()))
    images = sum(len(part.goodness) for part in start)
    scores = {one: sum(part.score for part in parts) / images for one, parts in tried.items()}
    naive = sum(part.naive for part in start) / images
    best = _best(tried, setup.problem, setup.decides)
    return Chosen(best, scores, naive, images, len(setup.train) - images)


def can_leave_out(images: Source) -> np.ndarray:
    """bool (n,): which training images a fold may leave out; those of rarer classes always train.

    Else the others of their class would be too few to solve a head for it. Numbers, and images of
    several classes, may all be left out.
    """
    if kind_of(images.labels) != "classes":
        return np.ones(len(images), bool)
    return groups_of_each_class(images) >= LEAST_OF_A_CLASS


def enough(images: Source) -> bool:
    """Whether there are enough images that a fold may leave out."""
    return float(can_leave_out(images).mean()) >= LEAST_JUDGED


def try_all(
    setup: Setup, pretrained: Pretrained, rates: Sequence[float], *, progress: bool = False
) -> dict[Candidate, list[Tried]]:
    """Trains with each rate on the images of all folds but one, and judges on the one left out.

    Args:
      setup: of the run, without validation images.
      pretrained: see `make_run`.
      rates: peak learning rates to compare, each at the places 0 and 1 of the line; 0 is the start
        of the run, and counts once.
      progress: whether to show progress on stderr.

    Returns:
      Of each candidate what became of every fold.
    """
    labels = strata(setup.train.labels)
    (folds, *_) = assign_folds(labels, setup.options.seed, FOLDS, groups_of(setup.train))
    folds[~can_leave_out(setup.train)] = -1
    shorter = replace(setup, options=_shortened(setup))
    tried: dict[Candidate, list[Tried]] = {}
    with progress_bar() as bar:
        used = np.unique(folds[folds >= 0])  # fewer than FOLDS if there are fewer groups
        task = bar.add_task("trials", total=len(rates) * len(used), visible=progress)
        for lr in rates:
            for fold in used:
                start, end = try_once(shorter, pretrained, lr, folds == fold, (_START, _END))
                if lr == rates[0]:
                    tried.setdefault(Candidate(lr, _START), []).append(start)
                tried.setdefault(Candidate(lr, _END), []).append(end)
                bar.advance(task)
    return tried


def settled(candidate: Candidate) -> dict[str, Any]:
    """The config fields of the run that a candidate settles."""
    fields = {"lr": candidate.lr, "wise_ft_alpha": candidate.alpha}
    if candidate.alpha != _START:
        return fields
    # The weights that the run starts from are kept: more than one step would be for nothing.
    return fields | {"steps": 1, "warmup": 0, "eval_every": 1}


def _best(tried: Mapping[Candidate, Sequence[Tried]], problem: Problem, decides: str) -> Candidate:
    """The candidate to take, of those that did not diverge; see `Chosen`."""
    evaluations = {
        one: [part.evaluation for part in parts if part.evaluation is not None]
        for one, parts in tried.items()
    }
    finished = [
        one
        for one, found in evaluations.items()
        if len(found) == len(tried[one]) and np.isfinite(sum(part.loss for part in found))
    ]
    if not finished:
        return next(one for one in tried if one.alpha == _START)
    losses = [problem.comparable_loss(evaluations[one], decides) for one in finished]
    for number, one in enumerate(finished):
        if one.alpha == _START and not _has_learnt(tried[one]):
            losses[number] = np.inf
    best = wise_ft.best_of(
        [sum(part.score for part in tried[one]) for one in finished],
        losses,
        np.stack([np.concatenate([part.goodness for part in tried[one]]) for one in finished]),
        decides,
        ERRORS,
    )
    return finished[best]


def _has_learnt(parts: Sequence[Tried]) -> bool:
    """Whether a candidate's answers are better than those of the naive baseline."""
    return sum(part.score for part in parts) > sum(part.naive for part in parts)


def _shortened(setup: Setup) -> TrainingOptions:
    """The run's options for a trial."""
    steps = max(1, round(SHARE * setup.options.total_steps(len(setup.train))))
    warmup = min(round(SHARE * setup.options.warmup), steps - 1)
    return replace(setup.options, steps=steps, epochs=1, warmup=warmup)


def try_once(
    setup: Setup,
    pretrained: Pretrained,
    lr: float,
    left_out: np.ndarray,
    alphas: Sequence[float],
) -> list[Tried]:
    """Trains without some of the images, and evaluates on those.

    Args:
      setup, pretrained: of the run.
      lr: peak learning rate.
      left_out: bool (images,).
      alphas: places on the line.

    Returns:
      What each place on the line made of them. If the run diverges, only the start has made
      anything of them; the others have no evaluation, and minus infinity for a score.
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
            nothing = Tried(-np.inf, -np.inf, np.full(len(val), -np.inf), None)
            return [_evaluate(run, start) if alpha == _START else nothing for alpha in alphas]
        end = train_state.evaluated_part(run.state)
        return [_evaluate(run, wise_ft.interpolate(start, end, alpha)) for alpha in alphas]


def _evaluate(run: Run, weights: Any) -> Tried:
    """What weights make of the images that a trial left out."""
    variables = train_state.merge_variables(weights, run.frozen)
    assert run.inputs.val is not None
    one = run.evaluate(variables, run.inputs.val, with_answers=True)
    setup, val = run.setup, run.inputs.val
    score = rank(setup.decides, one.figures[setup.decides])
    constant = setup.problem.naive(setup.train.labels, val.labels).get(setup.decides)
    naive = -np.inf if constant is None else rank(setup.decides, constant)
    goodness = setup.problem.goodness(one.answers)
    return Tried(round(score * one.count, 6), round(naive * one.count, 6), goodness, one)
