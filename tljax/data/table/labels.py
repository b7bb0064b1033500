"""Reads the labels of a table from their cells: a class, several labels, or numbers for each image.

Text says a class by its name. Several labels stand in one cell, with a separator between or as a
list, or each label has a column of 0 and 1. Numbers are finite, and become float32.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tljax.console import warn_once
from tljax.data.labels import TOO_CLOSE, Kind, are_too_close
from tljax.data.listing import shortened
from tljax.data.table.columns import Table
from tljax.errors import InputError, printable

Label = str | frozenset[str] | tuple[float, ...]

_GUESSED = (";", "|", ",")
_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
}
_EXAMPLE = 60  # characters of a cell in a message
_MISSING = frozenset(("NA", "N/A", "<NA>", "nan", "NaN", "null", "NULL"))
_FEW = 20  # classes whose names may be numbers with decimals


class Labels(NamedTuple):
    """The labels of a table.

    Attributes:
      kind: Of them.
      values: Of each row the name of its class, the names of its labels, or its numbers.
      names: In their order; None: the classes are those that occur.
    """

    kind: Kind
    values: list[Label]
    names: tuple[str, ...] | None


def read_labels(table: Table) -> Labels:
    """Returns the labels of a table.

    Raises:
      InputError: A cell has no label of the kind that is wanted, or none has any.
    """
    form, targets = table.chosen.form, table.chosen.targets
    lists = _is_list(table.cells[targets[0]])
    if table.separator is not None and (lists or len(targets) > 1):
        raise InputError(
            f"a separator is chosen for {table.place}, but its labels are in"
            f" {'lists' if lists else 'several columns'}; leave separator= out"
        )
    if form == "numbers":
        return _numbers(table, lists)
    if form == "label" and not lists:
        return _classes(table)
    if len(targets) == 1 and lists:
        return _lists(table)
    if len(targets) > 1 or (table.separator is None and _are_flags(table.cells[targets[0]])):
        return _flags(table)
    return _separated(table)


def text_of(value: Any, place: str) -> str:
    """Returns a cell as text, which is empty if the cell is.

    Raises:
      InputError: It holds something else than a text or a number.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, dict | list | tuple | np.ndarray):
        raise InputError(
            f"{place} holds a {type(value).__name__} where a text or a number is expected; name"
            " another column"
        )
    return "" if value is None or value != value else str(value)  # NaN: as pandas has it


def warn_of_missing(table: Table, column: str, cells: Sequence[Any]) -> None:
    """Warns of texts that R and pandas write where a cell is empty: they are taken as they are."""
    where = _named(table, column)
    found = Counter(cell for cell in cells if cell in _MISSING)
    for text, count in found.items():
        warn_once(
            f"{count:,} of the {len(cells):,} cells in {where} hold '{text}', which is taken as a"
            " name like any other; if it stands for a missing value, fill or remove these rows"
        )


def _named(table: Table, column: str) -> str:
    return f"the column '{printable(column)}' of {printable(table.place)}"


def _cut(text: str) -> str:
    """A cell as messages show it, cut if it is long."""
    return text if len(text) <= _EXAMPLE else f"{text[:_EXAMPLE]}..."


def number_of(value: Any) -> float | None:
    """Returns a cell as a float32 number; None: it is none, or not finite."""
    try:
        if isinstance(value, str) and "_" in value:  # which Python allows within numbers
            return None
        with np.errstate(over="ignore"):
            number = float(np.float32(float(value)))
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def label_array(kind: Kind, names: Sequence[str], labels: Sequence[Label]) -> np.ndarray:
    """Returns labels as an array, see `tljax.data.labels`.

    Args:
      kind: Of the labels.
      names: Of all classes, labels or numbers, in their order.
      labels: Of n images.
    """
    if kind == "regression":
        return np.array(labels, np.float32).reshape(-1, len(names))
    at = {name: number for number, name in enumerate(names)}
    if kind == "classes":
        return np.array([at[str(label)] for label in labels], np.int64)
    array = np.zeros((len(labels), len(names)), np.uint8)
    for row, label in enumerate(labels):
        array[row, [at[name] for name in label if isinstance(name, str)]] = 1
    return array


def label_from(value: int | Sequence[float], names: Sequence[str]) -> Label:
    """Returns the label that a row of `label_array` stands for."""
    if isinstance(value, int):
        return names[value]
    if any(isinstance(one, float) for one in value):
        return tuple(value)
    return frozenset(name for name, one in zip(names, value, strict=True) if one)


