"""Metrics and loss over all images of a source."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
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
from tljax.training.loss.tasks import class_ranges
from tljax.training.problems import CLASSES, Classification, Evaluation, Problem
from tljax.training.step import abstract_batch, eval_step
from tljax.transfer.partition import Tree

_MOST = 256  # images that a device evaluates at once


def evaluate(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    on_error: str = "fail",
    problem: Problem = CLASSES,
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
      problem: what the head learns.
      with_answers: whether to keep the answer for each image.
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
    step = eval_step(model, preprocessing, start, problem, with_answers, mesh)
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
            batch["label"] = problem.targets(batch["label"])
            sums, given = step(variables, sharding.place_batch(mesh, batch, at_once))
            parts.append(sums)
            answers.append(jax.device_get(given))
    parts = jax.device_get(parts)
    if mesh is not None:  # without the batches that hold padding alone
        filled = -(-len(source) // batch_size)
        parts, answers = _of_each(mesh, parts)[:filled], _of_each(mesh, answers)[:filled]
    # On the host in float64: a float32 sum over a large test set would lose images.
    totals = jax.tree.map(lambda *values: np.sum(values, axis=0, dtype=np.float64), *parts)
    _check_some_read(problem, totals["count"], source.labels)
    images = np.arange(len(source))
    asked: dict[str, Any] | None = None
    if with_answers or problem.needs_answers:
        whole = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        images = np.flatnonzero(whole.pop("mask"))
        asked = {name: values[images] for name, values in whole.items()}
    found = problem.evaluation(totals, asked, source.labels[images], images)
    kept = found.answers if with_answers else None
    return replace(found, skipped=gather_names(batches.skipped), answers=kept)


def _check_some_read(problem: Problem, count: np.ndarray, labels: np.ndarray) -> None:
    """Raises InputError if no image, or none of a task, could be read."""
    spans = [(0, np.size(count))]
    if isinstance(problem, Classification) and len(problem.sizes) > 1:
        spans = class_ranges(problem.sizes)
    for first, end in spans:
        if not np.reshape(count, -1)[first:end].any():
            images = len(labels)
            if labels.ndim == 1:
                images = int(np.sum((labels >= first) & (labels < end)))
            raise InputError(f"none of the {images} images can be read; check the data")


def evaluation_program(
    model: Model,
    variables: Tree,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    start: int = 0,
    problem: Problem = CLASSES,
    mesh: Mesh | None = None,
) -> tuple[Any, Any, Any]:
    """The compiled function that `evaluate` calls for each batch, and its abstract arguments.

    Args:
      variables: abstract.
      start: number of leading groups whose output the source holds; 0 if it holds images.
      model, preprocessing, batch_size, problem, mesh: see `evaluate`.
    """
    _, at_once = _at_once(batch_size, mesh)
    shape = preprocessing.image_shape
    batch = abstract_batch(model, shape, at_once, start, {"mask": ()}, mesh, problem)
    return eval_step(model, preprocessing, start, problem, False, mesh), variables, batch


def _at_once(batch_size: int, mesh: Mesh | None) -> tuple[int, int]:
    """Numbers of images that one device evaluates at once, and that all devices do."""
    batch_size = min(batch_size, _MOST)
    return batch_size, batch_size * sharding.device_count(mesh)


def _of_each(mesh: Mesh, results: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The results of the batches in their order, from results of all devices."""
    return [
        {name: value[device] for name, value in result.items()}
        for result in results
        for device in range(mesh.size)
    ]
