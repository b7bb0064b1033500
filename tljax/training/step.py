"""One step of training, of evaluation and of prediction, compiled.

The gradient is taken with respect to the trained parameters alone, so that whatever reads it (clip,
norm, log) cannot bring back the backward pass of the frozen ones. Learning rate and weight decay
are arguments, so that a sweep over them compiles once. Steps are cached by what they are built
from: runs that differ in seed, data or learning rate share one program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tljax.data import Preprocessing, normalise
from tljax.devices import mesh as mesh_lib
from tljax.devices import micro_batches
from tljax.devices.compiler import compiled
from tljax.models import ImageSize, Model, registry
from tljax.training import state as state_lib
from tljax.training.objective import Objective, accuracy
from tljax.training.options import TrainingOptions
from tljax.training.state import TrainState
from tljax.training.tasks import within_task
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree, merge

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

_CROSS_ENTROPY = Objective()


def loss_and_gradient(
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    start: int = 0,
    accumulate: int = 1,
    tasks: tuple[int, ...] = (),
    mesh: Mesh | None = None,
    objective: Objective = _CROSS_ENTROPY,
) -> Callable[..., tuple[Metrics, Tree, Tree]]:
    """The differentiable half of a step.

    Args:
      model, plan, preprocessing: of the run.
      start: number of leading frozen groups whose output the batch holds in place of images.
      accumulate: parts that the batch goes through the network in, gradients being added up; a
        divisor of its size. Without BatchNorm of batch statistics, or randomness, a matter of
        speed and memory alone.
      tasks: numbers of classes of several tasks; see `tljax.training.tasks`.
      mesh: that the arguments lie on, see `tljax.devices.mesh`.
      objective: what is minimised.

    Returns:
      A function (trained, statistics, frozen, batch, key) -> (metrics, gradient, new statistics).
      The batch holds `image` (n, h, w, 3) uint8, or `features` (n, ...), and `label` (n,) int32,
      perhaps also `weight` (n,), each image's in the loss, which is in nats; gradient and
      `grad_norm` cover the trained parameters alone.
    """

    def loss_fn(
        trained: Tree, statistics: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Tree]]:
        params = merge(frozen["params"], trained)
        batch_stats = merge(frozen["batch_stats"], statistics)
        modes: dict[str, Any] = plan.modes(params)
        variables = {"params": params, "batch_stats": batch_stats}
        logits, changed = model.apply(
            variables,
            _input(model, batch, preprocessing, start),
            start=start,
            **modes,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        updated, _ = plan.partition_statistics(changed.get("batch_stats", {}), params)
        loss = objective.loss(logits, batch, tasks)
        metrics = {"loss": loss, "accuracy": accuracy(logits, batch, tasks)}
        return loss, (metrics, updated)

    differentiated = jax.grad(loss_fn, has_aux=True)

    def compute(
        trained: Tree, statistics: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[Metrics, Tree, Tree]:
        batch = objective.shown(batch, key)
        if accumulate == 1:
            gradient, (metrics, statistics) = differentiated(
                trained, statistics, frozen, batch, key
            )
        else:

            def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                gradient, (metrics, _) = differentiated(trained, statistics, frozen, *part)
                return jax.tree.map(jnp.add, total, (gradient, metrics)), None

            keys = jax.random.split(key, accumulate)
            shares = micro_batches.split(accumulate, batch, mesh_lib.device_count(mesh))
            if mesh is not None:
                shares = jax.lax.with_sharding_constraint(shares, mesh_lib.batch_sharding(mesh, 1))
            parts = (shares, keys)
            nothing = jnp.zeros(())
            zero = (jax.tree.map(jnp.zeros_like, trained), {"loss": nothing, "accuracy": nothing})
            total, _ = jax.lax.scan(add, zero, parts)
            gradient, metrics = jax.tree.map(lambda value: value / accumulate, total)
        gradient = mesh_lib.constrain(mesh, gradient)
        return {**metrics, "grad_norm": optax.global_norm(gradient)}, gradient, statistics

    return compute


@functools.cache
def optimizer(
    plan: TransferPlan,
    name: str,
    decayed: str,
    momentum: float,
    clip_norm: float | None,
    l2_sp: tuple[float, float] = (0.0, 0.0),
) -> optax.GradientTransformation:
    """The plan's optimizer, one object for equal arguments; `train_step` sets rate and decay."""
    return plan.optimizer(
        name,
        learning_rate=0.0,
        weight_decay=0.0,
        decayed=decayed,
        momentum=momentum,
        clip_norm=clip_norm,
        l2_sp=l2_sp,
    )


