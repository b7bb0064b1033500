"""`tljax predict`."""

from __future__ import annotations

import argparse
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tljax.commands.arguments import add_task, refuse_overrides
from tljax.errors import printable

if TYPE_CHECKING:
    from tljax.commands.predict.files import Predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tljax predict --workdir runs/pets holiday/ cat.jpg --output pets.csv"
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="of a run of `tljax train`, or of `tljax folds`, whose folds answer together",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="IMAGE_OR_FOLDER",
        help="folders are searched with all their subfolders",
    )
    parser.add_argument(
        "--output",
        metavar="FILE.csv",
        help="one row per image: file, prediction, probability, and the probability of each class;"
        " default: print a table",
    )
    parser.add_argument(
        "--on_error",
        choices=("fail", "skip"),
        default="fail",
        help="what to do about an image that cannot be read; default: fail",
    )
    add_task(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """Predict images with the best weights of a workdir."""
    refuse_overrides(overrides)
    from tljax.commands.predict.files import predict_files

    output = Path(args.output) if args.output is not None else None
    paths = [Path(path) for path in args.paths]
    predictions = predict_files(Path(args.workdir), paths, output, args.on_error, args.task)
    if output is None:
        _print_table(predictions)
    else:
        print(f"wrote {printable(output)}: {len(predictions.rows):,} images")


def _print_table(predictions: Predictions) -> None:
    shown = [column.in_table for column in predictions.columns]
    table = Table("file", box=None)
    for column in compress(predictions.columns, shown):
        table.add_column(printable(column.name), justify="right" if column.is_number else "left")
    for file, cells in predictions.rows:
        texts = [
            Text(printable(cell) if isinstance(cell, str) else f"{cell:{column.form}}")
            for cell, column in compress(zip(cells, predictions.columns, strict=True), shown)
        ]
        table.add_row(Text(printable(file)), *texts)
    width = None if Console().is_terminal else 10_000  # do not wrap rows written to a pipe
    Console(highlight=False, width=width).print(table)
