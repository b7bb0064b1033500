"""Solves a linear head for each choice of features; cross-validation chooses one of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tljax.frozen.cache import CachedSource
from tljax.frozen.cross_validation import within_noise
from tljax.frozen.linear_head import SolvedHead, solve_head
from tljax.models.probing import Features


@dataclass(frozen=True)
class SolvedChoice:
    """A choice of features and its solved head.

    Attributes:
      features: what the head sees.
      width: number of features.
      solved: the head.
    """

    features: Features
    width: int
    solved: SolvedHead

    def to_json(self) -> dict[str, Any]:
        found = self.solved.report["cross_validation"]
        about = {name: found[name] for name in ("accuracy", "loss", "images", "naive_accuracy")}
        return {**asdict(self.features), "l2": self.solved.l2, **about}


def solve_choices(
    choices: Sequence[Features],
    train: CachedSource,
    num_classes: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> list[SolvedChoice]:
    """Solves one head for each choice of features.

    Args:
      choices: of features.
      train: the parts of the features of the training images, from `compute_features`.
      num_classes: of the heads.
      seed: of the folds.
      groups: of the images, which are held out together; None: each is alone.

    Raises:
      InputError: if a head cannot be solved.
    """
    found = []
    for features in choices:
        x = features.select(train.features)
        solved = solve_head(x, train.labels, num_classes, seed=seed, groups=groups)
        found.append(SolvedChoice(features, x.shape[1], solved))
    return found


def choose_features(solved: Sequence[SolvedChoice], labels: np.ndarray) -> SolvedChoice:
    """Chooses the narrowest features of those as accurate as the best, within the noise.

    Args:
      solved: in the order of preference for equal widths and accuracies.
      labels: of the training images, which the heads predicted out of fold.
    """
    right = np.array([choice.solved.out_of_fold == labels for choice in solved], np.float64)
    weights = np.full(len(labels), 1 / len(labels))
    as_good = np.flatnonzero(within_noise(right, weights))
    return solved[min(map(int, as_good), key=lambda i: (solved[i].width, -right[i].mean()))]


def describe_choice(chosen: SolvedChoice, solved: Sequence[SolvedChoice]) -> dict[str, Any]:
    """Returns the field `probe` of `result.json`."""
    return {
        "chosen": chosen.to_json(),
        "own_features": chosen.features.are_the_models_own,
        "choices": [choice.to_json() for choice in solved],
        "grid": [
            {**asdict(choice.features), **row}
            for choice in solved
            for row in choice.solved.report["cross_validation"]["grid"]
        ],
    }
