"""Metrics of training steps, from the device to `metrics.jsonl`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from tljax.errors import InputError


def check_finite(which: str, step: int, loss: float, rates: np.ndarray, in_workdir: bool) -> None:
    """Raises InputError if a loss is not finite.

    Args:
      which: `training` or `validation`.
      step: after which the loss was measured.
      loss: in nats.
      rates: learning rates of all steps.
      in_workdir: whether the run has a workdir, so that another run needs a new one.
    """
    if not math.isfinite(loss):
        where = ", in a new workdir" if in_workdir else ""
        raise InputError(
            f"the {which} loss became {loss} at step {step} (learning rate"
            f" {rates[max(step - 1, 0)]:.3g}); lower lr, lengthen warmup or set clip_norm{where}"
        )


class StepMetrics:
    """Metrics of the steps since the last `train` row.

    They stay on the device until they are fetched, since fetching waits for the step.

    Args:
      check: called with step and loss of each step that is fetched.
    """

    def __init__(self, check: Callable[[int, float], None]):
        self._check = check
        self._on_device: list[tuple[int, dict[str, jax.Array]]] = []
        self._fetched: list[tuple[int, dict[str, float]]] = []

    def restore(self, fetched: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Holds what `fetched` returned when the run was saved."""
        self._fetched = [(step, values) for step, values in fetched]

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        self._on_device.append((step, values))

    def fetched(self) -> list[tuple[int, dict[str, float]]]:
        """(step, values) of each; waits for the steps taken."""
        numbers: list[dict[str, Any]] = jax.device_get([values for _, values in self._on_device])
        for (step, _), values in zip(self._on_device, numbers, strict=True):
            self._check(step, float(values["loss"]))
            self._fetched.append((step, {name: float(value) for name, value in values.items()}))
        self._on_device.clear()
        return self._fetched

    def mean(self) -> tuple[int, dict[str, float]]:
        """(the last step, the means over all steps); all of them are then forgotten."""
        steps = self.fetched()
        last_step, last_values = steps[-1]
        means = {
            name: float(np.mean([values[name] for _, values in steps])) for name in last_values
        }
        self._fetched = []
        return last_step, means
