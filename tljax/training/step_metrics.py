"""Metrics of training steps, from the device to `metrics.jsonl`, and what goes wrong in them."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tljax.errors import InputError
from tljax.training.loss.tasks import class_ranges
from tljax.training.setup import Setup

_log = logging.getLogger("tljax")


class Diverged(InputError):
    """A loss, or the norm of the weights, is not finite.

    Attributes:
      step: the first one after which it was not.
      what: what became what, and at which step and learning rate.
    """

    def __init__(self, step: int, what: str, remedy: str):
        super().__init__(f"{what}; {remedy}")
        self.step, self.what = step, what


def not_finite(
    which: str, step: int, value: float, rate: float, *, in_workdir: bool, restarted: bool
) -> InputError:
    """The error for a loss, or a norm of the weights, that is not finite.

    Args:
      which: e.g. `training loss`.
      step: after which it was measured; that of a training step is from before its update.
      value: the loss in nats, or the norm.
      rate: the learning rate of that step.
      in_workdir: whether the run has a workdir, so that another run needs a new one.
      restarted: whether the rate is a third of what the run began with.

    Returns:
      `Diverged`, or an InputError if it was so before any weight had moved.
    """
    if step == 0 or (step == 1 and which == "training loss"):
        return InputError(
            f"the {which} is {value} before any weight has moved; check the weights that the run"
            " starts from, the normalisation and the images"
        )
    after = ", after a restart at a third of lr" if restarted else ""
    where = ", in a new workdir" if in_workdir else ""
    return Diverged(
        step,
        f"the {which} became {value} at step {step} (learning rate {rate:.3g}{after})",
        f"lower lr, lengthen warmup or set clip_norm{where}",
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
        """Holds what `fetched` returned when the run was saved, and nothing else."""
        self._on_device = []
        self._fetched = [(step, values) for step, values in fetched]

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        self._on_device.append((step, values))

    def fetched(self) -> list[tuple[int, dict[str, float]]]:
        """(step, values) of each; waits for the steps taken."""
        numbers: list[dict[str, Any]] = jax.device_get([values for _, values in self._on_device])
        for (step, _), values in zip(self._on_device, numbers, strict=True):
            self._check(step, float(values["loss"]))
        for (step, _), values in zip(self._on_device, numbers, strict=True):
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


def warn_if_stuck(rows: Sequence[Mapping[str, Any]], setup: Setup, lr: float) -> None:
    """Warns if a third of the steps has taught nothing; call it after each `train` row.

    It looks once a run, at the first row of the last two thirds, or after twice the warm-up.

    Args:
      rows: of `metrics.jsonl` so far.
      setup: of the run.
      lr: its peak learning rate.
    """
    options, total = setup.options, setup.total_steps
    due = max(math.ceil(total / 3), 2 * options.warmup)
    if setup.problem.kind != "classes":
        return
    newest_first = (row["step"] for row in reversed(rows) if row["event"] == "train")
    step, before = next(newest_first), next(newest_first, 0)
    if not before < due <= step:
        return
    balanced = "balanced" in (options.sampling, options.class_weights)
    constant = constant_accuracy(setup.train.labels, tuple(setup.tasks.values()), balanced=balanced)
    accuracy = accuracy_if_stuck(rows, options.batch_size, constant)
    if accuracy is not None:
        _log.warning(
            "after %d of %d steps the training accuracy is %.3f, and always answering the"
            " commonest class has %.3f: the network learns nothing; lower lr (now %.3g), or raise"
            " it if the loss has not moved at all: `tljax find_lr` measures what suits",
            *(step, total, accuracy, constant, lr),
        )


def constant_accuracy(
    labels: np.ndarray, tasks: Sequence[int] = (), *, balanced: bool = False
) -> float:
    """Training accuracy of always answering the commonest class, in [0, 1].

    Args:
      labels: int (n,), of the training images.
      tasks: numbers of classes of several tasks; the commonest class of the image's own task is
        then the answer.
      balanced: whether classes are drawn, or count, equally often.
    """
    counts = np.bincount(labels, minlength=sum(tasks))
    if balanced:
        counts = (counts > 0).astype(int)
    ranges = class_ranges(tasks) or [(0, len(counts))]
    return float(sum(counts[first:end].max() for first, end in ranges) / counts.sum())


def accuracy_if_stuck(
    rows: Sequence[Mapping[str, Any]], batch_size: int, constant: float
) -> float | None:
    """The recent training accuracy, if it is no better than that of a constant answer; else None.

    Recent is the later half of the steps so far. Up to two standard errors above `constant` count
    as no better. None, too, if that is much beside `constant` or its distance from 1, a quarter:
    the images are too few to tell.

    Args:
      rows: of `metrics.jsonl`; the `train` rows count.
      batch_size: images a step.
      constant: accuracy of the constant answer, see `constant_accuracy`.
    """
    trained = [row for row in rows if row["event"] == "train"]
    steps = np.array([row["step"] for row in trained])
    recent = steps > steps[-1] / 2
    images = np.diff(steps, prepend=0)[recent] * batch_size
    accuracies = np.array([row["accuracy"] for row in trained])[recent]
    accuracy = float(np.average(accuracies, weights=images))
    margin = 2 * math.sqrt(constant * (1 - constant) / float(images.sum()))
    too_few = margin >= min(constant, 1 - constant) / 4
    return None if too_few or accuracy > constant + margin else accuracy
