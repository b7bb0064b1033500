"""What watches a run and changes no number of it: progress, times, a trace."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from tljax.console import console
from tljax.devices.startup import Startup
from tljax.training.progress import TrainingProgress

TRACED_STEPS = 5


class Observer:
    """Shows progress, takes times, and ends the start-up after the first step.

    A context manager: progress is shown inside.

    Args:
      progress: of the run.
      startup: of the run.
      trace_folder: where to write a trace of a few steps; None: none.

    Attributes:
      first_step_seconds: from the command, or from the end of `fit`'s checks, to the end of the
        first step.
      input_wait_seconds: that training waited for batches, but for the first one.
    """

    def __init__(self, progress: TrainingProgress, startup: Startup, trace_folder: Path | None):
        self.first_step_seconds = 0.0
        self.input_wait_seconds = 0.0
        self._progress, self._startup = progress, startup
        self._trace = None if trace_folder is None else _Trace(trace_folder)
        self._steps_seen = 0
        self._waits_from = 0.0

    def before_step(self) -> None:
        """Called before each step, when all steps before it are queued."""
        if self._trace is not None and self._steps_seen == 1:  # the first one compiles
            self._trace.begin()
        self._waits_from = time.monotonic()

    def after_batch(self) -> None:
        """Called when the step's batch is there."""
        if self._steps_seen:  # the first one starts the reader
            self.input_wait_seconds += time.monotonic() - self._waits_from

    def after_step(self, step: int, metrics: Any) -> None:
        """Called after each step with its metrics, which may still be computed."""
        self._steps_seen += 1
        if self._steps_seen == 1:
            jax.block_until_ready(metrics)
            self.first_step_seconds = self._startup.end()
            self._progress.show_first_step(self.first_step_seconds)
        if self._trace is not None and self._steps_seen == 1 + TRACED_STEPS:
            jax.block_until_ready(metrics)
            self._trace.end()
        self._progress.update(step)

    def show(self, step: int, **values: float) -> None:
        """Shows e.g. `loss` or `val_accuracy` of a step."""
        self._progress.update(step, **values)

    def say(self, sentence: str) -> None:
        """Prints what the run has found or decided, if progress is shown."""
        self._progress.say(sentence)

    def rewind(self, step: int) -> None:
        """Called when a run goes back to a step."""
        self._progress.rewind(step)

    def __enter__(self) -> Self:
        self._startup.end_later()
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, traceback)
        if self._trace is not None:
            self._trace.end()


class _Trace:
    """A trace by JAX's profiler, for TensorBoard's profile plugin and ui.perfetto.dev."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._begun = False

    def begin(self) -> None:
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
        self._begun = True

    def end(self) -> None:
        """Writes the trace, if one was begun."""
        if self._begun:
            self._begun = False
            jax.profiler.stop_trace()
            console.print(
                f"a trace of up to {TRACED_STEPS} steps is in {self._folder}", soft_wrap=True
            )
