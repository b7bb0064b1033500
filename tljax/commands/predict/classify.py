"""Classifies image files with a trained model."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tljax import experiment
from tljax.analysis.spreadsheet import as_cell, write_rows
from tljax.console import progress_bar
from tljax.data import skipped_message
from tljax.data.folder import FolderSource
from tljax.data.listing import find_images
from tljax.errors import InputError
from tljax.experiment.classify import Prediction, classify
from tljax.files import replacing, writable_file

_log = logging.getLogger("tljax")


def classify_files(
    workdir: Path,
    paths: Sequence[Path],
    output: Path | None = None,
    on_error: str = "fail",
    task: str | None = None,
) -> list[tuple[Path, str, float]]:
    """Classifies images with the best weights of a workdir.

    Args:
      workdir: of a run of `tljax train`.
      paths: image files, and folders, which are searched with all their subfolders.
      output: CSV file to write: `file`, `prediction`, `probability`, then the probability of each
        class. A class name that a spreadsheet would take for a formula begins with an apostrophe,
        in the head as in the rows; such a file name begins with `./`, which names the same file.
      on_error: what to do about an image that cannot be read: `fail`, or `skip`, which warns.
      task: the task whose classes to predict, if the run has several.

    Returns:
      (file, predicted class, its probability) for each image that could be read.

    Raises:
      InputError: if the workdir holds no trained run, a path is missing or holds no image, an image
        (with `skip`: every image) cannot be read, or the output cannot be written. No output is
        then left behind.
    """
    if output is not None:
        writable_file(output, ".csv")
    files = list(dict.fromkeys(file for path in paths for file in _image_files(path)))
    trained = experiment.read_workdir(workdir, task)
    config, exp = trained.config, trained.experiment
    source = FolderSource(
        files, [0] * len(files), deep_images=config.deep_images, channels=config.channels
    )
    predictions = classify(
        exp.model,
        trained.variables,
        source,
        exp.preprocessing,
        min(config.batch_size, len(files)),
        on_error,
    )
    names = exp.class_names
    with progress_bar() as bar:
        tracked = bar.track(predictions, len(files), description="predicting")
        readable = _pair_readable(files, tracked)
        if output is None:
            return [(file, names[p.label], p.probability) for file, p in readable]
        return _write_csv(output, readable, names)


def _pair_readable(
    files: Sequence[Path], predictions: Iterable[Prediction | None]
) -> Iterator[tuple[Path, Prediction]]:
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


def _write_csv(
    output: Path, predictions: Iterator[tuple[Path, Prediction]], names: Sequence[str]
) -> list[tuple[Path, str, float]]:
    rows = []
    # File names may contain bytes that are not UTF-8; surrogateescape writes them unchanged.
    with (
        replacing(output) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        write_rows(table, [["file", "prediction", "probability", *names]])
        for file, prediction in predictions:
            rows.append((file, names[prediction.label], prediction.probability))
            numbers = [f"{p:.6g}" for p in (prediction.probability, *prediction.probabilities)]
            write_rows(table, [[_path_cell(file), names[prediction.label], *numbers]])
    return rows


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
