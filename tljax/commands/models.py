"""`tljax models`: the checkpoints known by name, and what is known of them."""

import csv
import fnmatch
import sys
from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tljax.errors import InputError, did_you_mean
from tljax.weights import zoo

_WIDTH_OF_A_PIPE = 200  # it has none of its own


def print_models(pattern: str | None, as_csv: bool = False) -> None:
    """Prints the zoo, or the part of it whose names match.

    Args:
      pattern: a part of a name, or a shell pattern such as `vit_*dinov2*`; None: all.
      as_csv: every column, as comma-separated values, instead of a table.

    Raises:
      InputError: if nothing matches.
    """
    chosen = matching(pattern)
    if as_csv:
        _print_csv(chosen)
        return
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=_WIDTH_OF_A_PIPE)
    table = Table(title=f"{len(chosen)} checkpoints", title_justify="left", pad_edge=False)
    table.add_column("init_from, and where it lies", no_wrap=True, overflow="fold")
    for heading in ("parameters", "GFLOPs", "pixels", "top-1 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("mean", "std", "resize", "crop", "classes", "licence"):
        table.add_column(heading, no_wrap=True)
    for entry in chosen:
        preprocessing = entry.preprocessing
        table.add_row(
            Text.assemble((entry.name, "bold"), "\n", (entry.address, "dim")),
            f"{entry.parameters:,}",
            f"{entry.gflops:.2f}",
            str(preprocessing.image_size),
            "" if entry.top1 is None else f"{entry.top1:.2f}",
            _numbers(preprocessing.mean),
            _numbers(preprocessing.std),
            preprocessing.interpolation,
            f"{preprocessing.crop_ratio:.3g}",
            str(entry.num_classes or "no head"),
            entry.licence,
        )
    console.print(table)
    console.print(
        "GFLOPs of one forward pass, a multiply-add counted as two; top-1 on ImageNet-1k as"
        " published, blank where no source was found; sources, hashes and training data: --csv"
    )


def matching(pattern: str | None) -> list[zoo.ZooEntry]:
    """The entries whose name contains `pattern`, or matches it as a shell pattern."""
    entries = zoo.entries()
    if pattern is None:
        return list(entries.values())
    found = [
        entry
        for name, entry in entries.items()
        if pattern.lower() in name.lower() or fnmatch.fnmatch(name.lower(), pattern.lower())
    ]
    if not found:
        raise InputError(
            f"no checkpoint is called like '{pattern}'{did_you_mean(pattern, entries)}; `tljax"
            " models` lists them all"
        )
    return found


def _print_csv(chosen: list[zoo.ZooEntry]) -> None:
    names = [field.name for field in fields(zoo.ZooEntry)]
    inner = ["image_size", "mean", "std", "interpolation", "crop_ratio"]
    at = names.index("preprocessing")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*names[:at], *inner, *names[at + 1 :]])
    for entry in chosen:
        row = [getattr(entry, name) for name in names]
        own = [getattr(entry.preprocessing, name) for name in inner]
        own = [" ".join(map(str, v)) if isinstance(v, tuple) else v for v in own]
        writer.writerow(["" if v is None else v for v in (*row[:at], *own, *row[at + 1 :])])


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}".removeprefix("0") for value in values)
