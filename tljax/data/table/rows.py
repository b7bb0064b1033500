"""Reads a table of images: rows that are checked, and what was left out of it, counted."""

import csv
import functools
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax.data.layout import split_of
from tljax.data.listing import shortened, warn_once
from tljax.data.table.spec import COLUMNS, USUAL, Spec
from tljax.errors import InputError, did_you_mean, printable

_DELIMITERS = ",;\t"
_MOST_BYTES = 1 << 30
_FEW = 20  # classes whose names may be numbers with decimals


@dataclass(frozen=True)
class Row:
    """An image of a table.

    Attributes:
      file: its path, below the table's folder unless it is absolute.
      name: the path as the table gives it.
      label: the name of its class.
      split: `train`, `val` or `test`; None: the table has no such column.
      group: what belongs together; None likewise.
      line: of the table, from 1.
    """

    file: Path
    name: str
    label: str
    split: str | None
    group: str | None
    line: int


def read(spec: Spec) -> list[Row]:
    """Reads and checks the rows of a table; opens no image.

    Rows that repeat another one are left out, and counted in a warning.

    Raises:
      InputError: the table cannot be read, lacks a column or a value, names images that do not
        exist, gives one image two labels, splits or groups, or has a group in two splits. Two
        spellings of a path, such as `a.png` and `./a.png`, are one image.
    """
    file = spec.file
    rows = [_row(spec, line, values) for line, values in _values(spec)]
    if not rows:
        raise InputError(f"{file} has no rows; add a row for each image")
    _check_labels(file, rows)
    rows = _without_repeated(file, rows)
    missing = [row for row in rows if not os.path.isfile(row.file)]  # whatever the name is like
    if missing:
        first = missing[0]
        raise InputError(
            f"{len(missing):,} of the {len(rows):,} images in {file} do not exist, e.g."
            f" '{printable(first.name)}' in line {first.line}; {_remedy(first)}"
        )
    _check_groups(file, rows)
    return rows


def _remedy(missing: Row) -> str:
    if "://" in missing.name:
        return "web addresses are not read, so fetch the images, and name the files"
    if os.path.isdir(missing.file):
        return "it is a folder, but a file is wanted"
    return "paths are relative to the folder of the table"


def _values(spec: Spec) -> Iterator[tuple[int, dict[str, str]]]:
    """The line and the used columns of each row that is not blank."""
    text = _text(spec.file)
    delimiter = max(_DELIMITERS, key=text.lstrip().partition("\n")[0].count)
    lines = io.StringIO(text, newline="")
    # of `a.png, "cat"` the quotes are none of the label's
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    places: dict[str, int] | None = None
    width = 0
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if places is None:
                places = _places(spec, cells)
                width = len(cells)
                if not spec.columns:
                    continue
            if len(cells) != width:
                raise InputError(
                    f"line {reader.line_num} of {spec.file} has {len(cells)} columns, but the first"
                    f" has {width}; quote values that hold a '{printable(delimiter)}'"
                )
            yield reader.line_num, {name: cells[at].strip() for name, at in places.items()}
    except csv.Error as error:
        raise InputError(
            f"line {reader.line_num} of {spec.file} is no CSV ({error}); fix its quotes"
        ) from None


def _text(file: Path) -> str:
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe gives its rows once
            raise InputError(f"{file} is no file, but a pipe or device; write the table to a file")
        if file.stat().st_size > _MOST_BYTES:
            raise InputError(f"{file} is larger than 1 GiB; is it a table of paths and labels?")
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not UTF-8 (byte {error.start:,}); save it as UTF-8, or is it no CSV?"
        ) from None


