"""Loads a table of images as a data set; see `tljax.data.table.spec` for what it may look like."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tljax.data.folder import FolderSource
from tljax.data.sources import Dataset, Source
from tljax.data.splits import split_off_test
from tljax.data.table.rows import Row, read
from tljax.data.table.spec import parse_spec
from tljax.errors import InputError, printable


def load(text: str, deep_images: str = "full_range", channels: int | None = None) -> Dataset:
    """Reads the table; decodes no image.

    Without a split column, or without test images in it, a fifth of each class is split off as test
    images, always the same ones. Groups stay on one side.

    Args:
      text: what follows `csv:`.
      deep_images, channels: as `deep` and `channels` of `images.decode`.

    Raises:
      InputError: the table cannot be used; see `rows.read`.
    """
    spec = parse_spec(text)
    rows = read(spec)
    classes = _class_names(rows, spec.file)
    label_of = {name: label for label, name in enumerate(classes)}

    def source(split: str | None) -> FolderSource:
        chosen = [row for row in rows if row.split == split]
        return FolderSource(
            [row.file for row in chosen],
            np.array([label_of[row.label] for row in chosen], np.int64),
            [row.name for row in chosen],
            deep_images,
            number_groups(chosen),
            channels,
        )

    given = {row.split for row in rows}
    train: Source = source(None if given == {None} else "train")
    val = source("val") if "val" in given else None
    test: Source | None = source("test") if "test" in given else None
    if test is None and len(train):
        train, test = split_off_test(train, spec.file, "rows of the split test")
    return Dataset(f"csv:{text}", classes, train, val, test)


def read_class_names(text: str) -> tuple[str, ...]:
    """Returns the names of the classes of the training images, sorted.

    Raises:
      InputError: the table cannot be used, or has fewer than two classes.
    """
    spec = parse_spec(text)
    return _class_names(read(spec), spec.file)


def listed_rows(text: str) -> list[Row]:
    """The rows of the table, one for each image.

    Raises:
      InputError: the table cannot be used.
    """
    return read(parse_spec(text))


def number_groups(rows: Sequence[Row]) -> np.ndarray | None:
    """Returns int (n,), which rows belong together; None if the table does not say."""
    groups = [row.group for row in rows if row.group is not None]
    return np.unique(groups, return_inverse=True)[1] if groups else None


def _class_names(rows: Sequence[Row], file: Path) -> tuple[str, ...]:
    """The classes of the training images, or of all if there are none; numbers by size."""
    training = [row for row in rows if row.split in (None, "train")] or rows
    names = {row.label for row in training}
    only_tests = all(row.split == "test" for row in rows)  # which may be of one class
    if len(names) == 1 and not only_tests:
        raise InputError(
            f"all training images of {file} are of the class '{printable(names.pop())}'; add images"
            " of a second one"
        )
    for row in rows:
        if row.label not in names:
            raise InputError(
                f"line {row.line} of {file} has the class '{printable(row.label)}', which no"
                " training image has; add some or remove it"
            )
    return tuple(sorted(names, key=_as_number))


def _as_number(name: str) -> tuple[bool, int, str]:
    """The order of names: whole numbers by size, then the others."""
    number = name.isascii() and name.isdigit() and len(name) < 19
    return not number, int(name) if number else 0, name
