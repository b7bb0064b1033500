"""`Problem`, what a head learns, and `Evaluation`, how well it has learnt it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data.labels import Kind
from tljax.runs.answers import Answers, Outputs

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """How well a model answers for the images of a source.

    Attributes:
      metrics: by name, as `Problem.metrics` lists them.
      loss: mean loss; cross-entropy is in nats.
      count: number of images.
      class_counts: number of images of each class; of numbers empty.
      by_class: metrics of each class, or of each number, by name; None for a class without images.
      skipped: names of images that could not be read and are in none of these numbers.
      tasks: the same for each of several tasks; empty if there is one.
      answers: the answer for each image, if asked for.
    """

    metrics: Mapping[str, float]
    loss: float
    count: int
    class_counts: tuple[int, ...] = ()
    by_class: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    tasks: tuple["Evaluation", ...] = ()
    answers: Answers | Outputs | None = None

    @property
    def accuracy(self) -> float:
        """Of classes: the share of the images that are classified correctly, in [0, 1]."""
        return self.metrics["accuracy"]

    @property
    def balanced_accuracy(self) -> float:
        """Of classes: the mean recall of those that are present: rare ones count as much."""
        return self.metrics["balanced_accuracy"]

    @property
    def labels(self) -> np.ndarray:
        """The labels of the images, (n,) or (n, m); of classes in the order of the classes."""
        if isinstance(self.answers, Outputs):
            return self.answers.labels
        return np.repeat(np.arange(len(self.class_counts)), self.class_counts)

    @property
    def figures(self) -> dict[str, float]:
        """The metrics and the loss; of several tasks those of all together."""
        return {**self.metrics, "loss": self.loss}

    def to_json(self, tasks: Iterable[str] = ()) -> dict[str, Any]:
        """The numbers of a row of `metrics.jsonl`; of several `tasks`, by name, each one's too."""
        fields: dict[str, Any] = self.figures
        if self.tasks:
            parts = zip(tasks, self.tasks, strict=True)
            fields["tasks"] = {name: part.to_json() for name, part in parts}
        return fields


class Problem(ABC):
    """What a head learns from labels of one kind.

    It is a hashable value: programs are compiled once for equal ones. What only the host needs,
    such as the units of numbers, is no part of its equality.

    Attributes:
      kind: of the labels.
      metrics: names of the metrics of an evaluation; by default the first one, of which more is
        better, decides which weights are kept.
      step_metrics: names of the metrics of a step.
      needs_answers: whether metrics are made of the answers for all images, not of sums.
    """

    kind: ClassVar[Kind]
    metrics: ClassVar[tuple[str, ...]]
    step_metrics: ClassVar[tuple[str, ...]]
    needs_answers: ClassVar[bool]

    @abstractmethod
    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Labels of a batch (n,) or (n, m) as the loss wants them; on the host."""

    def balanced_weights(self, train_labels: np.ndarray, outputs: int) -> np.ndarray:
        """What classes count in the loss, so that rare ones count as much; see `label_weights`."""
        raise TypeError(f"labels of the kind {self.kind} have no classes")

    def label_weights(self, class_weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """What each label counts by `balanced_weights`, float32 (n,) or (n, m)."""
        raise TypeError(f"labels of the kind {self.kind} have no classes")

    def weights(
        self,
        labels: np.ndarray,
        class_weights: np.ndarray | None,
        image_weights: np.ndarray | None,
    ) -> np.ndarray | None:
        """What each image (n,), or each label of it (n, m), counts in the loss; None: the same.

        Args:
          labels: (n,) or (n, m), as the data gives them.
          class_weights: of `balanced_weights`; None: classes count the same.
          image_weights: (n,); None: images count the same.
        """
        if class_weights is None:
            return image_weights
        of_labels = self.label_weights(class_weights, labels)
        if image_weights is None:
            return of_labels
        return of_labels * image_weights.reshape(-1, *[1] * (of_labels.ndim - 1))

    @abstractmethod
    def losses(
        self, logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0
    ) -> jax.Array:
        """The loss of each image (n,), or of each image and output (n, m)."""

    @abstractmethod
    def of_step(self, logits: jax.Array, batch: Arrays) -> dict[str, jax.Array]:
        """The `step_metrics` of a batch, which may be mixed."""

    @abstractmethod
    def answers(self, logits: jax.Array) -> Arrays:
        """The answer for each image of a batch."""

    def in_units(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs (n, m) of `answers` as people read them; on the host."""
        return outputs

    def judge(
        self, logits: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> tuple[Arrays, Arrays]:
        """(sums over the images with mask 1, their `answers`), of a batch of an evaluation."""
        losses = self.losses(logits, targets).mean(axis=-1)
        # where, not *: the loss of a padded image may not be finite
        sums = {"loss": jnp.where(mask > 0, losses, 0.0).sum(), "count": mask.sum()}
        return sums, self.answers(logits)

    @abstractmethod
    def evaluation(
        self, sums: Arrays, answers: Arrays | None, labels: np.ndarray, images: np.ndarray
    ) -> Evaluation:
        """The evaluation, from the sums and answers of all batches; on the host.

        Args:
          sums: float64, added up.
          answers: without padding; None: not asked for, where `needs_answers` is False.
          labels: of the images that were answered, as the data gives them.
          images: int (n,), their places in the source.
        """

    @abstractmethod
    def goodness(self, answers: Any) -> np.ndarray:
        """How good each answer is, (n,): 1 and 0 for right and wrong, or minus a loss."""

    def comparable_loss(self, evaluations: Sequence[Evaluation], decides: str) -> float:
        """The mean loss over all images by which networks with equal answers are compared.

        It is that of answers that are as sure as their errors allow, see
        `tljax.training.problems.calibration`, unless it is the loss that decides.

        Args:
          evaluations: of different images, by networks that were trained alike; with answers.
          decides: the metric that decides.
        """
        if decides != "loss":
            return self.calibrated_loss(evaluations)
        counts = [one.count for one in evaluations]
        return float(np.average([one.loss for one in evaluations], weights=counts))

    def calibrated_loss(self, evaluations: Sequence[Evaluation]) -> float:
        """See `comparable_loss`; numbers do not say how sure they are: their loss as it is."""
        return self.comparable_loss(evaluations, decides="loss")

    @abstractmethod
    def naive(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Metrics on images with `labels` of the best constant answer on the training images."""
