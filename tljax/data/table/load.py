"""Loads a table of images as a data set; see `tljax.data.table.spec` for how it is named."""

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tljax.data.folder import FolderSource
from tljax.data.labels import Kind
from tljax.data.sources import Dataset, Source
from tljax.data.splits import split_off_test
from tljax.data.table.labels import label_array
from tljax.data.table.rows import Listed, Row, list_rows
from tljax.data.table.spec import parse_spec
from tljax.errors import InputError

# The module that reads the tables of a scheme: `read(spec)` returns a `Table`.
_READERS = {
    "csv": "tljax.data.table.csv_file",
    "parquet": "tljax.data.forms.parquet",
    "hf": "tljax.data.forms.hugging_face",
    "wds": "tljax.data.forms.webdataset",
}
SCHEMES = tuple(_READERS)


def load(text: str, scheme: str = "csv", deep_images: str = "full_range") -> Dataset:
    """Reads the table; decodes no image.

    Without splits, or without test images, a fifth of each class is split off as test images,
    always the same ones. Groups stay on one side.

    Args:
      text: What follows the scheme and its colon.
      scheme: One of `SCHEMES`.
      deep_images: As `deep` of `images.decode`.

    Raises:
      InputError: The table cannot be used; see `rows.list_rows`.
    """
    return dataset_of(listed(text, scheme), f"{scheme}:{text}", deep_images)


def read_names(text: str, scheme: str = "csv") -> tuple[tuple[str, ...], Kind]:
    """Returns the names of the classes, labels or numbers in their order, and their kind.

    Raises:
      InputError: The table cannot be used, e.g. has fewer than two classes.
    """
    found = listed(text, scheme)
    return found.names, found.kind


def listed(text: str, scheme: str = "csv") -> Listed:
    """Returns the images of the table.

    Raises:
      InputError: The table cannot be used.
    """
    spec = parse_spec(text, scheme)
    return list_rows(importlib.import_module(_READERS[scheme]).read(spec))


def dataset_of(found: Listed, name: str, deep_images: str) -> Dataset:
    """Returns the splits of a table's images.

    Args:
      found: The images.
      name: Of the data set.
      deep_images: As `deep` of `images.decode`.

    Raises:
      InputError: There are no training images, but some for validation; or too few to split.
    """

    def source(split: str | None) -> FolderSource:
        rows = [row for row in found.rows if row.split == split]
        return FolderSource(
            [row.file for row in rows],
            label_array(found.kind, found.names, [row.label for row in rows]),
            [row.name for row in rows],
            deep_images,
            number_groups(rows),
            weights_of_rows(rows),
        )

    given = {row.split for row in found.rows}
    if "val" in given and "train" not in given:
        raise InputError(f"{found.place} has validation images, but none for training; add some")
    train: Source = source(None if given == {None} else "train")
    val = source("val") if "val" in given else None
    test: Source | None = source("test") if "test" in given else None
    if test is None and len(train):
        train, test = split_off_test(train, found.place, "images of the split test")
    return Dataset(name, found.names, train, val, test)


def number_groups(rows: Sequence[Row]) -> np.ndarray | None:
    """Returns int (n,), which rows belong together; None if the table does not say."""
    groups = [row.group for row in rows if row.group is not None]
    return np.unique(groups, return_inverse=True)[1] if groups else None


def weights_of_rows(rows: Sequence[Row]) -> np.ndarray | None:
    """Returns float32 (n,), what the images count in the loss; None if the table does not say."""
    weights: list[Any] = [row.weight for row in rows if row.weight is not None]
    return np.array(weights, np.float32) if weights else None


def check_place(text: str, scheme: str) -> None:
    """Raises InputError if the file or folder that a table is in does not exist."""
    spec = parse_spec(text, scheme)
    is_pattern = any(sign in spec.target for sign in "*{[")
    if spec.place == str(spec.file) and not is_pattern and not os.path.exists(spec.file):
        raise InputError(f"the table {spec.file} does not exist; check the path")
