"""A training run: what changes from step to step, and how a checkpoint holds it.

`Run.save` and `Run.restore` are inverses through one record, `tljax.runs.checkpoints.Checkpoint`.
Two rules make exact resuming easy to see. Where a step is both saved and validated, the save comes
first: whatever follows a checkpoint is done again from it, and a validation only if its row is not
in `metrics.jsonl`. And nothing that a run computes or logs depends on when checkpoints are written.

A run whose loss is not finite goes back to an earlier step, see `Run.restarting_once`, drops the
rows and checkpoints after it, and writes a `restart` row. A run resumed after the restart reads it
from this row. A run resumed from before it diverges and restarts again, at the same steps.
"""

import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from tljax.data import Preprocessing, Source
from tljax.data.pipeline import TrainBatches
from tljax.data.sources import weights_of
from tljax.devices import processes, sharding
from tljax.devices.preemption import Interrupted, Preempted, stopped_by
from tljax.frozen.cache import CachedSource
from tljax.runs.checkpoints import Bookkeeping, Checkpoint, Checkpoints, restore_like
from tljax.runs.metrics import MetricsWriter, open_metrics
from tljax.runs.resume import best_row, validation_rank
from tljax.training import solved_head, train_state, wise_ft
from tljax.training.observer import Observer
from tljax.training.problems import Evaluation, Problem
from tljax.training.setup import Setup, learning_rates
from tljax.training.step_metrics import Diverged, StepMetrics, not_finite, warn_if_stuck
from tljax.training.train_state import TrainState
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

