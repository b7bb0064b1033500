"""`tljax predict`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tljax.commands.arguments import add_task, refuse_overrides
from tljax.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: tljax predict --workdir runs/pets holiday/ cat.jpg --output pets.csv"
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a run of `tljax train`")
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
    """Classify images with the best weights of a workdir."""
    refuse_overrides(overrides)
    from tljax.commands.predict.classify import classify_files

    output = Path(args.output) if args.output is not None else None
    paths = [Path(path) for path in args.paths]
    rows = classify_files(Path(args.workdir), paths, output, args.on_error, args.task)
    if output is None:
        _print_table(rows)
    else:
        print(f"wrote {printable(output)}: {len(rows):,} images")


def _print_table(rows: Sequence[tuple[Path, str, float]]) -> None:
    table = Table("file", "prediction", Column("probability", justify="right"), box=None)
    for file, name, probability in rows:
        table.add_row(Text(printable(file)), Text(printable(name)), f"{probability:.4f}")
    width = None if Console().is_terminal else 10_000  # do not wrap rows written to a pipe
    Console(highlight=False, width=width).print(table)
