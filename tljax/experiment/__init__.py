"""From a config to a run, and from a workdir back to a trained network."""

from tljax.experiment.build import Experiment, build, load_data, resolve, resolve_in
from tljax.experiment.loading import load
from tljax.experiment.source import (
    preprocessing_of,
    pretrained_variables,
    read_source,
    source_preprocessing,
    source_workdir,
)
from tljax.experiment.train import fit_config, run
from tljax.experiment.trained import (
    Evaluated,
    Trained,
    evaluate_trained,
    evaluate_workdir,
    read_workdir,
    same_classes,
)
from tljax.experiment.workdir import is_begun, keep_config, read_config, task_for, tasks_of

__all__ = [
    "Evaluated",
    "Experiment",
    "Trained",
    "build",
    "evaluate_trained",
    "evaluate_workdir",
    "fit_config",
    "is_begun",
    "keep_config",
    "load",
    "load_data",
    "preprocessing_of",
    "pretrained_variables",
    "read_config",
    "read_source",
    "read_workdir",
    "resolve",
    "resolve_in",
    "run",
    "same_classes",
    "source_preprocessing",
    "source_workdir",
    "task_for",
    "tasks_of",
]
