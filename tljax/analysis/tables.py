"""Tables of a study: CSV files of its numbers, and Markdown tables to read."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.analysis.statistics import Interval
from tljax.runs.workdir import write_atomically


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes at least one row atomically; all rows have the keys of the first one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a file that `write_csv` wrote; all values are strings."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table; its cells must not contain `|`."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score(interval: Interval) -> str:
    """Formats a mean with half of its interval's width, e.g. `0.912 ±0.013`."""
    if interval.half_width != interval.half_width:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} ±{interval.half_width:.3f}"


def signed(interval: Interval) -> str:
    """Formats a difference, e.g. `+0.021 ±0.013`."""
    return f"{interval.mean:+.3f} ±{interval.half_width:.3f}"


def difference(interval: Interval) -> str:
    """Formats a difference as `signed` does, and says if its interval includes 0."""
    return signed(interval) + ("" if interval.excludes_zero else " (includes 0)")
