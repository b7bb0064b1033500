"""From a config to a run, and from a workdir back to a trained network."""

from tljax.experiment.build import Experiment, load_data, prepare, resolve, settled
from tljax.experiment.record import is_begun, keep_config, read_config, read_result, tasks_of
from tljax.experiment.source import (
    load,
    preprocessing_of,
    pretrained_variables,
    read_source,
    source_preprocessing,
)
from tljax.experiment.train import Start, as_begun, fit_config, run, start
from tljax.experiment.trained import (
    Evaluated,
    Trained,
    evaluate_trained,
    evaluate_workdir,
    read_workdir,
    same_classes,
    task_for,
)

__all__ = [
    "Evaluated",
    "Experiment",
    "Start",
    "Trained",
    "as_begun",
    "evaluate_trained",
    "evaluate_workdir",
    "fit_config",
    "is_begun",
    "keep_config",
    "load",
    "load_data",
    "prepare",
    "preprocessing_of",
    "pretrained_variables",
    "read_config",
    "read_result",
    "read_source",
    "read_workdir",
    "resolve",
    "run",
    "same_classes",
    "settled",
    "source_preprocessing",
    "start",
    "task_for",
    "tasks_of",
]
