"""What a head learns: a value for each kind of labels brings loss, metrics and naive baseline."""

from collections.abc import Sequence

from tljax.data.labels import Kind
from tljax.training.problems.classification import CLASSES, Classification
from tljax.training.problems.multi_label import MultiLabel
from tljax.training.problems.problem import Evaluation, Problem
from tljax.training.problems.regression import Regression, Scale

__all__ = [
    "CLASSES",
    "Classification",
    "Evaluation",
    "MultiLabel",
    "Problem",
    "Regression",
    "Scale",
    "problem_of",
]


def problem_of(
    kind: Kind,
    sizes: Sequence[int] = (),
    *,
    regression_loss: str = "l2",
    scale: Scale | None = None,
) -> Problem:
    """Returns the problem of a kind of labels.

    Args:
      kind: of the labels.
      sizes: of several tasks, each one's number of classes.
      regression_loss: see `TrainingOptions`.
      scale: of numbers, by the training images; None: the problem is for programs alone, which do
        not depend on it.
    """
    if kind == "classes":
        return Classification(tuple(sizes))
    if kind == "multi_label":
        return MultiLabel()
    return Regression(regression_loss, scale)
