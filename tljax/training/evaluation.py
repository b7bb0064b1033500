"""Accuracies and loss over a whole source, and the naive baseline to hold them against."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from tljax.data import Preprocessing, Source, eval_batches
from tljax.errors import InputError
from tljax.models import Model
from tljax.training import mesh as mesh_lib
from tljax.training.feature_cache import CachedSource
from tljax.training.processes import union
from tljax.training.step import eval_step
from tljax.transfer.partition import Tree

_MOST = 256  # images that a device evaluates at once


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
    mesh: Mesh | None = None,
) -> Evaluation:
    """Evaluates every image of `source` exactly once; the last batch is padded and masked.

    The result does not depend on the number of devices, to the last bit: each of them takes whole
    batches, of a size that does not depend on it either, and their sums are added in their order.

    Args:
      model, variables: what to evaluate.
      source, preprocessing, batch_size: on what; images, or what frozen groups made of them. A
        batch has at most 256 of them.
      on_error: what to do about an image that cannot be read: `fail`, or `skip`.
      between_batches: called before each batch; what it raises ends the evaluation.
      mesh: that the variables lie on, see `tljax.training.mesh`.

    Raises:
      InputError: if an image cannot be read, or, with `skip`, not one can.
    """
    batch_size = min(batch_size, _MOST)
    at_once = batch_size * mesh_lib.size(mesh)
    rows = mesh_lib.rows_here(mesh, at_once)
    if isinstance(source, CachedSource):
        step = eval_step(model, preprocessing, source.groups, mesh)
        batches = source.in_order(at_once, rows)
    else:
        step = eval_step(model, preprocessing, mesh=mesh)
        batches = eval_batches(
            source, preprocessing, batch_size=at_once, on_error=on_error, rows=rows
        )
    parts = []
    with closing(iter(batches)) as reader:
        for batch in reader:
            between_batches()
            parts.append(step(variables, mesh_lib.spread(mesh, batch, at_once)))
    parts = jax.device_get(parts)
    if mesh is not None:  # without the batches that are nothing but filling
        parts = [
            jax.tree.map(lambda value, i=i: value[i], part)
            for part in parts
            for i in range(mesh.size)
        ]
        parts = parts[: -(-len(source) // batch_size)]
    # On the host in float64: a float32 sum over a large test set would lose images.
    totals = jax.tree.map(lambda *values: np.sum(values, axis=0, dtype=np.float64), *parts)
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
        skipped=union(batches.skipped),
    )


def naive_accuracy(train: Source, evaluation: Evaluation) -> float:
    """Accuracy, on the images of an evaluation, of always answering training's commonest class."""
    counts = evaluation.class_counts
    majority = int(np.bincount(train.labels, minlength=len(counts)).argmax())
    return counts[majority] / evaluation.count
