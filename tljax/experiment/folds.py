"""The folds of a cross-validation in `W/fold_0`, `W/fold_1`, ..., and their ensemble.

`W/folds.json` says how many folds there are, and which images are in each. Their ensemble averages
the probabilities of the folds' best weights.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data import Source, absolute, skipped_message
from tljax.data.kept import leave_out_seen, without_missing
from tljax.data.splits import HeldOut
from tljax.errors import InputError
from tljax.experiment.classify import Prediction, classify
from tljax.experiment.trained import (
    Evaluated,
    Trained,
    load_other,
    match_classes,
    read_workdir,
    training_labels,
)
from tljax.experiment.workdir import FOLDS, is_folds
from tljax.files import parse_json
from tljax.runs.record import read_result
from tljax.runs.workdir import write_atomically
from tljax.training.evaluation import Evaluation, naive_accuracy

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class Folds:
    """Which images are in which fold.

    Attributes:
      folds: their number.
      data_seed: that they were drawn with.
      sizes: number of images in each.
      images: a fingerprint of the images of each.
      grouped: whether the data has groups, which are whole in a fold.
    """

    folds: int
    data_seed: int
    sizes: tuple[int, ...]
    images: tuple[str, ...]
    grouped: bool

    @property
    def names(self) -> list[str]:
        """The folders of the runs."""
        return [f"fold_{number}" for number in range(self.folds)]


def read_folds(workdir: Path) -> Folds | None:
    """Reads which folds a workdir of `tljax folds` has; None if it is no such workdir.

    Raises:
      InputError: if its `folds.json` is damaged.
    """
    path = workdir / FOLDS
    if not is_folds(workdir):
        return None
    try:
        content = parse_json(path.read_bytes())
        found = Folds(**{field.name: content[field.name] for field in fields(Folds)})
        found = replace(found, sizes=tuple(found.sizes), images=tuple(found.images))
        if not len(found.sizes) == len(found.images) == found.folds >= 2:
            raise ValueError("its lists do not have an item for each fold")
        if not all(isinstance(size, int) for size in (*found.sizes, found.data_seed)):
            raise ValueError("its sizes are no numbers")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"cannot read {path} ({error}); restore it, or delete it and run the same `tljax folds`"
            " command again"
        ) from None
    return found


def write_folds(workdir: Path, folds: Folds, results: dict[str, Any] | None = None) -> None:
    """Writes `folds.json`: the folds, and what came out of them."""
    content = asdict(folds) | (results or {})
    write_atomically(workdir / FOLDS, json.dumps(content, indent=2) + "\n")


def read_members(workdir: Path, task: str | None = None) -> list[Trained]:
    """Reads the networks that answer together: of a run its own, of folds one for each fold.

    Args:
      workdir: of a run of `tljax train`, or of `tljax folds`.
      task: see `read_workdir`.

    Raises:
      InputError: if it is neither, or a fold is not done.
    """
    folds = read_folds(workdir)
    if folds is None:
        return [read_workdir(workdir, task)]
    left = [name for name in folds.names if read_result(workdir / name) is None]
    if left:
        raise InputError(
            f"{len(left)} of the {folds.folds} folds in '{workdir}' are not done, e.g. {left[0]};"
            " run the same `tljax folds` command again"
        )
    return [read_workdir(workdir / name, task) for name in folds.names]


def classify_together(
    members: Sequence[Trained], source: Source, batch_size: int, on_error: str = "fail"
) -> Iterator[Prediction | None]:
    """Classifies images by the mean of the members' probabilities; see `classify`.

    Args:
      members: from `read_members`.
      source: the images, in order; their labels are not read.
      batch_size: of the computation.
      on_error: what to do about an image that cannot be read: `fail` or `skip`.

    Yields:
      A prediction for each image; None for a skipped one.
    """
    with ExitStack() as opened:
        answers = [
            opened.enter_context(
                closing(
                    classify(
                        member.experiment.model,
                        member.variables,
                        source,
                        member.experiment.preprocessing,
                        batch_size,
                        on_error,
                    )
                )
            )
            for member in members
        ]
        for given in zip(*answers, strict=True):
            readable = [prediction for prediction in given if prediction is not None]
            if len(readable) < len(members):
                yield None
            elif len(members) == 1:
                yield readable[0]
            else:
                mean = np.mean([prediction.probabilities for prediction in readable], axis=0)
                yield Prediction(int(mean.argmax()), mean)


def evaluate_folds(
    workdir: Path, data: str | None, split: str, data_dir: str | None = None
) -> Evaluated:
    """Evaluates the ensemble of the folds on other data, or on the data's own test images.

    Images that a fold was fitted on are left out, and counted in a warning.

    Args:
      workdir: of `tljax folds`.
      data: with the same classes; None: the data of the folds, of which no fold has seen the own
        test images.
      split: of the data.
      data_dir: where `tfds:` data lies; None: where the config says.

    Raises:
      InputError: if a fold is not done, or there are no such images.
    """
    members = read_members(workdir)
    first = members[0]
    config = first.config
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
    if split != "val":  # of those images some may have been seen, which is of no interest
        dataset = replace(dataset, val=None)
    dataset = leave_out_seen(dataset, [kept for fold in members for kept in fold.splits or ()])
    dataset = match_classes(first, dataset, spec)
    source = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[split]
    source = source and without_missing(source)
    if not source:
        raise InputError(f"'{spec}' has no {split} images; choose another --split")
    evaluation = _evaluate_together(members, source)
    naive = naive_accuracy(training_labels(first, dataset), evaluation)
    return Evaluated(evaluation, naive, data or config.data, split)


def _evaluate_together(members: Sequence[Trained], source: Source) -> Evaluation:
    """The accuracies and the loss of the mean of the members' probabilities."""
    config, classes = members[0].config, len(members[0].experiment.class_names)
    batch_size = min(config.batch_size, len(source))
    answers = list(classify_together(members, source, batch_size, config.on_error))
    rows = np.array([row for row, answer in enumerate(answers) if answer is not None], int)
    if not len(rows):
        raise InputError(f"none of the {len(source)} images can be read; check the data")
    if skipped := [f"image {row:,}" for row in set(range(len(source))) - set(rows.tolist())]:
        _log.warning(skipped_message(skipped))
    labels = source.labels[rows]
    right = np.array([answers[row].label for row in rows]) == labels
    chances = [answers[row].probabilities[label] for row, label in zip(rows, labels, strict=True)]
    counts = np.bincount(labels, minlength=classes)
    recalls = np.bincount(labels, right, minlength=classes)[counts > 0] / counts[counts > 0]
    return Evaluation(
        accuracy=float(right.mean()),
        balanced_accuracy=float(recalls.mean()),
        loss=float(-np.log(np.maximum(chances, np.finfo(np.float32).tiny)).mean()),
        count=len(rows),
        class_counts=tuple(counts.tolist()),
        skipped=tuple(skipped),
    )
