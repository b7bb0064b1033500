"""What a source model makes of its own training images: statistics of its features.

They are computed when somebody asks for them, and kept in the workdir of the source: a run that is
no source pays nothing, and its workdir holds nothing else than before.
"""

import logging
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from safetensors.numpy import save

from tljax.console import progress_bar
from tljax.data import Source, Subset, eval_batches, normalise, skipped_message
from tljax.data.kept import without_missing
from tljax.data.sources import evenly_spaced
from tljax.data.splits import stratified_order
from tljax.errors import InputError
from tljax.experiment.build import load_data
from tljax.experiment.trained import Trained, read_all_tasks
from tljax.frozen.cache import digest_of_prefix
from tljax.frozen.over_images import BATCH
from tljax.models import features
from tljax.runs.record import check_classes
from tljax.runs.workdir import write_atomically
from tljax.weights.read import read

_log = logging.getLogger("tljax")

STATISTICS_FILE = "source_statistics.safetensors"
MOST_IMAGES = 5_000
MOST_KEPT = 500  # images whose features themselves are kept


class SourceStatistics(NamedTuple):
    """Statistics of the features that the head of a source sees, over its training images.

    Attributes:
      means: float32 (classes, d), the mean of each class; zeros for a class without images.
      counts: int64 (classes,), the number of images of each class, of 5,000 at most in all.
      covariance: float32 (d, d), of all images around their common mean, with n - 1.
      sample: float32 (m, d), the features of some of the images, of 500 at most.
    """

    means: np.ndarray
    counts: np.ndarray
    covariance: np.ndarray
    sample: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean of all images, float32 (d,)."""
        mean: np.ndarray = np.average(self.means.astype(np.float64), axis=0, weights=self.counts)
        return mean.astype(np.float32)


class Moments:
    """Sums over features of images, of which a batch after the other is added.

    A batch's mean and scatter are merged with those before it, so that nothing cancels (Chan,
    Golub and LeVeque 1983, "Algorithms for computing the sample variance"). All is in float64.
    """

    def __init__(self, num_classes: int, width: int):
        self.counts = np.zeros(num_classes, np.int64)
        self.sums = np.zeros((num_classes, width))
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Adds images: features (n, d) and classes (n,)."""
        if not len(rows):
            return
        rows = np.asarray(rows, np.float64)
        before, added = int(self.counts.sum()), len(rows)
        mean = rows.mean(axis=0)
        around = rows - mean
        step = mean - self.mean
        self.scatter += around.T @ around
        self.scatter += np.outer(step, step) * (before * added / (before + added))
        self.mean += step * (added / (before + added))
        self.counts += np.bincount(labels, minlength=len(self.counts))
        np.add.at(self.sums, labels, rows)

    def statistics(self, sample: np.ndarray) -> SourceStatistics:
        """The statistics of the images added so far, with features of some of them."""
        means = self.sums / np.maximum(self.counts, 1)[:, None]
        covariance = self.scatter / max(1, int(self.counts.sum()) - 1)
        return SourceStatistics(
            means.astype(np.float32), self.counts.copy(), covariance.astype(np.float32), sample
        )


def source_statistics(workdir: Path) -> tuple[SourceStatistics | None, str]:
    """Class means, covariance and a sample of a source's features over its training images.

        statistics, why_not = experiment.source_statistics(Path("runs/source"))

    They are those of its best weights and of 5,000 training images at most, in the proportions of
    their classes, without augmentation. The first call reads the images, and keeps the statistics
    in the workdir, if that can be written to; later calls do not need the images any more.

    Args:
      workdir: of a run of `tljax train`.

    Returns:
      The statistics, and an empty text; or None and the reason why there are none.

    Raises:
      InputError: if it is not a workdir, or holds no weights.
    """
    trained = read_all_tasks(workdir)
    model = trained.experiment.model
    made_from = digest_of_prefix(model, trained.variables, len(model.groups) - 1)
    path = workdir / STATISTICS_FILE
    if (kept := _read(path, trained, made_from)) is not None:
        return kept, ""
    try:
        found = _compute(trained)
    except InputError as error:
        return None, str(error)
    try:
        write_atomically(path, save(found._asdict(), {"weights": made_from}))
    except InputError as error:
        _log.warning("the statistics of '%s' are not kept: %s", workdir, error)
    return found, ""


def _compute(trained: Trained) -> SourceStatistics:
    """Computes the statistics; InputError if the data is gone, or has changed."""
    exp, config = trained.experiment, trained.config
    if trained.problem.kind != "classes":
        raise InputError(f"'{trained.workdir}' was trained on labels without classes of their own")
    dataset = load_data(config, trained.splits)
    check_classes(dataset.class_names, exp.class_names, config.data, trained.workdir)
    images = _choose(without_missing(dataset.train))
    variables = jax.device_put(trained.variables)  # once, and not with every batch
    batches = eval_batches(images, exp.preprocessing, batch_size=BATCH, on_error=config.on_error)
    moments: Moments | None = None
    found: list[np.ndarray] = []
    with closing(iter(batches)) as reader, progress_bar() as bar:
        task = bar.add_task("statistics of the source", total=len(images))
        for batch in reader:
            x = normalise(batch["image"], exp.preprocessing)
            rows, real = np.asarray(features(exp.model, variables, x)), batch["mask"] > 0
            moments = moments or Moments(len(exp.class_names), rows.shape[1])
            moments.add(rows[real], batch["label"][real])
            found.append(rows[real])
            bar.update(task, advance=BATCH)
    if batches.skipped:
        _log.warning(skipped_message(batches.skipped))
    if moments is None or not moments.counts.any():
        raise InputError(f"'{config.data}' has no training image that can be read; restore it")
    everything = np.concatenate(found).astype(np.float32)
    return moments.statistics(everything[evenly_spaced(len(everything), MOST_KEPT)])


def _choose(source: Source) -> Source:
    """At most 5,000 of the images, in the proportions of their classes: always the same ones."""
    if len(source) <= MOST_IMAGES:
        return source
    order = stratified_order(source.labels, np.random.default_rng(0))
    return Subset(source, np.sort(order[:MOST_IMAGES]))


def _read(path: Path, trained: Trained, made_from: str) -> SourceStatistics | None:
    """The kept statistics; None if there are none, or they are damaged or of other weights."""
    if not path.is_file():
        return None
    try:
        content = read(path)
        if content.metadata.get("weights") != made_from:  # trained for longer since
            return None
        found = SourceStatistics(**content.tensors)
        classes, width = len(trained.experiment.class_names), found.covariance.shape[-1]
        shapes = [array.shape for array in found]
        if shapes != [(classes, width), (classes,), (width, width), (len(found.sample), width)]:
            raise InputError(f"'{path}' holds arrays of the shapes {shapes}")
        if not all(np.isfinite(array).all() for array in found):
            raise InputError(f"'{path}' holds numbers that are not finite")
    except (InputError, TypeError, IndexError) as error:
        _log.warning("%s; the statistics are computed again", error)
        return None
    return found
