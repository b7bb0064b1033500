"""`tljax models`."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tljax.commands.arguments import refuse_overrides
from tljax.errors import InputError

if TYPE_CHECKING:
    from tljax.weights.zoo import ZooEntry

_PIPE_WIDTH = 320  # more than the longest address and all other columns
_ORDERS: dict[str, Callable[[ZooEntry], Any]] = {
    "name": lambda entry: (),  # as in the table, by model
    "parameters": lambda entry: entry.parameters,
    "gflops": lambda entry: entry.gflops,
    "top1": lambda entry: -(entry.top1 or 0.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: tljax models 'vit_small*dino*'; tljax models convnext --sort top1"
        " --max_parameters 30 --licence apache"
    )
    parser.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="part of a name, or a pattern like 'vit_*'"
    )
    parser.add_argument(
        "--sort",
        choices=_ORDERS,
        default="name",
        help="the order: by name (default), smallest or cheapest first, or most accurate first",
    )
    parser.add_argument(
        "--licence",
        metavar="TEXT",
        help="only weights whose licence contains this, e.g. apache; 'cc-by-nc' and names of"
        " companies are licences with conditions",
    )
    parser.add_argument(
        "--max_parameters", metavar="MILLIONS", type=float, help="only networks up to this size"
    )
    parser.add_argument(
        "--max_gflops", metavar="GFLOPS", type=float, help="only networks up to this cost"
    )
    parser.add_argument(
        "--csv",
        action="store_true",
        help="print every column as CSV, including the sources of the figures",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> None:
    """List the pretrained weights known by name: address, preprocessing, cost and accuracy."""
    refuse_overrides(overrides)
    from tljax.weights import zoo

    found = select(
        list(zoo.entries().values()) if args.pattern is None else zoo.find(args.pattern),
        licence=args.licence,
        max_parameters=args.max_parameters,
        max_gflops=args.max_gflops,
    )
    found.sort(key=_ORDERS[args.sort])
    if args.csv:
        _print_csv(found)
    else:
        _print_table(found)


def select(
    entries: Sequence[ZooEntry],
    *,
    licence: str | None = None,
    max_parameters: float | None = None,
    max_gflops: float | None = None,
) -> list[ZooEntry]:
    """Returns the entries with a licence, and up to a size and a cost.

    Args:
      entries: to choose among.
      licence: a part of its name; None: any.
      max_parameters: in millions.
      max_gflops: of one forward pass.

    Raises:
      InputError: if none is left.
    """
    found = [
        entry
        for entry in entries
        if (licence is None or licence.lower() in entry.licence.lower())
        and (max_parameters is None or entry.parameters <= 1e6 * max_parameters)
        and (max_gflops is None or entry.gflops <= max_gflops)
    ]
    if not found:
        raise InputError(
            f"none of the {len(entries)} pretrained weights has such a licence, size and cost;"
            " relax --licence, --max_parameters or --max_gflops"
        )
    return found


def _print_table(entries: Sequence[ZooEntry]) -> None:
    width = None if Console().is_terminal else _PIPE_WIDTH
    console = Console(highlight=False, soft_wrap=True, width=width)
    table = Table(title=f"{len(entries)} checkpoints", title_justify="left", pad_edge=False)
    # in a narrow terminal the address is folded before any other column is cut
    table.add_column("init_from, and its address", overflow="fold", min_width=20)
    for heading in ("parameters", "GFLOPs", "pixels", "top-1 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("mean", "std", "resize", "crop", "classes", "licence"):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        preprocessing = entry.preprocessing
        table.add_row(
            Text.assemble((entry.name, "bold"), "\n", (entry.address, "dim")),
            f"{entry.parameters:,}",
            f"{entry.gflops:.2f}",
            str(preprocessing.image_size),
            "" if entry.top1 is None else f"{entry.top1:.2f}",
            _format_numbers(preprocessing.mean),
            _format_numbers(preprocessing.std),
            preprocessing.interpolation,
            f"{preprocessing.crop_ratio:.3g}",
            str(entry.num_classes or "no head"),
            entry.licence,
        )
    console.print(table)
    console.print(
        "GFLOPs of one forward pass, a multiply-add counted as two; top-1 on ImageNet-1k as"
        " published, blank where no source was found; none of the addresses is known to be gated;"
        " sources, hashes and training data: --csv"
    )


def _print_csv(entries: Sequence[ZooEntry]) -> None:
    """Prints every field; the column `preprocessing` becomes one column for each of its fields."""
    names = [field.name for field in fields(entries[0])]
    inner = ["image_size", "mean", "std", "interpolation", "crop_ratio"]
    at = names.index("preprocessing")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names[:at], *inner, *names[at + 1 :]])
    for entry in entries:
        row = [getattr(entry, name) for name in names]
        own = [getattr(entry.preprocessing, name) for name in inner]
        own = [" ".join(map(str, v)) if isinstance(v, tuple) else v for v in own]
        writer.writerow(["" if v is None else v for v in (*row[:at], *own, *row[at + 1 :])])
    print(text.getvalue(), end="")


def _format_numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}".removeprefix("0") for value in values)
