"""From a name such as `embedded:digits` or `folder:PATH` to a data set with its three splits."""

from dataclasses import replace
from typing import Any

import numpy as np

from tljax.data import embedded, folder, tfds
from tljax.data.sources import Dataset, Source, Subset
from tljax.data.splits import carve, random_ranks, stratified_order
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

    Args:
      spec: `embedded:NAME`, `folder:PATH`, or `tfds:NAME[/CONFIG][:VERSION]`, with choices after
        a `?` (see `tljax.data.tfds_spec`).
      train_size: Training images in all, in the proportions of the classes; None keeps all. May
        be less than the number of classes.
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
    return _ask(spec, "class_names", data_dir)


def _ask(spec: str, what: str, data_dir: str | None) -> Any:
    """What `load` or `class_names` of the origin says."""
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in _ORIGINS:
        hint = did_you_mean(scheme, _ORIGINS) if colon else ""
        raise InputError(f"unknown data '{spec}'{hint}: {_WRITE}")
    if data_dir is not None and scheme != "tfds":
        raise InputError(f"data_dir is '{data_dir}', but {spec} is no tfds: data; unset data_dir")
    function = getattr(_ORIGINS[scheme], what)
    return function(rest, data_dir) if scheme == "tfds" else function(rest)


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
