"""A table in Python as a data set: a DataFrame of pandas or polars, or a dict of lists."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tljax.data.packed import Content, ImageFile
from tljax.data.sources import Dataset
from tljax.data.table import dataset_of
from tljax.data.table.columns import Table, choose
from tljax.data.table.csv_file import image_at
from tljax.data.table.labels import text_of
from tljax.data.table.rows import list_rows
from tljax.data.table.spec import Spec, check_targets, parse_separator
from tljax.errors import InputError

_NAME = "the table"


def read_frame(
    table: Any,
    names: dict[str, str | None],
    labels: str | Sequence[str] | None,
    numbers: str | Sequence[str] | None,
    separator: str | None,
    folder: str | os.PathLike,
    deep_images: str,
    channels: int | None,
) -> Dataset:
    """Returns the data set with the splits that the table gives; see `data.from_table`."""
    header = _header(table)
    spec = _parse(names, labels, numbers, separator)
    chosen = choose(spec, list(map(str, header)))
    column_of = {str(name).strip(): name for name in header}
    cells = {name: _values(table, column_of[name]) for name in chosen.cells}
    values = _values(table, column_of[chosen.path])
    count = max(len(values), *map(len, cells.values()))
    for name, column in {chosen.path: values, **cells}.items():
        if len(column) < count:
            raise InputError(
                f"row {len(column) + 1} is missing in the column '{name}' of {_NAME}; pass columns"
                " of one length"
            )
    places = [f"row {row}" for row in range(1, len(values) + 1)]
    images = [
        _image(value, Path(folder), f"{place} of {_NAME}")
        for value, place in zip(values, places, strict=True)
    ]
    named = [
        image.name if isinstance(image, Content) else str(value)
        for image, value in zip(images, values, strict=True)
    ]
    found = Table(_NAME, chosen, cells, images, named, places, separator=spec.separator)
    return dataset_of(list_rows(found), _NAME, deep_images, channels)


def _parse(
    names: dict[str, str | None],
    labels: str | Sequence[str] | None,
    numbers: str | Sequence[str] | None,
    separator: str | None,
) -> Spec:
    """The arguments of `data.from_table`, held to what is asked of a spec."""
    given = {"labels": labels, "numbers": numbers, "separator": separator}
    chosen = {name: value for name, value in (names | given).items() if value is not None}
    for name, value in chosen.items():
        if len(value) == 0:
            raise InputError(f"{name} is empty; name a column, or leave it out")
    check_targets("from_table", chosen)
    return Spec(
        "table",
        _NAME,
        {name: value for name, value in names.items() if value is not None},
        labels=_as_columns(labels),
        numbers=_as_columns(numbers),
        separator=parse_separator("from_table", chosen),
    )


def _as_columns(names: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    return names if names is None or isinstance(names, str) else tuple(names)


def _header(table: Any) -> list[Any]:
    names = getattr(table, "column_names", None) or getattr(table, "columns", None)
    if names is None and isinstance(table, Mapping):
        names = table.keys()
    if names is None or not hasattr(table, "__getitem__"):
        raise InputError(
            f"a {type(table).__name__} is no table; pass a DataFrame, or a dict of lists"
        )
    return list(names)


def _values(table: Any, column: Any) -> list[Any]:
    """A column as a list of Python's own values."""
    values = table[column]
    for method in ("tolist", "to_list", "to_pylist"):
        if callable(getattr(values, method, None)):
            values = getattr(values, method)()
            break
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """The value, None for pandas' own missing values, Python's number for one of numpy."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _image(value: Any, folder: Path, place: str) -> ImageFile:
    """The image that a cell holds: bytes, Hugging Face's dict of `bytes` and `path`, or a path."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, bytes):
        return Content(value, place)
    text = os.fspath(value) if isinstance(value, os.PathLike) else text_of(value, place)
    return image_at(folder, text, place)
