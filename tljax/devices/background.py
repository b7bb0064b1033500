"""A background thread for work whose result is needed later."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs submitted functions one at a time in a thread, in the order of submission.

    Args:
      held: if true, no work runs before `release`, or before `wait` or `close` waits for it.
    """

    def __init__(self, held: bool = False):
        self._released = threading.Event()
        if not held:
            self._released.set()
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Queues `work`. Call `wait` first, or the error of earlier work is lost."""

        def run() -> None:
            self._released.wait()
            work()

        self._thread = self._thread or ThreadPoolExecutor(1)
        self._last = self._thread.submit(run)

    def release(self) -> None:
        """Runs held work now, and later work as soon as it is submitted."""
        self._released.set()

    def wait(self) -> None:
        """Waits for the last submitted work, which it releases; raises its error, once."""
        last, self._last = self._last, None
        if last is not None:
            self.release()
            last.result()

    def raise_if_failed(self) -> None:
        """Raises the error of the last submitted work if that has failed by now; never waits."""
        if self._last is not None and self._last.done():
            self.wait()

    def close(self) -> None:
        """Waits for all submitted work and ends the thread."""
        self.release()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
