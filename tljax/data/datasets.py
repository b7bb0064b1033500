"""Loads a data set with its three splits from a spec such as `embedded:digits` or `folder:PATH`.

Several specs, separated by commas, are the tasks of one trunk: `embedded:digits,folder:PATH`.
"""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tljax.console import warn_once
from tljax.data import embedded, folder, remote, table
from tljax.data.forms.frame import read_frame
from tljax.data.joint import Task, concatenate, join, joint_class_names
from tljax.data.kept import Kept, restore
from tljax.data.labels import constant_labels, strata
from tljax.data.listing import shortened
from tljax.data.pixels.depth import DEEP
from tljax.data.sources import Dataset, Subset
from tljax.data.splits import (
    HeldOut,
    assign_to_folds,
    default_val_fraction,
    random_ranks,
    split_off,
    stratified_order,
)
from tljax.data.tfds import source as tfds
from tljax.data.tfds.spec import is_path
from tljax.errors import InputError, check_known, did_you_mean, printable

# The module of each scheme. It offers load(rest) -> Dataset and read_class_names(rest), where
# `rest` is what follows the colon; those of tfds take a data_dir too, those of tables a scheme.
# A table's labels may be of any kind: it has read_names(rest) -> (names, kind) in its place.
_MODULES: dict[str, ModuleType] = {
    "embedded": embedded,
    "folder": folder,
    "tfds": tfds,
    **dict.fromkeys(table.SCHEMES, table),
}
_KEEP_CHANNELS = (folder, table)  # that give images with other channels than RGB
_WITH_PATHS = "|".join(scheme for scheme in _MODULES if scheme != "embedded")
_SYNTAX = (
    "write embedded:NAME, folder:PATH, csv:FILE, parquet:FILE, hf:FOLDER, hf://datasets/OWNER/NAME,"
    " wds:SHARDS or tfds:NAME"
)


