"""CSV files: text that a spreadsheet would compute stays text, numbers stay numbers."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tljax.analysis.spreadsheet import as_cell, from_cell
from tljax.analysis.tables import read_csv, write_csv
from tljax.commands.predict.files import Column, _write

FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://x","y")',
]
FORMULAS += ["-x", "--", "+", "-inf", "-1e", "+.", "=", "-0.5.png"]
NUMBERS = ["-1", "+1", "-0.5", "-.5", "-5.", "-1e-05", "+3E7", "0", "12", "1e9"]
TEXTS = [
    "",
    "cat",
    "a\rb",
    "a\nb",
    "a,b",
    'a"b',
    "a=b",
    "1-2",
    "'cat",
    "'",
    "''",
    "tfds:x?train=train[:80%]",
    "/=x",
    "ünï",
]


def test_a_formula_is_escaped_and_a_number_is_not():
    for text in FORMULAS:
        assert as_cell(text) == f"'{text}"
    for text in NUMBERS + TEXTS:
        assert as_cell(text) == text
    for value in (-1, -0.5, 0, None, True, -1e-300):
        assert as_cell(value) is value


def test_every_text_comes_back():
    texts = FORMULAS + NUMBERS + TEXTS + [f"'{text}" for text in FORMULAS]
    texts += [f"''{text}" for text in FORMULAS]
    assert [from_cell(as_cell(text)) for text in texts] == texts
    assert len({as_cell(text) for text in texts}) == len(set(texts))


def test_a_table_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "t.csv"
    rows = [{"=name": text, "number": -0.5, "none": None} for text in FORMULAS + TEXTS]
    write_csv(path, rows)
    with path.open(newline="") as file:
        head, *lines = csv.reader(file)
    for cell in (*head, *(line[0] for line in lines)):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert {line[1] for line in lines} == {"-0.5"}
    assert read_csv(path) == [{"=name": row["=name"], "number": "-0.5", "none": ""} for row in rows]


@pytest.mark.parametrize(
    "name", ["=1+1.png", "+a/b.png", "-x.png", "@x.png", "a=b.png", "/=x.png", "a\rb.png"]
)
def test_predictions_name_the_same_file_and_the_same_class(name, tmp_path):
    classes = ["=cmd", "-5", "cat"]
    cells = [[name, 1.0, *np.eye(3)[label].tolist()] for label, name in enumerate(classes)]
    columns = [Column(text) for text in ("prediction", "probability", *classes)]
    rows = list(_write(tmp_path / "p.csv", columns, ((Path(name), row) for row in cells)))
    assert [row[0] for _, row in rows] == classes, "what is returned and printed is the plain name"
    with (tmp_path / "p.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head[3:] == ["'=cmd", "-5", "cat"]
    assert [line[1] for line in lines] == head[3:]
    for line in lines:
        assert Path(line[0]) == Path(name)
        assert line[0][0] in "./a"
        assert [float(cell) for cell in line[2:]]
