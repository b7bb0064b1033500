"""Measures how a trained model does on shifted data, and how much a new head recovers.

Shifted data has the same classes but other images: another camera, another hospital, another year.
If the features below the head still separate the classes there, a new head fitted on some images
of the shifted data recovers most of the lost accuracy; if not, the backbone has to be trained, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax import experiment
from tljax.data import Dataset
from tljax.errors import InputError
from tljax.experiment import Evaluated, Trained
from tljax.runs.resume import validation_rank
from tljax.training.evaluation import Evaluation, evaluate
from tljax.training.fit import fit
from tljax.transfer import feature_extraction

# Training of the new head. Its learning rate is chosen on validation images of the shifted data.
LEARNING_RATES = (0.01, 0.1, 1.0)
_STEPS, _EVAL_EVERY = 300, 50


@dataclass(frozen=True)
class Refit:
    """A new head on a frozen backbone.

    Attributes:
      evaluation: on the shifted test images.
      lr: the learning rate among `LEARNING_RATES` with the best validation accuracy.
      train_size: number of shifted images that it was fitted on.
    """

    evaluation: Evaluation
    lr: float
    train_size: int


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
        dataset = experiment.same_classes(trained, data, data_dir)
        drifts.append(Drift(trained, shifted, refit_head(trained, dataset) if refit else None))
    return drifts


def refit_head(trained: Trained, dataset: Dataset) -> Refit:
    """Fits a new head on a data set's training images, and tests it once.

    All other groups are frozen, as in feature extraction, so the features of an image are computed
    once for each learning rate.

    Args:
      trained: the run.
      dataset: the shifted data.

    Raises:
      InputError: if the data has no test images.
    """
    model, preprocessing = trained.experiment.model, trained.experiment.preprocessing
    config = trained.config
    if dataset.test is None:
        raise InputError(f"'{dataset.name}' has no test images; give data that has some")
    results = {
        lr: fit(
            model,
            trained.variables,
            feature_extraction(model.groups),
            dataset.train,
            dataset.val,
            preprocessing=preprocessing,
            progress=False,
            batch_size=config.batch_size,
            steps=_STEPS,
            eval_every=_EVAL_EVERY,
            lr=lr,
            on_error=config.on_error,
            num_workers=config.num_workers,
            seed=config.seed,
        )
        for lr in LEARNING_RATES
    }

    def rank(lr: float) -> tuple[float, float]:
        rows = [row for row in results[lr].history if row["event"] == "val"]
        return max(validation_rank(row) for row in rows)

    best = max(results, key=rank)
    evaluation = evaluate(
        model,
        results[best].variables,
        dataset.test,
        preprocessing,
        config.batch_size,
        on_error=config.on_error,
    )
    return Refit(evaluation, best, len(dataset.train))
