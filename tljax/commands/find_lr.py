"""`tljax find_lr`: how high the learning rate may be, from a few steps at growing rates.

The learning-rate range test (Smith 2017, "Cyclical Learning Rates for Training Neural Networks",
section 3.3), with the exponential growth and the early end that fastai's `lr_find` gave it. The
steps are those that training would take, of the same plan: what is frozen stays so. They are taken
on a copy; nothing is written, and neither validation nor test images are read.
"""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import ml_collections
import numpy as np
from rich.console import Console

from tljax import experiment
from tljax.data import balanced_weights, train_batches
from tljax.devices import mesh as mesh_lib
from tljax.errors import InputError, printable
from tljax.runs.workdir import write_atomically
from tljax.training import state as state_lib
from tljax.training.progress import TrainingProgress
from tljax.training.setup import new_variables
from tljax.training.step import step_of_run

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
_MEMORY = 0.9  # of the smoothed loss, a step: it lags behind by ten steps or so
_DIVERGED = 4.0  # times the least smoothed loss so far


@dataclass(frozen=True)
class Curve:
    """The training loss at growing learning rates.

    Attributes:
      rates: (n,), growing geometrically.
      losses: (n,), in nats, each before the step at its rate.
      steps: that were to be taken; more than n if the loss diverged.
    """

    rates: np.ndarray
    losses: np.ndarray
    steps: int

    @property
    def smoothed(self) -> np.ndarray:
        """(n,): exponential moving average of the losses, corrected for its start."""
        return _smooth(self.losses)

    @property
    def at_minimum(self) -> float:
        """The rate with the least smoothed loss."""
        return float(self.rates[np.argmin(self.smoothed)])

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

        Preferred to `steepest`, which is at the mercy of noise where the loss falls slowly. None if
        the loss never falls.
        """
        return None if self.steepest is None else self.at_minimum / 10


def range_test(
    step: Callable[[float], float],
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> Curve:
    """Takes steps at exponentially growing learning rates until the loss diverges.

    Args:
      step: takes a step at a learning rate, and gives the loss before it.
      lowest, highest: first and last rate.
      steps: how many, if the loss does not diverge: exceed four times its least smoothed value, or
        become infinite.

    Raises:
      InputError: for an empty range, fewer than ten steps, or a loss that is not finite at once.
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


def find(
    config: ml_collections.ConfigDict,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    *,
    progress: bool = False,
) -> Curve:
    """The range test of the training that a config describes.

    The rate is the config's `lr`: a group takes it times its `lr_scale`. Warm-up and schedule play
    no part, and features of frozen groups are not kept.

    Args:
      config: of a run.
      lowest, highest, steps: as of `range_test`.
      progress: whether to show progress on stderr.

    Raises:
      InputError: as a run of the config would, or as `range_test`.
    """
    exp = experiment.build(config, fetch_weights=True)
    model, plan, opt, preprocessing = exp.model, exp.plan, exp.options, exp.preprocessing
    if exp.stages:
        raise InputError(
            f"stages is {config.stages}, and each stage may want a rate of its own; leave stages"
            " out to find the last one's"
        )
    (setup,) = exp.setups(experiment.load_data(exp.config))
    train = setup.train
    new = new_variables(model, setup.image_size, opt, plan.init)
    variables = plan.initialise(new, exp.read_pretrained())
    mesh = mesh_lib.build(opt.mesh)
    tasks = tuple(exp.task_sizes.values())
    no_average = replace(opt, ema=None)  # it is no part of the training loss
    tx, step_fn = step_of_run(model, plan, preprocessing, no_average, tasks=tasks, mesh=mesh)
    state, frozen = mesh_lib.place(mesh, state_lib.create(plan, variables, tx))
    class_weights: np.ndarray | None = None
    if opt.class_weights is not None:
        class_weights = balanced_weights(train.labels, model.num_classes)
    key, weight_decay = jax.random.key(opt.seed), np.float32(opt.weight_decay)
    batches = train_batches(
        train,
        preprocessing,
        batch_size=opt.batch_size,
        seed=opt.seed,
        augment=opt.augment,
        crop_area=opt.crop_area,
        num_workers=opt.num_workers,
        on_error=opt.on_error,
        rows=mesh_lib.rows_here(mesh, opt.batch_size),
        sampling=opt.sampling,
    )
    with closing(batches), TrainingProgress(0, steps, opt.batch_size, progress) as bar:
        taken = 0

        def step(rate: float) -> float:
            nonlocal state, taken
            batch = next(batches)
            if class_weights is not None:
                batch["weight"] = class_weights[batch["label"]]
            batch = mesh_lib.place_batch(mesh, batch, opt.batch_size)
            state, metrics = step_fn(state, frozen, batch, key, np.float32(rate), weight_decay)
            loss = float(metrics["loss"])
            taken += 1
            bar.update(taken, loss=loss)
            return loss

        return range_test(step, lowest, highest, steps)


def print_curve(curve: Curve) -> None:
    """The suggestion, and what it was made from."""
    console = Console(highlight=False, soft_wrap=True)
    done, smoothed = len(curve.rates), curve.smoothed
    if curve.suggestion is None or curve.steepest is None:
        console.print(
            f"[bold]no suggestion[/]: the smoothed loss never fell below its start,"
            f" {smoothed[0]:.4f}, from {curve.rates[0]:.2g} to {curve.rates[-1]:.2g}"
        )
    else:
        console.print(
            f"[bold]suggested lr {curve.suggestion:.2g}[/]: a tenth of {curve.at_minimum:.2g},"
            f" where the smoothed training loss is least ({smoothed.min():.4f}, from"
            f" {smoothed[0]:.4f})"
        )
        console.print(f"(it falls fastest at {curve.steepest:.2g}, the other rule of thumb)")
    console.print(
        f"the loss diverged at {curve.rates[-1]:.2g}, after {done} of {curve.steps} steps"
        if done < curve.steps
        else f"the loss did not diverge in {done} steps up to {curve.rates[-1]:.2g}"
    )


def draw(curve: Curve, path: Path) -> None:
    """Writes the curve as a PNG."""
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
    Console(highlight=False, soft_wrap=True).print(f"drew {printable(path)}", markup=False)


def _smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    average, smoothed = 0.0, np.empty(len(losses))
    for number, loss in enumerate(losses):
        average = _MEMORY * average + (1 - _MEMORY) * loss
        smoothed[number] = average / (1 - _MEMORY ** (number + 1))
    return smoothed
