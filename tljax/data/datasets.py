"""From a name such as `embedded:digits` or `folder:PATH` to a data set with its three splits.

Several names, with commas between them, are the tasks of one trunk: `embedded:digits,folder:PATH`.
"""

import functools
import re
from dataclasses import replace
from typing import Any

import numpy as np

from tljax.data import embedded, folder
from tljax.data.joint import Task, join, names_of_all
from tljax.data.sources import Dataset, Source, Subset
from tljax.data.splits import carve, random_ranks, stratified_order
from tljax.data.tfds import source as tfds
from tljax.errors import InputError, did_you_mean

# Where data comes from: each module offers load(rest) -> Dataset and class_names(rest).
_ORIGINS = {"embedded": embedded, "folder": folder, "tfds": tfds}
_WRITE = "write embedded:NAME, folder:PATH or tfds:NAME"


def load(
    spec: str,
    *,
    train_size: int | None = None,
    train_per_class: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    data_dir: str | None = None,
) -> Dataset:
    """Load a data set and settle its splits.

    Data without validation images first gives up `val_fraction` of its training images,
    stratified by class: at least one of every class that has two. What is left is then
    subsampled, so validation images are the same for every training size. With one
    seed smaller training sets are contained in larger ones. Test images never depend on the seed.
    Each of several data sets is treated as it would be alone.

    Args:
      spec: `embedded:NAME`, `folder:PATH`, or `tfds:NAME[/CONFIG][:VERSION]`, with choices after
        a `?` (see `tljax.data.tfds.spec`); or several of them with commas between.
      train_size: Training images in all (of each, if several), in the proportions of the classes;
        None keeps all. May be less than the number of classes.
      train_per_class: Training images of each class, instead of `train_size`.
      val_fraction: Between 0 and 1, both excluded; not used if the data has its own validation.
      seed: Of the validation split and the subsample; not negative.
      data_dir: Of `tfds:` alone: where prepared data sets lie; None: TFDS's own default.

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
    _check_data_dir(names, data_dir)
    if len(names) > 1:
        each = functools.partial(
            load,
            train_size=train_size,
            train_per_class=train_per_class,
            val_fraction=val_fraction,
            seed=seed,
        )
        places = [data_dir if _is_tfds(name) else None for name in names]
        return join(
            [
                replace(each(name, data_dir=place), name=name)
                for name, place in zip(names, places, strict=True)
            ]
        )
    dataset = _ask(spec, "load", data_dir)
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


def class_names(spec: str, data_dir: str | None = None) -> tuple[str, ...]:
    """Names of the classes in the order of their labels; reads no image.

    Raises:
      InputError: The data cannot be found.
    """
    return names_of_all(tasks(spec, data_dir))


def tasks(spec: str, data_dir: str | None = None) -> tuple[Task, ...]:
    """The data sets that a spec names, and their classes; reads no image.

    Raises:
      InputError: One of them cannot be found.
    """
    names = split_spec(spec)
    _check_data_dir(names, data_dir)
    return tuple(Task(name, _ask(name, "class_names", data_dir)) for name in names)


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


def _is_tfds(name: str) -> bool:
    return name.startswith("tfds:")


def _check_data_dir(names: list[str], data_dir: str | None) -> None:
    if data_dir is not None and not any(map(_is_tfds, names)):
        spec = ",".join(names)
        raise InputError(f"data_dir is '{data_dir}', but {spec} is no tfds: data; unset data_dir")


def _ask(spec: str, what: str, data_dir: str | None) -> Any:
    """What `load` or `class_names` of the origin says."""
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in _ORIGINS:
        hint = did_you_mean(scheme, _ORIGINS) if colon else ""
        raise InputError(f"unknown data '{spec}'{hint}: {_WRITE}")
    function = getattr(_ORIGINS[scheme], what)
    return function(rest, data_dir) if _is_tfds(spec) else function(rest)


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
