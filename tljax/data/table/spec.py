"""Parses what follows `csv:`, `parquet:`, `hf:` or `wds:`: a place, and which columns mean what.

    FILE                                       a header names the columns
    FILE?path=photo,label=breed,group=dog      other names than the usual ones
    FILE?labels=tags,separator=;               several labels an image, in one cell
    FILE?labels=mono+defect                    a column of 0 and 1 for each label
    FILE?numbers=x+y                           numbers in place of classes
    FILE?columns=path+label                    no header: what the columns are, in their order

Choices are separated by commas, as for `tfds:`.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tljax.errors import InputError, check_known

COLUMNS = ("path", "label", "split", "group", "weight")
SPLITS = ("train", "val", "test")
# Names that headers use, in lower case; the first that a header has is taken.
USUAL = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "subset", "partition"),
    "group": ("group",),
    "weight": ("weight", "sample_weight"),
}
_TARGETS = ("label", "labels", "numbers")
_EVERYWHERE = ("image", *COLUMNS, "labels", "numbers", "separator")
CHOICES = {  # of each scheme
    "csv": (*COLUMNS, "labels", "numbers", "separator", "columns"),
    "parquet": _EVERYWHERE,
    "hf": (*_EVERYWHERE, "config", *SPLITS),
    "wds": _EVERYWHERE,
}
SEPARATORS = {"comma": ",", "semicolon": ";", "bar": "|", "space": " ", "tab": "\t"}
_PLACES = {"csv": "FILE", "parquet": "FILE", "hf": "FOLDER", "wds": "SHARDS"}


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
      scheme: `csv`, `parquet`, `hf` or `wds`.
      target: The text before the `?`.
      names: Of `COLUMNS`, what the header calls them, where it was said.
      columns: Of a table without a header what its columns are; else empty.
      labels: The columns of several labels, as they were given: `tags`, `x+y` or, from Python, a
        tuple; None: not said.
      numbers: Those of numbers, likewise.
      separator: Between the labels in a cell; None: not said.
      splits: Of `hf`, the name of each split that was chosen.
      config: Of `hf`, the configuration that was chosen.
    """

    scheme: str
    target: str
    names: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    labels: str | tuple[str, ...] | None = None
    numbers: str | tuple[str, ...] | None = None
    separator: str | None = None
    splits: dict[str, str] = field(default_factory=dict)
    config: str | None = None

    @property
    def file(self) -> Path:
        return Path(os.path.expanduser(self.target))

    @property
    def place(self) -> str:
        """The file, folder or address, as errors name it."""
        is_address = "://" in self.target or self.target.startswith("//")
        return str(self) if is_address else str(self.file)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.target}"


def parse_spec(text: str, scheme: str = "csv") -> Spec:
    """Parses the text after the scheme and its colon; opens no file.

    Raises:
      InputError: It is no valid spec.
    """
    target, question, query = text.partition("?")
    whole = f"{scheme}:{text}"
    place = _PLACES[scheme]
    syntax = f"write {scheme}:{place}, or {scheme}:{place}?label=COLUMN,split=COLUMN,group=COLUMN"
    if not target:
        raise InputError(f"'{whole}' names no file; {syntax}")
    chosen: dict[str, str] = {}
    for choice in query.split(",") if question else ():
        key, equals, value = choice.partition("=")
        if not equals or not value:
            raise InputError(
                f"'{choice}' in {whole} is not of the form KEY=VALUE; {syntax}; a file's name may"
                " hold no '?', a column's no ',', and a separator ',' is written separator=comma"
            )
        check_known(f"choice in {scheme}:{target}?", key, CHOICES[scheme])
        key = "path" if key == "image" else key
        if key in chosen:
            raise InputError(f"{whole} chooses {key} twice; keep one of them")
        chosen[key] = value
    check_targets(whole, chosen)
    return Spec(
        scheme,
        target,
        names={name: chosen[name] for name in COLUMNS if name in chosen},
        columns=_parse_columns(whole, target, chosen),
        labels=chosen.get("labels"),
        numbers=chosen.get("numbers"),
        separator=parse_separator(whole, chosen),
        splits={name: chosen[name] for name in SPLITS if name in chosen},
        config=chosen.get("config"),
    )


def check_targets(whole: str, chosen: Collection[str]) -> None:
    """Raises InputError if `whole`, which chooses these, chooses labels of more than one kind."""
    targets = [name for name in _TARGETS if name in chosen]
    if len(targets) > 1:
        raise InputError(
            f"{whole} chooses {' and '.join(targets)}; keep label for one class an image, labels"
            " for several, or numbers"
        )


def parse_separator(whole: str, chosen: Mapping[str, Any]) -> str | None:
    """Returns the sign between the labels in a cell that `chosen` names; None: it names none.

    Raises:
      InputError: It is not one sign, or there are no labels that it could stand between.
    """
    given = chosen.get("separator")
    if given is None:
        return None
    if "labels" not in chosen:
        raise InputError(f"{whole} chooses a separator, but no labels=COLUMN that it is for")
    separator = SEPARATORS.get(given, given)
    if len(separator) != 1 or separator.isalnum():
        raise InputError(
            f"the separator '{given}' in {whole} is not one sign; give one, or one of"
            f" {', '.join(SEPARATORS)}"
        )
    return separator


def _parse_columns(whole: str, target: str, chosen: dict[str, str]) -> tuple[str, ...]:
    if "columns" not in chosen:
        return ()
    if any(name in chosen for name in COLUMNS):
        raise InputError(
            f"{whole} says what the columns are called, and that there is no header; leave"
            " columns= or the others out"
        )
    columns = tuple(chosen["columns"].split("+"))
    targets = chosen.get("labels", chosen.get("numbers", "label")).split("+")
    for column in columns:
        check_known(f"column in csv:{target}?columns=", column, (*COLUMNS, *targets, "_"))
    used = [name for name in columns if name != "_"]
    if len(set(used)) < len(used):
        raise InputError(f"columns= of {target} names a column twice; keep one of them")
    if missing := [name for name in ("path", *targets) if name not in columns]:
        raise InputError(
            f"{whole} lacks path or label among its columns, namely {', '.join(missing)}; write"
            " e.g. columns=path+label, with _ for a column that is not used"
        )
    return columns
