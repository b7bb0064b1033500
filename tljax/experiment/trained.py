"""A trained workdir, read back: its best weights, and what its config describes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from tljax.console import warn_once
from tljax.data import Dataset, Kept, absolute, load, skipped_message
from tljax.data.datasets import folders, split_spec
from tljax.data.kept import leave_out_seen, without_missing
from tljax.data.labels import as_labels
from tljax.data.sources import relabel
from tljax.data.splits import HeldOut
from tljax.errors import InputError, check_known
from tljax.experiment.build import Experiment, build, data_seed, kept_splits, load_data
from tljax.experiment.workdir import read_config, tasks_of
from tljax.runs.record import check_classes, read_result
from tljax.runs.resume import best_variables
from tljax.training.evaluation import evaluate
from tljax.training.loss.tasks import class_ranges, select_task_head
from tljax.training.problems import Evaluation, MultiLabel, Problem
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class Trained:
    """A trained network, and what is known about it.

    Attributes:
      workdir: of its run.
      experiment: what its config describes.
      variables: the best weights.
      result: the fields of `result.json`; empty while the run is not done.
      splits: which image it has in which split, one item for each data set; None if the workdir
        was made before tljax kept that.
      others: `splits` of the run's other tasks, whose images the network was fitted to as well.
    """

    workdir: Path
    experiment: Experiment
    variables: Tree
    result: dict[str, Any]
    splits: list[Kept] | None = None
    others: Sequence[Kept] = ()

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The resolved config."""
        return self.experiment.config

    @property
    def problem(self) -> Problem:
        """What the head learnt, with the scale of numbers, or the thresholds of several labels."""
        problem = self.experiment.problem
        if isinstance(problem, MultiLabel) and (chosen := self.result.get("thresholds")):
            return replace(problem, thresholds=tuple(chosen))
        return problem


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, the naive baseline on the same images, and the name of data and split.

    Attributes:
      evaluation: of the network.
      naive: metrics of the best constant answer, by name.
      data, split: the images.
    """

    evaluation: Evaluation
    naive: dict[str, float]
    data: str
    split: str


def evaluate_workdir(
    workdir: Path, split: str, task: str | None = None, data_dir: str | None = None
) -> list[Evaluated]:
    """Evaluates the best weights of a workdir on a split of its data.

    Args:
      workdir: of a run of `tljax train`.
      split: train, val or test.
      task: of a run of several tasks the one to evaluate; None: each, on its own data.
      data_dir: where `tfds:` data lies; None: where the config says.

    Raises:
      InputError: if it is not a trained workdir, or its data has other classes by now.
    """
    names = [task] if task is not None else [known.name for known in tasks_of(workdir)]
    return [evaluate_trained(read_workdir(workdir, name), None, split, data_dir) for name in names]


def evaluate_trained(
    trained: Trained, data: str | None, split: str, data_dir: str | None = None
) -> Evaluated:
    """Evaluates a network of one task on a split of its data, or of other data.

    Raises:
      InputError: if the data has other classes, or no such split.
    """
    config, experiment = trained.config, trained.experiment
    dataset = same_classes(trained, data, data_dir)
    source = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    source = source and without_missing(source)
    if not source:
        raise InputError(f"'{data or config.data}' has no {split} images; choose another --split")
    evaluation = evaluate(
        experiment.model,
        trained.variables,
        source,
        experiment.preprocessing,
        config.batch_size,
        on_error=config.on_error,
        problem=trained.problem,
        with_answers=trained.problem.needs_answers,
    )
    if evaluation.skipped:
        _log.warning(skipped_message(evaluation.skipped))
    naive = trained.problem.naive(training_labels(trained, dataset), evaluation.labels)
    return Evaluated(evaluation, naive, data or config.data, split)


def training_labels(trained: Trained, dataset: Dataset) -> np.ndarray:
    """Returns labels of the data's training images; of the run's own if the data has none."""
    if len(dataset.train):
        return dataset.train.labels
    if trained.splits is None:
        return load_data(trained.config).train.labels
    (own,) = trained.splits
    if trained.problem.kind != "classes":
        kept = own["splits"]["train"]
        if not isinstance(kept, list):  # the fingerprint of other data than folders and tables
            return load_data(trained.config, trained.splits).train.labels
        return as_labels([label for _, _, label in kept], len(kept))
    return np.repeat(np.arange(len(own["classes"])), own["train_counts"])


def same_classes(trained: Trained, data: str | None, data_dir: str | None = None) -> Dataset:
    """The data of a run of one task, or other data; InputError unless it has the same classes.

    The run's own data has the splits that the run began with. Other data has its own, without the
    images that the run was fitted on. It may have test images alone, of some of the classes.
    """
    config = trained.config.copy_and_resolve_references()
    data = absolute(data or config.data)
    if data_dir is not None or not data.startswith("tfds:"):
        config.data_dir = data_dir
    if data == config.data:
        if trained.splits is None and folders(data):
            _log.warning(
                "'%s' does not keep which image was in which split: '%s' is split again, which"
                " gives other splits if images were added, removed or renamed since",
                trained.workdir,
                data,
            )
        dataset = load_data(config, trained.splits)
    else:
        seen = (*(trained.splits or ()), *trained.others)
        dataset = load_other(config, data, data_dir)
        warn_of_held_out(dataset, data)
        dataset = leave_out_seen(dataset, seen)
    return match_classes(trained, dataset, data)


def load_other(
    config: ml_collections.ConfigDict, data: str, data_dir: str | None = None
) -> Dataset:
    """Loads other data than a run's, read and split as its config says; maybe test images alone.

    Args:
      config: of the run.
      data: the spec, with absolute paths.
      data_dir: where `tfds:` data lies; None: where the config says.
    """
    return load(
        data,
        val_fraction=config.val_fraction,
        seed=data_seed(config),
        data_dir=config.data_dir if data_dir is None and data.startswith("tfds:") else data_dir,
        test_only=True,
        deep_images=config.deep_images,
        channels=config.channels,
    )


def warn_of_held_out(dataset: Dataset, data: str) -> None:
    """Says of other data without test images of its own that a part of it is evaluated."""
    if isinstance(dataset.test, HeldOut):
        warn_once(
            f"'{data}' has no test images of its own: {len(dataset.test):,} of its images, a fifth"
            " of each class, are taken; mark all as test images to take all"
        )


def match_classes(trained: Trained, dataset: Dataset, data: str) -> Dataset:
    """Returns the data with the labels of the run, whose classes may be in another order.

    Test images alone may be of some classes only.

    Raises:
      InputError: unless it has labels of the kind and classes that the run was trained on.
    """
    kind = trained.problem.kind
    if dataset.kind != kind:
        raise InputError(
            f"'{data}' has labels of the kind {dataset.kind}, but '{trained.workdir}' was trained"
            f" on the kind {kind}; give data of the same kind"
        )
    known = trained.experiment.class_names
    own = set(dataset.class_names)
    if own == set(known) or (not len(dataset.train) and own <= set(known)):
        dataset = relabel(dataset, known)
    check_classes(dataset.class_names, known, data, trained.workdir)
    return dataset


def read_workdir(workdir: Path, task: str | None = None) -> Trained:
    """Reads the best weights of a workdir; its data is not needed.

    Args:
      workdir: of a run of `tljax train`.
      task: of a run of several tasks the one to read: the result is that of a run of this task.

    Raises:
      InputError: if it is not a workdir, or holds no weights; or if it has several tasks and none
        is named.
    """
    whole = read_all_tasks(workdir)
    tasks = whole.experiment.tasks
    if task is None and len(tasks) == 1:
        return whole
    names = [known.name for known in tasks]
    if task is None:
        raise InputError(
            f"'{workdir}' was trained on several tasks ({', '.join(names)}); choose one with --task"
        )
    task = task if task in names else absolute(task)
    check_known("task", task, names)
    return _alone(whole, names.index(task)) if len(tasks) > 1 else whole


def read_all_tasks(workdir: Path) -> Trained:
    """As `read_workdir`, with all tasks of the run together, as their logits are.

    Raises:
      InputError: if it is not a workdir, or holds no weights.
    """
    experiment = build(read_config(workdir), tasks_of(workdir))
    variables, result = best_variables(workdir), read_result(workdir) or {}
    return Trained(workdir, experiment, variables, result, kept_splits(workdir))


def _alone(whole: Trained, number: int) -> Trained:
    """One of a run's several tasks, as if it had been trained alone."""
    experiment, config = whole.experiment, whole.config.copy_and_resolve_references()
    task = experiment.tasks[number]
    span = class_ranges(list(experiment.task_sizes.values()))[number]
    model, variables = select_task_head(experiment.model, whole.variables, *span)
    config.data = split_spec(config.data)[number]
    result = {name: value for name, value in whole.result.items() if name != "tasks"}
    result |= whole.result.get("tasks", {}).get(task.name, {})
    return Trained(
        whole.workdir,
        replace(experiment, config=config, model=model, tasks=(task,)),
        variables,
        result | ({"data": task.name} if result else {}),
        None if whole.splits is None else [whole.splits[number]],
        [kept for at, kept in enumerate(whole.splits or ()) if at != number],
    )
