"""Locks between processes: one holder at a time, and a holder that was killed holds nothing.

A lock is a file. Where the file system has `flock`, the operating system releases the lock of a
process that dies. Elsewhere the lock is the existence of a second file, which names its holder;
the next process removes it if that holder no longer runs on the same machine.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from tljax.files import parse_json

_log = logging.getLogger("tljax")

# Errors of a file system that has no flock. Not ENOLCK: it may pass, and then one process would
# hold the one kind of lock and another process the other.
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP)
_TAKES_OVER = 0.5  # seconds in which the lock of a killed process is certainly taken over
_POLL = 0.1  # seconds between two attempts
_SILENT = 5.0  # seconds of waiting before it is said


class Held(Exception):
    """Another process, or another thread of this one, holds the lock.

    Attributes:
      holder: who, e.g. `process 7 on host`; "" if unknown.
      marker: the file whose existence is the lock; None if the operating system keeps the lock.
    """

    def __init__(self, holder: str, marker: Path | None):
        super().__init__(holder)
        self.holder, self.marker = holder, marker

    @property
    def remedy(self) -> str:
        """What to do if the holder is gone, which this machine may be unable to know."""
        return "" if self.marker is None else f" (if that process is gone, delete '{self.marker}')"


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Holds a lock in the `with` block; blocks may be nested in one thread.

    Args:
      path: of the lock's file, which is made if missing.

    Yields:
      Whether this block is the outermost.

    Raises:
      Held: at once, if another process or thread holds it.
      OSError: with the path, if the file system gives no lock.
    """
    lock = _acquire(path)
    try:
        yield lock.lock_counter == 1
    finally:
        lock.release()


@contextlib.contextmanager
def wait_for(path: Path, while_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """As `hold`, but waits until the lock is free.

    Args:
      path: of the lock's file, which is made if missing.
      while_waiting: called from time to time; what it raises ends the waiting.
    """
    began, said = time.monotonic(), False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(hold(path))
                break
            except Held as other:
                if not said and time.monotonic() - began > _SILENT:
                    said = True
                    who = other.holder or "another process"
                    _log.warning("waiting for %s, which holds '%s'%s", who, path, other.remedy)
            while_waiting()
            time.sleep(_POLL)
        yield


def _acquire(path: Path) -> BaseFileLock:
    path = path.absolute()
    try:
        lock: BaseFileLock = FileLock(path, is_singleton=True, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Held(_describe(_read_holder(path)), None) from None
        if lock.lock_counter == 1:
            _write_holder(path)
        return lock
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise OSError(error.errno, error.strerror, str(path)) from error
    marker = path.with_name(f"{path.name}.holder")
    lock = SoftFileLock(marker, is_singleton=True)
    try:
        lock.acquire(timeout=_TAKES_OVER)
    except Timeout:
        raise Held(_describe(_read_marker(marker)), marker) from None
    return lock


def _write_holder(path: Path) -> None:
    """Writes this process's number and host to the lock's file, for the messages of others."""
    with contextlib.suppress(OSError):  # the lock works on a full disk, too
        if path.stat().st_size and _read_holder(path) is None:
            return  # a file of the user's that has this name
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        path.write_text(json.dumps(me) + "\n")


def _read_holder(path: Path) -> tuple[int, str] | None:
    """The holder that `_write_holder` wrote."""
    try:
        holder = parse_json(path.read_bytes())
        return int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _read_marker(path: Path) -> tuple[int, str] | None:
    """The holder that filelock wrote: lines of the process's number and its host."""
    try:
        number, host, *_ = path.read_text(encoding="utf-8").splitlines()
        return int(number), host
    except (OSError, ValueError):
        return None


def _describe(holder: tuple[int, str] | None) -> str:
    return "" if holder is None else f"process {holder[0]} on {holder[1]}"
