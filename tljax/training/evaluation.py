"""Accuracy and loss over a whole source, and the naive baseline to hold them against."""

from dataclasses import dataclass

import jax
import numpy as np

from tljax.data import Preprocessing, Source, eval_batches
from tljax.models import Model
from tljax.training.step import eval_step
from tljax.transfer.partition import Tree


@dataclass(frozen=True)
class Evaluation:
    """Mean over `count` images: accuracy in [0, 1] and softmax cross-entropy in nats."""

    accuracy: float
    loss: float
    count: int


def evaluate(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
) -> Evaluation:
    """Evaluates every image of `source` exactly once; the last batch is padded and masked."""
    step = eval_step(model, preprocessing)
    parts = [
        step(variables, batch)
        for batch in eval_batches(source, preprocessing, batch_size=batch_size)
    ]
    # On the host in float64: a float32 sum over a large test set would lose images.
    totals = jax.tree.map(
        lambda *values: sum(np.float64(value) for value in values), *jax.device_get(parts)
    )
    return Evaluation(
        float(totals["correct"] / totals["count"]),
        float(totals["loss"] / totals["count"]),
        int(totals["count"]),
    )


def naive_accuracy(train: Source, test: Source, num_classes: int) -> float:
    """Test accuracy of always answering the class that is most frequent in training."""
    majority = int(np.bincount(train.labels, minlength=num_classes).argmax())
    return float(np.mean(np.asarray(test.labels) == majority))
