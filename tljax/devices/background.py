"""One thread for work that nobody waits for yet."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one piece of work at a time in a thread, in the order of submission.

    Args:
      held: whether work waits for `begin` (or `wait`) before it runs.
    """

    def __init__(self, held: bool = False):
        self._may_begin = threading.Event()
        if not held:
            self._may_begin.set()
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Queues `work`; call `wait` first, so that an earlier failure is not lost."""

        def run() -> None:
            self._may_begin.wait()
            work()

        self._thread = self._thread or ThreadPoolExecutor(1)
        self._last = self._thread.submit(run)

    def begin(self) -> None:
        """Lets held work, and all that is submitted later, run at once."""
        self._may_begin.set()

    def wait(self) -> None:
        """Returns when the last submitted work is done; raises what it raised, once."""
        self.begin()
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def raise_if_failed(self) -> None:
        """Raises what the last submitted work raised, if it is done; never waits."""
        if self._last is not None and self._last.done():
            self.wait()

    def close(self) -> None:
        """Ends the thread after the submitted work."""
        self.begin()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
