"""Joins several data sets into one, for a trunk that learns several tasks at once.

Images and classes are concatenated: the labels of a data set are shifted by the number of classes
of the data sets before it. So a label also identifies the task of its image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.data.folder import FolderSource, join_folders
from tljax.data.labels import Kind
from tljax.data.sources import (
    Dataset,
    Example,
    Source,
    Subset,
    digest,
    fingerprint,
    join_groups,
    join_weights,
    unwrap_subset,
)
from tljax.errors import InputError


@dataclass(frozen=True)
class Task:
    """What one head learns.

    Attributes:
      name: of the data set in a config's `data`.
      class_names: in the order of the logits; of numbers what each one is called.
      kind: of the labels.
      scale: of numbers, (mean, deviation) of each over the training images; None: not known yet.
    """

    name: str
    class_names: tuple[str, ...]
    kind: Kind = "classes"
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None


class Joint(Source):
    """The images of several sources, with `offsets[i]` added to the labels of `sources[i]`."""

    def __init__(self, sources: Sequence[Source], offsets: Sequence[int]):
        self._sources, self._offsets = list(sources), list(offsets)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self.labels = np.concatenate(
            [source.labels + offset for source, offset in zip(sources, offsets, strict=True)]
        )
        self.groups, self.weights = join_groups(sources), join_weights(sources)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Example:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        example = self._sources[number][index - int(self._starts[number])]
        joined: Example = {**example, "label": example["label"] + self._offsets[number]}
        if self.weights is not None:
            joined["weight"] = float(self.weights[index])
        return joined

    def fingerprint(self) -> str:
        return digest(repr(self._offsets), *(fingerprint(source) for source in self._sources))

    def subset_fingerprint(self, rows: np.ndarray) -> str:
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        parts = [
            Subset(source, rows[numbers == i] - self._starts[i]).fingerprint()
            for i, source in enumerate(self._sources)
        ]
        return digest(repr(self._offsets), numbers, *parts)


def concatenate(sources: Sequence[Source]) -> tuple[Source, list[np.ndarray]]:
    """Returns a source that holds the images of several ones, and where it holds those of each.

    Args:
      sources: one or more, of the same classes. None holds an image of another one.

    Returns:
      (whole, rows): rows[i], int (m,), are the rows of the images of sources[i] in `whole`.
    """
    bases, rows = map(list, zip(*map(unwrap_subset, sources), strict=True))
    if all(base is bases[0] for base in bases):
        return bases[0], rows
    folders = [base for base in bases if isinstance(base, FolderSource)]
    whole = join_folders(folders) if len(folders) == len(bases) else Joint(bases, [0] * len(bases))
    first_rows = np.cumsum([0, *map(len, bases)])[:-1]
    return whole, [first + own for first, own in zip(first_rows, rows, strict=True)]


def joint_class_names(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Class names of all tasks, in the order of the labels; `TASK/CLASS` if there are several."""
    if len(tasks) == 1:
        return tasks[0].class_names
    return tuple(f"{task.name}/{name}" for task in tasks for name in task.class_names)


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Joins data sets split by split, and keeps them as the `parts` of the result.

    Raises:
      InputError: A data set lacks a split that another one has, or its labels are no classes.
    """
    for dataset in datasets:
        if dataset.kind != "classes":
            raise InputError(
                f"'{dataset.name}' has labels of the kind {dataset.kind}, but only data sets of one"
                " class an image can be trained on together; train on it alone"
            )
    tasks = [Task(dataset.name, dataset.class_names) for dataset in datasets]
    splits: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        sources = [getattr(dataset, split) for dataset in datasets]
        missing = [d.name for d, source in zip(datasets, sources, strict=True) if source is None]
        if missing and len(missing) < len(datasets):
            raise InputError(f"'{missing[0]}' has no {split} images, but the others have; add some")
        splits[split] = None if missing else _join_sources(sources, tasks)
    name = ",".join(task.name for task in tasks)
    return Dataset(name, joint_class_names(tasks), **splits, parts=tuple(datasets))


def _join_sources(sources: Sequence[Source], tasks: Sequence[Task]) -> Subset:
    """A subset of the joined whole data sets: so all splits share one feature cache."""
    bases, rows = zip(*map(unwrap_subset, sources), strict=True)
    first_classes = np.cumsum([0, *(len(task.class_names) for task in tasks)])[:-1]
    first_rows = np.cumsum([0, *(len(base) for base in bases)])[:-1]
    whole = Joint(bases, first_classes.tolist())
    shifted = [r + first for r, first in zip(rows, first_rows, strict=True)]
    return Subset(whole, np.concatenate(shifted))
