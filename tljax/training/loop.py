"""The training loop, top to bottom. `tljax train` and `tljax.fit` both run this one.

A run that dies is run again and goes on from its last checkpoint, to the same bits. Two rules make
that easy to see: a checkpoint holds what was there *before* its step was validated, so that
whatever is done after a checkpoint is done again from it, also what is done while it is written;
and nothing that a run computes or logs depends on when its checkpoints are saved.
"""

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.data import (
    Preprocessing,
    Source,
    as_source,
    balanced_weights,
    fixed_views,
    skipped_message,
    train_batches,
)
from tljax.data.pipeline import TrainBatches
from tljax.devices import huge_pages, processes
from tljax.devices import mesh as mesh_lib
from tljax.devices.compiler import Ahead
from tljax.devices.preemption import Preempted, sigterm_waits
from tljax.models import Model, tracing
from tljax.runs.answers import FILE as ANSWERS
from tljax.runs.answers import packed
from tljax.runs.checkpoints import (
    Checkpoint,
    Checkpoints,
    best_row,
    newest_usable,
    restore_like,
    validation_rank,
)
from tljax.runs.environment import versions
from tljax.runs.workdir import (
    locked,
    open_metrics,
    write_atomically,
)
from tljax.training import feature_cache
from tljax.training import result as outcome
from tljax.training import state as state_lib
from tljax.training.evaluation import Evaluation, evaluate, evaluation_program
from tljax.training.feature_cache import CachedSource
from tljax.training.options import TrainingOptions
from tljax.training.preparation import (
    check_fit,
    learning_rates,
    new_variables,
    own_preprocessing,
)
from tljax.training.profiling import Profiler
from tljax.training.progress import TrainingProgress
from tljax.training.provenance import accepted_changes, check_same, what_made
from tljax.training.step import abstract_batch, step_arguments, step_of_run
from tljax.training.step_metrics import StepMetrics, check_finite
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree

_log = logging.getLogger("tljax")

_START = 10.0  # seconds: a validation before the first step that takes longer is no start any more


