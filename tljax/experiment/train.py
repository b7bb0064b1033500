"""`tljax train`: from a config to a finished run."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_collections

from tljax.data import Dataset, joint_class_names
from tljax.devices import processes
from tljax.experiment.build import Experiment, load_data, prepare, resolve, settled
from tljax.experiment.record import (
    _check_classes,
    _kept_tasks,
    is_begun,
    keep_config,
    read_config,
    read_result,
)
from tljax.experiment.source import (
    _PREPROCESSING_FIELDS,
    _fetch,
    _warn_of_preprocessing,
    _workdir,
    pretrained_variables,
)
from tljax.models import registry
from tljax.runs.checkpoints import best_variables
from tljax.runs.workdir import (
    differences,
    locked,
    refuse_changes,
)
from tljax.training.loop import Result, fit
from tljax.training.options import HARMLESS
from tljax.training.preparation import check_fit
from tljax.training.stages import all_rows, check_stages, fit_stages, has_begun
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
      experiment: the config made concrete.
      config: resolved.
      dataset: with all of its splits; no image has been read.
      pretrained: reads the weights of `init_from`; gives None if the scenario wants none.
    """

    experiment: Experiment
    config: ml_collections.ConfigDict
    dataset: Dataset
    pretrained: Callable[[], Tree | None]

    def checked_weights(self) -> Tree | None:
        """The pretrained weights; InputError, before anything is written, if they do not fit."""
        variables = self.pretrained()
        _check_start(self.experiment, self.config, variables)
        return variables


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
    called: float | None = None,
) -> Result:
    """`tljax train`: trains what the config says in `workdir`, going on where it stopped.

    A run that is done is not run again: its result is read, and its test images are not. The
    arguments are those of `fit`.

    Raises:
      InputError: for whatever the user can mend; what the workdir held is still there.
    """
    config = as_begun(config, workdir)
    done = processes.first_says(lambda: _done(workdir))
    if done is not None:
        _log.warning("'%s' holds a run that is done: this is its result", workdir)
        return Result(done[0], best_variables(workdir) if processes.is_first() else {}, done[1])
    return fit_config(
        config,
        workdir,
        accept_changes=accept_changes,
        progress=progress,
        profile=profile,
        called=called,
    )


def as_begun(config: ml_collections.ConfigDict, workdir: Path) -> ml_collections.ConfigDict:
    """The config, where it is silent as the run in the workdir began, if one did.

    Raises:
      InputError: if that run has another config.
    """
    config = settled(config)
    before = processes.first_says(lambda: _begun(workdir))
    if before is None:
        return config
    config = config.copy_and_resolve_references()
    for field in _PREPROCESSING_FIELDS:  # without asking the source, if it is gone
        config[field] = before[field] if config[field] is None else config[field]
    now = json.loads(resolve(config).to_json())
    for field in (*HARMLESS, "mesh"):
        before[field] = now[field]  # if it differs, `fit` says so
    remedy = "use a new workdir, or the config it was made with"
    refuse_changes("config", differences(before, now), workdir, remedy)
    return config


def _begun(workdir: Path) -> dict[str, Any] | None:
    """The config of the run that a workdir holds, JSON, if it holds one."""
    if not is_begun(workdir) and read_result(workdir) is None:
        return None
    begun: dict[str, Any] = json.loads(read_config(workdir).to_json())
    return begun


def _done(workdir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The result and the rows of a workdir's run, if it is done."""
    result = read_result(workdir) if is_begun(workdir) else None
    return None if result is None else (result, all_rows(workdir))


def fit_config(
    config: ml_collections.ConfigDict,
    workdir: Path | None = None,
    *,
    accept_changes: bool = False,
    progress: bool = False,
    profile: bool = False,
    called: float | None = None,
) -> Result:
    """Trains what the config says, in memory, or in a workdir: a new or the same config's."""
    begun = processes.first_says(lambda: has_begun(workdir))
    beginning = start(config, begun)
    experiment, resolved, dataset = beginning.experiment, beginning.config, beginning.dataset
    weights = beginning.pretrained
    if not begun:
        held = [beginning.checked_weights()]
        weights = held.pop  # whoever takes them out of there can give up their memory
    size = experiment.preprocessing.image_size
    splits = (dataset.train, dataset.val, dataset.test)
    if experiment.stages:
        check_stages(experiment.model, experiment.stages, experiment.options, size, *splits)
    else:
        check_fit(experiment.model, experiment.plan, experiment.options, size, *splits)
    with locked(workdir):
        if workdir is not None:
            processes.first_says(lambda: keep_config(workdir, experiment.tasks, resolved))
        about = {
            "scenario": resolved.scenario,
            "model": resolved.model,
            "data": resolved.data,
            "num_classes": len(dataset.class_names),
        }
        given: dict[str, Any] = {
            "preprocessing": experiment.preprocessing,
            "tasks": experiment.task_sizes if len(experiment.tasks) > 1 else None,
            "workdir": workdir,
            "about": about,
            "accept_changes": accept_changes,
            "progress": progress,
            "profile": profile,
            "called": called,
            **asdict(experiment.options),
        }
        if experiment.stages:
            return fit_stages(experiment.model, weights, experiment.stages, *splits, **given)
        return fit(experiment.model, weights, experiment.plan, *splits, **given)


def start(config: ml_collections.ConfigDict, begun: bool = False) -> Start:
    """Finds the data, and fetches the weights, of a config's run.

    Args:
      config: may be unresolved.
      begun: whether there is a checkpoint to go on from, so that no weights are fetched.
    """
    config = settled(config)
    has_source = config.init_from is not None and config.scenario != "from_scratch"
    if has_source and not begun:
        prepare(config)  # a slip in the config is found before anything is downloaded
        _fetch(config.init_from, config.model)  # what the file says of its images counts below
    experiment = prepare(config)
    resolved = resolve(config)

    def pretrained() -> Tree | None:
        if not has_source:
            return None
        image_size = experiment.preprocessing.image_size
        variables = pretrained_variables(resolved, experiment.model, image_size)
        _warn_of_preprocessing(config)
        return variables

    return Start(experiment, resolved, load_data(resolved), pretrained)


def _check_start(
    experiment: Experiment, config: ml_collections.ConfigDict, variables: Tree | None
) -> None:
    """Raises InputError if the run could not begin; to be asked before anything is written."""
    plan, size = experiment.plan, experiment.preprocessing.image_size
    plan.initialise(registry.abstract_variables(experiment.model, size), variables)
    source = _workdir(config.init_from) if variables is not None else None
    if source is not None and plan.init[-1] == "pretrained":
        before = _kept_tasks(source, config.data) or experiment.tasks
        _check_classes(experiment.class_names, joint_class_names(before), config.data, source)
