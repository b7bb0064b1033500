"""From a config to a run, and from a workdir back to a trained network."""

from tljax.experiment.build import (
    Experiment,
    build,
    kept_splits,
    kept_tasks,
    load_data,
    resolve,
    resolve_in,
)
from tljax.experiment.classify import source_probabilities
from tljax.experiment.ensemble import Ensemble, evaluate_folds, read_ensemble
from tljax.experiment.folds import Folds, read_folds, write_folds
from tljax.experiment.loading import load
from tljax.experiment.source import (
    Judgement,
    check_source,
    judge_source,
    preprocessing_of,
    pretrained_variables,
    read_source,
    read_source_in_units,
    source_preprocessing,
    source_workdir,
)
from tljax.experiment.statistics import SourceStatistics, source_statistics
from tljax.experiment.train import fit_config, run
from tljax.experiment.trained import (
    Evaluated,
    Trained,
    evaluate_trained,
    evaluate_workdir,
    read_workdir,
    same_classes,
)
from tljax.experiment.workdir import (
    is_begun,
    is_folds,
    is_workdir,
    keep_config,
    read_config,
    refuse_inside_data,
    task_for,
    tasks_of,
)

__all__ = [
    "Ensemble",
    "Evaluated",
    "Experiment",
    "Folds",
    "Judgement",
    "SourceStatistics",
    "Trained",
    "build",
    "check_source",
    "evaluate_folds",
    "evaluate_trained",
    "evaluate_workdir",
    "fit_config",
    "is_begun",
    "is_folds",
    "is_workdir",
    "judge_source",
    "keep_config",
    "kept_splits",
    "kept_tasks",
    "load",
    "load_data",
    "preprocessing_of",
    "pretrained_variables",
    "read_config",
    "read_ensemble",
    "read_folds",
    "read_source",
    "read_source_in_units",
    "read_workdir",
    "refuse_inside_data",
    "resolve",
    "resolve_in",
    "run",
    "same_classes",
    "source_preprocessing",
    "source_probabilities",
    "source_statistics",
    "source_workdir",
    "task_for",
    "tasks_of",
    "write_folds",
]