def _places(spec: Spec, header: Sequence[str]) -> dict[str, int]:
    """The place of each used column."""
    if spec.columns:
        if len(spec.columns) != len(header):
            raise InputError(
                f"{spec.file} has {len(header)} columns, but columns= names {len(spec.columns)};"
                " name each, with _ for one that is not used"
            )
        used = [name for name in spec.columns if name != "_"]
        if len(set(used)) < len(used):
            raise InputError(f"columns= of {spec.file} names a column twice; keep one of them")
        return {name: spec.columns.index(name) for name in used}
    found = [name.strip() for name in header]
    lower = [name.lower() for name in found]
    places = {}
    for column in COLUMNS:
        named = spec.names.get(column)
        if named is not None and named not in found:
            raise InputError(
                f"{spec.file} has no column '{named}'{did_you_mean(named, found)}; its header is"
                f" {printable(', '.join(found))}"
            )
        usual = next((name for name in USUAL[column] if name in lower), None)
        if named is not None:
            places[column] = _only_place(spec, named, found)
        elif usual is not None:
            places[column] = _only_place(spec, usual, lower)
        elif column in ("path", "label"):
            raise InputError(
                f"no column of {spec.file} is the {column}: its header is"
                f" {printable(', '.join(found))}; write csv:{spec.file}?{column}=COLUMN, or"
                " ?columns=path+label if it has no header"
            )
    return places


def _only_place(spec: Spec, name: str, header: Sequence[str]) -> int:
    if header.count(name) > 1:
        raise InputError(
            f"the header of {spec.file} has '{printable(name)}' {header.count(name)} times; rename"
            " the columns that are not meant"
        )
    return header.index(name)


def _row(spec: Spec, line: int, values: dict[str, str]) -> Row:
    for column, value in values.items():
        if not value:
            raise InputError(f"line {line} of {spec.file} has no {column}; fill it or remove it")
    split = values.get("split")
    known = None if split is None else split_of(split)
    if split is not None and known is None:
        raise InputError(
            f"line {line} of {spec.file} has the split '{printable(split)}'; write train, val or"
            " test"
        )
    name = values["path"]
    if "\0" in name:
        raise InputError(f"line {line} of {spec.file} has a path with a zero byte; fix it")
    file = spec.file.parent / os.path.expanduser(name)
    return Row(file, name, values["label"], known, values.get("group"), line)


def _check_labels(file: Path, rows: Sequence[Row]) -> None:
    """Raises InputError for labels that are measurements, not names."""
    labels = {row.label for row in rows}
    if len(labels) > _FEW and all(_has_decimals(label) for label in labels):
        raise InputError(
            f"the labels of {file} are {len(labels):,} numbers with decimals, e.g."
            f" {next(iter(sorted(labels)))}, but names of classes are wanted; name the label's"
            " column with ?label=COLUMN"
        )


def _has_decimals(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "." in text


def _without_repeated(file: Path, rows: Sequence[Row]) -> list[Row]:
    """The first row of each image; InputError if another one contradicts it."""
    folder = functools.cache(os.path.realpath)  # asked once a folder: images are many
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(os.path.join(folder(row.file.parent), row.file.name), row)
        for column in ("label", "split", "group"):
            if getattr(before, column) != getattr(row, column):
                raise InputError(
                    f"'{printable(row.name)}' has two {column}s in {file}:"
                    f" '{printable(str(getattr(before, column)))}' in line {before.line},"
                    f" '{printable(str(getattr(row, column)))}' in line {row.line}; keep one"
                )
    if repeated := len(rows) - len(first):
        kept = {id(row) for row in first.values()}
        names = [row.name for row in rows if id(row) not in kept]
        warn_once(
            f"{repeated:,} rows of {printable(file)} repeat another row and are left out:"
            f" {shortened(names)}"
        )
    return list(first.values())


def _check_groups(file: Path, rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if row.group is not None and row.split is not None:
            before = first.setdefault(row.group, row)
            if before.split != row.split:
                raise InputError(
                    f"the group '{printable(row.group)}' of {file} is in two splits: {before.split}"
                    f" in line {before.line}, {row.split} in line {row.line}; keep it in one"
                )
