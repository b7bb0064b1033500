"""A trained workdir, read back: its best weights, and what they are."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_collections

from tljax import data as data_lib
from tljax.data import Dataset
from tljax.errors import InputError, check_known
from tljax.experiment.build import Experiment, _data_seed, load_data, prepare
from tljax.experiment.record import _check_classes, _shorten, read_config, read_result, tasks_of
from tljax.runs.checkpoints import best_variables
from tljax.training.evaluation import Evaluation, evaluate, naive_accuracy
from tljax.training.tasks import spans, with_head_of
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class Trained:
    """What a workdir holds.

    Attributes:
      workdir: where it lies.
      config: resolved.
      experiment: what it made of the config.
      variables: the best weights.
      result: the fields of `result.json`; empty while the run is not done.
    """

    workdir: Path
    config: ml_collections.ConfigDict
    experiment: Experiment
    variables: Tree
    result: dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, the naive accuracy on the same images, and which images they are."""

    evaluation: Evaluation
    naive: float
    data: str
    split: str


def evaluate_workdir(
    workdir: Path, split: str, task: str | None = None, data_dir: str | None = None
) -> list[Evaluated]:
    """`tljax evaluate`: the best weights of a workdir on a split of its data.

    Of a run of several tasks each is evaluated on its own data, or the one named alone.

    Args:
      workdir: of a run of `tljax train`.
      split: train, val or test.
      task: of several.
      data_dir: where `tfds:` data lies; None: where the config says.

    Raises:
      InputError: if it is not a trained workdir, or its data have other classes by now.
    """
    names = [task] if task is not None else [known.name for known in tasks_of(workdir)]
    return [evaluate_trained(read_workdir(workdir, name), None, split, data_dir) for name in names]


def evaluate_trained(
    trained: Trained, data: str | None, split: str, data_dir: str | None = None
) -> Evaluated:
    """The weights of one task on a split of its data, or of other data of the same classes."""
    config, experiment = trained.config, trained.experiment
    dataset = same_classes(trained, data, data_dir)
    source = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    if source is None:
        raise InputError(f"'{data or config.data}' has no {split} images; choose another --split")
    evaluation = evaluate(
        experiment.model,
        trained.variables,
        source,
        experiment.preprocessing,
        config.batch_size,
        on_error=config.on_error,
    )
    if evaluation.skipped:
        _log.warning(data_lib.skipped_message(evaluation.skipped))
    naive = naive_accuracy(dataset.train, evaluation)
    return Evaluated(evaluation, naive, data or config.data, split)


def same_classes(trained: Trained, data: str | None, data_dir: str | None = None) -> Dataset:
    """The data of a run of one task, or other data, if it has the same classes; else InputError."""
    config = trained.config.copy_and_resolve_references()
    data = data or config.data
    if data_dir is not None or not data.startswith("tfds:"):
        config.data_dir = data_dir
    if data == config.data:
        dataset = load_data(config)
    else:
        dataset = data_lib.load(
            data,
            val_fraction=config.val_fraction,
            seed=_data_seed(config),
            data_dir=config.data_dir,
        )
    known = trained.experiment.class_names
    _check_classes(dataset.class_names, known, data, trained.workdir)
    return dataset


def read_workdir(workdir: Path, task: str | None = None) -> Trained:
    """The best weights of a workdir, and what they are; its data is not needed.

    Of a run of several tasks this is what a run of `task` alone would have left.

    Raises:
      InputError: if it is not a workdir, or holds no weights; or if it has several tasks and none
        of them is named.
    """
    config = read_config(workdir)
    result = read_result(workdir) or {}
    tasks = tasks_of(workdir)
    whole = Trained(workdir, config, prepare(config, tasks), best_variables(workdir), result)
    if task is None and len(tasks) == 1:
        return whole
    names = [known.name for known in tasks]
    if task is None:
        raise InputError(
            f"'{workdir}' was trained on several tasks ({', '.join(names)}); choose one with --task"
        )
    check_known("task", task, names)
    return _alone(whole, names.index(task)) if len(tasks) > 1 else whole


def _alone(whole: Trained, number: int) -> Trained:
    """Of a run of several tasks, the one of that number."""
    experiment, config = whole.experiment, whole.config.copy_and_resolve_references()
    task = experiment.tasks[number]
    span = spans(list(experiment.task_sizes.values()))[number]
    model, variables = with_head_of(experiment.model, whole.variables, *span)
    config.data = task.name
    result = {name: value for name, value in whole.result.items() if name != "tasks"}
    result |= whole.result.get("tasks", {}).get(task.name, {})
    return Trained(
        whole.workdir,
        config,
        replace(experiment, model=model, tasks=(task,)),
        variables,
        result | ({"data": task.name} if result else {}),
    )


def task_for(workdir: Path, data: str, data_dir: str | None = None) -> str | None:
    """Which of a run's tasks other data are for: the one of the same classes; None: there is one.

    Raises:
      InputError: if none has these classes, or several have them.
    """
    tasks, classes = tasks_of(workdir), data_lib.read_class_names(data, data_dir)
    if len(tasks) == 1:
        return None
    fitting = [task.name for task in tasks if task.class_names == classes]
    if len(fitting) != 1:
        why = f"those of {' and '.join(fitting)}" if fitting else "those of none of its tasks"
        raise InputError(
            f"'{data}' has the classes {_shorten(classes)}, {why} in '{workdir}'; choose one of"
            f" {', '.join(task.name for task in tasks)} with --task, or other data"
        )
    return fitting[0]