def shown(label: Label) -> str:
    """Returns a label as errors show it."""
    if isinstance(label, str):
        return label
    if isinstance(label, frozenset):
        return ", ".join(sorted(label)) or "none"
    return ", ".join(f"{number:g}" for number in label)


def in_order(names: set[str]) -> tuple[str, ...]:
    """Returns names in the order of labels: whole numbers by size, then the others sorted."""
    return tuple(sorted(names, key=_as_number))


def _as_number(name: str) -> tuple[bool, int, str]:
    number = name.isascii() and name.isdigit() and len(name) < 19
    return not number, int(name) if number else 0, name


def _classes(table: Table) -> Labels:
    column = table.chosen.targets[0]
    known = (table.class_names or {}).get(column)
    values: list[Label] = []
    for value, place in zip(table.cells[column], table.places, strict=True):
        where = f"{place} of {table.place}"
        label = text_of(value, where) if known is None else _known(value, known, where)
        if not label:
            raise InputError(f"{where} has no label; fill it or remove it")
        values.append(label)
    warn_of_missing(table, column, values)
    labels = {str(label) for label in values}
    if all(_has_decimals(label) for label in labels):
        found = (
            f"the labels of {table.place} are {len(labels):,} numbers with decimals, e.g."
            f" {min(labels)}"
        )
        if len(labels) > _FEW:
            raise InputError(
                f"{found}, but names of classes are wanted; name the label's column with"
                f" ?label=COLUMN, or predict the numbers with ?numbers={printable(column)}"
            )
        warn_once(
            f"{found}: they are taken as names of classes; ?numbers={printable(column)} predicts"
            " them as numbers"
        )
    return Labels("classes", values, known)


def _known(value: Any, names: Sequence[str], where: str) -> str:
    """The name of a class that a column numbers, and whose names its type tells."""
    if isinstance(value, float) and value.is_integer():  # where pandas had empty cells
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    text = text_of(value, where)
    if text and text not in names:
        raise InputError(
            f"{where} has the label {printable(text)}, which is none of its {len(names)} classes;"
            " choose splits that are labelled"
        )
    return text


