"""Measures how a trained model does on shifted data, and how much a new head recovers.

Shifted data has the same classes but other images: another camera, another hospital, another year.
If the features below the head still separate the classes there, a new head fitted on some images
of the shifted data recovers most of the lost accuracy; if not, the backbone has to be trained, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tljax import experiment
from tljax.data import Dataset, Source
from tljax.data.kept import without_missing
from tljax.errors import InputError
from tljax.experiment import Evaluated, Trained
from tljax.runs.answers import Answers
from tljax.training.evaluation import evaluate
from tljax.training.fit import fit
from tljax.transfer import feature_extraction
from tljax.transfer.partition import Tree

_LEAST = 2  # images of a class, so that cross-validation can hold one out


@dataclass(frozen=True)
class Refit:
    """A new head on a frozen backbone.

    Attributes:
      right: bool (images,), which of the shifted images it classifies correctly.
      right_before: bool (images,), which of the same images the run itself does.
      l2: strength of its penalty, which cross-validation chose.
      train_size: number of shifted images that it was fitted on.
    """

    right: np.ndarray
    right_before: np.ndarray
    l2: float
    train_size: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True)
class Drift:
    """How a run does on shifted data.

    Attributes:
      run: the run, with its best weights.
      shifted: their evaluation on the shifted data.
      refit: a new head on these data; None if none was requested.
    """

    run: Trained
    shifted: Evaluated
    refit: Refit | None

    @property
    def own(self) -> tuple[float, int] | None:
        """Accuracy on the run's own test images, and their number; None without a result."""
        result = self.run.result
        if result.get("test_accuracy") is None:
            return None
        return result["test_accuracy"], result["test_size"]


def measure(
    workdirs: Sequence[Path],
    data: str,
    split: str,
    task: str | None,
    refit: bool,
    data_dir: str | None = None,
) -> list[Drift]:
    """Evaluates the best weights of each workdir on shifted data.

    Args:
      workdirs: of runs of `tljax train`.
      data: the shifted data, with the classes of the runs, or of one of their tasks.
      split: of the shifted data.
      task: which task of the runs, if they have several; None: the one with these classes.
      refit: whether to also fit new heads, on the training images of `data`.
      data_dir: where the files of `tfds:` data are; None: as in the runs' configs.

    Raises:
      InputError: if a workdir holds no trained run, or the data has other classes.
    """
    drifts = []
    for workdir in workdirs:
        name = experiment.task_for(workdir, data, data_dir) if task is None else task
        trained = experiment.read_workdir(workdir, name)
        if refit and trained.problem.kind != "classes":
            raise InputError(
                f"--refit_head is for one class an image, but '{workdir}' was trained on labels of"
                f" the kind {trained.problem.kind}; leave it out"
            )
        shifted = experiment.evaluate_trained(trained, data, split, data_dir)
        refitted = None
        if refit:
            dataset = experiment.same_classes(trained, data, data_dir)
            refitted = refit_head(trained, dataset, split)
        drifts.append(Drift(trained, shifted, refitted))
    return drifts


def refit_head(trained: Trained, dataset: Dataset, split: str = "test") -> Refit:
    """Solves a new head on a data set's training images, and asks it once for others.

    All other groups are frozen, as in feature extraction. The penalty of the head is chosen by
    cross-validation, so that no validation images are needed.

    Args:
      trained: the run.
      dataset: the shifted data. Every training image has to be readable, even if the run skipped
        some.
      split: which of its images to ask for, `test` or `val`.

    Raises:
      InputError: if the data has no such images, or no training images that a head can be fitted
        to.
    """
    asked = {"test": dataset.test, "val": dataset.val}.get(split)
    asked = asked and without_missing(asked)
    if not asked:
        raise InputError(
            f"--refit_head needs test or validation images to compare two heads on, and --split is"
            f" {split}; choose another --split"
        )
    train = without_missing(dataset.train)
    _check_train(train, dataset)
    model = trained.experiment.model
    result = fit(
        model,
        trained.variables,
        feature_extraction(model.groups),
        train,
        None,
        preprocessing=trained.experiment.preprocessing,
        progress=False,
        optimizer="lbfgs",
        num_workers=trained.config.num_workers,
        seed=trained.config.seed,
    )
    (solved,) = (row for row in result.history if row["event"] == "solve")
    right, before = (
        _right(trained, variables, asked) for variables in (result.variables, trained.variables)
    )
    return Refit(right, before, solved["l2"], len(train))


def _check_train(train: Source, dataset: Dataset) -> None:
    """Raises InputError if no head can be fitted to these training images."""
    if not len(train):
        raise InputError(
            f"'{dataset.name}' has no training images to fit a new head to; add some, or leave"
            " --refit_head out"
        )
    present, counts = np.unique(train.labels, return_counts=True)
    single = present[counts < _LEAST]
    if len(single):
        raise InputError(
            f"{len(single)} of {len(present)} classes of '{dataset.name}' have a single training"
            f" image (the first is '{dataset.class_names[int(single[0])]}'), which the"
            " cross-validation of a new head cannot hold out; add images of them, or leave"
            " --refit_head out"
        )


def _right(trained: Trained, variables: Tree, images: Source) -> np.ndarray:
    """bool (images,): which the run's network classifies correctly with these variables."""
    evaluation = evaluate(
        trained.experiment.model,
        variables,
        images,
        trained.experiment.preprocessing,
        trained.config.batch_size,
        on_error=trained.config.on_error,
        with_answers=True,
    )
    answers = evaluation.answers
    assert isinstance(answers, Answers)  # of classes, as `measure` has checked
    return answers.predicted == answers.labels