@functools.cache
def train_step(
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    tx: optax.GradientTransformation,
    start: int = 0,
    accumulate: int = 1,
    tasks: tuple[int, ...] = (),
    mesh: Mesh | None = None,
    objective: Objective = _CROSS_ENTROPY,
    ema: float | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The compiled step; the arguments are those of `loss_and_gradient`, and its optimizer.

    Args:
      ema: decay of the state's average, if it keeps one: see `tljax.training.state.averaged`.

    Returns:
      A function (state, frozen, batch, key, learning_rate, weight_decay) -> (state, metrics), which
      consumes the state. `key` is the run's; the step's own is folded in from `state.step`.
    """
    compute = loss_and_gradient(
        model, plan, preprocessing, start, accumulate, tasks, mesh, objective
    )

    def step(
        state: TrainState,
        frozen: Tree,
        batch: Batch,
        key: jax.Array,
        learning_rate: jax.Array,
        weight_decay: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        metrics, gradient, statistics = compute(
            state.trained, state.statistics, frozen, batch, jax.random.fold_in(key, state.step)
        )
        opt_state = optax.tree.set(
            state.opt_state, learning_rate=learning_rate, weight_decay=weight_decay
        )
        updates, opt_state = tx.update(gradient, opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        taken = state.step + 1
        average = state.average
        if ema is not None:
            average = state_lib.averaged(average, (trained, statistics), taken, ema)
        state = TrainState(taken, trained, statistics, opt_state, average)
        return mesh_lib.constrain(mesh, state), metrics

    if micro_batches.has_convolutions(model, preprocessing.image_size, start):
        return jax.jit(step, donate_argnums=0)  # their gradients are faster by default
    return compiled(step, mesh, donate_argnums=0)


def step_arguments(
    plan: TransferPlan,
    variables: Tree,
    tx: optax.GradientTransformation,
    batch: Any,
    mesh: Mesh | None = None,
    average: bool = False,
) -> tuple[Any, ...]:
    """What `train_step` can be compiled for before anything is loaded or drawn: abstract arrays.

    Args:
      plan, tx, mesh: of the step.
      variables: the model's, of which shapes and dtypes count; they may be abstract.
      batch: see `abstract_batch`.
      average: whether the state keeps one.

    Returns:
      (state, frozen, batch, key, learning_rate, weight_decay)
    """
    create = functools.partial(state_lib.create, plan, tx=tx, average=average)
    state, frozen = mesh_lib.place_abstract(mesh, jax.eval_shape(create, variables))
    number = jax.ShapeDtypeStruct((), jnp.float32)
    return state, frozen, batch, jax.eval_shape(jax.random.key, 0), number, number


def abstract_batch(
    model: Model,
    image_size: ImageSize,
    size: int,
    start: int = 0,
    also: Sequence[str] = (),
    mesh: Mesh | None = None,
) -> Any:
    """A batch of images, or of what the first groups made of them, as a step sees it.

    Args:
      model, start: whose first `start` groups.
      image_size: of the images.
      size: their number.
      also: names of further numbers (n,) float32.
      mesh: that the batch is spread over, see `tljax.devices.mesh`.
    """
    seen = registry.abstract_output(model, image_size, start).shape[1:]
    rows = {"features": (seen, jnp.float32)} if start else {"image": (seen, jnp.uint8)}
    rows |= {"label": ((), jnp.int32), **dict.fromkeys(also, ((), jnp.float32))}
    return mesh_lib.place_abstract_batch(
        mesh,
        {name: jax.ShapeDtypeStruct((size, *row), dtype) for name, (row, dtype) in rows.items()},
    )


def step_of_run(
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    opt: TrainingOptions,
    start: int = 0,
    tasks: tuple[int, ...] = (),
    mesh: Mesh | None = None,
    accumulate: int | None = None,
) -> tuple[optax.GradientTransformation, Callable[..., tuple[TrainState, Metrics]]]:
    """The optimizer and the `train_step` of a run's options.

    Args:
      accumulate: parts of a step's batch; None: as the options say, or as suits the backend.
    """
    parts = accumulate or opt.accumulate
    parts = parts or micro_batches.choose_training_parts(
        model, plan, preprocessing.image_size, opt.batch_size // mesh_lib.device_count(mesh), start
    )
    if not any(opt.l2_sp):  # then no step depends on where groups start: such plans share one
        plan = plan.carried
    tx = optimizer(plan, opt.optimizer, opt.decayed, opt.momentum, opt.clip_norm, opt.l2_sp)
    return tx, train_step(
        model, plan, preprocessing, tx, start, parts, tasks, mesh, opt.objective, opt.ema
    )


@functools.cache
def eval_step(
    model: Model,
    preprocessing: Preprocessing,
    start: int = 0,
    tasks: tuple[int, ...] = (),
    with_answers: bool = False,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[Metrics, Metrics]]:
    """The compiled evaluation of one batch, or, on a mesh, of one batch on every device.

    Args:
      model, preprocessing, start, tasks: as of `loss_and_gradient`.
      with_answers: whether to give the second part of the result.

    Returns:
      A function (variables, batch) -> (sums over the batch's images with `mask` 1, by class
      (num_classes,), of `loss` in nats, `correct` and `count`; for each image `predicted` (n,), the
      class with the largest logit, `probabilities` (n, num_classes) and its `mask`, or nothing). On
      a mesh of d devices the batch holds d batches, one after the other, and the results have a
      leading axis (d,). Each device runs the program that one alone would run, so that the numbers
      are the same to the last bit.
    """

    def step(variables: Tree, batch: Batch) -> tuple[Metrics, Metrics]:
        label, mask = batch["label"], batch["mask"]
        logits = _logits(model, preprocessing, variables, batch, start)
        logits = within_task(logits, label, tasks)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        predicted = jnp.argmax(logits, -1)
        by_class = functools.partial(jax.ops.segment_sum, num_segments=logits.shape[-1])
        # where, not *: a padded image may give a loss that is not finite
        sums = {
            "loss": by_class(jnp.where(mask > 0, losses, 0.0), label),
            "correct": by_class((predicted == label) * mask, label),
            "count": by_class(mask, label),
        }
        answers = {"predicted": predicted, "probabilities": jax.nn.softmax(logits), "mask": mask}
        return sums, answers if with_answers else {}

    if mesh is None:
        return compiled(step)

    def step_of_each(variables: Tree, batch: Batch) -> tuple[Metrics, Metrics]:
        return jax.tree.map(lambda value: value[None], step(variables, batch))

    whole, spread = PartitionSpec(), PartitionSpec(mesh_lib.AXES)
    on_each = jax.shard_map(
        step_of_each, mesh=mesh, in_specs=(whole, spread), out_specs=spread, check_vma=False
    )
    return compiled(on_each, mesh, out_shardings=NamedSharding(mesh, whole))


@functools.cache
def predict_step(model: Model, preprocessing: Preprocessing) -> Callable[..., Metrics]:
    """The compiled classification of one batch.

    Returns:
      A function (variables, batch) -> `label` (n,), the class with the largest logit, and
      `probabilities` (n, num_classes), their softmax.
    """

    def step(variables: Tree, batch: Batch) -> Metrics:
        logits = _logits(model, preprocessing, variables, batch)
        # from the logits, like `correct` above: in their softmax close ones may be equal
        return {"label": jnp.argmax(logits, -1), "probabilities": jax.nn.softmax(logits)}

    return compiled(step)


def _logits(
    model: Model, preprocessing: Preprocessing, variables: Tree, batch: Batch, start: int = 0
) -> jax.Array:
    def run(batch: Batch) -> jax.Array:
        logits: Any = model.apply(
            variables,
            _input(model, batch, preprocessing, start),
            train=False,
            start=start,
        )
        return logits

    name = "features" if start else "image"
    seen = {name: batch[name]}
    parts = micro_batches.choose_parts(model, preprocessing.image_size, len(seen[name]), start)
    return micro_batches.map_in_parts(run, parts, seen, batch.get("mask"))


def _input(model: Model, batch: Batch, preprocessing: Preprocessing, start: int) -> jax.Array:
    """What the group `start` sees: an image, or what the groups before it made of one.

    Features are kept as float32; they are handed on as the network itself would, in `model.dtype`
    perhaps, or all blocks from there on would add up their branches in another precision.
    """
    if not start:
        return normalise(batch["image"], preprocessing)
    handed_on = registry.abstract_output(model, preprocessing.image_size, start)
    return batch["features"].astype(handed_on.dtype)