def load(
    spec: str,
    *,
    train_size: int | None = None,
    train_per_class: int | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    kept: Sequence[Kept] | None = None,
    test_only: bool = False,
    deep_images: str = "full_range",
    channels: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> Dataset:
    """Loads a data set with its train, val and test splits.

    Images of folders and of TFDS are decoded later, when a batch needs them.

    If the data has no validation images, `val_fraction` of the training images is split off,
    stratified by class: at least one of every class that has two. The remaining training images are
    then subsampled, so the validation images are the same for every training size. For one seed,
    smaller training sets are subsets of larger ones. Test images never depend on the seed, unless
    they are a fold.

    With `folds`, the training and validation images, and test images that would be split off them,
    are assigned to folds: stratified by class, and whole groups where the data has groups. The
    images of one fold are the test images, the others the training images. Test images that the
    data brings along are in no split.

    Args:
      spec: `embedded:NAME` or `folder:PATH`; or, with optional choices after a `?`, a table,
        `csv:FILE`, `parquet:FILE`, `hf:FOLDER`, `hf://datasets/OWNER/NAME` or `wds:SHARDS` (see
        `tljax.data.table.spec`), or `tfds:NAME[/CONFIG][:VERSION]` (see `tljax.data.tfds.spec`).
        Several specs, separated by commas, are each loaded with the same arguments, and joined.
      train_size: Number of training images (of each spec), in the proportions of the classes; None
        keeps all. May be less than the number of classes.
      train_per_class: Number of training images of each class; excludes `train_size`.
      val_fraction: 0 (none are) or more and below 1; unused if the data has validation images.
        None: see `tljax.data.splits.default_val_fraction`.
      seed: Of the validation split and the subsample; not negative.
      data_dir: The folder of prepared data sets, for `tfds:` only; None: TFDS's default.
      kept: Of a run that has begun with this data, what `tljax.data.kept.describe` returned for it:
        the splits are those of the run, whatever the other arguments are.
      test_only: Whether data of test images alone is accepted; its `train` is then empty.
      deep_images: As `deep` of `images.decode`, for all but `embedded:`.
      channels: The number of channels that every image must have, and keeps, for folders and
        tables; see `images.decode`. None: images become RGB.
      folds: Number of folds, for cross-validation; None: the data has its own splits.
      fold: With `folds`: which of them the test images are, from 0.

    Returns:
      A `Dataset`. Its splits are `Source`s with `labels`, int (n,), and elements {"image": uint8
      (h, w, 3) or (h, w, channels), "label": int}; the sizes of the images may differ. Tables may
      have other kinds of labels, see `tljax.data.labels`.

    Raises:
      InputError: An argument is invalid, the data cannot be found or read, or a class or a split
        has too few images.

    Example:
      digits = load("embedded:digits", train_size=50, seed=1)
      result = tljax.fit(model, variables, plan, digits.train, digits.val)
    """
    _check_sizes(train_size, train_per_class, val_fraction, seed)
    _check_how(deep_images, channels)
    names = split_spec(spec)
    _check_data_dir(names, data_dir)
    _check_channels(names, channels)
    _check_fold(folds, fold, names)

    def load_one(name: str) -> Dataset:
        dataset = _load_whole(name, data_dir, deep_images, channels)
        if not len(dataset.train):
            if test_only:
                return dataset
            raise InputError(
                f"{name} has test images alone; add training images, in a split or folder called"
                " train, or give it to `tljax evaluate --data`"
            )
        if folds is not None:
            dataset = _hold_out_fold(dataset, folds, int(fold or 0), seed)
        dataset = _divide(dataset, name, train_size, train_per_class, val_fraction, seed)
        _check_constant_labels(dataset, name)
        return dataset

    if kept is None:
        datasets = [load_one(name) for name in names]
    elif len(kept) != len(names):
        raise InputError(f"the data '{spec}' is not that of a run on {len(kept)} data sets")
    else:
        datasets = [
            restore(name, one, functools.partial(load_one, name), deep_images, channels)
            for name, one in zip(names, kept, strict=True)
        ]
    if len(datasets) == 1:
        return datasets[0]
    return join([replace(d, name=name) for d, name in zip(datasets, names, strict=True)])


def _divide(
    dataset: Dataset,
    name: str,
    train_size: int | None,
    train_per_class: int | None,
    val_fraction: float | None,
    seed: int,
) -> Dataset:
    """The data set with validation images, and as many training images as `load` is asked for."""
    val_rng, subset_rng = (np.random.default_rng((seed, purpose)) for purpose in range(2))
    dataset = _split_off_val(dataset, name, val_fraction, val_rng)
    if train_size is not None:
        return _subsample(dataset, name, train_size, subset_rng)
    if train_per_class is not None:
        return _subsample_per_class(dataset, name, train_per_class, subset_rng)
    return dataset


def from_table(
    frame: Any,
    *,
    path: str | None = None,
    label: str | None = None,
    labels: str | Sequence[str] | None = None,
    numbers: str | Sequence[str] | None = None,
    split: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    separator: str | None = None,
    folder: str | os.PathLike = ".",
    val_fraction: float | None = None,
    seed: int = 0,
    deep_images: str = "full_range",
    channels: int | None = None,
) -> Dataset:
    """Returns the data set of a table in Python, with splits as `load` makes them.

    Args:
      frame: A DataFrame of pandas or polars, an Arrow table, or a dict of lists; a row an image.
      path: The column of the images: paths, or the bytes of image files. For this and the others,
        None: the column with a usual name, see `tljax.data.table.spec`.
      label: The column with the name of each image's class.
      labels: In its place: the column with several labels an image, in a list or in one text; or
        several columns of 0 and 1, one for each label.
      numbers: In its place: the column or columns of numbers to predict.
      split: The column with `train`, `val` or `test`.
      group: The column of what belongs together.
      weight: The column of what each image counts in the loss of training.
      separator: Between the labels in a text: a sign, or `comma`, `semicolon`, `bar`, `space` or
        `tab`; None: it is guessed, and said.
      folder: Which the paths are relative to.
      val_fraction, seed: As of `load`.
      deep_images, channels: As `deep` and `channels` of `images.decode`.

    Raises:
      InputError: The table cannot be used, or an argument is invalid or contradicts another one.

    Example:
      pets = from_table(pandas.read_csv("pets.csv"), path="photo", label="breed")
      result = tljax.fit(model, variables, plan, pets.train, pets.val)
    """
    _check_sizes(None, None, val_fraction, seed)
    _check_how(deep_images, channels)
    names = {"path": path, "label": label, "split": split, "group": group, "weight": weight}
    dataset = read_frame(frame, names, labels, numbers, separator, folder, deep_images, channels)
    if len(dataset.train):
        rng = np.random.default_rng((seed, 0))
        dataset = _split_off_val(dataset, dataset.name, val_fraction, rng)
        _check_constant_labels(dataset, dataset.name)
    return dataset


def absolute(spec: str) -> str:
    """Returns the spec with absolute paths, so that it means the same in any folder."""
    names = []
    for name in split_spec(spec):
        scheme, _, rest = name.partition(":")
        path, question, choices = (rest, "", "") if scheme == "folder" else rest.partition("?")
        is_local = not (remote.is_address(path) or path.startswith("//"))
        if scheme == "tfds":
            is_local = is_path(path)
        if path and is_local and scheme != "embedded":
            name = f"{scheme}:{os.path.abspath(os.path.expanduser(path))}{question}{choices}"
        names.append(name)
    return ",".join(names)


def folders(spec: str) -> list[Path]:
    """Returns the folders of the `folder:` data sets of a spec; they need not exist."""
    names = [name for name in split_spec(spec) if name.startswith("folder:")]
    return [Path(os.path.expanduser(name.partition(":")[2])) for name in names]


def may_have_moved(before: str, now: str) -> bool:
    """Whether two specs differ in nothing but paths."""

    def without_paths(spec: str) -> list[tuple[str, ...]]:
        parts = [name.partition("?") for name in split_spec(absolute(spec))]
        return [
            (re.sub(f"^({_WITH_PATHS}):/(?!/).*", r"\1:/", path), choices)
            for path, _, choices in parts
        ]

    return without_paths(before) == without_paths(now)


def read_class_names(spec: str, data_dir: str | None = None) -> tuple[str, ...]:
    """Returns the names of the classes in the order of the labels; reads no image.

    Raises:
      InputError: The data cannot be found.
    """
    return joint_class_names(read_tasks(spec, data_dir))


def read_tasks(spec: str, data_dir: str | None = None) -> tuple[Task, ...]:
    """Returns a task for each data set in a spec; reads no image.

    Raises:
      InputError: One of the data sets cannot be found.
    """
    names = split_spec(spec)
    _check_data_dir(names, data_dir)
    tasks = []
    for name in names:
        module, rest, options = _resolve(name, data_dir)
        if module is table:
            tasks.append(Task(name, *table.read_names(rest, **options)))
        else:
            tasks.append(Task(name, module.read_class_names(rest, **options)))
    return tuple(tasks)


def split_spec(spec: str) -> list[str]:
    """Splits a spec into its data sets.

    A comma separates only where a scheme such as `folder:` follows, so paths may contain commas.

    Raises:
      InputError: A data set is named twice.
    """
    names = re.split(rf",(?=(?:{'|'.join(_MODULES)}):)", spec)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the data names '{twice}' twice; name each data set once")
    return names


def _check_data_dir(names: list[str], data_dir: str | None) -> None:
    if data_dir is not None and not any(name.startswith("tfds:") for name in names):
        spec = ",".join(names)
        raise InputError(f"data_dir is '{data_dir}', but {spec} is no tfds: data; unset data_dir")


def _check_how(deep_images: str, channels: int | None) -> None:
    check_known("deep_images", deep_images, DEEP)
    if channels is not None and channels < 1:
        raise InputError(f"channels is {channels}; set it to 1 or more, or leave it out for RGB")


def _check_channels(names: list[str], channels: int | None) -> None:
    for name in names:
        module, *_ = _resolve(name, None)
        if channels is not None and module not in _KEEP_CHANNELS:
            raise InputError(
                f"channels is {channels}, but {name} is read as RGB; leave channels out, or give"
                " the images in a folder or a table"
            )


def _resolve(name: str, data_dir: str | None) -> tuple[ModuleType, str, dict[str, Any]]:
    """(module, rest, options): the arguments of `load` and `read_class_names` of the module."""
    scheme, colon, rest = name.partition(":")
    if not colon or scheme not in _MODULES:
        hint = did_you_mean(scheme, _MODULES) if colon else ""
        raise InputError(f"unknown data '{name}'{hint}: {_SYNTAX}")
    options = {"data_dir": data_dir} if scheme == "tfds" else {}
    if scheme in table.SCHEMES:
        options = {"scheme": scheme}
    return _MODULES[scheme], rest, options


def _load_whole(name: str, data_dir: str | None, deep_images: str, channels: int | None) -> Dataset:
    """A data set with the splits that it comes with."""
    module, rest, options = _resolve(name, data_dir)
    if module in (folder, table, tfds):
        options["deep_images"] = deep_images
    if module in _KEEP_CHANNELS:
        options["channels"] = channels
    dataset: Dataset = module.load(rest, **options)
    return dataset


def _check_sizes(
    train_size: int | None, train_per_class: int | None, val_fraction: float | None, seed: int
) -> None:
    if train_size is not None and train_per_class is not None:
        raise InputError(
            f"train_size is {train_size} and train_per_class is {train_per_class}; set one of them"
        )
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}; set it to 0 or more, and below 1")
    if seed < 0:
        raise InputError(f"seed is {seed}; set it to 0 or more")


