"""What the studies in `experiments/` write: CSV, tables in Markdown, and intervals in words."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.analysis.statistics import Interval


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same fields, one or more, under a line of their names."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file of `write_csv`, as texts."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under its head."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score(interval: Interval) -> str:
    """A mean with half of its interval's width, e.g. 0.912 ±0.011."""
    return f"{interval.mean:.3f} ±{interval.half_width:.3f}"


def signed(interval: Interval) -> str:
    """The same of a difference, e.g. +0.012 ±0.011."""
    return f"{interval.mean:+.3f} ±{interval.half_width:.3f}"


def gain(interval: Interval) -> str:
    """The same, which says so if the difference may be 0."""
    return f"{signed(interval)}{'' if interval.excludes_zero else ' (includes 0)'}"
