"""The learning-rate range test: how high the rate may be, from a few steps at growing rates.

The test is that of Smith 2017 ("Cyclical Learning Rates for Training Neural Networks", section
3.3), with the exponential growth and the early end of fastai's `lr_find`. It takes the steps that
training would take under the same plan, so frozen groups stay frozen. The steps change a copy of
the weights; nothing is written, and neither validation nor test images are read.
"""

import io
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from tljax import experiment
from tljax.data import train_batches
from tljax.data.pipeline import Batch
from tljax.devices import sharding
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.runs.workdir import write_atomically
from tljax.training import solved_head, train_state
from tljax.training.progress import TrainingProgress
from tljax.training.run import prepared
from tljax.training.setup import Setup
from tljax.training.step import step_of_run

_DECAY = 0.9  # of the smoothed loss, per step: it lags about ten steps behind
_DIVERGED = 4.0  # the loss has diverged at this multiple of its lowest smoothed value


@dataclass(frozen=True)
class Curve:
    """The training loss at growing learning rates.

    Attributes:
      rates: (n,), growing geometrically.
      losses: (n,), in nats, each from before the step at its rate.
      steps: planned number of steps; more than n if the loss diverged.
    """

    rates: np.ndarray
    losses: np.ndarray
    steps: int

    @property
    def smoothed(self) -> np.ndarray:
        """(n,): the exponential moving average of the losses, with bias correction."""
        return _smooth(self.losses)

    @property
    def at_minimum(self) -> float:
        """The rate with the lowest smoothed loss."""
        return float(self.rates[np.argmin(self.smoothed)])

    @property
    def ends_at_minimum(self) -> bool:
        """Whether the loss is lowest at the last rate of the range: higher ones may do better."""
        return int(np.argmin(self.smoothed)) == self.steps - 1

    @property
    def steepest(self) -> float | None:
        """The rate, up to `at_minimum`, where the smoothed loss falls fastest over log(rate)."""
        end = int(np.argmin(self.smoothed)) + 1
        if end < 2:
            return None
        slopes = np.gradient(self.smoothed[:end], np.log(self.rates[:end]))
        return float(self.rates[np.argmin(slopes)])

    @property
    def suggestion(self) -> float | None:
        """A tenth of `at_minimum`: at the minimum itself the loss is about to rise.

        It is less noisy than `steepest` where the loss falls slowly. None if the loss never falls.
        With `ends_at_minimum` it is no more than a lower bound.
        """
        return None if self.steepest is None else self.at_minimum / 10