def _check_fold(folds: int | None, fold: int | None, names: Sequence[str]) -> None:
    """Raises InputError unless both numbers are missing, or fit together and the data."""
    if folds is None:
        if fold is not None:
            raise InputError(f"fold is {fold}, but folds is not set; set it to the number of folds")
        return
    if folds < 2:
        raise InputError(f"folds is {folds}; set it to 2 or more")
    if fold is None:
        raise InputError(
            f"folds is {folds}, but fold is not set; set it from 0 to {folds - 1}, or run every"
            " fold with `tljax folds`"
        )
    if not 0 <= fold < folds:
        raise InputError(f"fold is {fold}, but folds is {folds}; set it from 0 to {folds - 1}")
    if len(names) > 1:
        raise InputError(
            f"folds is {folds}, but data names {len(names)} data sets; name one, as folds of"
            " several at once are not made"
        )


def _hold_out_fold(dataset: Dataset, folds: int, fold: int, seed: int) -> Dataset:
    """The data set with the images of one fold as its test images, the others for training."""
    train, own_test = dataset.train, dataset.test
    if isinstance(own_test, HeldOut):
        train, own_test = own_test.source, None
    pooled = [train] if dataset.val is None else [train, dataset.val]
    # Own test images are in no split, but in the source: so they count as images that are unused.
    whole, rows = concatenate([*pooled, *([] if own_test is None else [own_test])])
    images = Subset(whole, np.concatenate(rows[: len(pooled)]))
    numbers = assign_to_folds(images, dataset.class_names, folds, seed)
    parts = [Subset(images, np.flatnonzero(held)) for held in (numbers != fold, numbers == fold)]
    return replace(dataset, train=parts[0], val=None, test=parts[1])


