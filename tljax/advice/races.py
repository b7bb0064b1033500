"""Short races between strategies, on training images alone.

A race trains a strategy for a share of its steps, on two thirds of the training images, and asks
for the others. Of the strategies that the record favours, half go on to a longer race (successive
halving; Jamieson & Talwalkar 2016, "Non-stochastic best arm identification").
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tljax.advice.decision import Measured
from tljax.advice.strategies import PROBE, Strategy
from tljax.data import Dataset
from tljax.frozen.cross_validation import assign_folds
from tljax.frozen.linear_head import solve_head
from tljax.training import trial
from tljax.transfer.partition import Tree

LENGTHS = (0.1, 0.3)  # of a run's steps
LEAST_IMAGES = 30  # training images, below which a third decides nothing


class Heat(NamedTuple):
    """A race to run: which strategy, and what share of its steps."""

    strategy: str
    length: float


def plan(
    ranked: Sequence[str], cost_of: Callable[[str, float], float], available: float
) -> list[list[Heat]]:
    """The races that a budget allows, round by round; later rounds are for the best of the former.

    Args:
      ranked: strategies without the probe, the most promising first.
      cost_of: a strategy's name and a length to what that race costs, see `race_cost`.
      available: what races may cost in all, in the same unit.

    Returns:
      For each round its races, of which the second round's names only count the places.
    """
    rounds: list[list[Heat]] = []
    entrants = list(ranked)
    for length in LENGTHS:
        heats: list[Heat] = []
        for name in entrants:
            cost = cost_of(name, length)
            if cost <= available:
                heats.append(Heat(name, length))
                available -= cost
        if not heats:
            break
        rounds.append(heats)
        entrants = entrants[: max(1, len(heats) // 2)]
    return rounds


def race_cost(strategy: Strategy, length: float) -> float:
    """Forward passes of a race."""
    runs = 1 + trial.FOLDS * len(strategy.experiment.config.trial_lr)
    return length * strategy.cost / runs


def left_out(dataset: Dataset) -> np.ndarray:
    """bool (images,): the third of the training images that races ask for."""
    (folds, *_) = assign_folds(dataset.train.labels, seed=0, number=3)
    return np.asarray(folds == 0)


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
    (setup,) = built.setups(replace(dataset, val=None, test=None))[:1]
    setup = replace(setup, options=options)
    weights = pretrained if built.starts_from_weights else None
    found = trial.try_once(setup, lambda: weights, options.lr, rows)
    # a network of which half the way is taken is judged there; see `default_rule`
    given = built.options.wise_ft_alpha if not built.config.trial_lr else None
    right = found[given if given in found else 1.0][0]
    count = int(rows.sum())
    return Measured((right - probe_right) / count, count, right / count, length)


def probe_right(
    features: np.ndarray, labels: np.ndarray, num_classes: int, rows: np.ndarray
) -> int:
    """How many images at `rows` a head classifies correctly that is solved on the others."""
    head = solve_head(features[~rows], labels[~rows], num_classes)
    predicted = (features[rows] @ head.kernel + head.bias).argmax(axis=1)
    return int((predicted == labels[rows]).sum())


def races_first(names: Sequence[str]) -> list[str]:
    """The strategies that race: all but the probe, which cross-validation has judged."""
    return [name for name in names if name != PROBE]