Report = Mapping[str, Any]  # of a solved head, see `tljax.frozen.linear_head`


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
      tx: the optimizer.
      step_program: the compiled step, see `tljax.training.step.train_step`.
      evaluate: `tljax.training.evaluation.evaluate`.
      initial_variables: returns the variables that the run starts from and, if their head was
        solved, the report of that. They are copied, and no reference is kept.
      open_inputs: opens the images, given the model's frozen variables; see `Inputs`.
      class_weights: of each class in the loss, see `tljax.data.labels.balanced_weights`; None: all
        count the same.
      checkpoints: of the workdir; None: nothing is saved.
      mesh: of the devices; None: there is one.
      observer: of the run.
      stop_signal: returns the number of the signal that asks this process to stop; 0: none.
      made_by, changes: see `tljax.runs.checkpoints.Bookkeeping`.
      examples_before: images seen in earlier stages.
    """

    tx: optax.GradientTransformation
    step_program: Callable[..., tuple[TrainState, Any]]
    evaluate: Callable[..., Evaluation]
    initial_variables: Callable[[], tuple[Tree, Report | None]]
    open_inputs: Callable[[Tree], "Inputs"]
    class_weights: np.ndarray | None
    checkpoints: Checkpoints | None
    mesh: Mesh | None
    observer: Observer
    stop_signal: Callable[[], int]
    made_by: dict[str, Any]
    changes: list[str]
    examples_before: int


@dataclass(frozen=True)
class Inputs:
    """What the network reads: images or, with a cache, the output of its frozen groups.

    Attributes:
      batches: the stream of training batches.
      train: of the training images, or of fixed views of them.
      preprocessing: of `train`; views are cropped already.
      val: of the validation images.
      make_test: makes those of the test images, on request.
    """

    batches: TrainBatches
    train: Source
    preprocessing: Preprocessing
    val: Source | None
    make_test: Callable[[], Source]


class Run:
    """A run at a step.

    Attributes that change as it runs, and that a checkpoint holds:
      step: number of steps taken.
      state, frozen: the model's variables, split by the plan, and the optimizer's state.
      inputs: images or features; the stream of training batches has a position.
      metrics: the rows written so far.
      unlogged: metrics of the steps since the last `train` row.
      best: the best weights on validation so far.
      skipped: names of images that evaluations could not read.
      seconds: wall time so far.
    Attributes that do not change: `setup`, `tools`, `workdir`.

    Call `start` or `restore` before anything else.
    """

    def __init__(self, setup: Setup, tools: Tools, workdir: Path | None):
        self.setup, self.tools, self.workdir = setup, tools, workdir
        self.step = 0
        self.state: TrainState
        self.frozen: Tree
        self.inputs: Inputs
        self.metrics = MetricsWriter(None)
        self.unlogged = StepMetrics(functools.partial(self._check_finite, "training loss"))
        self.best: Best | None = None
        self.skipped: set[str] = set()
        self._seconds_before, self._since = 0.0, time.monotonic()
        self._validations_since_best = 0
        self._set_rates()
        self._key = jax.random.key(setup.options.seed)
        self._start_weights: tuple[Tree, Tree] | None = None  # of step 0, for `wise_ft`
        self._agreed_signal = processes.Agreement(tools.stop_signal)

    # --- where it starts, and what a checkpoint holds

    def start(self) -> None:
        """Sets the run to step 0."""
        initial, report = self.tools.initial_variables()
        state = self._take_variables(initial)
        del initial
        self._place(state)
        self.metrics = open_metrics(self.workdir, None)
        if report is not None:
            self.metrics.write("solve", 0, examples=self.examples_at(0), **report)
            self.tools.observer.say(solved_head.describe(report))
        if self.setup.options.wise_ft:
            self._start_weights = train_state.copy(train_state.evaluated_part(self.state))
        self._since = time.monotonic()

    def save(self) -> None:
        """Saves a checkpoint, if there is a workdir; see `Checkpoints.save`."""
        if self.tools.checkpoints is not None:
            best_step = self.best.step if self.best else None
            start = {0} if self.setup.options.wise_ft else set()
            self.tools.checkpoints.save(
                self.checkpoint(), keep=self.setup.options.keep, also={best_step, *start}
            )

    def checkpoint(self) -> Checkpoint:
        """What there is at this step; `restore` is its inverse."""
        unlogged = self.unlogged.fetched()  # waits for the steps taken
        bookkeeping = Bookkeeping(
            made_by=self.tools.made_by,
            changes=self.tools.changes,
            iterator=self.inputs.batches.get_state() | {"skipped": self.skipped_in_training()},
            metrics=self.metrics.position(self.step),
            unlogged=unlogged,
            skipped=sorted(self.skipped),
            wall_seconds=self.seconds,
        )
        return Checkpoint(
            self.step,
            train_state.model_variables(self.state, self.frozen),
            train_state.resume_state(self.state),
            bookkeeping,
        )

    def restore(
        self, saved: Checkpoint, best: Checkpoint | None, start: Checkpoint | None = None
    ) -> None:
        """Sets the run to a checkpoint.

        Args:
          saved: the checkpoint.
          best: the one with the best weights up to there; None: there is none yet.
          start: the one of step 0, if `wise_ft` needs it.
        """
        assert saved.bookkeeping is not None
        abstract = self.setup.abstract_variables
        state = self._take_variables(restore_like(abstract, saved.variables))
        rest = restore_like(train_state.resume_state(state), saved.opt_state)
        self._place(train_state.restore(state, saved.step, rest))
        self.step = saved.step
        self.inputs.batches.set_state(saved.bookkeeping.iterator)
        self.unlogged.restore(saved.bookkeeping.unlogged)
        self.skipped = set(saved.bookkeeping.skipped)
        self.metrics = open_metrics(self.workdir, saved.bookkeeping.metrics)
        self._set_rates()
        validated = best_row(self.metrics.rows)
        if validated is not None and best is not None:
            weights = sharding.place(self.tools.mesh, restore_like(abstract, best.variables))
            self.best = Best(best.step, validation_rank(validated), weights)
            self._validations_since_best = sum(
                row["event"] == "val" and row["step"] > best.step for row in self.metrics.rows
            )
        if start is not None:
            begun = restore_like(abstract, start.variables)
            begun, _ = train_state.create(self.setup.plan, begun, self.tools.tx)
            self._start_weights = sharding.place(self.tools.mesh, train_state.evaluated_part(begun))
        self._seconds_before, self._since = saved.bookkeeping.wall_seconds, time.monotonic()

    def _take_variables(self, variables: Tree) -> TrainState:
        """Splits variables by the plan, and opens the inputs; returns a state at step 0."""
        state, self.frozen = self._split(variables)
        del variables  # the state holds copies; free theirs before more is allocated
        self.inputs = self.tools.open_inputs(self.frozen)
        return state

    def _split(self, variables: Tree) -> tuple[TrainState, Tree]:
        """Splits variables by the plan into a state at step 0 and the frozen ones."""
        average = self.setup.options.ema is not None
        return train_state.create(self.setup.plan, variables, self.tools.tx, average=average)

    def _place(self, state: TrainState) -> None:
        """Puts state and frozen variables on the devices."""
        self.state, self.frozen = sharding.place(self.tools.mesh, (state, self.frozen))

    def finish_saving(self) -> None:
        """Returns when the last checkpoint is whole on disk; InputError if it cannot be."""
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.finish()

    # --- when things are due: by the step, the options and the logged rows alone

    def is_over(self) -> bool:
        """Whether all steps are taken, patience has ended the run, or `wise_ft` has chosen."""
        patience = self.setup.options.patience
        out_of_patience = patience is not None and self._validations_since_best >= patience
        return self.step >= self.setup.total_steps or out_of_patience or self.is_on_line()

    def needs_its_start(self) -> bool:
        """Whether the weights of this step, the first, are needed after the last one."""
        return self.setup.options.wise_ft and self.step == 0

    def chooses_on_line(self) -> bool:
        """Whether the choice of `wise_ft` is still to be made, now that the last step is taken."""
        return self.setup.options.wise_ft and not self.is_on_line()

    def is_on_line(self) -> bool:
        """Whether the weights are those that `wise_ft` has chosen, after the last step."""
        # asked at every step, so only the rows after the last one of training are looked at
        newest_first = reversed(self.metrics.rows)
        others = itertools.takewhile(lambda row: row["event"] != "train", newest_first)
        return any(row["event"] == "wise_ft" for row in others)

    def validates_now(self) -> bool:
        due = self.setup.options.evaluates_after(self.step, len(self.setup.train))
        return self.setup.val is not None and (due or self.is_on_line())

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

    # --- what a run does

    def raise_if_stopped(self) -> None:
        """Raises an exception if the run has to end before it is over.

        Raises:
          Preempted: after SIGTERM to any process of the job, in all of them at the same step.
          Interrupted: after Ctrl-C, likewise.
          InputError: if a save failed.
        """
        if number := self._agreed_signal():
            raise stopped_by(number, resumes=self.workdir is not None)
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.raise_if_failed()

    def step_once(self) -> None:
        """Takes one step: of the optimizer or, with `optimizer=lbfgs`, to the solved head."""
        observer, options = self.tools.observer, self.setup.options
        _log.debug("phase step, step %d", self.step + 1)
        observer.before_step()
        if options.solves:
            self._solve()
            return
        batch = prepared(next(self.inputs.batches), self.setup.problem, self.tools.class_weights)
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

    def _solve(self) -> None:
        """Sets the head to the solved one, and writes a `solve` row about it."""
        assert isinstance(self.inputs.train, CachedSource)  # `make_run` has seen to it
        self.tools.observer.after_batch()
        solved = solved_head.solve(self.inputs.train, self.setup)
        head = solved_head.put_head(self.state.trained, solved)
        self.state = self.state.replace(
            step=self.state.step + 1, trained=sharding.place(self.tools.mesh, head)
        )
        self.step += 1
        examples = self.examples_at(self.step)
        self.metrics.write("solve", self.step, examples=examples, **solved.report)
        self.tools.observer.say(solved_head.describe(solved.report))
        metrics = {"loss": solved.report["loss"]}
        if "train_accuracy" in solved.report:
            metrics["accuracy"] = solved.report["train_accuracy"]
        self.tools.observer.after_step(self.step, metrics)
        self.unlogged.add(self.step, metrics)

    def log(self) -> None:
        """Writes a `train` row: the means over the steps since the last one."""
        last_step, means = self.unlogged.mean()
        if not self.setup.options.solves:
            means["lr"] = float(self._rates[last_step - 1])
        if self.setup.val is None and last_step == self.setup.total_steps:
            self._check_finite("norm of the weights", last_step, self._norm_of_weights())
        self.metrics.write("train", last_step, examples=self.examples_at(last_step), **means)
        self.tools.observer.show(last_step, loss=means["loss"])
        if not self.setup.options.solves:
            warn_if_stuck(self.metrics.rows, self.setup, float(self._rates.max()))

    def validate(self) -> None:
        """Writes a `val` row, and keeps a copy of the weights if they are the best so far."""
        assert self.inputs.val is not None
        _log.debug("phase evaluation, step %d", self.step)
        current = train_state.model_variables(self.state, self.frozen)
        evaluation = self.evaluate(current, self.inputs.val)
        self._check_finite("validation loss", self.step, evaluation.loss)
        decides = self.setup.decides
        values = evaluation.to_json(self.setup.tasks)
        if decides != "accuracy":
            values["score"] = decides
        chosen = {"chosen": True} if self.is_on_line() else {}
        examples = self.examples_at(self.step)
        self.metrics.write("val", self.step, examples=examples, **values, **chosen)
        self.tools.observer.show(self.steps_taken, **{f"val_{decides}": values[decides]})
        rank = validation_rank(values)
        self._validations_since_best += 1
        is_best = self.best is None or self.best.rank is None or rank > self.best.rank
        if is_best or self.is_on_line():
            self.best = Best(self.step, rank, self._copy_of_variables())
            self._validations_since_best = 0

    def evaluate(
        self,
        variables: Tree,
        source: Source,
        with_answers: bool = False,
        problem: Problem | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> Evaluation:
        """Evaluates variables on images, or on what the frozen groups make of them.

        A `problem` may say more than the setup's, but must be equal to it: the program is shared.
        `preprocessing` is of the source; None: the setup's.
        """
        evaluation = self.tools.evaluate(
            self.setup.model,
            variables,
            source,
            preprocessing or self.setup.preprocessing,
            self.setup.options.batch_size,
            on_error=self.setup.options.on_error,
            problem=problem or self.setup.problem,
            with_answers=with_answers,
            between_batches=self.raise_if_stopped,
            mesh=self.tools.mesh,
        )
        self.skipped.update(evaluation.skipped)
        return evaluation

    def choose_on_line(self) -> None:
        """Sets the weights to those between step 0 and now that `wise_ft` asks for.

        Validation images choose them, or `wise_ft_alpha` does; see `tljax.training.wise_ft`. They
        get a step number of their own, one after the last step's, and a `wise_ft` row.
        """
        assert self._start_weights is not None
        end = train_state.copy(train_state.evaluated_part(self.state))
        fixed = self.setup.options.wise_ft_alpha
        source, preprocessing = self.inputs.val, self.setup.preprocessing
        out_of_fold: dict[str, Any] = {}
        if fixed is not None:
            source, preprocessing = self.inputs.train, self.inputs.preprocessing
            out_of_fold = self._start_out_of_fold()
        assert source is not None
        alphas = wise_ft.candidates(fixed)
        evaluations = []
        for alpha in alphas:
            moving = wise_ft.interpolate(self._start_weights, end, alpha)
            variables = train_state.merge_variables(moving, self.frozen)
            evaluations.append(
                self.evaluate(variables, source, with_answers=True, preprocessing=preprocessing)
            )
        report = wise_ft.choose(
            alphas,
            evaluations,
            self.setup.problem,
            is_given=fixed is not None,
            decides=self.setup.decides,
            **out_of_fold,
        )
        moving = wise_ft.interpolate(self._start_weights, end, report["alpha"])
        self.state = train_state.with_weights(self.state, train_state.copy(moving))
        examples = self.examples_at(self.step)
        self.step += 1
        self.metrics.write("wise_ft", self.step, examples=examples, **report)
        self.tools.observer.say(wise_ft.in_words(report, self.steps_taken))

    def _start_out_of_fold(self) -> dict[str, Any]:
        """What cross-validation says of the head that the run started from, for `wise_ft.choose`.

        Nothing if no head was solved, or if labels of an image have weights of their own.
        """
        images, class_weights = self.inputs.train, self.tools.class_weights
        weights = self.setup.problem.weights(images.labels, class_weights, weights_of(images))
        if weights is not None and weights.ndim > 1:
            return {}
        for row in self.metrics.rows:
            if row["event"] == "solve" and "cross_validation" in row:
                found = row["cross_validation"]
                goodness = -found["loss"]
                if "accuracy" in found:  # that of the grid has the weights
                    (goodness,) = (
                        one["accuracy"] for one in found["grid"] if one["l2"] == row["l2"]
                    )
                return {"out_of_fold": float(goodness), "weights": weights}
        return {}

    @contextmanager
    def saving_when_stopped(self) -> Iterator[None]:
        """Inside, a run that a signal stops saves what it has before it ends."""
        try:
            yield
        except (Preempted, Interrupted):
            self._save_and_wait()
            raise
        except Exception:
            # the signal may have reached a process that reads images first
            if number := self.tools.stop_signal():
                if processes.count() == 1:  # a save takes all processes of a job
                    self._save_and_wait()
                raise stopped_by(number, resumes=self.workdir is not None) from None
            raise

    def close(self) -> None:
        """Closes the files that the run writes to."""
        self.metrics.close()

    def _save_and_wait(self) -> None:
        if self.tools.checkpoints is not None:
            self.tools.checkpoints.close()  # if that save failed, there may be room for this one
            with suppress(Diverged):  # not saved: the run that resumes finds it, too
                self.save()
            self.tools.checkpoints.finish()

    # --- what it does if training fails

    @contextmanager
    def restarting_once(self) -> Iterator[None]:
        """Inside, a loss that is not finite takes the run back to its last good point.

        Only once, and not if `on_nan` is `fail`: else the error ends the run.
        """
        try:
            yield
        except Diverged as diverged:
            if self.setup.options.on_nan == "fail" or self.restart_row is not None:
                raise
            self._restart(diverged)

    @property
    def restart_row(self) -> Mapping[str, Any] | None:
        """The row of the restart, if there was one."""
        return next((row for row in self.metrics.rows if row["event"] == "restart"), None)

    def _restart(self, diverged: Diverged) -> None:
        """Goes back to the last good point, to continue at a third of the learning rate.

        What happens depends on no checkpoint and on no time: only on the step at which the loss
        was first not finite, and on the best validation before it.
        """
        _log.debug("phase restart, step %d", self.step)
        rate = self.setup.options.lr / 3
        good = self._last_good_point()
        step = good.step if good else 0
        _log.warning(
            "%s; the run restarts %s with lr %.3g, a third (on_nan=fail would end it)",
            diverged.what,
            f"from its best step, {step}," if step else "from its beginning",
            rate,
        )
        variables = good.variables if good else self._variables_of_start()
        if self.tools.mesh is not None:
            variables = sharding.gather_to_host(variables)
        if self.tools.checkpoints is not None:
            best_step = self.best.step if self.best else None
            self.tools.checkpoints.remove_after(step, best_step)
        self.metrics.rewind(step)
        examples = self.examples_at(step)
        self.metrics.write("restart", step, examples=examples, diverged_step=diverged.step, lr=rate)
        self._rewind(step, variables)
        self.save()

    def _last_good_point(self) -> Best | None:
        """The best weights so far, if they are surely good; None: where the run started.

        They are, if they are from the second half of the run, with a lower validation loss than at
        its start. A rate that is too high damages pretrained weights long before a loss is not
        finite, and accuracy on validation does not show it: the first epochs may raise it all the
        same, and so may chance.
        """
        best = self.best
        if best is None or best.step == 0:
            return best
        validated = [row for row in self.metrics.rows if row["event"] == "val"]
        losses = {row["step"]: row["loss"] for row in validated}
        late = 2 * best.step >= self.setup.total_steps
        return best if late and losses[best.step] < losses[0] else None

    def _variables_of_start(self) -> Tree:
        """The variables of step 0: kept for `wise_ft`, or made again."""
        if self._start_weights is not None:
            return train_state.merge_variables(self._start_weights, self.frozen)
        variables, _ = self.tools.initial_variables()
        return variables

    def _rewind(self, step: int, variables: Tree) -> None:
        """Sets the run to an earlier step, to these variables there, with a new optimizer state.

        At a step that was validated, or the first: no step before it is left to log.
        """
        self._set_rates()
        self.unlogged.restore([])
        del self.state  # the new one needs its memory
        state, _ = self._split(variables)
        self.state = sharding.place(self.tools.mesh, state.replace(step=state.step + step))
        self.step = step
        self.inputs.batches.set_state(self.inputs.batches.get_state() | {"next_batch": step})
        validated = best_row(self.metrics.rows)
        if validated is not None and self.best is not None and self.best.step != step:
            self.best = Best(step, validation_rank(validated), self._copy_of_variables())
        self._validations_since_best = 0
        self.tools.observer.rewind(step)

    def _set_rates(self) -> None:
        """Lays out the learning rates of all steps: after a restart, of a third of the peak."""
        options, restarted = self.setup.options, self.restart_row
        if restarted is not None:
            options = replace(options, lr=restarted["lr"])
        self._rates = learning_rates(options, self.setup.total_steps)

    # --- numbers

    @property
    def steps_taken(self) -> int:
        """Steps of training; `wise_ft` takes none."""
        return self.step - self.is_on_line()

    @property
    def seconds(self) -> float:
        """Wall time, with that of the runs that this one resumed from."""
        return self._seconds_before + time.monotonic() - self._since

    def examples_at(self, step: int) -> int:
        """Images seen after a step, with those of earlier stages."""
        options = self.setup.options
        images = len(self.setup.train) if options.solves else options.batch_size
        return self.tools.examples_before + min(step, self.steps_taken) * images

    def skipped_in_training(self) -> tuple[str, ...]:
        """Names of training images that any process could not read."""
        if self.setup.options.on_error != "skip":
            return ()
        return processes.gather_names(self.inputs.batches.skipped)

    def _copy_of_variables(self) -> Tree:
        """The variables that are evaluated; later steps do not overwrite them."""
        kept = train_state.copy(train_state.evaluated_part(self.state))
        return train_state.merge_variables(kept, self.frozen)

    def _norm_of_weights(self) -> float:
        """Of what trains: not finite, if any weight is not."""
        return float(jax.jit(optax.global_norm)(train_state.evaluated_part(self.state)))

    def _check_finite(self, which: str, step: int, value: float) -> None:
        if not math.isfinite(value):
            raise not_finite(
                which,
                step,
                value,
                float(self._rates[max(step - 1, 0)]),
                in_workdir=self.workdir is not None,
                restarted=self.restart_row is not None,
            )


def prepared(
    batch: dict[str, Any], problem: Problem, class_weights: np.ndarray | None
) -> dict[str, Any]:
    """A batch with the targets of a problem for its labels, and what each of them counts.

    Args:
      batch: `label`, and optionally `weight`, of each image.
      problem: what the head learns.
      class_weights: see `Tools`.
    """
    weights = problem.weights(batch["label"], class_weights, batch.get("weight"))
    weighted = batch if weights is None else {**batch, "weight": weights}
    return {**weighted, "label": problem.targets(batch["label"])}
