"""Warnings and progress bars for the user, on stderr; and streams that take any character."""

import codecs
import io
import logging
import sys
import threading

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

_log = logging.getLogger("tljax")

_IN_ASCII = {"±": "+-", "…": "..."}

_said: set[str] = set()  # the keys of the warnings of this process
_deferred: list[tuple[str, str]] | None = None  # None: warnings are shown at once
_lock = threading.Lock()  # several threads read images


def warn_once(message: str, key: str | None = None) -> None:
    """Warns, once in a process: data is listed several times, and has many images of a kind.

    Args:
      message: one line.
      key: what several messages have in common, of which only the first is shown, e.g. the kind of
        an image whose message names the image; None: the message itself.
    """
    key = message if key is None else key
    with _lock:
        if key in _said:
            return
        _said.add(key)
        if _deferred is not None:
            _deferred.append((key, message))
            return
    _log.warning(message)


def was_said(key: str) -> bool:
    """Whether there has been a warning with this key."""
    return key in _said


def defer_warnings() -> None:
    """Makes `warn_once` keep warnings, in a process that reads images for the main process.

    The main process gets them with the batches, and shows those of several readers once.
    """
    global _deferred
    _deferred = []


def take_deferred_warnings() -> tuple[tuple[str, str], ...]:
    """Returns the (key, message) of each warning since the last call; none unless deferred."""
    with _lock:
        taken = tuple(_deferred or ())
        if _deferred:
            _deferred.clear()
    return taken


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
