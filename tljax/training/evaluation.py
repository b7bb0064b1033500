"""Accuracies and loss over all images of a source, and the naive baseline to compare with."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tljax.data import Preprocessing, Source, eval_batches
from tljax.devices import sharding
from tljax.devices.processes import gather_names
from tljax.errors import InputError
from tljax.frozen.cache import CachedSource
from tljax.models import Model
from tljax.runs.answers import Answers
from tljax.training.loss.tasks import class_ranges
from tljax.training.step import abstract_batch, eval_step
from tljax.transfer.partition import Tree

_MOST = 256  # images that a device evaluates at once


@dataclass(frozen=True)
class Evaluation:
    """How well a model classifies the images of a source.

    Attributes:
      accuracy: share of the images that are classified correctly, in [0, 1].
      balanced_accuracy: mean recall of the classes that are present, in [0, 1]: a rare class counts
        as much as a common one.
      loss: mean softmax cross-entropy, in nats.
      count: number of images.
      class_counts: number of images of each class.
      skipped: names of images that could not be read and are in none of these numbers.
      tasks: the same for each of several tasks; empty if there is one.
      answers: the prediction for each image, if asked for.
    """

    accuracy: float
    balanced_accuracy: float
    loss: float
    count: int
    class_counts: tuple[int, ...]
    skipped: tuple[str, ...] = ()
    tasks: tuple["Evaluation", ...] = ()
    answers: Answers | None = None

    def to_json(self, tasks: Iterable[str] = ()) -> dict[str, Any]:
        """The numbers of a row of `metrics.jsonl`; of several `tasks`, by name, each one's too."""
        fields: dict[str, Any] = {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss,
        }
        if self.tasks:
            parts = zip(tasks, self.tasks, strict=True)
            fields["tasks"] = {name: part.to_json() for name, part in parts}
        return fields


