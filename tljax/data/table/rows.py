"""The rows of a table of images: checked, and what was left out of them, counted."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tljax.console import warn_once
from tljax.data.labels import Kind
from tljax.data.layout import split_of
from tljax.data.listing import shortened
from tljax.data.packed import ImageFile
from tljax.data.table.columns import Table
from tljax.data.table.labels import (
    Label,
    in_order,
    number_of,
    read_labels,
    shown,
    text_of,
    warn_of_missing,
)
from tljax.errors import InputError, printable


class Row(NamedTuple):
    """An image of a table.

    Attributes:
      file: Where it is; a path is below the table's folder unless it is absolute.
      name: What the table calls it.
      label: The name of its class, the names of its labels, or its numbers.
      split: `train`, `val` or `test`; None: the table does not say.
      group: What belongs together; None likewise.
      weight: In the loss of training; None likewise.
      place: In the table, e.g. `line 7`.
    """

    file: ImageFile
    name: str
    label: Label
    split: str | None
    group: str | None
    weight: float | None
    place: str


class Listed(NamedTuple):
    """The images of a table.

    Attributes:
      place: Of the table, as errors name it.
      kind: Of its labels.
      names: Of the classes, labels or numbers, in their order.
      rows: One for each image.
    """

    place: str
    kind: Kind
    names: tuple[str, ...]
    rows: list[Row]


def list_rows(table: Table) -> Listed:
    """Checks the rows of a table; opens no image.

    Rows that repeat another one are left out, and counted in a warning. Two spellings of a path,
    such as `a.png` and `./a.png`, are one image.

    Raises:
      InputError: The table has no rows, or lacks a value, names images that do not exist, gives
        one image two labels, splits, groups or weights, or has a group in two splits; there is
        nothing to learn; or a class has no training image.
    """
    place = table.place
    if not table.places:
        raise InputError(f"{place} has no rows; add a row for each image")
    splits = _splits(table)
    groups = _texts(table, "group", table.chosen.group)
    weights = _weights(table)
    kind, values, known = read_labels(table)
    absent = [None] * len(values)
    optional = zip(splits or absent, groups or absent, weights or absent, strict=True)
    images = zip(table.images, table.names, values, optional, table.places, strict=True)
    rows = [Row(image, name, label, *others, place) for image, name, label, others, place in images]
    rows = _without_repeated(place, rows)
    _check_files(place, rows)
    _check_groups(place, rows)
    names = known or _names_of_classes(rows, place)
    if kind == "regression":
        _check_spread(rows, names, place)
    return Listed(place, kind, names, rows)


def _texts(table: Table, what: str, column: str | None) -> list[str] | None:
    if column is None:
        return None
    found = []
    for value, place in zip(table.cells[column], table.places, strict=True):
        where = f"{place} of {table.place}"
        text = text_of(value, where)
        if not text:
            raise InputError(f"{where} has no {what}; fill it or remove it")
        found.append(text)
    warn_of_missing(table, column, found)
    return found


def _splits(table: Table) -> list[str] | None:
    texts = _texts(table, "split", table.chosen.split)
    if texts is None:
        return table.shard_splits
    known = {text: split_of(text) for text in set(texts)}
    found = []
    for text, place in zip(texts, table.places, strict=True):
        split = known[text]
        if split is None:
            raise InputError(
                f"{place} of {table.place} has the split '{printable(text)}'; write train, val or"
                " test"
            )
        found.append(split)
    return found


def _weights(table: Table) -> list[float] | None:
    column = table.chosen.weight
    if column is None:
        return None
    found = []
    for value, place in zip(table.cells[column], table.places, strict=True):
        weight = number_of(value)
        if weight is None or weight <= 0:
            raise InputError(
                f"{place} of {table.place} has the weight '{printable(value)}', but a positive,"
                " finite number is expected; fix it or remove the row"
            )
        found.append(weight)
    warn_once(
        f"the loss on the images of {printable(table.place)} is weighted by its column"
        f" '{printable(column)}' ({min(found):g} to {max(found):g})"
    )
    return found


def _without_repeated(place: str, rows: Sequence[Row]) -> list[Row]:
    """The first row of each image; InputError if another one contradicts it."""
    folder = functools.cache(os.path.realpath)  # asked once a folder: images are many
    first: dict[object, Row] = {}
    for row in rows:
        image: object = row.file
        if isinstance(row.file, Path):
            image = os.path.join(folder(row.file.parent), row.file.name)
        before = first.setdefault(image, row)
        if before is not row:
            _check_same(place, before, row)
    if repeated := len(rows) - len(first):
        kept = {id(row) for row in first.values()}
        names = [row.name for row in rows if id(row) not in kept]
        warn_once(
            f"{repeated:,} rows of {printable(place)} repeat another row and are left out:"
            f" {shortened(names)}"
        )
    return list(first.values())


def _check_same(place: str, before: Row, row: Row) -> None:
    shown_as: dict[str, Callable] = {"label": shown, "split": str, "group": str, "weight": str}
    for column, show in shown_as.items():
        values = [getattr(one, column) for one in (before, row)]
        if values[0] != values[1]:
            first, second = (printable(show(value)) for value in values)
            raise InputError(
                f"'{printable(row.name)}' has two {column}s in {place}: '{first}' in"
                f" {before.place}, '{second}' in {row.place}; keep one"
            )


def _check_files(place: str, rows: Sequence[Row]) -> None:
    missing = [
        row for row in rows if isinstance(row.file, Path) and not os.path.isfile(row.file)
    ]  # os.path: whatever the name is like
    if missing:
        first = missing[0]
        raise InputError(
            f"{len(missing):,} of the {len(rows):,} images in {place} do not exist, e.g."
            f" '{printable(first.name)}' in {first.place}; {_remedy(first)}"
        )


def _remedy(missing: Row) -> str:
    if "://" in missing.name:
        return "web addresses are not read, so fetch the images, and name the files"
    if isinstance(missing.file, Path) and os.path.isdir(missing.file):
        return "it is a folder, but a file is wanted"
    return "paths are relative to the folder of the table"


def _check_groups(place: str, rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if row.group is not None and row.split is not None:
            before = first.setdefault(row.group, row)
            if before.split != row.split:
                raise InputError(
                    f"the group '{printable(row.group)}' of {place} is in two splits:"
                    f" {before.split} in {before.place}, {row.split} in {row.place}; keep it in one"
                )


def _only_tests(rows: Sequence[Row]) -> bool:
    return all(row.split == "test" for row in rows)


def _training(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows of training; all if there are none."""
    return [row for row in rows if row.split in (None, "train")] or rows


def _names_of_classes(rows: Sequence[Row], place: str) -> tuple[str, ...]:
    """The classes of the training images, or of all if there are none."""
    names = {str(row.label) for row in _training(rows)}
    if len(names) == 1 and not _only_tests(rows):  # which may be of one class
        raise InputError(
            f"all training images of {place} are of the class '{printable(names.pop())}'; add"
            " images of a second one"
        )
    for row in rows:
        if row.label not in names:
            raise InputError(
                f"{row.place} of {place} has the class '{printable(row.label)}', which no"
                " training image has; add some or remove it"
            )
    return in_order(names)


def _check_spread(rows: Sequence[Row], names: Sequence[str], place: str) -> None:
    """Raises InputError if a number is the same for all training images."""
    if _only_tests(rows):
        return
    for name, *values in zip(names, *(row.label for row in _training(rows)), strict=True):
        if len(set(values)) == 1:
            raise InputError(
                f"all training images of {place} have the number {values[0]:g} in"
                f" '{printable(name)}'; name a column whose numbers differ"
            )
