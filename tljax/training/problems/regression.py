"""Numbers: squared, absolute or Huber error of standardised targets; R2, RMSE and MAE in units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.data.labels import Kind, mean_and_deviation
from tljax.runs.answers import Answers, Outputs
from tljax.training.problems.problem import Arrays, Evaluation, Problem

LOSSES = ("l2", "l1", "huber")


@dataclass(frozen=True)
class Scale:
    """What numbers are standardised by: mean and deviation of each over the training images.

    The network's outputs are deviations from the mean; `to_units` makes numbers of them.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, numbers: np.ndarray) -> "Scale":
        """Of numbers (n, outputs); of a number that is always the same the deviation is 1."""
        mean, deviation = mean_and_deviation(numbers)
        return cls(tuple(mean.tolist()), tuple(deviation.tolist()))

    def standardise(self, numbers: np.ndarray) -> np.ndarray:
        """Float32, (n, outputs): 0 is the mean, 1 a deviation above."""
        return ((numbers - np.array(self.mean)) / np.array(self.deviation)).astype(np.float32)

    def rescale(self, head: Mapping[str, Any], to: "Scale | None") -> dict[str, np.ndarray]:
        """A linear head that predicts the same numbers, with outputs of another scale.

        Args:
          head: `kernel` (d, outputs) and `bias` (outputs,), whose outputs are of this scale.
          to: the other one; None: the outputs are the numbers themselves.
        """
        kernel, bias = (np.asarray(head[name]) for name in ("kernel", "bias"))
        mean, deviation = (0.0, 1.0) if to is None else (np.array(to.mean), np.array(to.deviation))
        share = np.array(self.deviation) / deviation
        shift = (np.array(self.mean) - mean) / deviation
        return {
            "kernel": (kernel * share).astype(kernel.dtype),
            "bias": (bias * share + shift).astype(bias.dtype),
        }

    def to_units(self, outputs: np.ndarray) -> np.ndarray:
        """The inverse of `standardise`, float32 (n, outputs)."""
        return (outputs * np.array(self.deviation) + np.array(self.mean)).astype(np.float32)


@dataclass(frozen=True)
class Regression(Problem):
    """One or several numbers an image; each output is one, standardised.

    Attributes:
      loss: `l2`, squared error; `l1`, absolute error; `huber`, squared up to one deviation and
        absolute beyond (Huber 1964). The mean over the outputs.
      scale: of the training images; None: unknown. Compiled programs do not depend on it.
    """

    loss: str = "l2"
    scale: Scale | None = field(default=None, compare=False)

    kind: ClassVar[Kind] = "regression"
    metrics: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mae")
    step_metrics: ClassVar[tuple[str, ...]] = ("absolute_error",)
    needs_answers: ClassVar[bool] = True

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return self._scale.standardise(labels)

    def losses(
        self, logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0
    ) -> jax.Array:
        difference = logits - targets
        if self.loss == "l1":
            return jnp.abs(difference)
        return jnp.square(difference) if self.loss == "l2" else optax.huber_loss(difference)

    def of_step(self, logits: jax.Array, batch: Arrays) -> dict[str, jax.Array]:
        """Mean absolute error, in deviations."""
        return {"absolute_error": jnp.mean(jnp.abs(logits - batch["label"]))}

    def answers(self, logits: jax.Array) -> Arrays:
        """`outputs` (n, m), standardised."""
        return {"outputs": logits}

    def in_units(self, outputs: np.ndarray) -> np.ndarray:
        return self._scale.to_units(outputs.astype(np.float64))

    def evaluation(
        self, sums: Arrays, answers: Arrays | None, labels: np.ndarray, images: np.ndarray
    ) -> Evaluation:
        assert answers is not None
        predicted = self.in_units(answers["outputs"])
        each = errors(labels, predicted)
        return Evaluation(
            metrics=self.scores(labels, predicted),
            loss=float(sums["loss"] / sums["count"]),
            count=int(sums["count"]),
            by_class={name: tuple(values.tolist()) for name, values in each.items()},
            answers=Outputs(images.astype(np.int32), labels.astype(np.float32), predicted),
        )

    def goodness(self, answers: Answers | Outputs) -> np.ndarray:
        assert isinstance(answers, Outputs)
        standard = self._scale.standardise
        return -np.square(standard(answers.outputs) - standard(answers.labels)).mean(axis=1)

    def constant(self, train_labels: np.ndarray, count: int) -> np.ndarray:
        """The naive answers for `count` images: the mean of the training images."""
        mean = train_labels.mean(axis=0, dtype=np.float64)
        return np.tile(mean.astype(np.float32), (count, 1))

    def naive(self, train_labels: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Of always answering the mean of the training images."""
        return self.scores(labels, self.constant(train_labels, len(labels)))

    def scores(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """The metrics of answers, as `metrics` lists them: means over the numbers."""
        return {name: float(values.mean()) for name, values in errors(labels, outputs).items()}

    @property
    def _scale(self) -> Scale:
        assert self.scale is not None, "the scale of the training images is not set"
        return self.scale


def errors(numbers: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """R2, root mean squared and mean absolute error of each number, (outputs,), in its units.

        errors(np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]))  # r2 0.5, rmse 0.71, mae 0.5

    R2 is 1 - (sum of squared errors) / (sum of squares around the mean of these images); of a
    number that is the same for all of them it is 0.
    """
    numbers, predicted = numbers.astype(np.float64), predicted.astype(np.float64)
    squared = np.square(predicted - numbers).mean(axis=0)
    around = np.square(numbers - numbers.mean(axis=0)).mean(axis=0)
    share = np.divide(squared, around, out=np.ones_like(squared), where=around > 0)
    absolute = np.abs(predicted - numbers).mean(axis=0)
    return {"r2": 1 - share, "rmse": np.sqrt(squared), "mae": absolute}
