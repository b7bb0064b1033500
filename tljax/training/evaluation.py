"""Accuracies and loss over a whole source, and the naive baseline to hold them against."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import jax
import numpy as np

from tljax.data import Preprocessing, Source, eval_batches
from tljax.errors import InputError
from tljax.models import Model
from tljax.training.feature_cache import CachedSource
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
      class_counts: number of images of each class.
      skipped: names of images that could not be read and are in none of these numbers.
    """

    accuracy: float
    balanced_accuracy: float
    loss: float
    count: int
    class_counts: tuple[int, ...]
    skipped: tuple[str, ...] = ()


def evaluate(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    on_error: str = "fail",
    between_batches: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluates every image of `source` exactly once; the last batch is padded and masked.

    Args:
      model, variables: what to evaluate.
      source, preprocessing, batch_size: on what; images, or what frozen groups made of them.
      on_error: what to do about an image that cannot be read: `fail`, or `skip`.
      between_batches: called before each batch; what it raises ends the evaluation.

    Raises:
      InputError: if an image cannot be read, or, with `skip`, not one can.
    """
    if isinstance(source, CachedSource):
        step = eval_step(model, preprocessing, source.groups)
        batches = source.in_order(batch_size)
    else:
        step = eval_step(model, preprocessing)
        batches = eval_batches(source, preprocessing, batch_size=batch_size, on_error=on_error)
    parts = []
    with closing(iter(batches)) as reader:
        for batch in reader:
            between_batches()
            parts.append(step(variables, batch))
    # On the host in float64: a float32 sum over a large test set would lose images.
    totals = jax.tree.map(
        lambda *values: np.sum(values, axis=0, dtype=np.float64), *jax.device_get(parts)
    )
    correct, count = totals["correct"], totals["count"]
    present = count > 0
    if not present.any():
        raise InputError(f"none of the {len(source)} images can be read; check the data")
    return Evaluation(
        accuracy=float(correct.sum() / count.sum()),
        balanced_accuracy=float(np.mean(correct[present] / count[present])),
        loss=float(totals["loss"] / count.sum()),
        count=int(count.sum()),
        class_counts=tuple(int(n) for n in count),
        skipped=batches.skipped,
    )


def naive_accuracy(train: Source, evaluation: Evaluation) -> float:
    """Accuracy, on the images of an evaluation, of always answering training's commonest class."""
    counts = evaluation.class_counts
    majority = int(np.bincount(train.labels, minlength=len(counts)).argmax())
    return counts[majority] / evaluation.count