@dataclass(frozen=True)
class Best:
    """The weights to keep, the step they are from, and their `validation_rank`."""

    step: int
    rank: tuple[float, float] | None
    variables: Tree


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
      summary: the fields of `result.json`.
      variables: the model's variables at the best validation accuracy.
      history: the rows of `metrics.jsonl`; of a run in stages, of all of them.
      last: the model's variables after the last step; None where a finished run is read.
    """

    summary: dict[str, Any]
    variables: Tree
    history: list[dict[str, Any]]
    last: Tree | None = None


def fit(
    model: Model,
    variables: Tree | Callable[[], Tree | None] | None,
    plan: TransferPlan,
    train: Any,
    val: Any,
    test: Any = None,
    *,
    preprocessing: Preprocessing | None = None,
    tasks: Mapping[str, int] | None = None,
    workdir: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
    progress: bool = True,
    profile: bool = False,
    called: float | None = None,
    **options: Any,
) -> Result:
    """Trains under `plan`, keeps the best weights on `val`, touches `test` once, at the end.

    Args:
      model: a Linen module with `groups`.
      variables: the pretrained variables; left as they are. Groups whose `plan.init` is `random`
        are drawn anew from the seed, whatever these hold there, so that the same variables serve
        every scenario. None if the plan wants none. Or a function that gives them, which is called
        only if the run begins at its beginning.
      plan: what starts where, what moves, and how fast.
      train, val, test: data sources: anything `tljax.data.as_source` takes. Without `val` the last
        weights count as the best; without `test` there is no test accuracy.
      preprocessing: image size and normalisation that the weights expect; None: the size of the
        first training image, and ImageNet's mean and standard deviation.
      tasks: of several that share the trunk, name and number of classes, in the order of their
        labels, which are numbered through; see `tljax.training.tasks`. Every image counts the same
        in the loss and in the accuracy that is maximised; each task's own accuracy is reported too.
      workdir: where to keep metrics, checkpoints and the result; if it holds a checkpoint, training
        goes on from there, whatever `variables` says. None: nothing is written.
      about: further fields of `result.json`, e.g. the names of scenario and data.
      before: the result of the stage before this one, if there is one; see `fit_stages`. This one's
        then covers both.
      accept_changes: whether a run may go on under other versions, code or devices than it began
        with. Its result then names them, and may differ from that of a run without the change.
      progress: whether to show progress on stderr.
      profile: whether to write a trace of a few steps into the workdir's `profile`.
      called: `time.monotonic()` when the user asked for the run, from which the time to its first
        step counts; None: now.
      **options: fields of `TrainingOptions`.

    Raises:
      InputError: for bad options or images, a workdir that cannot be written, is in use, or holds
        another run, or a loss that is not finite.
      Preempted: if SIGTERM came; with a workdir, the run is saved.
    """
    called = called or time.monotonic()
    opt = TrainingOptions(**options)
    task_sizes = tuple((tasks or {}).values())
    train, val, test = (None if s is None else as_source(s) for s in (train, val, test))
    workdir = None if workdir is None else Path(workdir)
    preprocessing = preprocessing or own_preprocessing(train)
    check_fit(model, plan, opt, preprocessing.image_size, train, val, test)
    mesh = mesh_lib.build(opt.mesh)
    writes = processes.is_first()
    with locked(workdir), sigterm_waits() as sigterm_came, ExitStack() as opened:
        total_steps = opt.total_steps(len(train))
        examples_before = before["examples_seen"] if before else 0
        eval_interval = opt.evaluation_interval(len(train))
        rates = learning_rates(opt, total_steps)
        finite = functools.partial(check_finite, rates=rates, in_workdir=workdir is not None)

        preempted = Preempted(
            "stopped by SIGTERM"
            + ("; the same command goes on from what was saved" if workdir else "")
        )
        agreed_to_leave = processes.Agreement(sigterm_came)

        def leave_if_preempted() -> None:
            """For all processes at once, where each of them has the same to save."""
            if agreed_to_leave():
                raise preempted

        def leave_alone_if_preempted() -> None:
            """Where there is nothing to save; the others of a job then notice."""
            if sigterm_came():
                raise preempted

        # --- a checkpoint in the workdir has precedence over the variables given
        checkpoints: Checkpoints | None = None
        resumed: Checkpoint | None = None
        best_saved: Checkpoint | None = None
        made_by: dict[str, Any] = {}
        changes: list[str] = []
        if workdir is not None:
            checkpoints = Checkpoints(workdir / "checkpoints")
            opened.callback(checkpoints.close)
            processes.first_says(checkpoints.clear_unfinished)
            if usable := newest_usable(workdir):
                resumed, best_saved = usable
        seen, as_seen = train, preprocessing  # what an epoch shows, and how it is brought to size
        if opt.views is not None:
            seen = fixed_views(train, preprocessing, opt.augment, opt.crop_area, opt.views)
            as_seen = replace(preprocessing, crop_ratio=1.0)
        cache = feature_cache.choose(
            opt.cache,
            model,
            plan,
            preprocessing,
            [source for source in (seen, val, test) if source is not None],
            images_change=opt.images_change,
            on_disk=workdir is not None,
            was=resumed.extra["made_by"]["config"]["cached_groups"] if resumed else None,
            tell=progress and writes,
        )
        if jax.default_backend() == "cpu" and not (cache.groups or opt.num_workers):
            huge_pages.postpone()  # which workers would inherit
            opened.callback(huge_pages.come)
        if workdir is not None:
            made_by = what_made(
                model, plan, preprocessing, opt, tasks, cache.groups, train, val, test
            )
            check_same(made_by)
        if workdir is not None and resumed is not None:
            changes = accepted_changes(resumed, made_by, workdir, accept_changes)

        # --- the plan says where each group starts
        size = preprocessing.image_size
        abstract = tracing.abstract_variables(model, size)
        if resumed is not None:
            initial = restore_like(abstract, resumed.variables)
        else:
            given = variables() if callable(variables) else variables
            initial = plan.initialise(new_variables(model, size, opt, plan.init), given)
            del given  # its memory
        initial = mesh_lib.untied(mesh, initial)

        # --- the plan makes the optimizer
        tx, step_fn = step_of_run(model, plan, preprocessing, opt, cache.groups, task_sizes, mesh)

        # --- programs are compiled, or read from a cache, beside what comes before their first use
        ahead = Ahead()
        opened.callback(ahead.leave)
        weighted = ["weight"] if opt.class_weights is not None else []
        batch_shape = abstract_batch(model, size, opt.batch_size, cache.groups, weighted, mesh)
        shapes = step_arguments(plan, initial, tx, batch_shape, mesh, opt.ema is not None)
        if val is not None and resumed is None:
            of_evaluation = evaluation_program(
                model,
                state_lib.variables_of(*shapes[:2]),
                preprocessing,
                opt.batch_size,
                start=cache.groups,
                tasks=task_sizes,
                mesh=mesh,
            )
            ahead.compile("evaluation", *of_evaluation)
        first_step = resumed.step if resumed is not None else 0
        if first_step < total_steps:
            ahead.compile("step", step_fn, *shapes)

        # --- the plan splits the variables into what moves and what not
        state, frozen = state_lib.create(plan, initial, tx, average=opt.ema is not None)
        prefix = initial if cache.groups else None
        if mesh is not None:  # or one device would hold it beside its share
            prefix = jax.device_get(prefix)
        del initial
        weight_decay = np.float32(opt.weight_decay)
        key = jax.random.key(opt.seed)

        # --- what the leading frozen groups make of the images, once
        def after_frozen_groups(source: Source, preprocessing: Preprocessing) -> Source:
            if prefix is None:
                return source
            return cache.through(model, prefix, preprocessing, source, leave_alone_if_preempted)

        seen_by_training = after_frozen_groups(seen, as_seen)
        seen_by_validation = None if val is None else after_frozen_groups(val, preprocessing)

        # --- data: an endless, seeded, resumable stream, of which each process reads its rows
        rows = mesh_lib.rows_here(mesh, opt.batch_size)
        batches = _stream(seen_by_training, as_seen, opt, rows)
        opened.enter_context(closing(batches))
        class_weights: np.ndarray | None = None
        if opt.class_weights is not None:
            class_weights = balanced_weights(train.labels, model.num_classes)

        # --- go on where the checkpoint was saved
        seconds_before = 0.0
        best: Best | None = None
        unlogged = StepMetrics(functools.partial(finite, "training"))  # since the last `train` row
        skipped: set[str] = set()  # names of images that evaluations could not read
        if resumed is not None:
            kept_beside = restore_like(state_lib.beside_variables(state), resumed.opt_state)
            state = state_lib.gone_on(state, resumed.step, kept_beside)
            batches.set_state(resumed.extra["iterator"])
            seconds_before = resumed.extra["wall_seconds"]
            unlogged.go_on(resumed.extra["unlogged"])
            skipped = set(resumed.extra["skipped"])
        state, frozen = mesh_lib.place(mesh, (state, frozen))
        writer = open_metrics(workdir, resumed.extra["metrics"] if resumed else None)
        opened.enter_context(closing(writer))
        validated = best_row(writer.rows)
        if validated is not None and best_saved is not None:
            weights = restore_like(abstract, best_saved.variables)
            best = Best(best_saved.step, validation_rank(validated), mesh_lib.place(mesh, weights))
        began = time.monotonic()

        # --- pieces of the loop
        def examples_at(step: int) -> int:
            return examples_before + step * opt.batch_size

        def log_training() -> None:
            """Writes the mean of the steps since the last row."""
            last_step, means = unlogged.mean()
            rate = float(rates[last_step - 1])
            writer.write("train", last_step, examples=examples_at(last_step), **means, lr=rate)
            bar.update(last_step, loss=means["loss"])

        def end_start() -> None:
            """With what it was spared: huge pages, and writing its checkpoint.

            Later calls see only to what is being saved by then.
            """
            huge_pages.come()
            if checkpoints is not None:
                checkpoints.check()

        def between_batches() -> None:
            leave_if_preempted()
            if time.monotonic() - began > _START:
                end_start()

        def evaluation_of(current: Tree, source: Source, answers: bool = False) -> Evaluation:
            evaluation = evaluate(
                model,
                current,
                source,
                preprocessing,
                opt.batch_size,
                on_error=opt.on_error,
                tasks=task_sizes,
                with_answers=answers,
                between_batches=between_batches,
                mesh=mesh,
            )
            skipped.update(evaluation.skipped)
            return evaluation

        def validate(step: int) -> None:
            """Evaluates on `val`, and keeps a copy of the weights if they are the best so far."""
            nonlocal best
            assert seen_by_validation is not None
            _log.debug("phase evaluation, step %d", step)
            ahead.wait("evaluation")
            evaluation = evaluation_of(state_lib.variables_of(state, frozen), seen_by_validation)
            finite("validation", step, evaluation.loss)
            values = outcome.reported(evaluation, tasks)
            writer.write("val", step, examples=examples_at(step), **values)
            bar.update(step, val_accuracy=evaluation.accuracy)
            rank = validation_rank(values)
            if best is None or best.rank is None or rank > best.rank:
                kept = state_lib.copied(state_lib.evaluated(state))
                best = Best(step, rank, state_lib.merged(kept, frozen))

        def skipped_in_training() -> tuple[str, ...]:
            return processes.union(batches.skipped) if opt.on_error == "skip" else ()

        def save(step: int, later: bool = False) -> None:
            if checkpoints is not None:
                fetched = unlogged.fetched()
                extra = {
                    "made_by": made_by,
                    "changes": changes,
                    "iterator": batches.get_state() | {"skipped": skipped_in_training()},
                    "metrics": writer.position(step),
                    "unlogged": fetched,
                    "skipped": sorted(skipped),
                    "wall_seconds": seconds_before + time.monotonic() - began,
                }
                checkpoints.save(
                    step,
                    state_lib.variables_of(state, frozen),
                    state_lib.beside_variables(state),
                    extra,
                    keep=opt.keep,
                    best_step=best.step if best else None,
                    later=later,
                )

        def save_and_finish(step: int) -> None:
            if checkpoints is not None:
                checkpoints.close()  # where the save before failed, there may be room for this one
                save(step)
                checkpoints.finish()

        # --- the loop
        step = first_step
        traced = workdir is not None and profile and writes
        profiler = Profiler(workdir / "profile" if workdir and traced else None, step + 1)
        opened.callback(profiler.close)
        timing = {"first_step_seconds": 0.0, "input_wait_seconds": 0.0}

        def validation_is_due() -> bool:
            return val is not None and opt.evaluates_after(step, len(train))

        def stops_early() -> bool:
            """Whether enough evaluations have found nothing better: a matter of the rows alone."""
            if opt.patience is None or best is None:
                return False
            since = [r for r in writer.rows if r["event"] == "val" and r["step"] > best.step]
            return len(since) >= opt.patience

        def checkpoint_is_due() -> bool:
            return step % (opt.checkpoint_every or eval_interval) == 0 or step == total_steps

        shown = progress and writes
        with TrainingProgress(first_step, total_steps, opt.batch_size, shown) as bar:
            try:
                if validation_is_due() and not _validated(writer.rows, step):
                    if resumed is None:
                        save(step, later=True)
                    validate(step)
                stopped = stops_early()
                while step < total_steps and not stopped:
                    leave_if_preempted()
                    _log.debug("phase step, step %d", step + 1)
                    profiler.before(step + 1)
                    waits_from = time.monotonic()
                    batch = next(batches)
                    if class_weights is not None:
                        batch["weight"] = class_weights[batch["label"]]
                    if step > first_step:  # the first one starts the reader
                        timing["input_wait_seconds"] += time.monotonic() - waits_from
                    spread = mesh_lib.spread(mesh, batch, opt.batch_size)
                    ahead.wait("step")
                    state, step_metrics = step_fn(
                        state, frozen, spread, key, rates[step], weight_decay
                    )
                    step += 1
                    if step == first_step + 1:
                        jax.block_until_ready(step_metrics)
                        timing["first_step_seconds"] = time.monotonic() - called
                        bar.tell_first_step(timing["first_step_seconds"])
                    profiler.after(step, step_metrics)
                    unlogged.add(step, step_metrics)
                    bar.update(step)
                    if step % opt.log_every == 0 or validation_is_due() or step == total_steps:
                        log_training()
                    end_start()
                    if checkpoint_is_due():
                        save(step)
                    if validation_is_due():
                        validate(step)
                        stopped = stops_early()
                        if (best and best.step == step) or stopped:
                            save(step)  # the best weights, and the last, are always on disk
                if checkpoints is not None:
                    checkpoints.finish()
            except Preempted:
                save_and_finish(step)
                raise
            except Exception:
                if sigterm_came():  # and perhaps reached a process that reads images first
                    if processes.count() == 1:  # or it takes all of them to save
                        save_and_finish(step)
                    raise preempted from None
                raise
        last = state_lib.variables_of(state, frozen)
        best = best or Best(total_steps, None, last)

        # --- test, once, with the best weights
        validated = best_row(writer.rows) or {}
        summary = {
            **(about or {}),
            "plan": plan.to_json(),
            **outcome.of_training(
                train=train,
                val=val,
                seed=opt.seed,
                steps=step,
                batch_size=opt.batch_size,
                best_step=best.step,
                validated=validated,
                trained=state.trained,
                params=best.variables["params"],
            ),
        }
        if opt.patience is not None:
            summary["stopped_early"] = step < total_steps
        final: Evaluation | None = None
        if test is not None:
            _log.debug("phase evaluation, test")
            seen_by_test = after_frozen_groups(test, preprocessing)
            final = evaluation_of(best.variables, seen_by_test, answers=workdir is not None)
            tested = outcome.reported(final, tasks)
            writer.write("test", best.step, examples=examples_at(best.step), **tested)
            summary |= outcome.of_test(final, train, task_sizes)
            if workdir is not None and writes and final.answers is not None:
                write_atomically(workdir / ANSWERS, packed(final.answers))
        summary |= outcome.of_tasks(tasks, train, val, validated, final)
        if opt.on_error == "skip":
            summary["skipped_images"] = sorted(skipped.union(skipped_in_training()))
            if summary["skipped_images"]:
                _log.warning(skipped_message(summary["skipped_images"]))
        if changes:
            summary["changes"] = changes
        if mesh is not None:
            summary |= {"mesh": dict(mesh.shape), "processes": processes.count()}
        summary |= {
            "wall_seconds": round(seconds_before + time.monotonic() - began, 3),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "versions": versions(),
        }
        if before is not None:
            summary = outcome.with_stage_before(before, summary)
        _log.debug("phase write")
        if workdir is not None and writes:
            rounded = {name: round(seconds, 3) for name, seconds in timing.items()}
            write_atomically(workdir / "timing.json", json.dumps(rounded, indent=2) + "\n")
            write_atomically(workdir / "result.json", json.dumps(summary, indent=2) + "\n")
        kept = (best.variables, last)
        variables, last = kept if mesh is None else mesh_lib.on_host(kept)
        return Result(summary, variables, writer.rows, last)


def _stream(
    source: Source, preprocessing: Preprocessing, opt: TrainingOptions, rows: np.ndarray | None
) -> TrainBatches:
    """Batches of images, or of what frozen groups made of them; `rows`: of each, those to read."""
    views = opt.views or 1
    if isinstance(source, CachedSource):
        return source.shuffled(opt.batch_size, opt.seed, views, rows, opt.sampling)
    return train_batches(
        source,
        preprocessing,
        batch_size=opt.batch_size,
        seed=opt.seed,
        views=views,
        augment=opt.augment if opt.views is None else "none",
        crop_area=opt.crop_area,
        num_workers=opt.num_workers,
        on_error=opt.on_error,
        rows=rows,
        sampling=opt.sampling,
    )


def _validated(rows: Sequence[Mapping[str, Any]], step: int) -> bool:
    return any(row["event"] == "val" and row["step"] == step for row in rows)
