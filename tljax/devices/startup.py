"""Makes a run reach its first step sooner: compiling ahead, small pages, deferred work.

Nothing here changes a number, and neither the loop nor the step knows of it. benchmarks/README.md
has measurements of each trick. This file does not import JAX, because the command line needs it
before JAX is imported.
"""

import gc
import importlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from tljax.devices import huge_pages
from tljax.devices.background import Background

_LONGEST = 10.0  # seconds of training, e.g. of a first validation, after which start-up is over

_command_began: float | None = None


def begin_command() -> None:
    """Prepares the process of a `tljax` command and starts its clock.

    Restarts the process once, with huge pages, where the system has them on request. Raises
    Python's garbage collection threshold: tracing a network creates a million objects that stay,
    and looking for garbage after every 700 new ones takes a second.
    """
    global _command_began
    huge_pages.restart_with_huge_pages()
    gc.set_threshold(100_000)
    _command_began = time.monotonic()


class Startup:
    """The time until the end of a run's first step, and the tricks that shorten it.

    It begins with the `tljax` command or, without one, when this object is created. As a context
    manager it ends start-up on exit: it cancels queued compilations, does not wait for the running
    one, and waits for `background`.

    Attributes:
      background: a thread whose work begins when start-up is over.
    """

    def __init__(self) -> None:
        global _command_began
        self._began, _command_began = _command_began or time.monotonic(), None
        self.background = Background(held=True)
        self._timer: threading.Timer | None = None
        # Imported before threads start: while Grain is imported, etils.epy.lazy_imports gives all
        # threads stand-ins for the modules that they import, and tracing JAX programs imports some.
        importlib.import_module("grain")
        self._tracing, self._compiling = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def use_small_pages(self) -> None:
        """Uses small memory pages until start-up is over: the first touch of huge ones is slow."""
        huge_pages.disable()

    def compile_ahead(
        self, program: Any, *arguments: Any, used_by: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Compiles a program, or loads it from the cache on disk, in the background.

        Programs are compiled in the order of the calls. Each is traced while the one before it is
        compiled. Settings of a `with` block, such as `jax.default_matmul_precision`, do not reach
        the threads: a program that is called in such a block is compiled again.

        Args:
          program: a jitted function.
          arguments: its arguments. Arrays may be abstract; none is donated.
          used_by: the function that calls the program; None: the program itself.

        Returns:
          A function that waits until the program is compiled, then calls `used_by`. It raises the
          error of the compilation, if there was one.
        """
        lowered = self._tracing.submit(program.lower, *arguments)
        compiled: Future[Any] = self._compiling.submit(lambda: lowered.result().compile())
        function = program if used_by is None else used_by

        def when_compiled(*args: Any, **kwargs: Any) -> Any:
            compiled.result()
            return function(*args, **kwargs)

        return when_compiled

    def end_later(self) -> None:
        """Ends start-up after `_LONGEST` seconds, unless the first step has ended it by then."""
        self._timer = threading.Timer(_LONGEST, self.end)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> float:
        """Ends start-up: huge pages, deferred work. Returns the seconds since the command."""
        huge_pages.enable()
        self.background.release()
        return time.monotonic() - self._began

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for thread in (self._tracing, self._compiling):
            thread.shutdown(wait=False, cancel_futures=True)
        self.end()
        self.background.close()
