"""The answers for each image by the run that it was not trained in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax import experiment
from tljax.analysis.spreadsheet import write_rows
from tljax.data import unwrap_subset
from tljax.errors import InputError
from tljax.experiment import Folds
from tljax.files import replacing
from tljax.runs.answers import ANSWERS_FILE, Answers, read_answers
from tljax.runs.record import read_result
from tljax.runs.workdir import explain_write_errors


@dataclass(frozen=True)
class DoneFold:
    """A fold whose run is done.

    Attributes:
      number: from 0.
      result: the content of its `result.json`.
      answers: for its images.
      images: their names; of data without files their numbers, from 0, among the images of training
        and validation.
      class_names: in the order of the probabilities.
    """

    number: int
    result: dict[str, Any]
    answers: Answers
    images: Sequence[str]
    class_names: tuple[str, ...]


def collect(workdir: Path, folds: Folds) -> list[DoneFold]:
    """Reads the folds that are done.

    Raises:
      InputError: if a file of one is missing or damaged.
    """
    done = []
    for number, name in enumerate(folds.names):
        folder = workdir / name
        result = read_result(folder)
        if result is None:
            continue
        answers = read_answers(folder)
        if answers is None:
            raise InputError(
                f"'{folder}' holds a run that is done, but no {ANSWERS_FILE}; restore it, or delete"
                " that folder and run the same command again"
            )
        names = tuple(name for task in experiment.tasks_of(folder) for name in task.class_names)
        done.append(DoneFold(number, result, answers, _image_names(folder), names))
    return done


def write_answers(path: Path, done: Sequence[DoneFold]) -> None:
    """Writes `out_of_fold.csv`: a row for each image that has an answer, fold by fold.

    Its columns: `image`, `label`, `predicted`, `confidence` (the probability of the predicted
    class), `fold`, then the probability of each class.
    """
    # As in `tljax predict`, names may contain bytes that are not UTF-8.
    with (
        explain_write_errors(path),
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        head = ["image", "label", "predicted", "confidence", "fold", *done[0].class_names]
        write_rows(table, [head])
        for fold in done:
            write_rows(table, _rows(fold))


def _rows(fold: DoneFold) -> Iterator[list[Any]]:
    answers, names = fold.answers, fold.class_names
    for row, image in enumerate(answers.images):
        yield [
            fold.images[image],
            names[answers.labels[row]],
            names[answers.predicted[row]],
            f"{answers.confidences[row]:.6g}",
            fold.number,
            *(f"{p:.4g}" for p in answers.probabilities[row].tolist()),  # kept as float16
        ]


def _image_names(folder: Path) -> list[str]:
    """The names of the test images of a run, in their order."""
    splits = experiment.kept_splits(folder)
    listed = splits[0]["splits"]["test"] if splits else None
    if isinstance(listed, list):
        return [name for name, *_ in listed]
    test = experiment.load_data(experiment.read_config(folder), splits).test
    assert test is not None  # its fold
    base, rows = unwrap_subset(test)
    names = getattr(base, "names", range(len(base)))
    return [str(names[row]) for row in rows]
