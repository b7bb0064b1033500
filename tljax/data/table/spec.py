"""Parses the spec after `csv:`: a file, and which of its columns mean what.

    FILE                                       a header names the columns
    FILE?path=photo,label=breed,group=dog      other names than the usual ones
    FILE?columns=path+label                    no header: what the columns are, in their order

Choices are separated by commas, as for `tfds:`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from tljax.errors import InputError, check_known

COLUMNS = ("path", "label", "split", "group")
# Names that headers use, in lower case; the first that a header has is taken.
USUAL = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "subset", "partition"),
    "group": ("group",),
}
_SYNTAX = "write csv:FILE, or csv:FILE?path=COLUMN,label=COLUMN,split=COLUMN,group=COLUMN"


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
      file: the table.
      names: of `COLUMNS`, what the header calls them, where it was said.
      columns: of a table without a header what its columns are; else empty.
    """

    file: Path
    names: dict[str, str]
    columns: tuple[str, ...]


def parse_spec(text: str) -> Spec:
    """Parses the text after `csv:`; opens no file.

    Raises:
      InputError: it is no valid spec.
    """
    path, question, query = text.partition("?")
    if not path:
        raise InputError(f"'csv:{text}' names no file; {_SYNTAX}")
    names: dict[str, str] = {}
    for choice in query.split(",") if question else ():
        key, equals, value = choice.partition("=")
        if not equals or not value:
            raise InputError(
                f"'{choice}' in csv:{text} is no choice; {_SYNTAX}; a file's name may hold no '?',"
                " a column's no ','"
            )
        check_known(f"choice in csv:{path}?", key, (*COLUMNS, "columns"))
        if key in names:
            raise InputError(f"csv:{text} chooses {key} twice; keep one of them")
        names[key] = value
    columns = tuple(names.pop("columns", "").split("+")) if "columns" in names else ()
    if columns and names:
        raise InputError(
            f"csv:{text} says what the columns are called, and that there is no header; leave"
            " columns= or the others out"
        )
    for column in columns:
        check_known(f"column in csv:{path}?columns=", column, (*COLUMNS, "_"))
    if columns and not {"path", "label"} <= set(columns):
        raise InputError(
            f"csv:{text} lacks path or label among its columns; write e.g. columns=path+label, with"
            " _ for a column that is not used"
        )
    return Spec(Path(os.path.expanduser(path)), names, columns)
