"""Stopping a run: on SIGTERM and on Ctrl-C, save and exit with a code that says which it was.

A scheduler or a cloud that takes a machine away sends SIGTERM and, some seconds later, SIGKILL.
Between the two a run saves its state and exits with `EXIT_CODE`. A launcher can so tell it from a
run that is done (0) and from one that needs its user (2). A user who presses Ctrl-C wants the run
to end, not to be tried again: it saves its state and exits with `INTERRUPTED`.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, the user is invited to retry
INTERRUPTED = 130  # as shells report a process that SIGINT has ended

_Handler = Callable[[int, FrameType | None], None]


class Preempted(Exception):
    """SIGTERM was received, and the run's state is saved."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, and the run's state is saved."""


class LostProcess(Exception):
    """Another process of this job has ended, so this one cannot continue."""


def stopped_by(number: int, resumes: bool) -> Preempted | Interrupted:
    """The exception of a run that a signal stops.

    Args:
      number: of the signal.
      resumes: whether the run is saved in a workdir.
    """
    rest = "; the same command resumes from what was saved" if resumes else ""
    if number == signal.SIGINT:
        return Interrupted(f"stopped by Ctrl-C{rest}")
    return Preempted(f"stopped by SIGTERM{rest}")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """In the block, SIGTERM raises `Preempted` at once: for code that has nothing to save."""

    def raise_preempted(number: int, frame: FrameType | None) -> None:
        raise stopped_by(number, resumes=True)

    with _handling(signal.SIGTERM, raise_preempted):
        yield


@contextlib.contextmanager
def stop_signals_wait(ctrl_c: bool) -> Iterator[Callable[[], int]]:
    """In the block, SIGTERM and the first Ctrl-C are only noted; a second Ctrl-C ends at once.

    Args:
      ctrl_c: whether Ctrl-C is noted, too; otherwise it raises KeyboardInterrupt at once.

    Yields:
      A function that returns the number of the signal that was received; 0: none.
    """
    received = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if number == signal.SIGINT:
            if received:
                signal.default_int_handler(number, frame)
            _say("tljax: stopping and saving; press Ctrl-C again to end at once, without saving")
        received = max(received, number)  # SIGTERM, the higher number, has precedence

    with contextlib.ExitStack() as handlers:
        handlers.enter_context(_handling(signal.SIGTERM, note))
        # Not where Ctrl-C is ignored, as under nohup, or has a handler of the program's own.
        if ctrl_c and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers.enter_context(_handling(signal.SIGINT, note))
        yield lambda: received


def _say(sentence: str) -> None:
    """Prints on stderr from a signal handler, which may have interrupted another print."""
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        print(f"\n{sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _handling(number: int, handler: _Handler) -> Iterator[None]:
    """Handles a signal in the block; does nothing in other threads than the main one.

    Python allows signal handlers in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
