"""From a name such as `embedded:digits` or `folder:PATH` to a data set with its three splits.

Several names, with commas between them, are the tasks of one trunk: `embedded:digits,folder:PATH`.
"""

import functools
import re
from dataclasses import replace

import numpy as np

from tljax.data import embedded, folder
from tljax.data.joint import Task, join, names_of_all
from tljax.data.sources import Dataset, Source, Subset
from tljax.data.splits import carve, random_ranks, stratified_order
from tljax.errors import InputError, did_you_mean

# Where data comes from: each module offers load(rest) -> Dataset and class_names(rest).
_ORIGINS = {"embedded": embedded, "folder": folder}


def load(
    spec: str,
    *,
    train_size: int | None = None,
    train_per_class: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Load a data set and settle its splits.

    Data without validation images first gives up `val_fraction` of its training images,
    stratified by class: at least one of every class that has two. What is left is then
    subsampled, so validation images are the same for every training size. With one
    seed smaller training sets are contained in larger ones. Test images never depend on the seed.
    Each of several data sets is treated as it would be alone.

    Args:
      spec: `embedded:NAME` or `folder:PATH`, or several of them with commas between.
      train_size: Training images in all (of each, if several), in the proportions of the classes;
        None keeps all. May be less than the number of classes.
      train_per_class: Training images of each class, instead of `train_size`.
      val_fraction: Between 0 and 1, both excluded; not used if the data has its own validation.
      seed: Of the validation split and the subsample; not negative.

    Raises:
      InputError: The data cannot be found or read, or has too few images for what is asked.
    """
    if train_size is not None and train_per_class is not None:
        raise InputError(
            f"train_size is {train_size} and train_per_class is {train_per_class}; set one of them"
        )
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}; set it between 0 and 1, both excluded")
    if seed < 0:
        raise InputError(f"seed is {seed}; set it to 0 or more")
    names = split_spec(spec)
    if len(names) > 1:
        each = functools.partial(
            load,
            train_size=train_size,
            train_per_class=train_per_class,
            val_fraction=val_fraction,
            seed=seed,
        )
        return join([replace(each(name), name=name) for name in names])
    origin, rest = _origin(spec)
    dataset = origin.load(rest)
    val_rng, subset_rng = (np.random.default_rng((seed, purpose)) for purpose in range(2))
    if dataset.val is None:
        kept, carved = carve(dataset.train.labels, val_fraction, val_rng)
        if len(carved) == 0:
            raise InputError(
                f"{spec} has one training image a class, so none can be kept for validation; add "
                "images"
            )
        dataset = replace(
            dataset, train=Subset(dataset.train, kept), val=Subset(dataset.train, carved)
        )
    if train_size is not None:
        dataset = replace(dataset, train=_first(dataset.train, train_size, spec, subset_rng))
    if train_per_class is not None:
        dataset = replace(dataset, train=_first_of_each(dataset, train_per_class, spec, subset_rng))
    return dataset


def class_names(spec: str) -> tuple[str, ...]:
    """Names of the classes in the order of their labels; reads no image.

    Raises:
      InputError: The data cannot be found.
    """
    return names_of_all(tasks(spec))


def tasks(spec: str) -> tuple[Task, ...]:
    """The data sets that a spec names, and their classes; reads no image.

    Raises:
      InputError: One of them cannot be found.
    """
    found = []
    for name in split_spec(spec):
        origin, rest = _origin(name)
        found.append(Task(name, origin.class_names(rest)))
    return tuple(found)


def split_spec(spec: str) -> list[str]:
    """The names in a spec; a comma ends one only where another begins, so a path may hold some.

    Raises:
      InputError: One of them is there twice.
    """
    names = re.split(rf",(?=(?:{'|'.join(_ORIGINS)}):)", spec)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the data names '{twice}' twice; name each data set once")
    return names


def _origin(spec: str):
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in _ORIGINS:
        hint = did_you_mean(scheme, _ORIGINS) if colon else ""
        raise InputError(f"unknown data '{spec}'{hint}: write embedded:NAME or folder:PATH")
    return _ORIGINS[scheme], rest


def _first(source: Source, size: int, spec: str, rng: np.random.Generator) -> Subset:
    if not 1 <= size <= len(source):
        raise InputError(
            f"train_size is {size}, but {spec} has {len(source)} training images after validation; "
            f"set it between 1 and {len(source)}"
        )
    return Subset(source, np.sort(stratified_order(source.labels, rng)[:size]))


def _first_of_each(dataset: Dataset, size: int, spec: str, rng: np.random.Generator) -> Subset:
    labels = dataset.train.labels
    counts = np.bincount(labels, minlength=dataset.num_classes)
    fewest = int(counts.argmin())
    if not 1 <= size <= counts[fewest]:
        raise InputError(
            f"train_per_class is {size}, but class '{dataset.class_names[fewest]}' of {spec} has "
            f"{counts[fewest]} training images after validation; set it between 1 and that"
        )
    return Subset(dataset.train, np.flatnonzero(random_ranks(labels, rng) < size))
