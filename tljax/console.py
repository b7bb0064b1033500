"""Messages and progress bars for the user, on stderr; and streams that take any character."""

import codecs
import io
import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)

_IN_ASCII = {"±": "+-", "…": "..."}


def progress_bar(*columns: TextColumn) -> Progress:
    """A bar with count, elapsed time, ETA and the given columns; visible on a terminal only."""
    return Progress(
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_any_character() -> None:
    """Makes stdout and stderr replace what their encoding lacks, instead of raising an error.

    Everything that a command prints goes through them: text, tables, help, warnings, bars.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # None if closed; a notebook has streams of its own
            stream.reconfigure(errors="tljax")


def _replace_character(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces one character that an encoding lacks: `±` by `+-`, others by escapes as `\\xe9`."""
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1
        if replacement := _IN_ASCII.get(error.object[error.start]):
            return replacement, error.end
    return codecs.backslashreplace_errors(error)


codecs.register_error("tljax", _replace_character)
