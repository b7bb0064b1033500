"""Progress of a training run: a live bar on a terminal, a line every few seconds elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.progress import TextColumn

from tljax.console import console, progress_bar
from tljax.runs.scores import figure


class TrainingProgress:
    """Steps done, ETA, images a second, last loss and validation accuracy."""

    def __init__(self, start: int, steps: int, batch_size: int, enabled: bool):
        self._live = enabled and console.is_terminal
        self._lines = enabled and not console.is_terminal
        self._steps, self._batch_size = steps, batch_size
        self._start, self._began, self._last_line = start, 0.0, 0.0
        self._status = ""
        self._bar = progress_bar(TextColumn("{task.fields[status]}"))
        self._task = self._bar.add_task("compiling", total=steps, completed=start, status="")

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._bar.stop()

    def say(self, sentence: str) -> None:
        """Prints a sentence, if progress is shown at all."""
        if self._live or self._lines:
            console.print(sentence, soft_wrap=True)

    def show_first_step(self, seconds: float) -> None:
        """Prints how long it took from the command to the end of the first step."""
        if self._live or self._lines:
            first = self._start + 1
            console.print(f"step {first}/{self._steps}  done {seconds:.1f} s after the command")

    def rewind(self, step: int) -> None:
        """Goes back to a step; images a second are counted from there."""
        self._start, self._began = step, time.monotonic()
        self.update(step)

    def update(self, step: int, **values: float) -> None:
        """Shows `step` as done, with `values` such as `loss` or `val_accuracy`."""
        if not self._began and step > self._start:  # the first step compiles: time from its end on
            self._start, self._began = step, time.monotonic()
        if values:
            self._status = "  ".join(
                f"{name} {figure(value, name.removeprefix('val_'), digits=3)}"
                for name, value in values.items()
            )
        if self._live:
            rate = f"{self._images_per_second(step):,.0f} images/s  {self._status}"
            self._bar.update(self._task, completed=step, description="training", status=rate)
        elif self._lines and values and time.monotonic() - self._last_line > 5:
            self._last_line = time.monotonic()
            rate_now = self._images_per_second(step)
            left = (self._steps - step) * self._batch_size / rate_now if rate_now else 0.0
            pace = f"{rate_now:,.0f} images/s  ETA {left:.0f} s  " if rate_now else ""
            console.print(f"step {step}/{self._steps}  {pace}{self._status}")

    def _images_per_second(self, step: int) -> float:
        if step <= self._start:
            return 0.0
        return (step - self._start) * self._batch_size / (time.monotonic() - self._began)
