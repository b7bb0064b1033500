"""`tljax train`: from a config to a finished run."""

import logging
from pathlib import Path
from typing import Any

import ml_collections

from tljax.data import Dataset
from tljax.data.kept import seen_images
from tljax.devices import processes
from tljax.errors import InputError
from tljax.experiment import trial
from tljax.experiment.build import (
    Experiment,
    build,
    kept_splits,
    kept_tasks,
    load_data,
    resolve_in,
)
from tljax.experiment.source import source_workdir
from tljax.experiment.workdir import keep_config, read_splits, refuse_inside_data
from tljax.runs.record import all_rows, has_begun, read_result
from tljax.runs.resume import best_variables
from tljax.runs.workdir import locked
from tljax.training.fit import fit_setup
from tljax.training.result import Result
from tljax.training.stages import fit_stage_setups

_log = logging.getLogger("tljax")


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
) -> Result:
    """Trains what the config says in `workdir`, or resumes the run there.

    A run that is done is not run again: its result is read, and its test images are not. The other
    arguments are those of `tljax.fit`.

    Raises:
      InputError: for whatever the user can fix; what the workdir held is still there.
    """
    config, begun = resolve_in(config, workdir)
    done = processes.call_in_first(lambda: _read_done(workdir)) if begun else None
    if done is not None:
        _log.warning("'%s' holds a run that is done: this is its result", workdir)
        return Result(done[0], best_variables(workdir) if processes.is_first() else {}, done[1])
    return fit_config(
        config, workdir, accept_changes=accept_changes, progress=progress, profile=profile
    )


def fit_config(
    config: ml_collections.ConfigDict,
    workdir: Path | None = None,
    *,
    accept_changes: bool = False,
    progress: bool = False,
    profile: bool = False,
) -> Result:
    """Trains what the config says, in memory, or in a workdir: a new or the same config's."""
    begun = processes.call_in_first(lambda: has_begun(workdir))
    experiment = build(config, kept_tasks(config, workdir), fetch_weights=not begun)
    if workdir is not None and not begun:
        refuse_inside_data(workdir, experiment.config.data)
    dataset = load_data(experiment.config, kept_splits(workdir))
    if not begun:
        experiment.check_first_image(dataset)
        experiment = experiment.scaled(dataset)
        _warn_of_seen_images(experiment, dataset)
    setups = experiment.setups(dataset)
    if begun:
        pretrained: Any = experiment.read_pretrained
    else:  # a slip is found before anything is written
        held = [experiment.read_pretrained()]
        if experiment.config.trial_lr and not experiment.config.tried:
            experiment = trial.settle(experiment, setups[0], held[0], progress=progress)
            setups = experiment.setups(dataset)

        def pretrained() -> Any:  # leaves no reference here, so that the run can free the memory
            return held.pop() if held else experiment.read_pretrained()  # again: after a restart

    how: dict[str, Any] = {
        "about": _about(experiment),
        "accept_changes": accept_changes,
        "progress": progress,
        "profile": profile,
    }
    with locked(workdir):
        if processes.call_in_first(lambda: has_begun(workdir)) != begun:
            raise InputError(
                f"another run began in '{workdir}' meanwhile; run the same command again, or choose"
                " another --workdir"
            )
        if workdir is not None:
            kept = (workdir, experiment.tasks, experiment.config, None if begun else dataset)
            processes.call_in_first(lambda: keep_config(*kept))
        if experiment.stages:
            return fit_stage_setups(setups, experiment.stages, pretrained, workdir, **how)
        return fit_setup(setups[0], pretrained, workdir, **how)


def _warn_of_seen_images(experiment: Experiment, dataset: Dataset) -> None:
    """Warns of test and validation images that the source of the weights was fitted on."""
    source = experiment.config.init_from
    workdir = source_workdir(source) if experiment.starts_from_weights else None
    splits = None if workdir is None else processes.call_in_first(lambda: read_splits(workdir))
    for part in dataset.parts or (dataset,):
        for split, seen in seen_images(part, splits or ()).items():
            _log.warning(
                "%d of the %d %s images of '%s' are images that '%s', where the weights come from,"
                " was fitted on: accuracy on them is not accuracy on new images",
                *(seen.sum(), len(seen), split, part.name, source),
            )


def _about(experiment: Experiment) -> dict[str, Any]:
    """Fields of `result.json` that the loop does not know."""
    config = experiment.config
    return {
        "scenario": config.scenario,
        "model": config.model,
        "data": config.data,
        "num_classes": len(experiment.class_names),
        "class_names": experiment.class_names,
    }


def _read_done(workdir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The result and the rows of a workdir's run, if it is done."""
    if not has_begun(workdir):
        return None
    result = read_result(workdir)
    return None if result is None else (result, all_rows(workdir))
