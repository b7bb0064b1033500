"""Several labels an image: sigmoid cross-entropy, average precision, F1 at thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import log_expit, logit

from tljax.data.labels import Kind, balanced_label_weights
from tljax.runs.answers import Answers, Outputs
from tljax.training.problems.calibration import SMALLEST, least_loss
from tljax.training.problems.problem import Arrays, Evaluation, Problem

THRESHOLD = 0.5  # where none is chosen


@dataclass(frozen=True)
class MultiLabel(Problem):
    """Any number of classes an image: each output is the logit of one class, by itself.

    The loss is the mean over the classes. Mean average precision is that of the classes with an
    image that has it; F1 of all answers together (micro), and the mean over these classes (macro).

    Attributes:
      thresholds: of each class: an image whose probability is at least that has it; None: 0.5.
        Compiled programs do not depend on it.
    """

    thresholds: tuple[float, ...] | None = field(default=None, compare=False)

    kind: ClassVar[Kind] = "multi_label"
    metrics: ClassVar[tuple[str, ...]] = ("mean_average_precision", "micro_f1", "macro_f1")
    step_metrics: ClassVar[tuple[str, ...]] = ("label_accuracy",)
    needs_answers: ClassVar[bool] = True

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def balanced_weights(self, train_labels: np.ndarray, outputs: int) -> np.ndarray:
        """Float32 (2, classes), see `tljax.data.labels.balanced_label_weights`."""
        return balanced_label_weights(train_labels)

    def label_weights(self, class_weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
        absent, present = class_weights
        return np.where(labels > 0, present, absent).astype(np.float32)

    def losses(
        self, logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0
    ) -> jax.Array:
        smooth = (1 - label_smoothing) * targets + label_smoothing / 2
        return optax.sigmoid_binary_cross_entropy(logits, smooth)

    def of_step(self, logits: jax.Array, batch: Arrays) -> dict[str, jax.Array]:
        """The share of labels that are right; of a mixed image those of the larger share count."""
        label = batch["label"]
        if "share" in batch:
            label = jnp.where(batch["share"][:, None] >= 0.5, label, batch["other_label"])
        return {"label_accuracy": jnp.mean((logits > 0) == (label > 0))}

    def answers(self, logits: jax.Array) -> Arrays:
        """`outputs` (n, m): the probability of each class."""
        return {"outputs": jax.nn.sigmoid(logits)}

    def evaluation(
        self, sums: Arrays, answers: Arrays | None, labels: np.ndarray, images: np.ndarray
    ) -> Evaluation:
        assert answers is not None
        probabilities = answers["outputs"].astype(np.float32)
        return Evaluation(
            metrics=self.scores(labels, probabilities),
            loss=float(sums["loss"] / sums["count"]),
            count=int(sums["count"]),
            class_counts=tuple(int(n) for n in labels.sum(axis=0)),
            by_class=self._by_class(labels, probabilities),
            answers=Outputs(images.astype(np.int32), labels.astype(np.float32), probabilities),
        )

    def has(self, probabilities: np.ndarray) -> np.ndarray:
        """Which classes an image has, bool (n, classes), by the thresholds."""
        least = self.thresholds or [THRESHOLD] * probabilities.shape[1]
        return probabilities >= np.asarray(least, np.float32)

    def goodness(self, answers: Answers | Outputs) -> np.ndarray:
        assert isinstance(answers, Outputs)
        return np.asarray(log_expit(_logits_of_truth(answers)).mean(axis=1))

    def calibrated_loss(self, evaluations: Sequence[Evaluation]) -> float:
        right = np.concatenate([_logits_of_truth(one.answers) for one in evaluations])
        return least_loss(lambda temperature: -float(log_expit(right / temperature).mean()))

    def constant(self, train_labels: np.ndarray, count: int) -> np.ndarray:
        """The naive answers for `count` images: each class's share of the training images."""
        return np.tile(train_labels.mean(axis=0).astype(np.float32), (count, 1))

    def naive(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Of answering the same for each image: a class's precision is its share of the images.

        F1 is that of answering the classes that at least half of the training images have, or the
        commonest one.
        """
        constant = self.constant(train_labels, len(labels))
        least = min(THRESHOLD, float(constant.max()))
        return replace(self, thresholds=(least,) * labels.shape[1]).scores(labels, constant)

    def scores(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """The metrics of answers, as `metrics` lists them; labels and answers are (n, classes)."""
        by_class = self._by_class(labels, probabilities)
        has, answered = labels > 0, self.has(probabilities)
        right, involved = (has & answered).sum(), has.sum() + answered.sum()
        return {
            "mean_average_precision": _mean(by_class["average_precision"]),
            "micro_f1": float(2 * right / involved) if involved else 0.0,
            "macro_f1": _mean(by_class["f1"]),
        }

    def _by_class(
        self, labels: np.ndarray, probabilities: np.ndarray
    ) -> dict[str, tuple[float | None, ...]]:
        """Average precision and F1 of each class; None of a class that no image has."""
        precision: list[float | None] = []
        f1: list[float | None] = []
        answered = self.has(probabilities)
        for has, p, said in zip(labels.T > 0, probabilities.T, answered.T, strict=True):
            known = bool(has.any())
            precision.append(average_precision(has, p) if known else None)
            f1.append(float(2 * (has & said).sum() / (has.sum() + said.sum())) if known else None)
        return {"average_precision": tuple(precision), "f1": tuple(f1)}


def average_precision(has: np.ndarray, scores: np.ndarray) -> float:
    """The mean precision at each image that has the class, from the highest score down.

    Images with the same score count together. This is scikit-learn's `average_precision_score`,
    without its checks, which take longer than the sum (the bootstrap asks many times).

    Args:
      has: bool (n,), one or more of them True.
      scores: (n,).
    """
    found, answered = _found_and_answered(has, scores)
    gained = np.diff(found, prepend=0)
    return float((gained * found / answered).sum() / found[-1])


def precision_and_recall(has: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of answering all images with at least each score, from the highest down.

    Args:
      has: bool (n,), one or more of them True.
      scores: (n,).
    """
    found, answered = _found_and_answered(has, scores)
    return found / answered, found / found[-1]


def _found_and_answered(has: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the images with at least each score, from the highest down: how many have the class, n."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(has[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of equal scores
    return found[last], last + 1


def choose_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, ...]:
    """The threshold of each class with the highest F1, halfway to the next answer below.

    Of a class that no image has, or all have, 0.5.

    Args:
      labels: 0 or 1 (n, classes).
      probabilities: (n, classes), for images that the network was not fitted to.
    """
    from sklearn.metrics import precision_recall_curve

    chosen = []
    for has, p in zip(labels.T > 0, probabilities.T.astype(np.float64), strict=True):
        if has.all() or not has.any():
            chosen.append(THRESHOLD)
            continue
        precision, recall, thresholds = precision_recall_curve(has, p)
        f1 = 2 * precision * recall / np.maximum(precision + recall, SMALLEST)
        at = thresholds[int(f1[:-1].argmax())]
        below = p[p < at]
        chosen.append(float((at + below.max()) / 2 if below.size else at))
    return tuple(chosen)


def _logits_of_truth(answers: Answers | Outputs | None) -> np.ndarray:
    """(n, classes): the logit of what is true, that a class is there or is not; finite."""
    assert isinstance(answers, Outputs)
    logits = logit(np.clip(answers.outputs.astype(np.float64), SMALLEST, 1 - SMALLEST))
    return np.where(answers.labels > 0, logits, -logits)


def _mean(values: Sequence[float | None]) -> float:
    """The mean of the values that are known; 0 of none."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else 0.0
