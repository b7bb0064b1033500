"""Tables of a study: CSV files that keep its numbers, and Markdown to read them in."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.analysis.statistics import Interval
from tljax.runs.workdir import write_atomically


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows, at least one, that all have the keys of the first; whole, or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file that `write_csv` wrote, as texts."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that hold no `|`."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score(interval: Interval) -> str:
    """A mean and half of its interval's width, e.g. `0.912 ±0.013`; of one value, that alone."""
    if interval.half_width != interval.half_width:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} ±{interval.half_width:.3f}"


def signed(interval: Interval) -> str:
    """A difference, e.g. `+0.021 ±0.013`."""
    return f"{interval.mean:+.3f} ±{interval.half_width:.3f}"


def difference(interval: Interval) -> str:
    """The same, and whether it may be none."""
    return signed(interval) + ("" if interval.excludes_zero else " (includes 0)")
