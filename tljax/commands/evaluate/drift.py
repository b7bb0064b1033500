"""`tljax evaluate --data`: a trained network on data that have shifted, and what a new head saves.

The classes are the same, the images are not: another camera, another hospital, another year. If the
features below the head still tell the classes apart there, fitting the head anew on some images
of the shifted data recovers most of what was lost; if not, the trunk has to learn, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax import experiment
from tljax.data import Dataset
from tljax.errors import InputError
from tljax.experiment import Evaluated, Trained
from tljax.runs.checkpoints import validation_rank
from tljax.training.evaluation import Evaluation, evaluate
from tljax.training.loop import fit
from tljax.transfer import feature_extraction

# The new head's training; which learning rate, validation images of the shifted data decide.
LEARNING_RATES = (0.01, 0.1, 1.0)
_STEPS, _EVAL_EVERY = 300, 50


@dataclass(frozen=True)
class Refit:
    """A new head on a trunk that stays as it is.

    Attributes:
      evaluation: on the shifted test images.
      lr: learning rate with the best validation among `LEARNING_RATES`.
      train_size: shifted images that it was fitted on.
    """

    evaluation: Evaluation
    lr: float
    train_size: int


@dataclass(frozen=True)
class Drift:
    """A run on shifted data.

    Attributes:
      run: whose best weights.
      shifted: what they make of the shifted data.
      refit: what a new head makes of them, if one was asked for.
    """

    run: Trained
    shifted: Evaluated
    refit: Refit | None

    @property
    def own(self) -> tuple[float, int] | None:
        """Accuracy on the run's own test images, and their number, if it is done and had some."""
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
      data: of the same classes as those of the runs, or of one of their tasks.
      split: of the shifted data.
      task: which one of the runs' tasks, if they have several.
      refit: whether to fit new heads as well, on the training images of `data`.
      data_dir: where `tfds:` data lies; None: where the runs' configs say.

    Raises:
      InputError: if one is not a trained workdir, or the data has other classes.
    """
    drifts = []
    for workdir in workdirs:
        name = experiment.task_for(workdir, data, data_dir) if task is None else task
        trained = experiment.read_workdir(workdir, name)
        shifted = experiment.evaluate_trained(trained, data, split, data_dir)
        dataset = experiment.same_classes(trained, data, data_dir)
        drifts.append(Drift(trained, shifted, refit_head(trained, dataset) if refit else None))
    return drifts


def refit_head(trained: Trained, dataset: Dataset) -> Refit:
    """Fits a new head on a data set's training images, and tests it once.

    The trunk is frozen, as in feature extraction, so its features of an image are computed once for
    each learning rate that is tried.
    """
    model, preprocessing = trained.experiment.model, trained.experiment.preprocessing
    config = trained.config
    if dataset.test is None:
        raise InputError(f"'{dataset.name}' has no test images; give data that has")
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