def _split_off_val(
    dataset: Dataset, name: str, fraction: float | None, rng: np.random.Generator
) -> Dataset:
    train = dataset.train
    if dataset.val is not None:
        return dataset
    if fraction is None:
        fraction = default_val_fraction(len(train))
    if not fraction:
        return dataset
    kept, val = split_off(train, fraction, rng)
    if len(val) == 0:
        raise InputError(
            f"{name} has one training image per class, so none can be kept for validation; add "
            "images"
        )
    return replace(dataset, train=Subset(train, kept), val=Subset(train, val))


def _check_constant_labels(dataset: Dataset, name: str) -> None:
    """Says which of several labels all training images have, or none; InputError if all are so."""
    if dataset.kind != "multi_label" or not len(dataset.train):
        return
    constant = constant_labels(dataset.train.labels)
    if sum(map(len, constant)) == dataset.num_classes:
        raise InputError(
            f"all {len(dataset.train):,} training images of {printable(name)} have the same labels,"
            " so there is nothing to learn; add images that differ in one"
        )
    whose = ("no training image has", "all training images have")
    for numbers, which in zip(constant, whose, strict=True):
        if len(numbers):
            found = shortened([dataset.class_names[number] for number in numbers])
            warn_once(
                f"{len(numbers):,} of the {dataset.num_classes:,} labels of {printable(name)}"
                f" cannot be learned, as {which} them: {found}"
            )


def _subsample(dataset: Dataset, name: str, size: int, rng: np.random.Generator) -> Dataset:
    train = dataset.train
    if not 1 <= size <= len(train):
        raise InputError(
            f"train_size is {size}, but {name} has {len(train)} training images after validation; "
            f"set it between 1 and {len(train)}"
        )
    rows = np.sort(stratified_order(strata(train.labels), rng)[:size])
    return replace(dataset, train=Subset(train, rows))


def _subsample_per_class(
    dataset: Dataset, name: str, size: int, rng: np.random.Generator
) -> Dataset:
    labels = dataset.train.labels
    if dataset.kind != "classes":
        raise InputError(
            f"train_per_class is {size}, but {name} has no classes to choose from, one an image;"
            " set train_size"
        )
    counts = np.bincount(labels, minlength=dataset.num_classes)
    fewest = int(counts.argmin())
    if not 1 <= size <= counts[fewest]:
        raise InputError(
            f"train_per_class is {size}, but class '{dataset.class_names[fewest]}' of {name} has "
            f"{counts[fewest]} training images after validation; set it between 1 and that"
        )
    rows = np.flatnonzero(random_ranks(labels, rng) < size)
    return replace(dataset, train=Subset(dataset.train, rows))
