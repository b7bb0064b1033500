"""A trace of a few steps of training, as JAX's profiler writes it."""

from pathlib import Path

import jax

from tljax.training.progress import console

STEPS = 5


class Profiler:
    """Traces the steps from the second on: the first one compiles.

    Args:
      folder: where to write; TensorBoard's profile plugin and ui.perfetto.dev read what is there.
        None: nothing is traced.
      first_step: number of the first step.
    """

    def __init__(self, folder: Path | None, first_step: int):
        self._folder = folder
        self._first = first_step + 1
        self._traces = False

    def before(self, step: int) -> None:
        """Called before each step, and all steps before it are then done."""
        if self._folder is not None and step == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._traces = True

    def after(self, step: int, result: object) -> None:
        """Called after each step with what it gives, which may still be under way."""
        if self._traces and step >= self._first + STEPS - 1:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what has been traced, if anything."""
        if self._traces:
            self._traces = False
            jax.profiler.stop_trace()
            console.print(f"a trace of up to {STEPS} steps is in {self._folder}", soft_wrap=True)
