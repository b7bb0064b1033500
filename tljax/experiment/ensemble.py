"""Networks that answer together: the folds of a cross-validation, or a single run.

Of classes and of several labels an image their answer is the mean of the probabilities, of numbers
the mean of the numbers.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from tljax.data import Dataset, Source, absolute, skipped_message
from tljax.data.kept import leave_out_seen, without_missing
from tljax.data.splits import HeldOut
from tljax.errors import InputError
from tljax.experiment.build import Experiment
from tljax.experiment.classify import Prediction, predict
from tljax.experiment.folds import read_folds
from tljax.experiment.trained import (
    Evaluated,
    Trained,
    load_other,
    match_classes,
    read_workdir,
    training_labels,
    warn_of_held_out,
)
from tljax.runs.record import read_result
from tljax.training.problems import Evaluation, MultiLabel, Problem, Regression

_log = logging.getLogger("tljax")

_SMALLEST = 1e-12  # a probability, so that its logarithm is finite


@dataclass(frozen=True)
class Ensemble:
    """Trained networks of one config, on parts of the same data.

    Attributes:
      members: one or more.
    """

    members: tuple[Trained, ...]

    @property
    def experiment(self) -> Experiment:
        """The first member's experiment. The members differ only in `fold`."""
        return self.members[0].experiment

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The resolved config of the first member."""
        return self.experiment.config

    @property
    def problem(self) -> Problem:
        """What the heads learnt; thresholds of several labels are the means of the members'."""
        problem = self.members[0].problem
        if not isinstance(problem, MultiLabel):
            return problem
        chosen: list[Any] = [getattr(member.problem, "thresholds", None) for member in self.members]
        if None in chosen:
            return replace(problem, thresholds=None)
        return replace(problem, thresholds=tuple(np.mean(chosen, axis=0).tolist()))

    def predict(
        self, source: Source, batch_size: int, on_error: str = "fail"
    ) -> Iterator[Prediction | np.ndarray | None]:
        """Predicts the images of a source in order; see `tljax.experiment.classify.predict`."""
        with ExitStack() as opened:
            members = [
                opened.enter_context(closing(predict(member, source, batch_size, on_error)))
                for member in self.members
            ]
            for given in zip(*members, strict=True):
                answers = [answer for answer in given if answer is not None]
                if len(answers) < len(members):
                    yield None
                elif len(members) == 1:
                    yield answers[0]
                else:
                    yield _mean(answers)

    def evaluate(self, source: Source) -> Evaluation:
        """Evaluates the members together."""
        problem = self.problem
        batch_size = min(self.config.batch_size, len(source))
        answers = list(self.predict(source, batch_size, self.config.on_error))
        images = np.array([row for row, answer in enumerate(answers) if answer is not None], int)
        if not len(images):
            raise InputError(f"none of the {len(source)} images can be read; check the data")
        skipped = [f"image {row:,}" for row, answer in enumerate(answers) if answer is None]
        if skipped:
            _log.warning(skipped_message(skipped))
        outputs = np.stack([_outputs(answer) for answer in answers if answer is not None])
        labels = source.labels[images]
        targets, mask = jnp.asarray(problem.targets(labels)), jnp.ones(len(images))
        sums, given = jax.device_get(problem.judge(_logits(problem, outputs), targets, mask))
        totals = {name: np.asarray(total, np.float64) for name, total in sums.items()}
        evaluation = problem.evaluation(totals, given, labels, images)
        return replace(evaluation, skipped=tuple(skipped))


def _outputs(answer: Prediction | np.ndarray) -> np.ndarray:
    return answer.probabilities if isinstance(answer, Prediction) else answer


def _mean(answers: list[Any]) -> Prediction | np.ndarray:
    if not isinstance(answers[0], Prediction):
        numbers: np.ndarray = np.mean(answers, axis=0)
        return numbers
    probabilities = np.mean([answer.probabilities for answer in answers], axis=0)
    return Prediction(int(probabilities.argmax()), probabilities)


def read_ensemble(workdir: Path, task: str | None = None) -> Ensemble:
    """Reads the folds of a workdir of `tljax folds`; of one run that run alone.

    Args:
      workdir: of either.
      task: see `read_workdir`.

    Raises:
      InputError: if it is neither, or a fold is not done.
    """
    folds = read_folds(workdir)
    if folds is None:
        return Ensemble((read_workdir(workdir, task),))
    left = [name for name in folds.names if read_result(workdir / name) is None]
    if left:
        raise InputError(
            f"{len(left)} of the {folds.folds} folds in '{workdir}' are not done, e.g. {left[0]};"
            " run the same `tljax folds` command again"
        )
    return Ensemble(tuple(read_workdir(workdir / name, task) for name in folds.names))


def evaluate_folds(
    workdir: Path,
    data: str | None,
    split: str,
    task: str | None = None,
    data_dir: str | None = None,
) -> Evaluated:
    """Evaluates the ensemble of the folds on other data, or on the data's own test images.

    Images that a fold was fitted on are left out, and counted in a warning.

    Args:
      workdir: of `tljax folds`.
      data: with the same classes; None: the data of the folds, of which no fold has seen the own
        test images.
      split: of the data.
      task: see `read_workdir`.
      data_dir: where `tfds:` data lies; None: where the config says.

    Raises:
      InputError: if a fold is not done, or there are no such images.
    """
    ensemble = read_ensemble(workdir, task)
    config = ensemble.config
    spec = config.data if data is None else absolute(data)
    is_own = spec == config.data
    if is_own and split != "test":
        raise InputError(
            f"each fold of '{workdir}' has {split} images of its own; evaluate one fold, e.g."
            f" '{workdir / 'fold_0'}', or leave --split out"
        )
    dataset = load_other(config, spec, data_dir)
    if is_own and isinstance(dataset.test, HeldOut):
        raise InputError(
            f"'{spec}' has no test images of its own, and its other images were trained on by all"
            f" folds of '{workdir}' but one: the answers of that one are in out_of_fold.csv; name"
            " other data with --data"
        )
    warn_of_held_out(dataset, spec)
    dataset = _unseen(ensemble, dataset, split)
    dataset = match_classes(ensemble.members[0], dataset, spec)
    source = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    source = source and without_missing(source)
    if not source:
        raise InputError(f"'{spec}' has no {split} images; choose another --split")
    evaluation = ensemble.evaluate(source)
    trained_on = training_labels(ensemble.members[0], dataset)
    naive = ensemble.problem.naive(trained_on, evaluation.labels)
    return Evaluated(evaluation, naive, data or config.data, split)


def _unseen(ensemble: Ensemble, dataset: Dataset, split: str) -> Dataset:
    """The data without the images of a split that a member was fitted on."""
    if split != "val":  # those that were seen of the validation images do not matter
        dataset = replace(dataset, val=None)
    kept = [one for member in ensemble.members for one in member.splits or ()]
    return leave_out_seen(dataset, kept)


def _logits(problem: Problem, outputs: np.ndarray) -> jax.Array:
    """Outputs of a network (n, m) that would give these answers."""
    if isinstance(problem, Regression):
        assert problem.scale is not None  # of a run
        return jnp.asarray(problem.scale.standardise(outputs))
    p = np.clip(outputs.astype(np.float64), _SMALLEST, 1.0)
    if isinstance(problem, MultiLabel):
        p = np.log(p) - np.log(np.maximum(1 - p, _SMALLEST))
    else:
        p = np.log(p)
    return jnp.asarray(p, jnp.float32)
