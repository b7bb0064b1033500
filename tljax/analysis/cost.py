"""The cost of a training step: FLOPs counted by XLA, and a law for transfer plans.

With F the forward FLOPs of the whole network, s_d group d's share of them, T the groups that train
and f the first of these, a step costs at most

    F * (1 + sum of s_d for d >= f + sum of s_d for d in T)

The terms are one forward pass, the backward pass of activations from the loss down to f, and the
backward pass of weights for each group that trains. (The bound counts f's own activation gradient,
which is not needed.) For a frozen prefix of share phi the bound is (3 - 2 phi) F.

This holds for layers with weights. The two products of activations in attention have no weights;
their backward pass costs twice their forward pass, whether or not the block trains. With a_d their
share in group d, the first sum has s_d + a_d in place of s_d, and the second one s_d - a_d. The
total changes only for plans that train early groups and freeze later transformer blocks.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import optax

from tljax.data import Preprocessing
from tljax.models import ImageShape, ImageSize, Model
from tljax.models.flops import flops
from tljax.models.preprocessing import image_shape
from tljax.training.step import abstract_batch, loss_and_gradient
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree


def group_flops(
    model: Model, variables: Tree, image: ImageSize | ImageShape, batch_size: int = 1
) -> list[float]:
    """Forward FLOPs of each group, for one batch in evaluation mode."""
    each = _each_group(model, variables, image, batch_size)
    return [flops(run, variables, x) for run, x in each]


def group_products(
    model: Model, variables: Tree, image: ImageSize | ImageShape, batch_size: int = 1
) -> list[float]:
    """Forward FLOPs of each group that are products of two activations, as in attention."""
    each = _each_group(model, variables, image, batch_size)
    return [_batched_products(jax.make_jaxpr(run)(variables, x).jaxpr) for run, x in each]


def _each_group(
    model: Model, variables: Tree, image: ImageSize | ImageShape, batch_size: int
) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Yields each group as a function (variables, x), with its abstract x for one batch."""
    x: Any = jax.ShapeDtypeStruct((batch_size, *image_shape(image)), jnp.float32)
    for depth in range(len(model.groups)):
        run = functools.partial(model.apply, train=False, start=depth, stop=depth + 1)
        yield run, x
        x = jax.eval_shape(run, variables, x)


def _batched_products(program: Any) -> float:
    """FLOPs of products with a batch dimension; products with weights have none."""
    total = 0.0
    for operation in program.eqns:
        if operation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = operation.params["dimension_numbers"]
            shape = operation.invars[0].aval.shape
            if batched:
                result = operation.outvars[0].aval
                total += 2.0 * result.size * math.prod(shape[axis] for axis in contracted)
        inner = [_batched_products(j) for j in jax.extend.core.jaxprs_in_params(operation.params)]
        # Only one branch of a `cond` runs.
        total += max(inner, default=0.0) if operation.primitive.name == "cond" else sum(inner)
    return total


def law_terms(
    counts: Sequence[float], products: Sequence[float], trained: Sequence[bool]
) -> tuple[list[float], list[float], list[float]]:
    """FLOPs of each group by the law: forward, backward of activations, backward of weights.

    Args:
      counts: `group_flops`.
      products: `group_products`.
      trained: whether each group trains.
    """
    first = list(trained).index(True)
    groups = list(zip(counts, products, trained, strict=True))
    activations = [
        count + product if depth >= first else 0.0
        for depth, (count, product, _) in enumerate(groups)
    ]
    weights = [count - product if trains else 0.0 for count, product, trains in groups]
    return list(counts), activations, weights


def step_function(
    model: Model, plan: TransferPlan, preprocessing: Preprocessing, clip_norm: float = 1.0
) -> Callable[..., Any]:
    """The training step without its update: loss, gradient, clipping and gradient norm."""
    compute = loss_and_gradient(model, plan, preprocessing)
    clip = optax.clip_by_global_norm(clip_norm)

    def step(trained: Tree, statistics: Tree, frozen: Tree, batch: Any, key: jax.Array) -> Any:
        metrics, gradient, statistics = compute(trained, statistics, frozen, batch, key)
        clipped, _ = clip.update(gradient, clip.init(trained))
        return metrics, clipped, statistics

    return step


def step_arguments(
    model: Model,
    plan: TransferPlan,
    variables: Tree,
    image: ImageSize | ImageShape,
    batch_size: int,
) -> tuple[Any, ...]:
    """Abstract arguments for the function that `step_function` returns."""
    trained, frozen = plan.partition(variables["params"])
    updated, stored = plan.partition_statistics(
        variables.get("batch_stats", {}), variables["params"]
    )
    batch = abstract_batch(model, image, batch_size)
    key = jax.eval_shape(jax.random.key, 0)
    return trained, updated, {"params": frozen, "batch_stats": stored}, batch, key
