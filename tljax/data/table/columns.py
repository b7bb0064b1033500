"""Which columns of a table mean what, and the table with its cells."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tljax.console import warn_once
from tljax.data.packed import ImageFile
from tljax.data.table.spec import USUAL, Spec
from tljax.errors import InputError, did_you_mean, printable

Form = Literal["label", "labels", "numbers"]


@dataclass(frozen=True)
class Chosen:
    """The columns that are used, as the header calls them.

    Attributes:
      path: Of the images.
      targets: Of what is learned; more than one only for 0/1 columns or numbers.
      form: How they are read: one class, several labels, or numbers.
      split, group, weight: None: the table has none.
    """

    path: str
    targets: tuple[str, ...]
    form: Form
    split: str | None = None
    group: str | None = None
    weight: str | None = None

    @property
    def cells(self) -> list[str]:
        """The used columns, without that of the images."""
        optional = (self.split, self.group, self.weight)
        return list(dict.fromkeys([*self.targets, *filter(None, optional)]))


@dataclass(frozen=True)
class Table:
    """The used cells of a table, in lists with one element for each row.

    Attributes:
      place: As errors name the table.
      chosen: Its columns.
      cells: By column: texts, or the values of a typed table.
      images: The images.
      names: What the images are called.
      places: Of each row, e.g. `line 7`.
      shard_splits: `train`, `val` or `test` of each row, if names of files tell it.
      class_names: By column, of labels that are numbers.
      separator: Between the labels in a cell, if it was said.
    """

    place: str
    chosen: Chosen
    cells: dict[str, list[Any]]
    images: list[ImageFile]
    names: list[str]
    places: list[str]
    shard_splits: list[str] | None = None
    class_names: dict[str, tuple[str, ...]] | None = None
    separator: str | None = None


def choose(
    spec: Spec,
    header: Sequence[str],
    images: Collection[str] = (),
    classes: Collection[str] = (),
    label_names: Sequence[str] = USUAL["label"],
) -> Chosen:
    """Returns which columns of a table are used: those that the spec names, or the usual ones.

    Warnings say where a name was a guess: which column else has a usual name for the same, and
    which columns give splits and groups that the spec does not name.

    Args:
      spec: Of the table.
      header: The names of its columns.
      images: Of a typed table the columns that hold images; the only one needs no usual name.
      classes: Likewise those whose type names its classes.
      label_names: The usual names of the column with the labels.

    Raises:
      InputError: A column is missing, or is in the header twice.
    """
    found = [name.strip() for name in header]
    usual: dict[str, Sequence[str]] = {**USUAL, "label": label_names}
    path = _named(spec, "path", found) or _only(images) or _usual(spec, usual["path"], found)
    if path is None:
        raise _missing(spec, "path", found)
    form: Form = "label"
    if (given := spec.labels or spec.numbers) is not None:
        form = "labels" if spec.labels else "numbers"
        names = _columns(given, found)
        targets = tuple(_check(spec, name, found) for name in names)
        if len(set(targets)) < len(targets):
            raise InputError(f"{spec.place} names a column of its {form} twice; keep one of them")
    else:
        label = _named(spec, "label", found) or _usual(spec, usual["label"], found)
        label = label or _only(classes)
        if label is None:
            raise _missing(spec, "label", found)
        targets = (label,)
    rest = [name for name in found if name not in (path, *targets)]
    split, group, weight = (
        _named(spec, column, found) or _usual(spec, usual[column], rest)
        for column in ("split", "group", "weight")
    )
    chosen = Chosen(path, targets, form, split, group, weight)
    if not spec.columns:
        _warn_of_guesses(spec, chosen, usual, found, is_typed=_only(images) is not None)
    return chosen


def _warn_of_guesses(
    spec: Spec,
    chosen: Chosen,
    usual: dict[str, Sequence[str]],
    header: Sequence[str],
    *,
    is_typed: bool,
) -> None:
    """Warns of columns that were taken because of their names.

    Args:
      spec: Of the table.
      chosen: What was chosen.
      usual: The usual names of each column.
      header: Of the table.
      is_typed: Whether the column of images is known by its type.
    """
    columns = {"path": chosen.path, "label": chosen.targets[0]}
    columns |= {c: name for c in ("split", "group", "weight") if (name := getattr(chosen, c))}
    no_guess = {*spec.names, "path" if is_typed else "", "" if chosen.form == "label" else "label"}
    guessed = {column: name for column, name in columns.items() if column not in no_guess}
    used = {chosen.path, *chosen.cells}
    for column, name in guessed.items():
        others = [one for one in header if one.lower() in usual[column] and one not in used]
        if others and name.lower() in usual[column]:
            listed = ", ".join(f"'{printable(one)}'" for one in others)
            warn_once(
                f"the {column} in {printable(spec.place)} is the column '{printable(name)}';"
                f" {listed} {'is' if len(others) == 1 else 'are'} not used;"
                f" {_choice(spec, column)}={printable(others[0])} takes '{printable(others[0])}'"
            )
    uses = {"split": "gives the splits", "group": "says which images stay together"}
    said = [f"'{printable(guessed[c])}' {does}" for c, does in uses.items() if c in guessed]
    if said:
        warn_once(
            f"in {printable(spec.place)} the column {' and '.join(said)}; rename a column that"
            " means something else"
        )


def _choice(spec: Spec, column: str) -> str:
    """What a user writes to name a column."""
    if spec.scheme == "table":
        return column
    return f"?{'image' if column == 'path' and spec.scheme != 'csv' else column}"


def _columns(given: str | tuple[str, ...], header: Sequence[str]) -> Sequence[str]:
    """The columns of labels or numbers; the name of a single one may hold a `+`."""
    if isinstance(given, tuple):
        return given
    return [given] if given in header else given.split("+")


def _named(spec: Spec, column: str, header: Sequence[str]) -> str | None:
    named = spec.names.get(column)
    return None if named is None else _check(spec, named, header)


def _check(spec: Spec, name: str, header: Sequence[str]) -> str:
    if name not in header:
        raise InputError(
            f"{spec.place} has no column '{name}'{did_you_mean(name, header)}; its header is"
            f" {printable(', '.join(header))}"
        )
    return header[_only_place(spec, name, header)]


def _usual(spec: Spec, names: Sequence[str], header: Sequence[str]) -> str | None:
    lower = [name.lower() for name in header]
    usual = next((name for name in names if name in lower), None)
    return None if usual is None else header[_only_place(spec, usual, lower)]


def _only(names: Collection[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _missing(spec: Spec, column: str, header: Sequence[str]) -> InputError:
    choice = _choice(spec, column)
    how = f"pass {choice}" if spec.scheme == "table" else f"write {spec}{choice}"
    others = "" if column == "path" else " (or labels= for several labels, numbers= for numbers)"
    without = ", or ?columns=path+label if it has no header" if spec.scheme == "csv" else ""
    return InputError(
        f"no column of {spec.place} is the {choice.lstrip('?')}: its header is"
        f" {printable(', '.join(header))}; {how}=COLUMN{others}{without}"
    )


def _only_place(spec: Spec, name: str, header: Sequence[str]) -> int:
    if header.count(name) > 1:
        raise InputError(
            f"the header of {spec.place} has '{printable(name)}' {header.count(name)} times;"
            " rename all but one"
        )
    return header.index(name)
