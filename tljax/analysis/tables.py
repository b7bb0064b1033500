"""Tables of a study: CSV files of its numbers, and Markdown tables to read."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.analysis.comparison import Comparison
from tljax.analysis.spreadsheet import from_cell, write_rows
from tljax.analysis.statistics import Interval
from tljax.runs.scores import LOWER_IS_BETTER, three_digits
from tljax.runs.workdir import write_atomically


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes at least one row atomically; all rows have the keys of the first one.

    Text that a spreadsheet would take for a formula is escaped, see `spreadsheet`.
    """
    text = io.StringIO()
    write_rows(text, [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)])
    write_atomically(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a file that `write_csv` wrote; all values are strings."""
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = ([from_cell(cell) for cell in line] for line in csv.reader(file))
        return [dict(zip(names, row, strict=True)) for row in rows]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table; its cells must not contain `|`."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score(interval: Interval, metric: str = "accuracy") -> str:
    """Formats a mean with half of its interval's width, e.g. `0.912 ±0.013`.

    Args:
      interval: of the mean; without ends the mean stands alone. If the ends are not as far from the
        mean, both are written: `0.912 (0.895 to 0.921)`.
      metric: its name in `tljax.runs.scores`. Of what is in units of its own, e.g. of errors, three
        digits are written, else three decimals.
    """
    half = 0.0 if math.isnan(interval.half_width) else interval.half_width
    size = max(abs(interval.mean), half) if metric in LOWER_IS_BETTER else 0.1
    mean = three_digits(interval.mean, size)
    if math.isnan(interval.half_width):
        return mean
    if interval.is_symmetric:
        return f"{mean} ±{three_digits(half, size)}"
    return f"{mean} ({three_digits(interval.low, size)} to {three_digits(interval.high, size)})"


def signed(interval: Interval) -> str:
    """Formats a difference, e.g. `+0.021 ±0.013`; of uneven ends `+0.021 (+0.004 to +0.030)`."""
    if math.isnan(interval.half_width):
        return f"{interval.mean:+.3f} (one value)"
    if not interval.is_symmetric:
        return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
    return f"{interval.mean:+.3f} ±{interval.half_width:.3f}"


def difference(interval: Interval) -> str:
    """Formats a difference as `signed` does, and says if its interval includes 0."""
    clear = interval.excludes_zero or math.isnan(interval.half_width)
    return signed(interval) + ("" if clear else " (includes 0)")


def compared(comparison: Comparison, repetitions: str = "seeds") -> str:
    """Formats a difference with both of its intervals, and says if it is not clear.

    E.g. `+0.021 ±0.013, ±0.019 with images`, or `+0.021 ±0.013 (over seeds only)`.

    Args:
      comparison: the difference.
      repetitions: what the first interval is over.
    """
    text, both = signed(comparison.over_seeds), comparison.over_both
    if both is not None:
        text += f", ±{both.half_width:.3f} with images"
    if not comparison.is_clear:
        return f"{text} (includes 0)"
    return text if both is not None else f"{text} (over {repetitions} only)"
