"""Several data sets as one, for a trunk that learns several tasks at once.

The images of all of them lie one data set after another, and the classes are numbered through: the
first class of a data set follows the last one of the data set before it. So a label says which task
its image belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.data.sources import Dataset, Example, Source, Subset, base_of, digest, fingerprint
from tljax.errors import InputError


@dataclass(frozen=True)
class Task:
    """What a head is for: a data set, by its name in a config's `data`, and its classes."""

    name: str
    class_names: tuple[str, ...]


class Joint(Source):
    """The images of several sources, with `offsets[i]` added to the labels of `sources[i]`."""

    def __init__(self, sources: Sequence[Source], offsets: Sequence[int]):
        self._sources, self._offsets = list(sources), list(offsets)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        shifted = [s.labels + offset for s, offset in zip(sources, offsets, strict=True)]
        self.labels = np.concatenate(shifted)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Example:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        example = self._sources[part][index - int(self._starts[part])]
        return {"image": example["image"], "label": example["label"] + self._offsets[part]}

    def fingerprint(self) -> str:
        return digest(repr(self._offsets), *(fingerprint(source) for source in self._sources))


def names_of_all(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The names of all tasks' classes, in the order of their labels: `TASK/CLASS` if several."""
    if len(tasks) == 1:
        return tasks[0].class_names
    return tuple(f"{task.name}/{name}" for task in tasks for name in task.class_names)


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets as one, which keeps them as its `parts`.

    Raises:
      InputError: if one of them has no images of a split that another has.
    """
    tasks = [Task(part.name, part.class_names) for part in datasets]
    splits: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        sources = [getattr(part, split) for part in datasets]
        lacking = [part.name for part, s in zip(datasets, sources, strict=True) if s is None]
        if lacking and len(lacking) < len(datasets):
            raise InputError(f"'{lacking[0]}' has no {split} images, but the others have; add some")
        splits[split] = None if lacking else _joined(sources, tasks)
    name = ",".join(task.name for task in tasks)
    return Dataset(name, names_of_all(tasks), **splits, parts=tuple(datasets))


def _joined(sources: Sequence[Source], tasks: Sequence[Task]) -> Subset:
    """A subset of the joined whole data sets, so that what is kept of an image has one place."""
    bases, rows = zip(*map(base_of, sources), strict=True)
    classes = np.cumsum([0, *(len(task.class_names) for task in tasks)])
    images = np.cumsum([0, *(len(base) for base in bases)])
    whole = Joint(bases, classes[:-1].tolist())
    return Subset(whole, np.concatenate([r + n for r, n in zip(rows, images, strict=False)]))
