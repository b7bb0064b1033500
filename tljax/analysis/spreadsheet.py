"""CSV files: text stays text in a spreadsheet, and numbers stay numbers.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula and computes it, also
after a tab or a line break. Class names, file names and error messages may begin so. In the CSV
files that tljax writes, such a text begins with an apostrophe, unless it is a number.
"""

import csv
import io
import re
from collections.abc import Iterable
from typing import Any, TextIO

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def write_rows(file: TextIO, rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows as CSV, each value `as_cell`; lines end in a line feed."""
    line = io.StringIO(newline="")
    writer = csv.writer(line)  # with line feeds alone it would leave a carriage return unquoted
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow(map(as_cell, row))
        file.write(line.getvalue().removesuffix("\r\n") + "\n")


def as_cell(value: Any) -> Any:
    """Returns what to write for a value; `from_cell` gives a text back.

        as_cell("=1+1"), as_cell("-0.5"), as_cell(-0.5)  # ("'=1+1", "-0.5", -0.5)

    A text that begins with apostrophes before such a character gets one more, so that it differs
    from an escaped one.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}" if _FORMULA.match(value) else value


def from_cell(text: str) -> str:
    """Returns the text that `as_cell` was given."""
    return text[1:] if _ESCAPED.match(text) else text
