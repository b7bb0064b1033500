"""SIGTERM, by which machines are taken away: save, and leave with a code that says "again".

A scheduler or a cloud that takes a machine away sends SIGTERM and, some seconds later, SIGKILL.
Between the two a run saves what it has. Its exit code is then `EXIT_CODE`, so that a launcher can
tell it from a run that is done (0) and from one that needs its user (2).
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, the user is invited to retry


class Preempted(Exception):
    """SIGTERM came; what was to be saved is saved."""


class LostProcess(Exception):
    """Another process of this job has ended, and this one cannot go on without it."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises `Preempted` wherever the program is: there is nothing to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Preempted("stopped by SIGTERM; the same command goes on from what was saved")

    with _on_sigterm(leave):
        yield


@contextlib.contextmanager
def sigterm_waits() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM waits until the program asks; gives a function that tells if it came."""
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()

    with _on_sigterm(note):
        yield came.is_set


@contextlib.contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Only the main thread may handle signals; elsewhere SIGTERM does what it did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
