"""A training run: what changes from step to step, and how a checkpoint holds it.

`Run.save` and `Run.restore` are inverses through one record, `tljax.runs.checkpoints.Checkpoint`.
Two rules make exact resuming easy to see. A checkpoint holds what there was *before* its step was
validated, so that whatever follows a checkpoint is done again from it. And nothing that a run
computes or logs depends on when its checkpoints are written.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from tljax.data import Preprocessing, Source
from tljax.data.pipeline import TrainBatches
from tljax.devices import processes, sharding
from tljax.devices.preemption import Preempted
from tljax.runs.checkpoints import Checkpoint, Checkpoints, Progress, restore_like
from tljax.runs.metrics import MetricsWriter, open_metrics
from tljax.runs.resume import best_row, validation_rank
from tljax.training import train_state
from tljax.training.evaluation import Evaluation
from tljax.training.observer import Observer
from tljax.training.setup import Setup, learning_rates
from tljax.training.step_metrics import StepMetrics, check_finite
from tljax.training.train_state import TrainState
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")


@dataclass(frozen=True)
class Best:
    """The weights to keep, their step, and their `validation_rank` (None: never validated)."""

    step: int
    rank: tuple[float, float] | None
    variables: Tree


@dataclass(frozen=True)
class Tools:
    """What a run works with; nothing of it changes while it runs.

    Attributes:
      step_program: the compiled step, see `tljax.training.step.train_step`.
      tx: its optimizer.
      evaluate: `tljax.training.evaluation.evaluate`.
      val: validation images, or what the frozen groups make of them.
      frozen_features: (source, preprocessing) to what the cached frozen groups make of its images.
      class_weights: float32 (classes,), of each class in the loss; None: all count the same.
      checkpoints: of the workdir; None: nothing is saved.
      mesh: of the devices; None: there is one.
      observer: of the run.
      sigterm_came: whether SIGTERM was sent to this process.
      made_by, changes: see `tljax.runs.checkpoints.Progress`.
      examples_before: images seen in earlier stages.
    """

    step_program: Callable[..., tuple[TrainState, Any]]
    tx: optax.GradientTransformation
    evaluate: Callable[..., Evaluation]
    val: Source | None
    frozen_features: Callable[[Source, Preprocessing], Source]
    class_weights: np.ndarray | None
    checkpoints: Checkpoints | None
    mesh: Mesh | None
    observer: Observer
    sigterm_came: Callable[[], bool]
    made_by: dict[str, Any]
    changes: list[str]
    examples_before: int


class Run:
    """A run at a step.

    Attributes, which change from step to step and are what a checkpoint holds:
      step: number of steps taken.
      state, frozen: the model's variables, split by the plan, and the optimizer's state.
      batches: the stream of training batches.
      metrics: the rows written so far.
      unlogged: metrics of the steps since the last `train` row.
      best: the best weights on validation so far.
      skipped: names of images that evaluations could not read.
      seconds: wall time so far.
    Attributes that do not change: `setup`, `tools`, `workdir`.
    """

    def __init__(self, setup: Setup, tools: Tools, batches: TrainBatches, workdir: Path | None):
        self.setup, self.tools, self.workdir = setup, tools, workdir
        self.step = 0
        self.state: TrainState
        self.frozen: Tree
        self.batches = batches
        self.metrics = MetricsWriter(None)
        self._rates = learning_rates(setup.options, setup.total_steps)
        self._key = jax.random.key(setup.options.seed)
        self.unlogged = StepMetrics(functools.partial(self._check_finite, "training"))
        self.best: Best | None = None
        self.skipped: set[str] = set()
        self._seconds_before, self._since = 0.0, time.monotonic()
        self._agree_to_leave = processes.Agreement(tools.sigterm_came)

    # --- where it begins, and what a checkpoint holds

    def begin(self, variables: Tree) -> None:
        """Stands at step 0 with these variables."""
        state, frozen = self._split(variables)
        self.state, self.frozen = sharding.place(self.tools.mesh, (state, frozen))
        self.metrics = open_metrics(self.workdir, None)
        self._since = time.monotonic()

    def save(self) -> None:
        """Saves a checkpoint, if there is a workdir; see `Checkpoints.save`."""
        if self.tools.checkpoints is not None:
            best_step = self.best.step if self.best else None
            self.tools.checkpoints.save(
                self.checkpoint(), keep=self.setup.options.keep, best_step=best_step
            )

    def checkpoint(self) -> Checkpoint:
        """What there is at this step; `restore` is its inverse."""
        unlogged = self.unlogged.fetched()  # waits for the steps taken
        progress = Progress(
            made_by=self.tools.made_by,
            changes=self.tools.changes,
            iterator=self.batches.get_state() | {"skipped": self.skipped_in_training()},
            metrics=self.metrics.position(self.step),
            unlogged=unlogged,
            skipped=sorted(self.skipped),
            wall_seconds=self.seconds,
        )
        return Checkpoint(
            self.step,
            train_state.model_variables(self.state, self.frozen),
            train_state.saved_beside(self.state),
            progress,
        )

    def restore(self, saved: Checkpoint, best: Checkpoint | None) -> None:
        """Stands where `save` was called.

        Args:
          saved: what it wrote.
          best: the checkpoint of the best weights up to there; None: there is none yet.
        """
        assert saved.progress is not None
        abstract = self.setup.abstract_variables
        state, frozen = self._split(restore_like(abstract, saved.variables))
        beside = restore_like(train_state.saved_beside(state), saved.opt_state)
        state = train_state.restore(state, saved.step, beside)
        self.step = saved.step
        self.batches.set_state(saved.progress.iterator)
        self.unlogged.restore(saved.progress.unlogged)
        self.skipped = set(saved.progress.skipped)
        self.state, self.frozen = sharding.place(self.tools.mesh, (state, frozen))
        self.metrics = open_metrics(self.workdir, saved.progress.metrics)
        validated = best_row(self.metrics.rows)
        if validated is not None and best is not None:
            weights = sharding.place(self.tools.mesh, restore_like(abstract, best.variables))
            self.best = Best(best.step, validation_rank(validated), weights)
        self._seconds_before, self._since = saved.progress.wall_seconds, time.monotonic()

    def finish_saving(self) -> None:
        """Returns when the last checkpoint is whole on disk; InputError if it cannot be."""
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.finish()

    def _split(self, variables: Tree) -> tuple[TrainState, Tree]:
        average = self.setup.options.ema is not None
        return train_state.create(self.setup.plan, variables, self.tools.tx, average=average)

    # --- when things are due: by the step, the options and the logged rows alone

    def is_over(self) -> bool:
        """Whether all steps are taken, or patience has ended the run."""
        return self.step >= self.setup.total_steps or self._out_of_patience()

    def validates_now(self) -> bool:
        images = len(self.setup.train)
        return self.setup.val is not None and self.setup.options.evaluates_after(self.step, images)

    def is_validated(self) -> bool:
        """Whether this step's validation is logged already, which resuming keeps."""
        row = ("val", self.step)
        return any((known["event"], known["step"]) == row for known in self.metrics.rows)

    def logs_now(self) -> bool:
        at_interval = self.step % self.setup.options.log_every == 0
        return at_interval or self.validates_now() or self.step == self.setup.total_steps

    def saves_now(self) -> bool:
        options = self.setup.options
        interval = options.checkpoint_every or options.evaluation_interval(len(self.setup.train))
        return self.step % interval == 0 or self.step == self.setup.total_steps

    def is_best_now(self) -> bool:
        """Whether this step's weights are the best so far."""
        return self.best is not None and self.best.step == self.step

    def _out_of_patience(self) -> bool:
        patience = self.setup.options.patience
        if patience is None or self.best is None:
            return False
        since = [
            row
            for row in self.metrics.rows
            if row["event"] == "val" and row["step"] > self.best.step
        ]
        return len(since) >= patience

    # --- what a run does

    def raise_if_stopped(self) -> None:
        """Raises Preempted after SIGTERM, in all processes at once; InputError if a save failed."""
        if self._agree_to_leave():
            raise self.preempted()
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.raise_if_failed()

    def preempted(self) -> Preempted:
        resumes = "; the same command resumes from what was saved" if self.workdir else ""
        return Preempted(f"stopped by SIGTERM{resumes}")

    def step_once(self) -> None:
        """Takes one step."""
        observer, options = self.tools.observer, self.setup.options
        _log.debug("phase step, step %d", self.step + 1)
        observer.before_step(self.step + 1)
        batch = next(self.batches)
        if self.tools.class_weights is not None:
            batch["weight"] = self.tools.class_weights[batch["label"]]
        observer.after_batch()
        self.state, metrics = self.tools.step_program(
            self.state,
            self.frozen,
            sharding.place_batch(self.tools.mesh, batch, options.batch_size),
            self._key,
            self._rates[self.step],
            np.float32(options.weight_decay),
        )
        self.step += 1
        observer.after_step(self.step, metrics)
        self.unlogged.add(self.step, metrics)

    def log(self) -> None:
        """Writes a `train` row: the means over the steps since the last one."""
        last_step, means = self.unlogged.mean()
        rate = float(self._rates[last_step - 1])
        examples = self.examples_at(last_step)
        self.metrics.write("train", last_step, examples=examples, **means, lr=rate)
        self.tools.observer.show(last_step, loss=means["loss"])

    def validate(self) -> None:
        """Writes a `val` row, and keeps a copy of the weights if they are the best so far."""
        assert self.tools.val is not None
        _log.debug("phase evaluation, step %d", self.step)
        current = train_state.model_variables(self.state, self.frozen)
        evaluation = self.evaluate(current, self.tools.val)
        self._check_finite("validation", self.step, evaluation.loss)
        values = evaluation.to_json(self.setup.tasks)
        self.metrics.write("val", self.step, examples=self.examples_at(self.step), **values)
        self.tools.observer.show(self.step, val_accuracy=evaluation.accuracy)
        rank = validation_rank(values)
        if self.best is None or self.best.rank is None or rank > self.best.rank:
            kept = train_state.copy(train_state.evaluated_part(self.state))
            self.best = Best(self.step, rank, train_state.merge_variables(kept, self.frozen))

    def evaluate(self, variables: Tree, source: Source, with_answers: bool = False) -> Evaluation:
        """Evaluates variables on images, or on what the frozen groups make of them."""
        evaluation = self.tools.evaluate(
            self.setup.model,
            variables,
            source,
            self.setup.preprocessing,
            self.setup.options.batch_size,
            on_error=self.setup.options.on_error,
            tasks=self.setup.task_sizes,
            with_answers=with_answers,
            between_batches=self.raise_if_stopped,
            mesh=self.tools.mesh,
        )
        self.skipped.update(evaluation.skipped)
        return evaluation

    @contextmanager
    def saving_when_stopped(self) -> Iterator[None]:
        """Inside, a run that is preempted saves what it has before it ends."""
        try:
            yield
        except Preempted:
            self._save_and_wait()
            raise
        except Exception:
            # SIGTERM may have reached a process that reads images first
            if self.tools.sigterm_came():
                if processes.count() == 1:  # a save takes all processes of a job
                    self._save_and_wait()
                raise self.preempted() from None
            raise

    def close(self) -> None:
        """Closes what the run reads from and writes to."""
        self.metrics.close()
        self.batches.close()

    def _save_and_wait(self) -> None:
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.close()  # if that save failed, there may be room for this one
            self.save()
            self.tools.checkpoints.finish()

    # --- numbers

    @property
    def seconds(self) -> float:
        """Wall time, with that of the runs that this one resumed from."""
        return self._seconds_before + time.monotonic() - self._since

    def examples_at(self, step: int) -> int:
        """Images seen after a step, with those of earlier stages."""
        return self.tools.examples_before + step * self.setup.options.batch_size

    def skipped_in_training(self) -> tuple[str, ...]:
        """Names of training images that any process could not read."""
        if self.setup.options.on_error != "skip":
            return ()
        return processes.gather_names(self.batches.skipped)

    def _check_finite(self, which: str, step: int, loss: float) -> None:
        check_finite(which, step, loss, rates=self._rates, in_workdir=self.workdir is not None)