def range_test(
    step: Callable[[float], float],
    lowest: float,
    highest: float,
    steps: int,
) -> Curve:
    """Takes steps at exponentially growing learning rates until the loss diverges.

    Args:
      step: takes a step at a learning rate and returns the loss from before it.
      lowest, highest: first and last rate.
      steps: number of steps, unless the loss diverges, i.e. its smoothed value exceeds four times
        the lowest so far, or it is not finite.

    Raises:
      InputError: for an empty range, fewer than ten steps, or a loss that is not finite after the
        first step.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(
            f"the learning rates go from {lowest:g} to {highest:g}; set --lowest above 0 and"
            " --highest above that"
        )
    if steps < 10:
        raise InputError(f"--steps is {steps}; set it to 10 or more")
    rates = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    for rate in rates:
        loss = step(float(rate))
        if not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = _smooth(losses)
        if smoothed[-1] > _DIVERGED * smoothed.min():
            break
    if len(losses) < 2:
        raise InputError(
            f"the loss is not finite after a step at {lowest:g}; lower --lowest, or look at the"
            " data and the weights"
        )
    return Curve(rates[: len(losses)], np.array(losses), steps)


def run_range_test(
    config: ml_collections.ConfigDict,
    lowest: float,
    highest: float,
    steps: int,
    *,
    progress: bool = False,
) -> Curve:
    """Runs the range test on the training that a config describes.

    The rate takes the place of the config's `lr`: each group trains at the rate times its
    `lr_scale`. There is no warm-up and no schedule, and features of frozen groups are not cached.

    Args:
      config: of a run.
      lowest, highest, steps: as for `range_test`.
      progress: whether to show progress on stderr.

    Raises:
      InputError: as in training with this config, or as `range_test`.
    """
    exp = experiment.build(config, fetch_weights=True)
    if exp.stages:
        raise InputError(
            f"stages is {config.stages}, and each stage may need its own rate; unset stages to find"
            " the last one's"
        )
    if exp.options.solves:
        raise InputError(
            "optimizer is lbfgs, which solves the head without a learning rate; set optimizer to"
            " sgd or adamw"
        )
    (setup,) = exp.setups(experiment.load_data(exp.config))
    options = exp.options
    devices = sharding.build(options.mesh)
    step = _build_step(exp, setup, devices)
    batches = _read_batches(exp, setup, devices)
    with closing(batches), TrainingProgress(0, steps, options.batch_size, progress) as bar:
        taken = 0

        def take_step(rate: float) -> float:
            nonlocal taken
            loss = step(next(batches), rate)
            taken += 1
            bar.update(taken, loss=loss)
            return loss

        return range_test(take_step, lowest, highest, steps)


def _build_step(
    exp: Experiment, setup: Setup, devices: Mesh | None
) -> Callable[[Batch, float], float]:
    """Returns a function that trains on a batch at a rate, and returns the loss."""
    model, plan, preprocessing, options = exp.model, exp.plan, exp.preprocessing, exp.options
    variables, _ = solved_head.initial_variables(setup, exp.read_pretrained())
    no_average = replace(options, ema=None)  # the average does not affect the training loss
    tx, step = step_of_run(
        model, plan, preprocessing, no_average, problem=setup.problem, mesh=devices
    )
    state, frozen = sharding.place(devices, train_state.create(plan, variables, tx))
    key, weight_decay = jax.random.key(options.seed), np.float32(options.weight_decay)

    def train(batch: Batch, rate: float) -> float:
        nonlocal state
        batch = sharding.place_batch(devices, batch, options.batch_size)
        state, metrics = step(state, frozen, batch, key, np.float32(rate), weight_decay)
        return float(metrics["loss"])

    return train


def _read_batches(
    exp: Experiment, setup: Setup, devices: Mesh | None
) -> Generator[Batch, None, None]:
    """Yields the batches of a run, with class weights if the config has them."""
    options = exp.options
    batches = train_batches(
        setup.train,
        exp.preprocessing,
        batch_size=options.batch_size,
        seed=options.seed,
        augment=options.augment,
        crop_area=options.crop_area,
        num_workers=options.num_workers,
        on_error=options.on_error,
        rows=sharding.rows_here(devices, options.batch_size),
        sampling=options.sampling,
    )
    class_weights: np.ndarray | None = None
    if options.class_weights is not None:
        class_weights = setup.problem.balanced_weights(setup.train.labels, exp.model.num_classes)
    with closing(batches):
        for batch in batches:
            yield prepared(batch, setup.problem, class_weights)


def draw(curve: Curve, path: Path) -> None:
    """Draws the curve into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses, color="0.7", linewidth=0.8, label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, label="smoothed")
    for rate, style, name in (
        (curve.suggestion, "-", "suggested: minimum / 10"),
        (curve.steepest, ":", "steepest descent"),
    ):
        if rate is not None:
            axes.axvline(rate, color="C1", linestyle=style, label=f"{name}, {rate:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * max(curve.smoothed[0], np.quantile(curve.losses, 0.9)))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, nats")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=160)
    write_atomically(path, content.getvalue())


def _smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the bias-corrected exponential moving average, (n,)."""
    average, smoothed = 0.0, np.empty(len(losses))
    for number, loss in enumerate(losses):
        average = _DECAY * average + (1 - _DECAY) * loss
        smoothed[number] = average / (1 - _DECAY ** (number + 1))
    return smoothed
