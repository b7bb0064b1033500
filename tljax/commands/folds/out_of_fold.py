"""The answers for each image by the run that it was not trained in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from tljax import experiment
from tljax.analysis.spreadsheet import write_rows
from tljax.data import unwrap_subset
from tljax.errors import InputError
from tljax.experiment import Folds
from tljax.files import replacing
from tljax.runs.answers import ANSWERS_FILE, Answers, Outputs, read_answers
from tljax.runs.record import read_result
from tljax.runs.workdir import explain_write_errors
from tljax.training.problems import MultiLabel, Problem, problem_of


@dataclass(frozen=True)
class DoneFold:
    """A fold whose run is done.

    Attributes:
      number: from 0.
      result: the content of its `result.json`.
      answers: for its images.
      images: their names; of data without files their numbers, from 0, among the images of training
        and validation.
      class_names: in the order of the probabilities; of numbers what each one is called.
    """

    number: int
    result: dict[str, Any]
    answers: Answers | Outputs
    images: Sequence[str]
    class_names: tuple[str, ...]

    @property
    def problem(self) -> Problem:
        """What the run learnt; of several labels an image with its thresholds."""
        problem = problem_of(self.result.get("kind", "classes"))
        if isinstance(problem, MultiLabel) and (chosen := self.result.get("thresholds")):
            return replace(problem, thresholds=tuple(chosen))
        return problem


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

    Its columns: `image`, `fold`, `label`, `predicted`, `confidence` (the probability of the
    predicted class), then the probability of each class. Of several labels an image `label` and
    `predicted` name all, with `; ` between, and there is no `confidence`. Of numbers there are the
    true ones and, called `predicted ...`, the predicted ones.
    """
    # As in `tljax predict`, names may contain bytes that are not UTF-8.
    with (
        explain_write_errors(path),
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        for fold in done:
            cells = list(_cells(fold))
            if fold is done[0]:
                write_rows(table, [["image", "fold", *cells[0]]])
            for image, row in zip(fold.answers.images, cells[1:], strict=True):
                write_rows(table, [[fold.images[image], fold.number, *row]])


def _cells(fold: DoneFold) -> Iterator[list[str]]:
    """The head of the columns after `image` and `fold`, then the cells of each answer."""
    answers, names, problem = fold.answers, fold.class_names, fold.problem
    if isinstance(answers, Answers):
        yield ["label", "predicted", "confidence", *names]
        for row, confidence in enumerate(answers.confidences):
            words = [names[answers.labels[row]], names[answers.predicted[row]]]
            # Probabilities are kept as float16.
            numbers = [f"{p:.4g}" for p in answers.probabilities[row].tolist()]
            yield [*words, f"{confidence:.6g}", *numbers]
    elif isinstance(problem, MultiLabel):
        yield ["label", "predicted", *names]
        answered = problem.has(answers.outputs)
        for has, said, outputs in zip(answers.labels > 0, answered, answers.outputs, strict=True):
            sets = ["; ".join(compress(names, which)) for which in (has, said)]
            yield [*sets, *(f"{p:.6g}" for p in outputs.tolist())]
    else:
        yield [*names, *(f"predicted {name}" for name in names)]
        for labels, outputs in zip(answers.labels, answers.outputs, strict=True):
            yield [f"{number:.6g}" for number in (*labels.tolist(), *outputs.tolist())]


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
