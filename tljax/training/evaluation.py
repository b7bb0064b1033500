"""Accuracies and loss over a whole source, and the naive baseline to hold them against."""

from dataclasses import dataclass

import jax
import numpy as np

from tljax.data import Preprocessing, Source, eval_batches
from tljax.models import Model
from tljax.training.step import eval_step
from tljax.transfer.partition import Tree


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a source of images.

    Attributes:
      accuracy: share of the images that are classified rightly, in [0, 1].
      balanced_accuracy: the mean over the classes present of the share of each class's images that
        are classified rightly (its recall), in [0, 1]. A rare class counts as much as a common one.
      loss: mean softmax cross-entropy, in nats.
      count: number of images.
    """

    accuracy: float
    balanced_accuracy: float
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
        lambda *values: np.sum(values, axis=0, dtype=np.float64), *jax.device_get(parts)
    )
    correct, count = totals["correct"], totals["count"]
    present = count > 0
    return Evaluation(
        accuracy=float(correct.sum() / count.sum()),
        balanced_accuracy=float(np.mean(correct[present] / count[present])),
        loss=float(totals["loss"] / count.sum()),
        count=int(count.sum()),
    )


def naive_accuracy(train: Source, test: Source, num_classes: int) -> float:
    """Test accuracy of always answering the class that is most frequent in training."""
    majority = int(np.bincount(train.labels, minlength=num_classes).argmax())
    return float(np.mean(np.asarray(test.labels) == majority))
