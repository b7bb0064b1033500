"""Reads a CSV file: paths of images, and what is known of each."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tljax.data.packed import ImageFile
from tljax.data.table.columns import Table, choose
from tljax.data.table.spec import Spec
from tljax.errors import InputError, printable

_DELIMITERS = ",;\t"
_MOST_BYTES = 1 << 30


def read(spec: Spec) -> Table:
    """Reads the used columns of all rows that are not blank.

    Raises:
      InputError: The file cannot be read, is no table, or lacks a column.
    """
    rows = _rows(spec)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{spec.file} has no rows; add a row for each image")
    header = spec.columns or first[1]
    if len(header) != len(first[1]):
        raise InputError(
            f"{spec.file} has {len(first[1])} columns, but columns= names {len(header)}; name"
            " each, with _ for one that is not used"
        )
    chosen = choose(spec, header)
    names = [name.strip() for name in header]
    at = {name: names.index(name) for name in (chosen.path, *chosen.cells)}
    cells: dict[str, list[str]] = {name: [] for name in at}
    places = []
    for line, row in [first] if spec.columns else ():
        _add(cells, at, row)
        places.append(f"line {line}")
    for line, row in rows:
        _add(cells, at, row)
        places.append(f"line {line}")
    paths = cells[chosen.path] if chosen.path in chosen.cells else cells.pop(chosen.path)
    images = [
        image_at(spec.file.parent, path, f"{place} of {spec.file}")
        for path, place in zip(paths, places, strict=True)
    ]
    return Table(spec.place, chosen, dict(cells), images, paths, places, separator=spec.separator)


def image_at(folder: Path, path: str, place: str) -> ImageFile:
    """Returns the image at a path of a table, which is relative to a folder.

    Raises:
      InputError: There is no path, or it could be no file's.
    """
    if not path:
        raise InputError(f"{place} has no path; fill it or remove it")
    if "\0" in path:
        raise InputError(f"{place} has a path with a zero byte; fix it")
    return folder / os.path.expanduser(path)


def _add(cells: dict[str, list[str]], at: dict[str, int], row: Sequence[str]) -> None:
    for name, index in at.items():
        cells[name].append(row[index].strip())


def _rows(spec: Spec) -> Iterator[tuple[int, list[str]]]:
    """The line and the cells of each row that is not blank; all have as many."""
    text = _text(spec.file)
    delimiter = max(_DELIMITERS, key=text.lstrip().partition("\n")[0].count)
    lines = io.StringIO(text, newline="")
    # of `a.png, "cat"` the quotes are none of the label's
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    width = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise InputError(
                    f"line {reader.line_num} of {spec.file} has {len(cells)} columns, but the first"
                    f" has {width}; quote values that hold a '{printable(delimiter)}'"
                )
            yield reader.line_num, cells
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