def evaluate(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    on_error: str = "fail",
    tasks: Sequence[int] = (),
    with_answers: bool = False,
    between_batches: Callable[[], None] = lambda: None,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Evaluates every image of `source` exactly once; the last batch is padded and masked.

    The result does not depend on the number of devices, to the last bit: each device takes whole
    batches, whose size does not depend on that number, and sums are added in the batches' order.

    Args:
      model, variables: what to evaluate.
      source, preprocessing: images, or the cached output of frozen groups, and how to prepare them.
      batch_size: images at once on a device; at most 256.
      on_error: what to do about an image that cannot be read: `fail` or `skip`.
      tasks: numbers of classes of several tasks; an image is classified within its own task.
      with_answers: whether to keep the prediction for each image.
      between_batches: called before each batch; what it raises ends the evaluation.
      mesh: of the devices that hold the variables, see `tljax.devices.sharding`.

    Raises:
      InputError: if an image cannot be read; with `skip`, if none can.
    """
    if mesh is None:
        variables = jax.device_put(variables)  # once, and not with every batch
    batch_size, at_once = _at_once(batch_size, mesh)
    rows = sharding.rows_here(mesh, at_once)
    start = source.groups if isinstance(source, CachedSource) else 0
    step = eval_step(model, preprocessing, start, tuple(tasks), with_answers, mesh)
    if isinstance(source, CachedSource):
        batches = source.in_order(at_once, rows)
    else:
        batches = eval_batches(
            source, preprocessing, batch_size=at_once, on_error=on_error, rows=rows
        )
    parts: list[Any] = []
    answers: list[Any] = []
    with closing(iter(batches)) as reader:
        for batch in reader:
            between_batches()
            sums, given = step(variables, sharding.place_batch(mesh, batch, at_once))
            parts.append(sums)
            answers.append(jax.device_get(given))
    parts = jax.device_get(parts)
    if mesh is not None:  # without the batches that hold padding alone
        filled = -(-len(source) // batch_size)
        parts, answers = _of_each(mesh, parts)[:filled], _of_each(mesh, answers)[:filled]
    # On the host in float64: a float32 sum over a large test set would lose images.
    totals = jax.tree.map(lambda *values: np.sum(values, axis=0, dtype=np.float64), *parts)
    of_tasks = class_ranges(tasks) if len(tasks) > 1 else []
    for first, end in of_tasks or [(0, len(totals["count"]))]:
        if not totals["count"][first:end].any():
            images = int(np.sum((source.labels >= first) & (source.labels < end)))
            raise InputError(f"none of the {images} images can be read; check the data")
    return replace(
        _evaluation(totals),
        skipped=gather_names(batches.skipped),
        tasks=tuple(
            _evaluation({name: total[first:end] for name, total in totals.items()})
            for first, end in of_tasks
        ),
        answers=_answers(source, answers) if with_answers else None,
    )


def evaluation_program(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    start: int = 0,
    tasks: Sequence[int] = (),
    mesh: Mesh | None = None,
) -> tuple[Any, Any, Any]:
    """The compiled function that `evaluate` calls for each batch, and its abstract arguments.

    Args:
      variables: abstract.
      start: number of leading groups whose output the source holds; 0 if it holds images.
      model, preprocessing, batch_size, tasks, mesh: see `evaluate`.
    """
    _, at_once = _at_once(batch_size, mesh)
    batch = abstract_batch(
        model, preprocessing.image_shape, at_once, start, also=("mask",), mesh=mesh
    )
    return eval_step(model, preprocessing, start, tuple(tasks), False, mesh), variables, batch


def _at_once(batch_size: int, mesh: Mesh | None) -> tuple[int, int]:
    """Numbers of images that one device evaluates at once, and that all devices do."""
    batch_size = min(batch_size, _MOST)
    return batch_size, batch_size * sharding.device_count(mesh)


def _evaluation(totals: dict[str, np.ndarray]) -> Evaluation:
    """The evaluation from sums by class."""
    correct, count = totals["correct"], totals["count"]
    present = count > 0
    return Evaluation(
        accuracy=float(correct.sum() / count.sum()),
        balanced_accuracy=float(np.mean(correct[present] / count[present])),
        loss=float(totals["loss"].sum() / count.sum()),
        count=int(count.sum()),
        class_counts=tuple(int(n) for n in count),
    )


def _of_each(mesh: Mesh, results: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The results of the batches in their order, from results of all devices."""
    return [
        {name: value[device] for name, value in result.items()}
        for result in results
        for device in range(mesh.size)
    ]


def _answers(source: Source, answers: Sequence[dict[str, np.ndarray]]) -> Answers:
    """The answers of all batches, without padding."""
    images = np.flatnonzero(np.concatenate([batch["mask"] for batch in answers]))
    predicted = np.concatenate([batch["predicted"] for batch in answers])[images]
    probabilities = np.concatenate([batch["probabilities"] for batch in answers])[images]
    return Answers(
        images=images.astype(np.int32),
        labels=source.labels[images].astype(np.int32),
        predicted=predicted.astype(np.int32),
        probabilities=probabilities.astype(np.float16),
        confidences=probabilities[np.arange(len(images)), predicted].astype(np.float32),
    )


def naive_accuracy(
    train_labels: np.ndarray, evaluation: Evaluation, tasks: Sequence[int] = ()
) -> float:
    """Accuracy on an evaluation's images of always predicting the commonest training class.

    Args:
      train_labels: int (n,), of the training images.
      evaluation: of the model to compare with.
      tasks: numbers of classes of several tasks; the commonest class of the image's own task is
        then predicted.
    """
    return naive_correct(train_labels, evaluation.class_counts, tasks) / evaluation.count


def naive_correct(
    train_labels: np.ndarray, class_counts: Sequence[int] | np.ndarray, tasks: Sequence[int] = ()
) -> int:
    """Number of images that always predicting the commonest training class gets right.

    Args:
      train_labels, tasks: see `naive_accuracy`.
      class_counts: number of images of each class.
    """
    trained_on = np.bincount(train_labels, minlength=len(class_counts))
    commonest = [first + int(trained_on[first:end].argmax()) for first, end in class_ranges(tasks)]
    commonest = commonest or [int(trained_on.argmax())]
    return sum(int(class_counts[label]) for label in commonest)
