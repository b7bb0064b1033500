"""How a run's first step comes soon: compiling ahead, small pages, and work that can wait.

Nothing here changes a number, and neither the loop nor the step knows of it. What each trick is
worth is measured in benchmarks/README.md. This file imports no JAX: the command line needs it
before JAX is there.
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

_LONGEST = 10.0  # seconds of training, e.g. of a first validation, after which a start is over

_command_began: float | None = None


def begin_command() -> None:
    """Prepares the process of a `tljax` command; starts its clock.

    Restarts the process once, with huge pages, where the system has them on request. Raises
    Python's garbage collection threshold: tracing a network makes a million objects that stay, and
    looking for garbage after every 700 new ones takes a second of a start.
    """
    global _command_began
    huge_pages.start_again()
    gc.set_threshold(100_000)
    _command_began = time.monotonic()


class Startup:
    """The time from the command, or from its own making, to the end of a run's first step.

    A context manager; leaving it ends the start-up and leaves no thread that begins new work.

    Attributes:
      background: a thread whose work begins when the start is over.
    """

    def __init__(self) -> None:
        global _command_began
        self._began, _command_began = _command_began or time.monotonic(), None
        self.background = Background(held=True)
        self._timer: threading.Timer | None = None
        # Before there are threads: while one of Grain's modules is imported, Python gives all
        # threads stand-ins for what they import (etils.epy.lazy_imports), as JAX does in tracing.
        importlib.import_module("grain")
        self._tracing, self._compiling = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def use_small_pages(self) -> None:
        """Small memory pages until the start is over: the first touch of huge ones is slow."""
        huge_pages.postpone()

    def compile_ahead(
        self, program: Any, *arguments: Any, used_by: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Compiles a program, or loads it from the cache on disk, in the background.

        Programs are compiled in the order of the calls, each being traced while the one before it
        is compiled. What a `with` block alone sets, such as `jax.default_matmul_precision`, does
        not reach the threads: then the program is compiled again when it is called.

        Args:
          program: a jitted function.
          arguments: of its calls; arrays may be abstract, and none is consumed.
          used_by: the function that calls it; None: the program itself.

        Returns:
          `used_by`, but that its calls first wait for the program, and raise what compiling raised.
        """
        lowered = self._tracing.submit(program.lower, *arguments)
        compiled: Future[Any] = self._compiling.submit(lambda: lowered.result().compile())
        function = program if used_by is None else used_by

        def when_compiled(*args: Any, **kwargs: Any) -> Any:
            compiled.result()
            return function(*args, **kwargs)

        return when_compiled

    def training_begins(self) -> None:
        """Everything is set up; the start is over after the first step, or `_LONGEST` seconds."""
        self._timer = threading.Timer(_LONGEST, self.end)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> float:
        """The first step is done: begins what was put off. Returns seconds since the command."""
        huge_pages.come()
        self.background.begin()
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
