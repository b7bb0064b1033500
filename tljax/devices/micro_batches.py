"""Micro-batches: a batch goes through the network in parts, one after another.

With few images at a time, the activations between two layers fit in the processor's cache. On a CPU
this gains more than larger matrix products would; an accelerator is fastest on the whole batch. The
numbers are those of the whole batch, up to the order of sums, unless images affect each other, as
they do through BatchNorm with batch statistics.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tljax.errors import InputError
from tljax.models import Model, tracing
from tljax.models.preprocessing import ImageShape, ImageSize
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree

# Bytes of the widest layer:
_WHOLE = 8 * 2**20  # of a batch that is not split, at most
_PART = 8 * 2**20  # of a part, at most
_TRAINED_PART = 4 * 2**20  # of a part in training, at most
# Images in a part, where a batch can be divided so: matrix products of fewer rows are slower. A
# batch that can only stay whole or go one by one, e.g. of 31 images, is faster one by one.
_FEWEST = 2


def map_in_parts(
    function: Callable[[Any], Any], parts: int, batch: Any, mask: jax.Array | None = None
) -> Any:
    """Applies `function` to a batch of n images, n / parts of them at a time.

    Args:
      function: maps a tree of arrays (m, ...) to a tree of arrays (m, ...), each image by itself.
      parts: the number of parts; it divides n.
      batch: a tree of arrays (n, ...).
      mask: (n,), 0 for images that only pad the batch. If there are several parts, one that holds
        only padding is skipped, and its result is zeros. None: no padding.

    Returns:
      A tree of arrays (n, ...).
    """
    if parts == 1:
        return function(batch)

    def apply(part: tuple[Any, jax.Array | None]) -> Any:
        images, mask = part
        if mask is None:
            return function(images)
        shapes = jax.eval_shape(function, images)
        return jax.lax.cond(
            (mask > 0).any(), function, lambda _: jax.tree.map(_zeros, shapes), images
        )

    result = jax.lax.map(apply, split(parts, (batch, mask)))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), result)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


def split(parts: int, batch: Any, devices: int = 1) -> Any:
    """Reshapes arrays (n, ...) to (parts, n / parts, ...).

    If several devices hold n / devices rows each, every part takes equally many from each device.
    """
    if devices == 1:
        return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def split_evenly(x: jax.Array) -> jax.Array:
        shares = x.reshape(devices, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        return shares.reshape(parts, -1, *x.shape[1:])

    return jax.tree.map(split_evenly, batch)


def choose_parts(
    model: Model,
    image: ImageSize | ImageShape,
    images: int,
    start: int = 0,
    stop: int | None = None,
    part: int = _PART,
) -> int:
    """The fastest number of parts for a batch of `images` through groups `start` to `stop`.

    1 on an accelerator. On a CPU the network's widest layer should take at most `part` bytes in a
    part. Measured for ViT and ResNet at 32 to 224 pixels, see benchmarks/README.md.
    """
    if jax.default_backend() != "cpu":
        return 1
    widest = _widest(model, image, start, stop)
    if images * widest <= _WHOLE:
        return 1
    most = max(_FEWEST, part // widest)
    return next(n for n in range(1, images + 1) if images % n == 0 and images // n <= most)


def choose_training_parts(
    model: Model, plan: TransferPlan, image: ImageSize | ImageShape, images: int, start: int = 0
) -> int:
    """The fastest number of parts for a training step under a plan; see `choose_parts`.

    1 if BatchNorm uses batch statistics, and for networks with convolutions, because XLA computes
    their gradients many times slower inside a loop.
    """
    variables = tracing.abstract_variables(model, image)
    if uses_batch_statistics(plan, variables) or has_convolutions(model, image, start):
        return 1
    return choose_parts(model, image, images, start, part=_TRAINED_PART)


def uses_batch_statistics(plan: TransferPlan, variables: Tree) -> bool:
    """Whether any BatchNorm layer uses batch statistics. Variables may be abstract."""
    statistics = variables.get("batch_stats", {})
    return bool(jax.tree.leaves(plan.partition_statistics(statistics, variables["params"])[0]))


def check(parts: int | None, plan: TransferPlan, variables: Tree, batch_size: int) -> None:
    """Raises InputError if a training step cannot be split into `parts`; None is always allowed."""
    if parts in (None, 1):
        return
    if batch_size % parts:
        raise InputError(
            f"accumulate is {parts}, which does not divide batch_size {batch_size}; set it to a"
            " divisor of that"
        )
    if uses_batch_statistics(plan, variables):
        raise InputError(
            f"accumulate is {parts}, but BatchNorm here uses the statistics of the batch, not of"
            " its parts; set accumulate to 1, or statistics to stored"
        )


def _widest(model: Model, image: ImageSize | ImageShape, start: int, stop: int | None) -> int:
    """Bytes per image of the widest array between two operations; by tracing only."""
    operations = tracing.operations(model, image, start, stop)
    return max((operation.image_bytes for operation in operations), default=0) or 1


def has_convolutions(model: Model, image: ImageSize | ImageShape, start: int) -> bool:
    """Whether the groups from `start` on have convolutions that are not written as products."""
    operations = tracing.operations(model, image, start)
    return any(operation.name == "conv_general_dilated" for operation in operations)
