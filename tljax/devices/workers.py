"""Worker processes that read images: when they can start, and how they end.

Python starts them by "spawn": each imports the main module again, under another `__name__`.
"""

import ast
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tljax.console import defer_warnings
from tljax.errors import InputError

_DIED = "Worker process was terminated"  # how Grain's error for a dead worker begins


def check_main_guard(num_workers: int) -> None:
    """Checks that workers would not run the calling script again.

    Args:
      num_workers: of reading processes; 0 checks nothing.

    Raises:
      InputError: if a line of the main module that is not under `if __name__ == "__main__":` leads
        to this call, as that line would start workers of the workers.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if not num_workers or path is None:
        return
    frame = sys._getframe()
    while frame.f_globals is not main.__dict__ or frame.f_code.co_name != "<module>":
        if frame.f_back is None:
            return
        frame = frame.f_back
    try:
        statements = ast.parse(Path(path).read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # the main module is no file of Python's
        return
    if not _is_guarded(statements, frame.f_lineno):
        raise InputError(
            f"num_workers is {num_workers}, but line {frame.f_lineno} of '{path}' is not under"
            ' `if __name__ == "__main__":`, so every worker would run it again; put it there, or'
            " set num_workers to 0"
        )


def _is_guarded(statements: list[ast.stmt], line: int) -> bool:
    """Whether an `if` of these statements keeps workers from a line; True if it is in none."""
    for statement in statements:
        if statement.lineno <= line <= (statement.end_lineno or statement.lineno):
            ifs = [node for node in ast.walk(statement) if isinstance(node, ast.If)]
            return any(
                node.lineno <= line <= (node.end_lineno or node.lineno)
                and _names_process(node.test)
                for node in ifs
            )
    return True


def _names_process(test: ast.expr) -> bool:
    """Whether a condition can tell the main process from a worker."""
    telling = {"__name__", "current_process", "parent_process"}
    return any(
        (isinstance(node, ast.Name) and node.id in telling)
        or (isinstance(node, ast.Attribute) and node.attr in telling)
        for node in ast.walk(test)
    )


def start_worker(worker: int, count: int) -> None:
    """Called in each new worker: leaves Ctrl-C in a terminal, and warnings, to the main process.

    Args:
      worker, count: the number of the worker, and of how many.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    defer_warnings()


@contextlib.contextmanager
def explain_dead_workers() -> Iterator[None]:
    """Turns Grain's error for a worker that died into an InputError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(_DIED):
            raise
        why = str(error).partition("exit code ")[2].partition(".")[0]
        raise InputError(
            f"a process that reads images has died (exit code {why or 'unknown'}); if it left no"
            " message, memory was probably short: set num_workers lower, or to 0"
        ) from error
