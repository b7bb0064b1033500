"""One class an image: softmax cross-entropy, accuracy, and the commonest class as the baseline."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import log_softmax

from tljax.data.labels import Kind, balanced_weights
from tljax.runs.answers import Answers, Outputs
from tljax.training.loss.tasks import class_ranges, mask_other_tasks, own_classes
from tljax.training.problems.calibration import SMALLEST, least_loss
from tljax.training.problems.problem import Arrays, Evaluation, Problem


@dataclass(frozen=True)
class Classification(Problem):
    """One class an image.

    Attributes:
      sizes: of several tasks, each one's number of classes; see `tljax.training.loss.tasks`.
    """

    sizes: tuple[int, ...] = ()

    kind: ClassVar[Kind] = "classes"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "macro_f1")
    step_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    needs_answers: ClassVar[bool] = False

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def balanced_weights(self, train_labels: np.ndarray, outputs: int) -> np.ndarray:
        """Float32 (classes,), see `tljax.data.labels.balanced_weights`."""
        return balanced_weights(train_labels, outputs)

    def label_weights(self, class_weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
        weights: np.ndarray = class_weights[labels]
        return weights

    def losses(
        self, logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0
    ) -> jax.Array:
        if not label_smoothing:
            logits = mask_other_tasks(logits, targets, self.sizes)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        own = own_classes(targets, self.sizes)
        certain = jax.nn.one_hot(targets, logits.shape[-1])
        smooth = optax.smooth_labels(certain, label_smoothing, where=own)
        return optax.softmax_cross_entropy(logits, smooth, where=own)

    def of_step(self, logits: jax.Array, batch: Arrays) -> dict[str, jax.Array]:
        """Accuracy; of a mixed image the label with the larger share counts."""
        label = batch["label"]
        if "share" in batch:
            label = jnp.where(batch["share"] >= 0.5, label, batch["other_label"])
        right = jnp.argmax(mask_other_tasks(logits, label, self.sizes), -1) == label
        return {"accuracy": jnp.mean(right)}

    def answers(self, logits: jax.Array) -> Arrays:
        """`predicted` (n,), from the logits: close ones may be equal in `probabilities` (n, m)."""
        return {"predicted": jnp.argmax(logits, -1), "probabilities": jax.nn.softmax(logits)}

    def judge(
        self, logits: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> tuple[Arrays, Arrays]:
        logits = mask_other_tasks(logits, targets, self.sizes)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        answers = self.answers(logits)
        predicted = answers["predicted"]
        by_class = functools.partial(jax.ops.segment_sum, num_segments=logits.shape[-1])
        # where, not *: the loss of a padded image may not be finite
        sums = {
            "loss": by_class(jnp.where(mask > 0, losses, 0.0), targets),
            "correct": by_class((predicted == targets) * mask, targets),
            "count": by_class(mask, targets),
            "predicted": by_class(mask, predicted),
        }
        return sums, answers

    def evaluation(
        self, sums: Arrays, answers: Arrays | None, labels: np.ndarray, images: np.ndarray
    ) -> Evaluation:
        spans = class_ranges(self.sizes) if len(self.sizes) > 1 else []
        given = None if answers is None else _answers(answers, labels, images)
        parts = tuple(
            _evaluation({name: total[first:end] for name, total in sums.items()})
            for first, end in spans
        )
        return _evaluation(sums, parts, given)

    def goodness(self, answers: Answers | Outputs) -> np.ndarray:
        assert isinstance(answers, Answers)
        return (answers.predicted == answers.labels).astype(float)

    def calibrated_loss(self, evaluations: Sequence[Evaluation]) -> float:
        answers = [one.answers for one in evaluations if isinstance(one.answers, Answers)]
        labels = np.concatenate([one.labels for one in answers])
        p = np.concatenate([one.probabilities for one in answers]).astype(np.float32)
        known = mask_other_tasks(jnp.log(np.maximum(p, SMALLEST)), jnp.asarray(labels), self.sizes)
        logits, rows = np.array(known, np.float64), np.arange(len(labels))

        def loss_at(temperature: float) -> float:
            return -float(log_softmax(logits / temperature, axis=1)[rows, labels].mean())

        return least_loss(loss_at)

    def naive(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Of always answering the commonest class (of the image's own task)."""
        classes = max(int(train_labels.max()), int(labels.max())) + 1
        counts = np.bincount(labels, minlength=max(classes, sum(self.sizes)))
        return naive_scores(train_labels, counts, self.sizes)


CLASSES = Classification()  # of one task


def naive_correct(
    train_labels: np.ndarray, class_counts: Sequence[int] | np.ndarray, tasks: Sequence[int] = ()
) -> int:
    """Number of images that always answering the commonest training class gets right.

    Args:
      train_labels: int (n,), of the training images.
      class_counts: number of images of each class.
      tasks: numbers of classes of several tasks; the commonest class of the image's own task is
        then answered.
    """
    spans = _commonest(train_labels, len(class_counts), tasks)
    return sum(int(class_counts[label]) for _, label in spans)


def naive_scores(
    train_labels: np.ndarray, class_counts: Sequence[int] | np.ndarray, tasks: Sequence[int] = ()
) -> dict[str, float]:
    """The metrics, by name, of the answers of which `naive_correct` counts the right ones."""
    count = np.asarray(class_counts, float)
    correct, predicted = np.zeros_like(count), np.zeros_like(count)
    for span, label in _commonest(train_labels, len(count), tasks):
        correct[label], predicted[label] = count[label], count[span].sum()
    sums = {"loss": correct, "correct": correct, "count": count, "predicted": predicted}
    return dict(_evaluation(sums).metrics)


def _commonest(
    train_labels: np.ndarray, classes: int, tasks: Sequence[int]
) -> list[tuple[slice, int]]:
    """Each task's classes, and the one of them that most training images have."""
    trained_on = np.bincount(train_labels, minlength=classes)
    spans = [slice(first, end) for first, end in class_ranges(tasks)] or [slice(0, classes)]
    return [(span, span.start + int(trained_on[span].argmax())) for span in spans]


def _evaluation(
    sums: Arrays, tasks: tuple[Evaluation, ...] = (), answers: Answers | None = None
) -> Evaluation:
    """The evaluation from sums by class."""
    correct, count, predicted = sums["correct"], sums["count"], sums["predicted"]
    present, involved = count > 0, (count > 0) | (predicted > 0)
    recall = correct[present] / count[present]
    f1 = 2 * correct[involved] / (count + predicted)[involved]
    recalls = np.full(len(count), np.nan)
    recalls[present] = recall
    return Evaluation(
        metrics={
            "accuracy": float(correct.sum() / count.sum()),
            "balanced_accuracy": float(np.mean(recall)),
            "macro_f1": float(np.mean(f1)),
        },
        loss=float(sums["loss"].sum() / count.sum()),
        count=int(count.sum()),
        class_counts=tuple(int(n) for n in count),
        by_class={"accuracy": tuple(None if np.isnan(r) else float(r) for r in recalls)},
        tasks=tasks,
        answers=answers,
    )


def _answers(answers: Arrays, labels: np.ndarray, images: np.ndarray) -> Answers:
    predicted, probabilities = answers["predicted"], answers["probabilities"]
    return Answers(
        images=images.astype(np.int32),
        labels=labels.astype(np.int32),
        predicted=predicted.astype(np.int32),
        probabilities=probabilities.astype(np.float16),
        confidences=probabilities[np.arange(len(images)), predicted].astype(np.float32),
    )
