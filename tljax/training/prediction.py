"""`tljax predict`: a trained network's answers to image files."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from tljax.data import Preprocessing, Source, eval_batches
from tljax.data.folder import FolderSource, find_images
from tljax.errors import InputError
from tljax.files import replacing, writable_file
from tljax.models import Model
from tljax.training import experiment
from tljax.training.progress import progress_bar
from tljax.training.step import predict_step
from tljax.transfer.partition import Tree


@dataclass(frozen=True)
class Prediction:
    """Of one image: the class with the largest logit, and all classes' probabilities (n,)."""

    label: int
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        """Of the class that is predicted."""
        return float(self.probabilities[self.label])


def predict(
    model: Model,
    variables: Tree,
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
) -> Iterator[Prediction]:
    """Classifies every image of `source`, in order; its labels are not looked at."""
    step = predict_step(model, preprocessing)
    left = len(source)
    for batch in eval_batches(source, preprocessing, batch_size=batch_size):
        answers = jax.device_get(step(variables, batch))
        for row in range(min(left, batch_size)):
            yield Prediction(int(answers["label"][row]), answers["probabilities"][row])
        left -= batch_size


def predict_files(
    workdir: Path, paths: Sequence[Path], output: Path | None = None
) -> list[tuple[Path, str, float]]:
    """`tljax predict`: classifies images with the best weights of a workdir.

    Args:
      workdir: of a run of `tljax train`.
      paths: image files, and folders, which are searched with all that is in them.
      output: CSV file to write: `file`, `prediction`, `probability`, then each class's probability.

    Returns:
      (file, predicted class, its probability) of each image.

    Raises:
      InputError: if it is not a trained workdir, a path is missing or holds no image, an image
        cannot be read, or the output not be written; no output is then left behind.
    """
    if output is not None:
        writable_file(output, ".csv")
    files = list(dict.fromkeys(file for path in paths for file in _image_files(path)))
    trained = experiment.read_workdir(workdir)
    exp = trained.experiment
    predictions = predict(
        exp.model,
        trained.variables,
        FolderSource(files, [0] * len(files)),
        exp.preprocessing,
        min(trained.config.batch_size, len(files)),
    )
    names = exp.class_names
    with progress_bar() as bar:
        answers = zip(
            files, bar.track(predictions, len(files), description="predicting"), strict=True
        )
        if output is None:
            return [(file, names[p.label], p.probability) for file, p in answers]
        return _write(output, answers, names)


def _write(
    output: Path, answers: Iterator[tuple[Path, Prediction]], names: Sequence[str]
) -> list[tuple[Path, str, float]]:
    rows = []
    # File names may hold bytes that are no UTF-8; they come out as they went in.
    with (
        replacing(output) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["file", "prediction", "probability", *names])
        for file, prediction in answers:
            rows.append((file, names[prediction.label], prediction.probability))
            numbers = [f"{p:.6g}" for p in (prediction.probability, *prediction.probabilities)]
            writer.writerow([file, names[prediction.label], *numbers])
    return rows


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"there is no image or folder '{path}'; check the path")
    if not path.is_dir():
        return [path]
    files = find_images(path)
    if not files:
        raise InputError(f"the folder '{path}' holds no images; give one that does")
    return files
