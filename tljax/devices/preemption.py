"""Preemption: on SIGTERM, save and exit with a code that asks for a retry.

A scheduler or a cloud that takes a machine away sends SIGTERM and, some seconds later, SIGKILL.
Between the two a run saves its state and exits with `EXIT_CODE`. A launcher can so tell it from a
run that is done (0) and from one that needs its user (2).
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, the user is invited to retry


class Preempted(Exception):
    """SIGTERM was received, and the run's state is saved."""


class LostProcess(Exception):
    """Another process of this job has ended, so this one cannot continue."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """In the block, SIGTERM raises `Preempted` at once: for code that has nothing to save."""

    def raise_preempted(number: int, frame: FrameType | None) -> None:
        raise Preempted("stopped by SIGTERM; the same command resumes from what was saved")

    with _on_sigterm(raise_preempted):
        yield


@contextlib.contextmanager
def sigterm_waits() -> Iterator[Callable[[], bool]]:
    """In the block, SIGTERM is only noted; yields a function that says whether it was received."""
    received = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        received.set()

    with _on_sigterm(note):
        yield received.is_set


@contextlib.contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles SIGTERM in the block; does nothing in other threads than the main one.

    Python allows signal handlers in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