def _has_decimals(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "." in text


def _separated(table: Table) -> Labels:
    """Labels in one cell, with a separator between them; in an empty cell there are none."""
    column = table.chosen.targets[0]
    cells = [
        text_of(value, f"{place} of {table.place}")
        for value, place in zip(table.cells[column], table.places, strict=True)
    ]
    if lists := [cell for cell in cells if cell.startswith("[") and cell.endswith("]")]:
        raise InputError(
            f"{_named(table, column)} holds lists written as text, e.g."
            f" {printable(_cut(lists[0]))}; write the labels with a | between them, or save the"
            " table as Parquet, which keeps lists"
        )
    warn_of_missing(table, column, cells)
    separator = table.separator or _guess(table, column, cells)
    known: dict[str, frozenset[str]] = {}
    for cell in cells:
        if cell not in known:
            parts = [cell] if separator is None else cell.split(separator)
            known[cell] = frozenset(filter(None, (part.strip() for part in parts)))
    return _several(table, [known[cell] for cell in cells], None)


def _guess(table: Table, column: str, cells: Sequence[str]) -> str | None:
    """The separator that occurs; None if there is none, and each cell is one label."""
    found = [sign for sign in _GUESSED if any(sign in cell for cell in cells)]
    where = _named(table, column)
    if len(found) > 1:
        raise InputError(
            f"both '{found[0]}' and '{found[1]}' occur in {where}; say which of them separates the"
            f" labels, e.g. ?labels={printable(column)},separator={found[0]}"
        )
    example = next((cell for cell in cells if not found or found[0] in cell), "")
    example = printable(_cut(example))
    if found:
        warn_once(f"the labels in {where} are separated by '{found[0]}', e.g. '{example}'")
        return found[0]
    warn_once(
        f"each cell in {where} is one label, e.g. '{example}', as no {' '.join(_GUESSED)} occurs;"
        " if another sign separates labels, name it with separator="
    )
    return None


def _lists(table: Table) -> Labels:
    """Labels in a list: names or, if they are numbered, numbers; or 0 and 1 for each class."""
    column = table.chosen.targets[0]
    known = (table.class_names or {}).get(column)
    cells = [[] if value is None else list(value) for value in table.cells[column]]
    if (width := _width_of_flags(cells)) and (known is None or len(known) == width):
        names = known or tuple(map(str, range(width)))
        flags = [frozenset(n for n, one in zip(names, cell, strict=True) if one) for cell in cells]
        return _several(table, flags, names)
    values = []
    for cell, place in zip(cells, table.places, strict=True):
        where = f"{place} of {table.place}"
        labels = [text_of(v, where) if known is None else _known(v, known, where) for v in cell]
        values.append(frozenset(filter(None, labels)))
    return _several(table, values, known)


def _width_of_flags(cells: Sequence[list[Any]]) -> int:
    """The number of classes, if lists have a 0 or 1 for each one; else 0.

    Lists of one length may also hold the numbers 0 and 1 of two classes; these do not repeat.
    """
    widths = {len(cell) for cell in cells}
    if len(widths) != 1 or not all(type(v) in (bool, int, float) for cell in cells for v in cell):
        return 0
    are_flags = all(value in (0, 1) for cell in cells for value in cell)
    is_plain = all(type(value) is bool for cell in cells for value in cell)
    repeats = any(len(set(cell)) < len(cell) for cell in cells)
    return widths.pop() if are_flags and (is_plain or repeats) else 0


def _flags(table: Table) -> Labels:
    """A column of 0 and 1 for each label."""
    targets = table.chosen.targets
    columns = []
    for column in targets:
        flags = []
        for value, place in zip(table.cells[column], table.places, strict=True):
            text = text_of(value, f"{place} of {table.place}")
            flag = _FLAGS.get(text.lower())
            if flag is None:
                raise InputError(
                    f"{place} of {table.place} has '{printable(text)}' in '{printable(column)}',"
                    " but 0 or 1 is expected of a column for one label; fix it or remove the row"
                )
            flags.append(flag)
        columns.append(flags)
    known: dict[tuple[bool, ...], frozenset[str]] = {}
    values = []
    for row in zip(*columns, strict=True):
        if row not in known:
            known[row] = frozenset(name for name, one in zip(targets, row, strict=True) if one)
        values.append(known[row])
    return _several(table, values, targets)


def _several(table: Table, values: list[frozenset[str]], names: tuple[str, ...] | None) -> Labels:
    if not any(values):
        raise InputError(
            f"no image of {table.place} has a label in {shortened(table.chosen.targets)}; name the"
            " columns of labels with ?labels=COLUMN"
        )
    return Labels("multi_label", list(values), names or in_order(set().union(*values)))


def _numbers(table: Table, lists: bool) -> Labels:
    targets = table.chosen.targets
    columns = {name: table.cells[name] for name in targets}
    if lists and len(targets) == 1:
        columns = _columns_of_lists(table, targets[0])
    elif any(_is_list(cells) for cells in columns.values()):
        raise InputError(f"numbers= of {table.place} names a column of lists; name it alone")
    found = []
    for name, cells in columns.items():
        numbers = [number_of(cell) for cell in cells]
        wrong = [row for row, number in enumerate(numbers) if number is None]
        if wrong:
            raise InputError(
                f"{len(wrong):,} of the {len(cells):,} rows of {table.place} have no finite number"
                f" in '{printable(name)}', e.g. '{printable(cells[wrong[0]])}' in"
                f" {table.places[wrong[0]]}; fill them or remove the rows"
            )
        exact = np.array([float(cell) for cell in cells])
        if are_too_close(exact):
            raise InputError(
                f"the numbers in '{printable(name)}' of {table.place} go from {exact.min():g} to"
                f" {exact.max():g}, {TOO_CLOSE}"
            )
        found.append(numbers)
    values: list[Label] = list(zip(*found, strict=True))
    return Labels("regression", values, tuple(columns))


def _columns_of_lists(table: Table, column: str) -> dict[str, list[Any]]:
    """One column for each place of lists of one length."""
    cells = table.cells[column]
    lengths = [-1 if cell is None else len(cell) for cell in cells]
    for length, place in zip(lengths, table.places, strict=True):
        if length != lengths[0] or length < 1:
            raise InputError(
                f"{place} of {table.place} has a list of {max(length, 0)} numbers in"
                f" '{printable(column)}', but the first has {max(lengths[0], 0)}; name a column"
                " with as many numbers for each image"
            )
    return {f"{column}[{at}]": [cell[at] for cell in cells] for at in range(lengths[0])}


def _is_list(cells: Sequence[Any]) -> bool:
    first = next((cell for cell in cells if cell is not None), None)
    return isinstance(first, list | tuple | np.ndarray)


def _are_flags(cells: Sequence[Any]) -> bool:
    """Whether all cells that are filled are 0 and 1, in numbers or words, and some are."""
    flags = [str(cell).strip().lower() for cell in cells if cell is not None and cell == cell]
    filled = list(filter(None, flags))
    return bool(filled) and all(flag in _FLAGS for flag in filled)
