"""Predicts image files with a trained model."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tljax import experiment
from tljax.analysis.spreadsheet import as_cell, write_rows
from tljax.console import progress_bar
from tljax.data import skipped_message
from tljax.data.folder import FolderSource
from tljax.data.listing import find_images
from tljax.errors import InputError
from tljax.experiment import Ensemble
from tljax.experiment.classify import Prediction
from tljax.files import replacing, writable_file
from tljax.training.problems import MultiLabel, Regression

_log = logging.getLogger("tljax")

Cell = str | float


@dataclass(frozen=True)
class Column:
    """A column of predictions; one that is not `in_table` stands in the CSV file alone.

    `form` is how its numbers are printed: probabilities with four decimals.
    """

    name: str
    is_number: bool = False
    in_table: bool = True
    form: str = ".4f"


@dataclass(frozen=True)
class Predictions:
    """What was predicted: the cells of each file, by columns."""

    columns: list[Column]
    rows: list[tuple[Path, list[Cell]]]


def predict_files(
    workdir: Path,
    paths: Sequence[Path],
    output: Path | None = None,
    on_error: str = "fail",
    task: str | None = None,
) -> Predictions:
    """Predicts images with the best weights of a workdir, or of all its folds together.

    Args:
      workdir: of a run of `tljax train`, or of `tljax folds`.
      paths: image files, and folders, which are searched with all their subfolders.
      output: CSV file to write: `file`, `prediction`, `probability`, then the probability of each
        class; of several labels an image the `prediction` names all, with `; ` between, and there
        is no `probability`; of numbers `file` and the numbers. A class name that a spreadsheet
        would take for a formula begins with an apostrophe, in the head as in the rows; such a file
        name begins with `./`, which names the same file.
      on_error: what to do about an image that cannot be read: `fail`, or `skip`, which warns.
      task: the task whose classes to predict, if the run has several.

    Returns:
      The predictions for the images that could be read.

    Raises:
      InputError: if the workdir holds no trained run, a path is missing or holds no image, an image
        (with `skip`: every image) cannot be read, or the output cannot be written. No output is
        then left behind.
    """
    if output is not None:
        writable_file(output, ".csv")
    files = list(dict.fromkeys(file for path in paths for file in _image_files(path)))
    ensemble = experiment.read_ensemble(workdir, task)
    columns, cells = _describe(ensemble)
    config = ensemble.config
    source = FolderSource(
        files, [0] * len(files), deep_images=config.deep_images, channels=config.channels
    )
    predictions = ensemble.predict(source, min(config.batch_size, len(files)), on_error)
    with progress_bar() as bar:
        tracked = bar.track(predictions, len(files), description="predicting")
        readable = _pair_readable(files, tracked)
        rows = ((file, cells(prediction)) for file, prediction in readable)
        return Predictions(columns, list(rows if output is None else _write(output, columns, rows)))


def _describe(ensemble: Ensemble) -> tuple[list[Column], Callable[[Any], list[Cell]]]:
    """The columns of the kind of predictions, and what makes the cells of one."""
    names, problem = ensemble.experiment.class_names, ensemble.problem
    numbers = [Column(name, is_number=True) for name in names]
    if isinstance(problem, Regression):
        in_units = [replace(column, form=".6g") for column in numbers]
        return in_units, lambda values: values.tolist()
    if isinstance(problem, MultiLabel):

        def cells_of_set(probabilities: np.ndarray) -> list[Cell]:
            (has,) = problem.has(probabilities[None])
            found = [name for name, one in zip(names, has, strict=True) if one]
            return ["; ".join(found), *probabilities.tolist()]

        return [Column("prediction"), *numbers], cells_of_set

    def cells_of_class(prediction: Prediction) -> list[Cell]:
        return [names[prediction.label], prediction.probability, *prediction.probabilities.tolist()]

    first = [Column("prediction"), Column("probability", is_number=True)]
    return [*first, *(replace(column, in_table=False) for column in numbers)], cells_of_class


def _pair_readable(files: Sequence[Path], predictions: Iterable[Any]) -> Iterator[tuple[Path, Any]]:
    """Yields the images that could be read; then warns of those that could not."""
    skipped = []
    for file, prediction in zip(files, predictions, strict=True):
        if prediction is None:
            skipped.append(file)
        else:
            yield file, prediction
    if len(skipped) == len(files):
        raise InputError(
            f"none of the {len(files)} images can be read, e.g. {files[0]}; check them"
        )
    if skipped:
        _log.warning(skipped_message(skipped))


def _write(
    output: Path, columns: Sequence[Column], rows: Iterator[tuple[Path, list[Cell]]]
) -> Iterator[tuple[Path, list[Cell]]]:
    """Writes the rows to a CSV file as they pass."""
    # File names may contain bytes that are not UTF-8; surrogateescape writes them unchanged.
    with (
        replacing(output) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        write_rows(table, [["file", *(column.name for column in columns)]])
        for file, cells in rows:
            texts = [cell if isinstance(cell, str) else f"{cell:.6g}" for cell in cells]
            write_rows(table, [[_path_cell(file), *texts]])
            yield file, cells


def _path_cell(file: Path) -> str:
    """The path as a cell that a spreadsheet takes for text, and that names the same file."""
    text = str(file)
    return text if as_cell(text) == text else f"./{text}"


def _image_files(path: Path) -> list[Path]:
    """Returns the path itself, or all images of a folder."""
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"there is no image or folder '{path}'; check the path")
        return [path]
    files = find_images(path)
    if not files:
        raise InputError(f"the folder '{path}' holds no images; give one that does")
    return files
