"""The compiled steps of training, evaluation and prediction.

The gradient is taken with respect to the trained parameters alone, so that nothing that reads it
(clip, norm, log) can bring back the backward pass of the frozen ones. Learning rate and weight
decay are arguments, so that a sweep over them compiles once. Steps are cached by their arguments:
runs that differ in seed, data or learning rate share one program.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tljax.data import Preprocessing, normalise
from tljax.devices import micro_batches, sharding
from tljax.devices.compiler import compiled
from tljax.models import ImageShape, ImageSize, Model, tracing
from tljax.training import train_state
from tljax.training.loss.objective import Objective
from tljax.training.options import TrainingOptions
from tljax.training.problems import CLASSES, Problem
from tljax.training.train_state import TrainState
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree, merge

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

_PLAIN = Objective()


def loss_and_gradient(
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    start: int = 0,
    accumulate: int = 1,
    problem: Problem = CLASSES,
    mesh: Mesh | None = None,
    objective: Objective = _PLAIN,
) -> Callable[..., tuple[Metrics, Tree, Tree]]:
    """The half of a step that computes loss and gradient.

    Args:
      model, plan, preprocessing: of the run.
      start: number of leading frozen groups whose output the batch holds instead of images.
      accumulate: number of parts of the batch, a divisor of its size; their gradients are added
        up. Changes speed and memory only, unless BatchNorm uses batch statistics, or there is
        dropout or stochastic depth.
      problem: what the head learns.
      mesh: of the devices that hold the arguments, see `tljax.devices.sharding`.
      objective: the loss.

    Returns:
      A function (trained, statistics, frozen, batch, key) -> (metrics, gradient, new statistics).
      The batch holds `image` (n, h, w, channels) uint8, or `features` (n, ...); `label`, the
      problem's targets; and optionally `weight`, see `Objective.loss`. Gradient and `grad_norm`
      cover the trained parameters alone.
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
        loss = objective.loss(logits, batch, problem)
        return loss, ({"loss": loss, **problem.of_step(logits, batch)}, updated)

    differentiated = jax.grad(loss_fn, has_aux=True)

    def compute(
        trained: Tree, statistics: Tree, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[Metrics, Tree, Tree]:
        batch = objective.mix(batch, key)
        if accumulate == 1:
            gradient, (metrics, statistics) = differentiated(
                trained, statistics, frozen, batch, key
            )
        else:

            def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                gradient, (metrics, _) = differentiated(trained, statistics, frozen, *part)
                return jax.tree.map(jnp.add, total, (gradient, metrics)), None

            keys = jax.random.split(key, accumulate)
            shares = micro_batches.split(accumulate, batch, sharding.device_count(mesh))
            if mesh is not None:
                shares = jax.lax.with_sharding_constraint(shares, sharding.batch_sharding(mesh, 1))
            parts = (shares, keys)
            nothing = dict.fromkeys(("loss", *problem.step_metrics), jnp.zeros(()))
            zero = (jax.tree.map(jnp.zeros_like, trained), nothing)
            total, _ = jax.lax.scan(add, zero, parts)
            gradient, metrics = jax.tree.map(lambda value: value / accumulate, total)
        gradient = sharding.constrain(mesh, gradient)
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
    """The plan's optimizer, the same object for equal arguments; a step sets rate and decay."""
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
    problem: Problem = CLASSES,
    mesh: Mesh | None = None,
    objective: Objective = _PLAIN,
    ema: float | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The compiled training step.

    Args:
      model, plan, preprocessing, start, accumulate, problem, mesh, objective: see
        `loss_and_gradient`.
      tx: the optimizer.
      ema: decay of the state's moving average, see `update_average`; None: there is none.

    Returns:
      A function (state, frozen, batch, key, learning_rate, weight_decay) -> (state, metrics) that
      donates the state. `key` is the run's; `state.step` is folded into it.
    """
    compute = loss_and_gradient(
        model, plan, preprocessing, start, accumulate, problem, mesh, objective
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
            average = train_state.update_average(average, (trained, statistics), taken, ema)
        state = TrainState(taken, trained, statistics, opt_state, average)
        return sharding.constrain(mesh, state), metrics

    if micro_batches.has_convolutions(model, preprocessing.image_shape, start):
        return jax.jit(step, donate_argnums=0)  # gradients of convolutions are faster by default
    return compiled(step, mesh, donate_argnums=0)


def step_arguments(
    plan: TransferPlan,
    variables: Tree,
    tx: optax.GradientTransformation,
    batch: Any,
    mesh: Mesh | None = None,
    average: bool = False,
) -> tuple[Any, ...]:
    """Abstract arguments of `train_step`, to compile it before anything is loaded or drawn.

    Args:
      plan, tx, mesh: of the step.
      variables: the model's; only shapes and dtypes are used, so they may be abstract.
      batch: see `abstract_batch`.
      average: whether the state keeps a moving average.

    Returns:
      (state, frozen, batch, key, learning_rate, weight_decay)
    """
    create = functools.partial(train_state.create, plan, tx=tx, average=average)
    state, frozen = sharding.place_abstract(mesh, jax.eval_shape(create, variables))
    number = jax.ShapeDtypeStruct((), jnp.float32)
    return state, frozen, batch, jax.eval_shape(jax.random.key, 0), number, number


def abstract_batch(
    model: Model,
    image: ImageSize | ImageShape,
    size: int,
    start: int = 0,
    also: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    mesh: Mesh | None = None,
    problem: Problem = CLASSES,
) -> Any:
    """An abstract batch of images, or of the output of the first `start` groups of `model`.

    Args:
      model, start: see above.
      image: (height, width, channels) of the images, or the size of RGB images.
      size: number of images.
      also: the shape of a row of each further array, float32, by name.
      mesh: of the devices that the batch is spread over, see `tljax.devices.sharding`.
      problem: what the head learns.
    """
    seen = tracing.abstract_output(model, image, start).shape[1:]
    rows = {"features": (seen, jnp.float32)} if start else {"image": (seen, jnp.uint8)}
    one_class = problem.kind == "classes"
    rows["label"] = ((), jnp.int32) if one_class else ((model.num_classes,), jnp.float32)
    rows |= {name: (shape, jnp.float32) for name, shape in also.items()}
    return sharding.place_abstract_batch(
        mesh,
        {name: jax.ShapeDtypeStruct((size, *row), dtype) for name, (row, dtype) in rows.items()},
    )


def step_of_run(
    model: Model,
    plan: TransferPlan,
    preprocessing: Preprocessing,
    options: TrainingOptions,
    start: int = 0,
    problem: Problem = CLASSES,
    mesh: Mesh | None = None,
    accumulate: int | None = None,
) -> tuple[optax.GradientTransformation, Callable[..., tuple[TrainState, Metrics]]]:
    """The optimizer and the `train_step` of a run's options.

    Args:
      model, plan, preprocessing, start, problem, mesh: see `loss_and_gradient`.
      options: of the run.
      accumulate: parts of a step's batch; None: as the options say, else what suits the backend.
    """
    if options.solves:  # no step is taken: the state is that of the simplest optimizer
        options = replace(options, optimizer="sgd", momentum=0.0)
    parts = accumulate or options.accumulate
    parts = parts or micro_batches.choose_training_parts(
        model,
        plan,
        preprocessing.image_shape,
        options.batch_size // sharding.device_count(mesh),
        start,
    )
    if not any(options.l2_sp):  # else no step depends on where groups start: plans share one
        plan = plan.carried
    tx = optimizer(
        plan, options.optimizer, options.decayed, options.momentum, options.clip_norm, options.l2_sp
    )
    return tx, train_step(
        model, plan, preprocessing, tx, start, parts, problem, mesh, options.objective, options.ema
    )


@functools.cache
def eval_step(
    model: Model,
    preprocessing: Preprocessing,
    start: int = 0,
    problem: Problem = CLASSES,
    with_answers: bool = False,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[Metrics, Metrics]]:
    """The compiled evaluation of one batch; on a mesh, of one batch on every device.

    Args:
      model, preprocessing, start, problem, mesh: see `loss_and_gradient`.
      with_answers: whether to return `answers`.

    Returns:
      A function (variables, batch) -> (sums, answers), as `Problem.judge` makes them; the answers
      with `mask` (n,), or empty where neither `with_answers` nor the problem asks for them. Sums
      of classes are by class: `loss` in nats, `correct`, `count` and `predicted`. The answers of
      classes are `predicted` (n,), the class with the largest logit, and `probabilities`
      (n, num_classes). On a mesh of d devices the batch holds d
      batches, one after the other, and all results have a leading axis (d,). Each device runs the
      program of a single device, so that the numbers are the same to the last bit.
    """

    def step(variables: Tree, batch: Batch) -> tuple[Metrics, Metrics]:
        label, mask = batch["label"], batch["mask"]
        logits = _logits(model, preprocessing, variables, batch, start)
        sums, answers = problem.judge(logits, label, mask)
        asked = with_answers or problem.needs_answers
        return sums, {**answers, "mask": mask} if asked else {}

    if mesh is None:
        return compiled(step)

    def on_one_device(variables: Tree, batch: Batch) -> tuple[Metrics, Metrics]:
        return jax.tree.map(lambda value: value[None], step(variables, batch))

    whole, spread = PartitionSpec(), PartitionSpec(sharding.AXES)
    on_each = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(whole, spread), out_specs=spread, check_vma=False
    )
    return compiled(on_each, mesh, out_shardings=NamedSharding(mesh, whole))


@functools.cache
def predict_step(
    model: Model, preprocessing: Preprocessing, problem: Problem = CLASSES
) -> Callable[..., Metrics]:
    """The compiled prediction for one batch.

    Args:
      model, preprocessing, problem: see `loss_and_gradient`.

    Returns:
      A function (variables, batch) -> the answers of `Problem.answers`.
    """

    def step(variables: Tree, batch: Batch) -> Metrics:
        return problem.answers(_logits(model, preprocessing, variables, batch))

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
    parts = micro_batches.choose_parts(model, preprocessing.image_shape, len(seen[name]), start)
    return micro_batches.map_in_parts(run, parts, seen, batch.get("mask"))


def _input(model: Model, batch: Batch, preprocessing: Preprocessing, start: int) -> jax.Array:
    """The input of group `start`: images, or the output of the groups before it.

    Features are cached as float32. They are converted to the dtype in which the network itself
    passes them on, or all later blocks would add up their branches in another precision.
    """
    if not start:
        return normalise(batch["image"], preprocessing)
    passed_on = tracing.abstract_output(model, preprocessing.image_shape, start)
    return batch["features"].astype(passed_on.dtype)
