"""Joins several data sets into one, for a trunk that learns several tasks at once.

Images and classes are concatenated: the labels of a data set are shifted by the number of classes
of the data sets before it. So a label also identifies the task of its image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data.folder import FolderSource
from tljax.data.labels import Kind
from tljax.data.sources import (
    Dataset,
    Example,
    Source,
    Subset,
    digest,
    fingerprint,
    groups_of,
    unwrap_subset,
    weights_of,
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
        self.groups, self.weights = _join_groups(sources), _join_weights(sources)

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


def _join_groups(sources: Sequence[Source]) -> np.ndarray | None:
    """The groups of all images, those of each source by themselves; None if no source has any."""
    parts = [groups_of(source) for source in sources]
    if all(part is None for part in parts):
        return None
    numbered: list[np.ndarray] = []
    for source, part in zip(sources, parts, strict=True):
        own = np.arange(len(source)) if part is None else part
        first = max((int(before.max()) + 1 for before in numbered if len(before)), default=0)
        numbered.append(first + own)
    return np.concatenate(numbered)


def _join_weights(sources: Sequence[Source]) -> np.ndarray | None:
    """The weights of all images, 1 of those without; None if no source has any."""
    parts = [weights_of(source) for source in sources]
    if all(part is None for part in parts):
        return None
    pairs = zip(sources, parts, strict=True)
    return np.concatenate(
        [np.ones(len(source), np.float32) if part is None else part for source, part in pairs]
    )


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


def concatenate(sources: Sequence[Source]) -> tuple[Source, list[np.ndarray]]:
    """Returns a source that holds the images of several ones, and where it holds those of each.

    Args:
      sources: one or more, of the same classes. None holds an image, or a group, of another one.

    Returns:
      (whole, rows): rows[i], int (m,), are the rows of the images of sources[i] in `whole`.
    """
    bases, rows = map(list, zip(*map(unwrap_subset, sources), strict=True))
    if all(base is bases[0] for base in bases):
        return bases[0], rows
    folders = [base for base in bases if isinstance(base, FolderSource)]
    whole = _join_folders(folders) if len(folders) == len(bases) else Joint(bases, [0] * len(bases))
    first_rows = np.cumsum([0, *map(len, bases)])[:-1]
    return whole, [first + own for first, own in zip(first_rows, rows, strict=True)]


def _join_folders(sources: Sequence[FolderSource]) -> FolderSource:
    """The files of several sources, one source after the other, as those of one.

    All are decoded as those of the first source are.
    A file that is called as one before it gets the folder of its split before its name, e.g.
    `val/cat/1.png`.
    """
    names: list[str] = []
    taken: set[str] = set()
    for source in sources:
        for file, name in zip(source.files, source.names, strict=True):
            above = file.parts[: -len(Path(name).parts)] if isinstance(file, Path) else ()
            names.append(f"{above[-1]}/{name}" if name in taken and above else name)
        taken.update(names)
    return FolderSource(
        [file for source in sources for file in source.files],
        np.concatenate([source.labels for source in sources]),
        names,
        sources[0].deep_images,
        _join_groups(sources),
        _join_weights(sources),
        sources[0].channels,
    )
