"""Short races between strategies, on training images alone.

A race trains a strategy for a share of its steps, on two thirds of the training images, and asks
for the others. The first round is as long as the budget allows for the two strategies that the
record favours, since a short race prefers strategies that start well. After each round the half
with the highest gains runs a longer race (successive halving; Jamieson & Talwalkar 2016,
"Non-stochastic best arm identification").
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tljax.advice.decision import Measured
from tljax.advice.strategies import PROBE, Strategy, trainings
from tljax.data import Dataset, Source, groups_of
from tljax.frozen.cross_validation import assign_folds
from tljax.frozen.linear_head import solve_head
from tljax.training import trial
from tljax.transfer.partition import Tree

# Of a run's steps. A tenth of them tells nothing: on recorded targets the gain of the whole run lay
# .09 to .18 from such a race's, farther than the record alone lets one expect.
LENGTHS = (0.3, 1.0)
LEAST_IMAGES = 30  # training images, below which a third decides nothing


def halve(
    ranked: Sequence[str],
    cost_of: Callable[[str, float], float],
    available: float,
    race: Callable[[str, float], Measured],
) -> tuple[dict[str, Measured], float]:
    """Rounds of races within a budget; after each, the half with the highest gains runs the next.

    Args:
      ranked: strategies without the probe, the most promising first.
      cost_of: a strategy's name and a length to what that race costs, see `race_cost`.
      available: what races may cost in all, in the same unit; a race that costs more is left out.
      race: runs one.

    Returns:
      Of each strategy that raced its longest race; and what all races cost.
    """
    raced: dict[str, Measured] = {}
    spent, entrants = 0.0, list(ranked)
    first = max(
        (a for a in LENGTHS if sum(cost_of(name, a) for name in ranked[:2]) <= available),
        default=LENGTHS[0],
    )
    for length in LENGTHS[LENGTHS.index(first) :]:
        done = []
        for name in entrants:
            if spent + cost_of(name, length) <= available:
                raced[name] = race(name, length)
                spent += cost_of(name, length)
                done.append(name)
        entrants = sorted(done, key=lambda name: -raced[name].gain)[: max(1, len(done) // 2)]
    return raced, spent


def race_cost(strategy: Strategy, length: float) -> float:
    """Forward passes of a race."""
    return length * strategy.cost / trainings(strategy.experiment.config)


def left_out(dataset: Dataset) -> np.ndarray:
    """bool (images,): the third of the training images that races ask for.

    Images of rare classes are not among them, see `tljax.training.trial.can_leave_out`.
    """
    (folds, *_) = assign_folds(
        dataset.train.labels, seed=0, number=trial.FOLDS, groups=groups_of(dataset.train)
    )
    return np.asarray((folds == 0) & trial.can_leave_out(dataset.train))


def run(
    strategy: Strategy,
    length: float,
    dataset: Dataset,
    pretrained: Tree | None,
    rows: np.ndarray,
    probe_right: int,
) -> Measured:
    """Runs one race.

    Args:
      strategy, length: of it.
      dataset: of the target.
      pretrained: weights of the source.
      rows: of `left_out`.
      probe_right: how many of those images the probe classifies correctly, fitted on the others.
    """
    built = strategy.experiment
    options = built.options
    steps = max(1, round(length * options.total_steps(len(dataset.train))))
    options = replace(
        options,
        steps=steps,
        epochs=1,
        warmup=min(options.warmup, steps // 5),
        eval_every=steps,
        wise_ft=False,
        wise_ft_alpha=None,
        patience=None,
    )
    raced = replace(built, options=options)
    setup = raced.setups(replace(dataset, val=None, test=None))[0]
    weights = pretrained if built.starts_from_weights else None
    # a run of which half the way is taken is judged there, see `default_rule`; trials choose later
    given = None if built.config.trial_lr else built.options.wise_ft_alpha
    place = 1.0 if given is None else given
    (found,) = trial.try_once(setup, lambda: weights, options.lr, rows, (place,))
    right = max(0.0, float(found.goodness.sum()))  # below, if it diverged
    count = int(rows.sum())
    return Measured((right - probe_right) / count, count, right / count, length)


def probe_right(features: np.ndarray, images: Source, num_classes: int, rows: np.ndarray) -> int:
    """How many images at `rows` a head classifies correctly that is solved on the others."""
    labels, groups = images.labels, groups_of(images)
    others = None if groups is None else groups[~rows]
    head = solve_head(features[~rows], labels[~rows], num_classes, groups=others)
    predicted = (features[rows] @ head.kernel + head.bias).argmax(axis=1)
    return int((predicted == labels[rows]).sum())


def races_first(names: Sequence[str]) -> list[str]:
    """The strategies that race: all but the probe, which cross-validation has judged."""
    return [name for name in names if name != PROBE]
