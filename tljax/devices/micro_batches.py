"""Batches that go through the network in parts, one after another.

A program that works on a few images at a time keeps what lies between two layers in the processor's
cache. On a CPU that is worth more than larger matrix products; an accelerator wants them as large
as they come. The numbers are those of the whole batch, up to the order of sums, as long as no image
sees another: BatchNorm with the statistics of the batch is where they do.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tljax.errors import InputError
from tljax.models import Model, tracing
from tljax.models.preprocessing import ImageSize
from tljax.transfer import TransferPlan
from tljax.transfer.partition import Tree

_WHOLE = 8 * 2**20  # bytes: a batch whose widest layer takes no more stays in one piece
_PART = 8 * 2**20  # bytes of the widest layer of a part, at most
_TRAINED_PART = 4 * 2**20  # and where a gradient is taken
_FEWEST = 2  # images in a part: matrix products of fewer rows are slower


def in_parts(
    function: Callable[[Any], Any], parts: int, batch: Any, mask: jax.Array | None = None
) -> Any:
    """`function` of a batch of n images, computed on n / parts of them at a time.

    Args:
      function: of a tree of arrays (m, ...) to one of arrays (m, ...), image by image.
      parts: a divisor of n.
      batch: a tree of arrays (n, ...).
      mask: (n,), 0 for images that only fill the batch: of several parts one of nothing else is
        not computed, and zeros come out. None: there are none.
    """
    if parts == 1:
        return function(batch)

    def of_part(part: tuple[Any, jax.Array | None]) -> Any:
        images, mask = part
        if mask is None:
            return function(images)
        nothing = jax.eval_shape(function, images)
        return jax.lax.cond(
            (mask > 0).any(), function, lambda _: jax.tree.map(_zeros, nothing), images
        )

    result = jax.lax.map(of_part, split(parts, (batch, mask)))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), result)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


def split(parts: int, batch: Any, devices: int = 1) -> Any:
    """Arrays (n, ...) as (parts, n / parts, ...).

    If each of several devices holds n / devices rows, every part takes as many from each.
    """
    if devices == 1:
        return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def shared(x: jax.Array) -> jax.Array:
        shares = x.reshape(devices, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        return shares.reshape(parts, -1, *x.shape[1:])

    return jax.tree.map(shared, batch)


def suited(
    model: Model,
    image_size: ImageSize,
    images: int,
    start: int = 0,
    stop: int | None = None,
    part: int = _PART,
) -> int:
    """The number of parts in which a batch of `images` best goes through groups `start` to `stop`.

    1 on an accelerator. On a CPU by the size of the network's widest layer, which takes no more
    than `part` bytes in a part; measured for ViT and ResNet from 32 to 224 pixels, see
    benchmarks/README.md.
    """
    if jax.default_backend() != "cpu":
        return 1
    widest = _widest(model, image_size, start, stop)
    if images * widest <= _WHOLE:
        return 1
    most = max(_FEWEST, part // widest)
    return next(n for n in range(1, images + 1) if images % n == 0 and images // n <= most)


def suited_to_training(
    model: Model, plan: TransferPlan, image_size: ImageSize, images: int, start: int = 0
) -> int:
    """As `suited`, for a step of training under a plan.

    1 where images see each other, and for networks with convolutions, whose gradients XLA computes
    many times slower within a loop.
    """
    variables = tracing.abstract_variables(model, image_size)
    if sees_batch(plan, variables) or convolves(model, image_size, start):
        return 1
    return suited(model, image_size, images, start, part=_TRAINED_PART)


def sees_batch(plan: TransferPlan, variables: Tree) -> bool:
    """Whether some BatchNorm uses the statistics of the batch. Variables may be abstract."""
    statistics = variables.get("batch_stats", {})
    return bool(jax.tree.leaves(plan.partition_statistics(statistics, variables["params"])[0]))


def check(parts: int | None, plan: TransferPlan, variables: Tree, batch_size: int) -> None:
    """Raises InputError if a step cannot be taken in so many parts; None is always right."""
    if parts in (None, 1):
        return
    if batch_size % parts:
        raise InputError(
            f"accumulate is {parts}, which does not divide batch_size {batch_size}; set it to a"
            " divisor"
        )
    if sees_batch(plan, variables):
        raise InputError(
            f"accumulate is {parts}, but BatchNorm here uses the statistics of the batch, which"
            " parts of it do not have; set accumulate to 1, or statistics to stored"
        )


def _widest(model: Model, image_size: ImageSize, start: int, stop: int | None) -> int:
    """Bytes of the widest array between two operations, per image; computes nothing."""
    operations = tracing.operations(model, image_size, start, stop)
    return max((operation.image_bytes for operation in operations), default=0) or 1


def convolves(model: Model, image_size: ImageSize, start: int) -> bool:
    """Whether the groups from `start` on have convolutions that are not written as products."""
    operations = tracing.operations(model, image_size, start)
    return any(operation.name == "conv_general_dilated" for operation in operations)
