"""The training loop, top to bottom. `tljax train` and `tljax.fit` both run this one."""

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tljax.data import Preprocessing, Source, as_source, train_batches
from tljax.errors import InputError
from tljax.models import NORMALISATIONS, ImageSize, Model, parameter_count, registry
from tljax.training import state as state_lib
from tljax.training.checkpointing import Checkpoints, validation_rank
from tljax.training.evaluation import evaluate, naive_accuracy
from tljax.training.options import TrainingOptions
from tljax.training.progress import TrainingProgress
from tljax.training.step import optimizer, train_step
from tljax.training.workdir import MetricsWriter, refuse_changes, writable, write_atomically
from tljax.transfer import TransferPlan, learning_rate_schedule
from tljax.transfer.partition import Tree


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
      history: the rows of `metrics.jsonl`.
    """

    summary: dict[str, Any]
    variables: Tree
    history: list[dict[str, Any]]


def fit(
    model: Model,
    variables: Tree | None,
    plan: TransferPlan,
    train: Any,
    val: Any,
    test: Any = None,
    *,
    preprocessing: Preprocessing | None = None,
    workdir: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Trains under `plan`, keeps the best weights on `val`, touches `test` once, at the end.

    Args:
      model: a Linen module with `groups`.
      variables: the pretrained variables; left as they are. Groups whose `plan.init` is `random`
        are drawn anew from the seed, whatever these hold there, so that the same variables serve
        every scenario. None if the plan wants none.
      plan: what starts where, what moves, and how fast.
      train, val, test: data sources: anything `tljax.data.as_source` takes. Without `val` the last
        weights count as the best; without `test` there is no test accuracy.
      preprocessing: image size and normalisation that the weights expect; None: the size of the
        first training image, and ImageNet's mean and standard deviation.
      workdir: where to keep metrics, checkpoints and the result; if it holds a checkpoint, training
        goes on from there, whatever `variables` says. None: nothing is written.
      about: further fields of `result.json`, e.g. the names of scenario and data.
      progress: whether to show progress on stderr.
      **options: fields of `TrainingOptions`.

    Raises:
      InputError: for bad options or images, a workdir that cannot be written, or a loss that is not
        finite.
    """
    opt = TrainingOptions(**options)
    train, val, test = (None if s is None else as_source(s) for s in (train, val, test))
    workdir = None if workdir is None else writable(Path(workdir))
    total_steps = opt.total_steps(len(train))
    eval_interval = opt.evaluation_interval(len(train))

    if preprocessing is None:
        side = min(train[0]["image"].shape[:2])
        preprocessing = Preprocessing(side, *NORMALISATIONS["imagenet"])

    check_fit(model, preprocessing.image_size, train, val, test)

    # --- a checkpoint in the workdir has precedence over the variables given
    checkpoints = Checkpoints(workdir / "checkpoints", opt.keep, owner=True) if workdir else None
    resumed = checkpoints.latest_step() if checkpoints else None

    # --- the plan says where each group starts
    drawn = None if resumed is not None else plan.init
    new = new_variables(model, preprocessing.image_size, opt, drawn)
    variables = new if resumed is not None else plan.initialise(new, variables)

    # --- the plan makes the optimizer, and splits the variables into what moves and what does not
    tx = optimizer(plan, opt.optimizer, opt.decayed, opt.momentum, opt.clip_norm)
    state, frozen = state_lib.create(plan, variables, tx)
    step_fn = train_step(model, plan, preprocessing, tx)
    schedule = learning_rate_schedule(
        opt.schedule, opt.lr, total_steps, warmup=opt.warmup, milestones=opt.milestones
    )
    learning_rates = np.asarray(jax.vmap(schedule)(np.arange(total_steps)), np.float32)
    weight_decay = np.float32(opt.weight_decay)
    key = jax.random.key(opt.seed)

    # --- data: an endless, seeded, resumable stream
    batches = train_batches(
        train,
        preprocessing,
        batch_size=opt.batch_size,
        seed=opt.seed,
        augment=opt.augment,
        crop_area=opt.crop_area,
        num_workers=opt.num_workers,
    )

    # --- resume, if the workdir holds a checkpoint
    made_by = json.loads(
        json.dumps({**asdict(opt), "plan": plan.to_json(), "preprocessing": asdict(preprocessing)})
    )
    first_step, seconds_before = 0, 0.0
    best: Best | None = None
    if workdir and checkpoints and resumed is not None:
        template = state_lib.variables_of(state, frozen)
        restored = checkpoints.restore(resumed, template, state.opt_state)
        refuse_changes(restored.extra["made_by"], made_by, workdir)
        state, frozen = state_lib.create(plan, restored.variables, tx)
        state = state.replace(step=state.step + resumed, opt_state=restored.opt_state)
        batches.set_state(restored.extra["iterator"])
        first_step, seconds_before = resumed, restored.extra["wall_seconds"]
        if validated := checkpoints.best():
            best = Best(*validated, checkpoints.restore_variables(validated[0]))
    writer = MetricsWriter(workdir, resumed)
    began = time.monotonic()

    # --- pieces of the loop
    pending: list[tuple[int, dict[str, jax.Array]]] = []

    def check_finite(which: str, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            rate = learning_rates[max(step - 1, 0)]
            where = ", in a new workdir" if workdir else ""
            raise InputError(
                f"the {which} loss became {loss} at step {step} (learning rate {rate:.3g});"
                f" lower lr, lengthen warmup or set clip_norm{where}"
            )

    def log_training() -> None:
        """Writes the mean of the steps since the last row, and stops if a loss is not finite."""
        if not pending:
            return
        last_step = pending[-1][0]
        fetched = jax.device_get([values for _, values in pending])
        for (step, _), values in zip(pending, fetched, strict=True):
            check_finite("training", step, float(values["loss"]))
        pending.clear()
        means = {name: float(np.mean([values[name] for values in fetched])) for name in fetched[0]}
        rate = float(learning_rates[last_step - 1])
        writer.write("train", last_step, examples=last_step * opt.batch_size, **means, lr=rate)
        bar.update(last_step, loss=means["loss"])

    def validate(step: int) -> dict[str, float]:
        """Evaluates on `val`, and keeps a copy of the weights if they are the best so far."""
        nonlocal best
        current = state_lib.variables_of(state, frozen)
        evaluation = evaluate(model, current, val, preprocessing, opt.batch_size)
        check_finite("validation", step, evaluation.loss)
        writer.write(
            "val",
            step,
            examples=step * opt.batch_size,
            accuracy=evaluation.accuracy,
            balanced_accuracy=evaluation.balanced_accuracy,
            loss=evaluation.loss,
        )
        bar.update(step, val_accuracy=evaluation.accuracy)
        metrics = {"val_accuracy": evaluation.accuracy, "val_loss": evaluation.loss}
        rank = validation_rank(metrics)
        if best is None or best.rank is None or rank > best.rank:
            moving = (state.trained, state.statistics)  # which the next step overwrites
            trained, statistics = jax.tree.map(lambda leaf: leaf.copy(), moving)
            copied = state.replace(trained=trained, statistics=statistics)
            best = Best(step, rank, state_lib.variables_of(copied, frozen))
        return metrics

    def save(step: int, validation: Mapping[str, float] | None) -> None:
        if checkpoints is not None:
            extra = {
                "made_by": made_by,
                "iterator": batches.get_state(),
                "wall_seconds": seconds_before + time.monotonic() - began,
            }
            current = state_lib.variables_of(state, frozen)
            checkpoints.save(step, current, state.opt_state, validation, extra)

    # --- the loop
    with (
        closing(batches),
        TrainingProgress(first_step, total_steps, opt.batch_size, progress) as bar,
    ):
        if val is not None and resumed is None:
            save(0, validate(0))
        for step in range(first_step + 1, total_steps + 1):
            state, step_metrics = step_fn(
                state, frozen, next(batches), key, learning_rates[step - 1], weight_decay
            )
            pending.append((step, step_metrics))
            bar.update(step)
            is_last = step == total_steps
            due_validation = val is not None and (step % eval_interval == 0 or is_last)
            due_save = is_last or (
                step % opt.checkpoint_every == 0 if opt.checkpoint_every else due_validation
            )
            if step % opt.log_every == 0 or due_validation or due_save:
                log_training()
            validation = validate(step) if due_validation else None
            if due_save or (best and best.step == step):  # the best weights are always on disk
                save(step, validation)
        best = best or Best(total_steps, None, state_lib.variables_of(state, frozen))

    # --- test, once, with the best weights
    validations = {row["step"]: row for row in writer.rows if row["event"] == "val"}
    summary = {
        **(about or {}),
        "plan": plan.to_json(),
        "train_size": len(train),
        "val_size": 0 if val is None else len(val),
        "seed": opt.seed,
        "steps": total_steps,
        "best_step": best.step,
        "val_accuracy": best.rank[0] if best.rank else None,
        "val_balanced_accuracy": validations.get(best.step, {}).get("balanced_accuracy"),
        "trainable_parameters": parameter_count(state.trained),
        "total_parameters": parameter_count(best.variables["params"]),
        "examples_seen": total_steps * opt.batch_size,
    }
    if test is not None:
        final = evaluate(model, best.variables, test, preprocessing, opt.batch_size)
        writer.write(
            "test",
            best.step,
            examples=best.step * opt.batch_size,
            accuracy=final.accuracy,
            balanced_accuracy=final.balanced_accuracy,
            loss=final.loss,
        )
        summary |= {
            "test_size": len(test),
            "test_accuracy": final.accuracy,
            "test_balanced_accuracy": final.balanced_accuracy,
            "test_loss": final.loss,
            "naive_accuracy": naive_accuracy(train, test, model.num_classes),
        }
    summary |= {
        "wall_seconds": round(seconds_before + time.monotonic() - began, 3),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "versions": versions(),
    }
    writer.close()
    if checkpoints is not None:
        checkpoints.close()
    if workdir is not None:
        write_atomically(workdir / "result.json", json.dumps(summary, indent=2) + "\n")
    return Result(summary, best.variables, writer.rows)


def check_fit(model: Model, image_size: ImageSize, *sources: Source | None) -> None:
    """Raises InputError if the model cannot take these images, or has no class for a label."""
    registry.check_image_size(type(model).__name__, model, image_size)
    for source in sources:
        if source is None:
            continue
        if not len(source):
            raise InputError("one of the splits has no images; pass at least one, or None")
        if (label := int(np.max(source.labels))) >= model.num_classes:
            raise InputError(
                f"the data has a label {label}, but the model has {model.num_classes} classes;"
                " create it with num_classes of the data"
            )


def new_variables(
    model: Model,
    image_size: ImageSize,
    opt: TrainingOptions,
    init: Sequence[str] | None = None,
    channels: int = 3,
) -> Tree:
    """Random variables by the seed, with the head as `head_init` says.

    Of a plan's `init` only the groups that it wants random are drawn; the rest stays abstract.
    """
    groups = None if init is None else tuple(start == "random" for start in init)
    key = jax.random.key(opt.seed)
    variables = registry.init(model, key, image_size, channels, groups)
    if opt.head_init == "zero" and "head" in variables["params"]:
        variables["params"]["head"] = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    return variables


def versions() -> dict[str, str]:
    """Versions of what decides a result's numbers."""
    packages = ("tljax", "jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}
